"""A student that learns every second layer of its teacher: does it help, and does the order of layers matter?

    python -m experiments.layers --seeds=20
    python -m experiments.layers --dataset=fashion_mnist --train_split=train[:10%] --validation_split= \
        --labels=500 --epochs=20 --learning_rate=1e-3 --seeds=20 --workdir=runs/layers-fashion

Cost and result: see the README.

One teacher of six layers per seed, trained on all labels. The student of three layers is trained alone, from the
teacher's answers, from its layers 2, 4, 6, from both, and from both with the layers in the wrong order: from the same
initial parameters and in as many steps. Projections to the teacher's width learn beside the student and are thrown
away. Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015; Jiao et al., TinyBERT, Findings of EMNLP 2020.
"""

from dataclasses import dataclass
from pathlib import Path

from kdjax.config import field
from kdjax.losses import combine
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, lesson, train
from kdjax.study.data import open_study
from kdjax.teachers.live import live
from kdjax.training.state import variables
from kdjax.types import BadInput

ALONE, ANSWERS, LAYERS, BOTH, WRONG = "student alone", "answers", "layers", "answers + layers", "answers + wrong layers"


@dataclass(frozen=True)
class Config(compare.Flags):
    """Flags of this experiment."""

    workdir: str = field("runs/layers", "folder of the run", identity=False, smoke="runs/smoke/layers")
    teacher_hidden: tuple[int, ...] = field((128,) * 6, "teacher's widths or channels", low=1, smoke=(8,) * 6)
    hidden: tuple[int, ...] = field((64,) * 3, "student's widths or channels", low=1, smoke=(6,) * 3)
    teacher_epochs: int = field(20, "teacher's passes", low=1, smoke=2)
    layer_loss: str = field("feature.hint", "what compares two layers, of the losses on features")
    layer_weight: float = field(1.0, "of each pair of layers", low=0.0)
    layers: str = field("every:2", "the layer map")
    wrong: str = field("reverse:2", "the layer map in the wrong order")


def main(config: Config, workdir: Path) -> None:
    """One teacher a seed, five students of each."""
    if config.layer_loss not in combine.names("feature"):
        raise BadInput(f"--layer_loss={config.layer_loss}; accepted: {', '.join(combine.names('feature'))}.")
    study = open_study(config, workdir)
    teacher, student = (compare.network(study, config, hidden) for hidden in ("teacher_hidden", "hidden"))
    transfers = compare.transfers(study, config)
    answers, layers = f"response.kl:{config.alpha}", f"{config.layer_loss}:{config.layer_weight}"
    labels = f"labels:{1 - config.alpha}"
    steps = -(-len(study.train) // config.batch_size) * config.epochs
    plans = {
        arm: lesson.plan(
            student,
            teacher,
            study.shape,
            loss=f"{labels},{loss}",
            steps=steps,
            temperature=config.temperature,
            layers=taught,
        )
        for arm, loss, taught in (
            (ANSWERS, answers, ""),
            (LAYERS, layers, config.layers),
            (BOTH, f"{answers},{layers}", config.layers),
            (WRONG, f"{answers},{layers}", config.wrong),
        )
    }
    results: compare.Results = {name: [] for name in ("teacher", ALONE, *plans)}
    for seed, transfer in enumerate(transfers):
        rate = {"learning_rate": config.learning_rate}
        trained = train.train(
            study,
            workdir,
            f"teacher/seed-{seed}",
            teacher,
            supervised(teacher),
            seed=seed,
            epochs=config.teacher_epochs,
            hparams=rate,
        )
        results["teacher"].append(compare.tested(study, teacher, trained))
        alone = compare.from_labels(study, workdir, config, f"alone/seed-{seed}", student, transfer, seed=seed)
        results[ALONE].append(compare.tested(study, student, alone))
        for arm, plan in plans.items():
            state = train.train(
                study,
                workdir,
                f"{arm.replace(' + ', '-and-').replace(' ', '-')}/seed-{seed}",
                plan.model,
                plan.recipe(live(teacher.apply)),
                seed=seed,
                epochs=config.epochs,
                hparams={**rate, **plan.hparams},
                source=transfer,
                frozen=variables(trained),
            )
            weights = plan.own(variables(state))
            logits = train.predict(study, student, weights, study.test)
            results[arm].append(compare.scores(study, logits, weights))
    pairs = [(BOTH, ANSWERS), (BOTH, WRONG), (LAYERS, ALONE), (ANSWERS, ALONE)]
    title = f"{config.dataset}, {config.layer_loss}, {config.layers}"
    compare.report(workdir, study, results, pairs, title=title)


if __name__ == "__main__":
    command.start(Config, main)

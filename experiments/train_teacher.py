"""Train a classifier from labels, over several seeds; its workdir can be given to `distill --teacher`.

    python -m experiments.train_teacher --workdir=runs/teacher
    python -m experiments.train_teacher --dataset=mnist --train_split=train --validation_split= \
        --hidden=1200,1200 --dropout=0.5 --epochs=3 --workdir=runs/notebook-teacher
    python -m experiments.train_teacher --dataset=mnist --train_split=train --validation_split= --model=fast_cnn \
        --hidden=16,32,100 --batch_size=100 --epochs=10 --learning_rate=5e-3 --schedule=linear --warmup_steps=2400 \
        --dropout=0 --attack=fgsm_rs:epsilon=0.3 --workdir=runs/fgsm-rs

Cost: the first about 20 seconds on two cores, the second about 4 minutes, the third about 3 minutes a seed. Result: see
the README's tables. The third is the adversarial training of Wong, Rice, Kolter, Fast is better than free, ICLR 2020.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments import _attacks, _networks, _report, _run, _train, _views
from kdjax.config import field
from kdjax.evaluation.classification import classification
from kdjax.models import create as models
from kdjax.recipes.supervised import supervised
from kdjax.training.state import variables
from kdjax.types import BadInput

COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "errors", "parameters")


@dataclass(frozen=True)
class Config(_train.Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/teacher", "folder for everything the run leaves", identity=False, smoke="runs/smoke/teacher"
    )
    model: str = field("mlp", "network", choices=models.all_names())
    hidden: tuple[int, ...] = field((256, 256), "widths of an mlp, channels of a cnn", low=1, smoke=(16,))
    dropout: float = field(0.2, "dropout rate of hidden layers", low=0.0, high=0.99)
    input_dropout: float = field(0.0, "dropout rate of pixels", low=0.0, high=0.99)
    norm: str = field("batch", "normalisation, where the network has one", choices=models.NORMS)
    standardize: bool = field(False, _networks.STANDARDIZE)
    label_smoothing: float = field(0.0, "share of the target spread over all classes", low=0.0, high=1.0)
    augment: str = field("", _views.HELP)
    attack: str = field(
        "", "adversarial training: an attack as name:key=value, such as pgd:epsilon=0.3:steps=7; empty for clean images"
    )
    attacked: float = field(1.0, "share of each batch that is attacked", low=0.0, high=1.0)
    epochs: int = field(60, "passes over the training split", low=1, smoke=2)
    learning_rate: float = field(1e-3, "peak learning rate", low=0.0)


def main(config: Config, workdir: Path) -> None:
    """Train, test, tabulate."""
    if config.attacked != 1 and not config.attack:
        raise BadInput(f"--attacked={config.attacked}: nothing is attacked without --attack; accepted: both, or none.")
    _views.refuse_mixing(config.augment, why="all is learned from labels here")
    study = _train.open_study(config, workdir)
    model, description = _networks.from_flags(config, study.shape, train=study.train)
    against = _attacks.named(config.attack, flag="attack") if config.attack else None
    _networks.save_model(workdir, **description)
    recipe = supervised(
        model.apply,
        label_smoothing=config.label_smoothing,
        augment=_views.from_flag(config.augment, study.shape).from_labels,
        attacked=config.attacked,
        **({"attack": against.repeated(against.make()), "objective": against.objective} if against else {}),
    )
    scores = []
    for seed in range(config.seeds):
        state = _train.train(
            study,
            workdir,
            f"teacher/seed-{seed}",
            model,
            recipe,
            seed=seed,
            epochs=config.epochs,
            hparams={"learning_rate": config.learning_rate},
        )
        logits = _train.predict(study, model, variables(state), study.test)
        scores.append(
            {
                **classification(logits, study.test.labels()),
                "parameters": models.parameter_count(state.params),
            }
        )
    title = f"{config.dataset}, {_networks.title(description)}, {config.epochs} epochs"
    _report.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    _report.comparison({"teacher": [s["accuracy"] for s in scores]}, workdir / "comparison.png", title=title)
    _report.save_results(workdir, {"teacher": scores}, _report.table({"teacher": scores}, COLUMNS))


if __name__ == "__main__":
    _run.start(Config, main)

"""A student that learns every second layer of its teacher: does it help, and does the order of layers matter?

    python -m experiments.layers --seeds=20
    python -m experiments.layers --dataset=fashion_mnist --train_split=train[:10%] --validation_split= \
        --labels=500 --epochs=20 --learning_rate=1e-3 --seeds=20 --workdir=runs/layers-fashion

Minutes on two shared cores: layers 4, layers-fashion 5. Result: docs/results/README.md.

One teacher of six layers per seed, trained on all labels. The student of three layers is trained alone, from the
teacher's answers, from its layers 2, 4, 6, from both, and from both with the layers in the wrong order: from the same
initial parameters and in as many steps. Projections to the teacher's width learn beside the student and are thrown
away. Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015; Jiao et al., TinyBERT, Findings of EMNLP 2020.
"""

from dataclasses import dataclass
from pathlib import Path

from kdjax.config import field
from kdjax.recipes.comparisons import names
from kdjax.recipes.lesson import lesson
from kdjax.recipes.supervised import supervised
from kdjax.study import command, students
from kdjax.study.compare import Arm, Given, Lineage, Pair, compare
from kdjax.study.data import open_study
from kdjax.types import BadInput

ALONE, ANSWERS, LAYERS, BOTH, WRONG = "student alone", "answers", "layers", "answers + layers", "answers + wrong layers"


@dataclass(frozen=True)
class Config(students.Flags):
    """Flags of this experiment."""

    workdir: str = field("runs/layers", "folder of the run", identity=False, smoke="runs/smoke/layers")
    teacher_hidden: tuple[int, ...] = field((128,) * 6, "teacher's widths or channels", low=1, smoke=(8,) * 6)
    hidden: tuple[int, ...] = field((64,) * 3, "student's widths or channels", low=1, smoke=(6,) * 3)
    teacher_epochs: int = field(20, "teacher's passes", low=1, smoke=2)
    layer_loss: str = field("feature.hint", f"what compares two layers, of {', '.join(names('feature'))}")
    layer_weight: float = field(1.0, "of each pair of layers", low=0.0)
    layers: str = field("every(2)", "the layer map")
    wrong: str = field("reverse(2)", "the layer map in the wrong order")


def main(config: Config, workdir: Path) -> None:
    """One teacher a seed, five students of each."""
    if config.layer_loss not in names("feature"):
        raise BadInput(f"--layer_loss={config.layer_loss}; accepted: {', '.join(names('feature'))}.")
    study = open_study(config, workdir)
    teacher, student = (students.network(study, config, hidden) for hidden in ("teacher_hidden", "hidden"))
    images = students.transfers(study, config)
    answers = f"{config.alpha}*response.kl(temperature={config.temperature})"

    def of(layers: str) -> str:
        return f"{config.layer_weight}*{config.layer_loss}({layers})"

    steps = -(-len(study.train) // config.batch_size) * config.epochs
    rate = {"learning_rate": config.learning_rate}
    whole = Lineage("labels")
    arms = [
        Arm("teacher", teacher, supervised(teacher), config.teacher_epochs, rate, whole),
        students.student(study, config, student, images).from_labels(ALONE, "alone"),
    ]
    for arm, losses in (
        (ANSWERS, answers),
        (LAYERS, of(config.layers)),
        (BOTH, f"{answers} + {of(config.layers)}"),
        (WRONG, f"{answers} + {of(config.wrong)}"),
    ):
        loss = f"{round(1 - config.alpha, 12)}*labels + {losses}"
        plan = lesson(loss, student, teacher, steps=steps, batch_size=config.batch_size)
        facts = {"layers": [list(pair) for pair in plan.named]}
        arms.append(
            Arm(
                arm,
                plan.model,
                plan.loss_fn,
                config.epochs,
                {**rate, **plan.hparams},
                Lineage(loss, ("teacher",), students.seen(config.labels, ", all images"), facts=facts),
                lambda done: Given(images[done.seed], done.weights("teacher")),
                run=arm.replace(" + ", "-and-").replace(" ", "-"),
                answers=student,
            )
        )
    pairs = [Pair(BOTH, ANSWERS), Pair(BOTH, WRONG), Pair(LAYERS, ALONE), Pair(ANSWERS, ALONE)]
    compare(study, workdir, arms, pairs, title=f"{config.dataset}, {config.layer_loss}, {config.layers}")


if __name__ == "__main__":
    command.start(Config, main)

"""A teacher, a student trained alone, and the same student distilled, over the same seeds.

    python -m experiments.distill
    python -m experiments.distill --dataset=mnist --train_split=train --validation_split= --labels=0 --epochs=3 \
        --teacher_hidden=1200,1200 --teacher_dropout=0.5 --teacher_epochs=3 --student_hidden=20 --learning_rate=1e-3 \
        --temperature=7 --alpha=0.8 --workdir=runs/notebook

The first is 1,797 real digits and a student that has 60 labels, about a minute on two cores; the second reproduces a
notebook in which distillation loses, about 4 minutes. Results: see the README's tables.

Both students make the same number of updates from the same initial parameters. Student alone sees only the labelled
images; student distilled sees every training image with the teacher's answers, and the labels that there are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _report, _run, _train
from kdjax.config import field
from kdjax.data.source import Examples, hide_labels, labelled
from kdjax.evaluation.classification import classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.evaluation.paired import paired_difference
from kdjax.losses import combine
from kdjax.models import create as models
from kdjax.recipes.distill import cached, distill, live
from kdjax.recipes.supervised import supervised
from kdjax.training.state import variables
from kdjax.types import BadInput, Model, PyTree

COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "agreement", "teacher_kl", "parameters")


@dataclass(frozen=True)
class Config(_train.Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/distill", "folder for everything the run leaves", identity=False, smoke="runs/smoke/distill"
    )
    teacher: str = field("", "workdir of a finished train_teacher run; empty trains a teacher here, one per seed")
    teacher_model: str = field("mlp", "teacher's network", choices=models.names())
    teacher_hidden: tuple[int, ...] = field((256, 256), "teacher's widths or channels", low=1, smoke=(16,))
    teacher_dropout: float = field(0.2, "teacher's dropout rate", low=0.0, high=0.99)
    teacher_epochs: int = field(60, "teacher's passes", low=1, smoke=2)
    teacher_learning_rate: float = field(1e-3, "teacher's peak learning rate", low=0.0)
    teacher_outputs: str = field(
        "cached", "teacher's answers: computed once, or in every step", choices=("cached", "live")
    )
    student_model: str = field("mlp", "student's network", choices=models.names())
    student_hidden: tuple[int, ...] = field((20,), "student's widths or channels", low=1, smoke=(8,))
    student_dropout: float = field(0.0, "student's dropout rate", low=0.0, high=0.99)
    labels: int = field(60, "labelled images that students get, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "passes over the transfer set (all training images)", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    loss: str = field("response.kl", "distillation loss", choices=combine.names())
    loss_args: str = field("", "the loss's own hyper-parameters, such as alpha=1,beta=2 for response.dkd")
    temperature: float = field(4.0, "softens both sides", low=1e-6)
    alpha: float = field(0.9, "weight of the teacher; 1 - alpha of the labels", low=0.0, high=1.0)


def parse_loss_args(text: str) -> dict[str, float]:
    """`alpha=1,beta=2` as a dict of numbers."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise BadInput(f"--loss_args={text!r}: accepted are name=number pairs, such as alpha=1,beta=2.") from None
    return found


def main(config: Config, workdir: Path) -> None:
    """Teacher, alone, distilled; for each seed."""
    study = _train.open_study(config, workdir)
    loss = combine.resolve(config.loss, **parse_loss_args(config.loss_args))
    student = models.create(
        config.student_model, **study.shape, hidden=config.student_hidden, dropout=config.student_dropout
    )
    weights: list[PyTree] = []
    if config.teacher:
        teacher, weights, _ = _train.load_teachers(study, config.teacher)
    else:
        teacher = models.create(
            config.teacher_model, **study.shape, hidden=config.teacher_hidden, dropout=config.teacher_dropout
        )
        _train.save_model(
            workdir,
            name=config.teacher_model,
            **study.shape,
            hidden=config.teacher_hidden,
            dropout=config.teacher_dropout,
        )

    # Every source is made before training starts, so that a wrong --labels is found now.
    transfers = [
        hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in range(config.seeds)
    ]
    rate = {"learning_rate": config.learning_rate}
    results: dict[str, list[dict[str, Any]]] = {"teacher": [], "student alone": [], "student distilled": []}
    for seed, transfer in enumerate(transfers):
        if config.teacher:
            answers = weights[seed % len(weights)]
        else:
            answers = train_teacher(study, workdir, teacher, config, seed)
        alone = _train.train(
            study, workdir, f"alone/seed-{seed}", student, supervised(student.apply), seed=seed, epochs=config.epochs,
            hparams=rate, source=labelled(transfer), examples_per_epoch=len(transfer),
        )  # fmt: skip
        hparams = {**rate, "temperature": config.temperature, "alpha": config.alpha}
        if config.teacher_outputs == "cached":
            source: Examples = transfer.with_column("teacher_logits", _train.predict(study, teacher, answers, transfer))
            recipe, frozen = distill(student.apply, cached(), loss), None
        else:
            source, recipe, frozen = transfer, distill(student.apply, live(teacher.apply), loss), answers
        distilled = _train.train(
            study,
            workdir,
            f"distilled/seed-{seed}",
            student,
            recipe,
            seed=seed,
            epochs=config.epochs,
            hparams=hparams,
            source=source,
            frozen=frozen,
        )
        said = _train.predict(study, teacher, answers, study.test)
        for role, (model, state) in {
            "teacher": (teacher, answers),
            "student alone": (student, variables(alone)),
            "student distilled": (student, variables(distilled)),
        }.items():
            logits = _train.predict(study, model, state, study.test)
            scores = {
                **classification(logits, study.test.labels()),
                "parameters": models.parameter_count(state["params"]),
            }
            results[role].append(scores if role == "teacher" else {**scores, **fidelity(logits, said)})
    report(config, workdir, study, results)


def train_teacher(study: _train.Study, workdir: Path, teacher: Model, config: Config, seed: int) -> PyTree:
    """This seed's own teacher, from all labels."""
    state = _train.train(
        study,
        workdir,
        f"teacher/seed-{seed}",
        teacher,
        supervised(teacher.apply),
        seed=seed,
        epochs=config.teacher_epochs,
        hparams={"learning_rate": config.teacher_learning_rate},
    )
    return variables(state)


def report(config: Config, workdir: Path, study: _train.Study, results: dict[str, list[dict[str, Any]]]) -> None:
    """Table, figures, results.json."""
    text = _report.table(results, COLUMNS)
    found: dict[str, Any] = dict(results)
    accuracy = {role: [s["accuracy"] for s in scores] for role, scores in results.items()}
    if config.seeds > 1:
        difference = paired_difference(accuracy["student distilled"], accuracy["student alone"])
        found["distilled minus alone"] = difference
        text += "\n\n" + _report.gain("distilled minus alone", difference)
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    _report.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    _report.comparison(accuracy, workdir / "comparison.png", title=title)
    _report.save_results(workdir, found, text)


if __name__ == "__main__":
    _run.start(Config, main)

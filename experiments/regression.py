"""Regression: a teacher that knows every target, and a small student that knows few, alone and distilled.

    python -m experiments.regression
    python -m experiments.regression --loss=teacher_bounded --workdir=runs/regression-bounded

Minutes on two shared cores: regression 1, regression-bounded 1. Results: docs/results/README.md.

442 patients, ten numbers each, and a score of their disease a year later (25 to 346). The split is fixed: 240 train, 60
choose, 142 are reported. Teacher and `student, all targets` learn from 240 targets; `student alone` from `--labels` of
them; `student distilled` from the same few, and from what the teacher says of all 240 patients. The students of a seed
begin at the same parameters. Differences are over seeds (initial parameters, order, which targets are known, a teacher
for each), so their intervals do not speak of other patients.

Passes, weight decay and alpha were chosen by the RMSE of the 60, over 4 to 10 seeds of 40 targets, and for the student
alone apart from the others: decay that helps it harms them. Tried, not all together: passes 10, 15, 25, 50, 100, 200;
decay 0.1, 1, 2, 3, 5, 10, 20; alpha 0.5, 0.9, 1. `student, all targets` has what was chosen for the distilled one.
`--test_split=train[80%:] --validation_split=` repeats a choice, and reads no test row.

scikit-learn scales this table over all 442 patients unless told otherwise. Here it is read unscaled and every number is
standardised with what its learner may see: inputs by the 240, targets by those known. Errors are in the score's units.
The ridge regressions choose their penalty by leave-one-out on their own targets.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from kdjax import spec
from kdjax.config import field
from kdjax.data.source import Source, labelled
from kdjax.data.tabular import Scale, diabetes, from_units, hide_targets, scale_of, scaled, to_units
from kdjax.losses import regression
from kdjax.models.create import from_linen, parameter_count
from kdjax.models.mlp import MLP
from kdjax.recipes.regression import distill, supervised
from kdjax.study import command, compare, figures
from kdjax.study import report as tables
from kdjax.study.compare import Arm, Done, Given, Lineage, Pair, Row, Scores
from kdjax.study.data import Common, Study, check_batch, optimizer_of
from kdjax.teachers.stored import cached
from kdjax.training import parallel
from kdjax.training.record import Recorder
from kdjax.types import BadInput, LossFn, Model

LOSSES: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in inspect.getmembers(regression, inspect.isfunction)
    if function.__module__ == regression.__name__
}
TEACHER, ALONE, DISTILLED, ALL = "teacher", "student alone", "student distilled", "student, all targets"
PAIRS = tuple(
    Pair(DISTILLED, other, score) for other in (ALONE, ALL, "ridge alone", TEACHER) for score in ("RMSE", "MAE", "R²")
)
COLUMNS = ("RMSE", "MAE", "R²", "validation RMSE", "parameters")
Answer = Callable[[Source], np.ndarray]
"""What is said of the rows of a table, in the score's units, `[N, 1]`."""


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/regression", "folder for everything the run leaves", identity=False,
        smoke="runs/smoke/regression",
    )  # fmt: skip
    dataset: str = field("diabetes", "the table, which comes with scikit-learn", choices=("diabetes",))
    seeds: int = field(10, "runs, numbered from 0; more go on in the same --workdir", low=1, smoke=2, may_grow=True)
    optimizer: str = field("adamw", "as everywhere, without weight_decay, which the flags below say of each network")
    weight_decay: float = field(1.0, "of the students that see all rows", low=0.0)
    teacher_hidden: tuple[int, ...] = field((64, 64), "teacher's widths", low=1, smoke=(8,))
    teacher_dropout: float = field(0.2, "teacher's dropout rate", low=0.0, high=0.99)
    teacher_epochs: int = field(15, "teacher's passes", low=1, smoke=2)
    teacher_learning_rate: float = field(1e-3, "teacher's peak learning rate", low=0.0)
    teacher_weight_decay: float = field(1.0, "of the teacher", low=0.0)
    student_hidden: tuple[int, ...] = field((8,), "student's widths", low=1, smoke=(4,))
    labels: int = field(40, "targets that the student knows; 0 for all", low=0)
    alone_epochs: int = field(50, "passes of the student alone, as many steps in each", low=1, smoke=2)
    alone_weight_decay: float = field(3.0, "of the student alone", low=0.0)
    epochs: int = field(50, "passes of the students that see all rows", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    loss: str = field("mse", "distillation loss", choices=sorted(LOSSES))
    alpha: float = field(0.9, "weight of the teacher; 1 - alpha of the known targets", low=0.0, high=1.0)


def open_table(config: Config, workdir: Path) -> tuple[Study, dict[str, Source]]:
    """The study, without validation, whose scores there are a classifier's; and the parts of the table by name."""
    if config.data_dir or config.image_size:
        raise BadInput("--data_dir and --image_size: the table is scikit-learn's own; accepted: neither.")
    splits = {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}
    parts = {name: diabetes(split) for name, split in splits.items() if split or name != "validation"}
    rows = np.concatenate([part.arrays["row"] for part in parts.values()])
    if len(np.unique(rows)) < len(rows):
        raise BadInput(f"--train_split, --validation_split and --test_split share rows: {splits}; accepted: disjoint.")
    study = Study(config, parts["train"], None, parts["test"], parallel.data_mesh(), Recorder(workdir))
    check_batch(study, study.train)
    for epochs in (config.epochs, config.alone_epochs, config.teacher_epochs):
        optimizer_of(decayed(config, config.weight_decay), steps=epochs * -(-len(study.train) // config.batch_size))
    return study, parts


def decayed(config: Config, decay: float) -> Config:
    """The flags of a network that is decayed so."""
    call = spec.call(config.optimizer, flag="optimizer")
    return replace(config, optimizer=str(spec.Call(call.name, call.args, (*call.kwargs, ("weight_decay", decay)))))


def network(hidden: tuple[int, ...], dropout: float = 0.0) -> Model:
    """The library's MLP, with one number where classes would be."""
    return from_linen(MLP(hidden=hidden, num_classes=1, dropout=dropout), (10,), needs_key=dropout > 0)


def ridge(source: Source, scale: Scale) -> tuple[Answer, int]:
    """What penalised least squares answers, from the known targets of a table."""
    known = labelled(scaled(source, scale)).arrays
    model = RidgeCV(alphas=np.logspace(-2, 4, 25)).fit(known["inputs"], known["target"][:, 0])

    def answer(asked: Source) -> np.ndarray:
        inputs = scaled(asked, scale).arrays["inputs"]
        return from_units(model.predict(inputs).reshape(-1, 1), scale)

    return answer, known["inputs"].shape[-1] + 1


def main(config: Config, workdir: Path) -> None:
    """Teacher, three students and two ridge regressions, for each seed."""
    study, parts = open_table(config, workdir)
    train, loss = parts["train"], LOSSES[config.loss]
    transfers = [hide_targets(train, config.labels, seed) if config.labels else train for seed in range(config.seeds)]
    whole, scales = scale_of(train), [scale_of(transfer) for transfer in transfers]
    teacher, student = network(config.teacher_hidden, config.teacher_dropout), network(config.student_hidden)
    plain, every = supervised(student), scaled(train, whole)
    taught = distill(student, cached(), loss, needs_targets=loss is regression.teacher_bounded)

    def scale(name: str, seed: int) -> Scale:
        return whole if name in (TEACHER, ALL) else scales[seed]

    def answer(done: Done, name: str, asked: Source) -> np.ndarray:
        """What a network says of the rows of a table, in the score's units."""
        own = scale(name, done.seed)
        return from_units(done.answers(name, scaled(asked, own)), own)

    def lesson(done: Done) -> Given:
        few, own = scaled(transfers[done.seed], scales[done.seed]), scales[done.seed]
        return Given(few.with_column("teacher_logits", to_units(answer(done, TEACHER, train), own)))

    def arm(name: str, run: str, loss_fn: LossFn, lineage: Lineage, given: Any, **own: Any) -> Arm:
        settings = {"model": student, "epochs": config.epochs, "decay": config.weight_decay, "alpha": None} | own
        rates = {"learning_rate": settings.get("rate", config.learning_rate)}
        rates |= {} if settings["alpha"] is None else {"alpha": settings["alpha"]}
        own_study = replace(study, config=decayed(config, settings["decay"]))
        lineage = lineage._replace(chosen_on="validation", facts={"weight_decay": settings["decay"]})
        # As many steps from few rows as from all.
        return Arm(
            name, settings["model"], loss_fn, settings["epochs"], rates, lineage, given, run=run, places=len(train),
            study=own_study,
        )  # fmt: skip

    few = f"{config.labels or 'all'} targets"
    soft, alpha = Lineage(f"alpha*{config.loss} + (1-alpha)*targets", (TEACHER,), f"{few}, all rows"), config.alpha
    arms = [
        arm(TEACHER, "teacher", supervised(teacher), Lineage("targets", source="all targets"),
            lambda done: Given(every), model=teacher, epochs=config.teacher_epochs,
            rate=config.teacher_learning_rate, decay=config.teacher_weight_decay),
        arm(ALONE, "alone", plain, Lineage("targets", source=few),
            lambda done: Given(labelled(scaled(transfers[done.seed], scales[done.seed]))),
            epochs=config.alone_epochs, decay=config.alone_weight_decay),
        arm(DISTILLED, "distilled", taught, soft, lesson, alpha=alpha),
        arm(ALL, "all", plain, Lineage("targets", source="all targets"), lambda done: Given(every)),
    ]  # fmt: skip

    def row(names: tuple[str, ...], say: Callable[[Done], tuple[Answer, int]]) -> Row:
        def of(done: Done) -> Scores:
            said, parameters = say(done)
            found = {"parameters": parameters, **errors(said(parts["test"]), parts["test"])}
            if "validation" in parts:
                found["validation RMSE"] = errors(said(parts["validation"]), parts["validation"])["RMSE"]
            return found

        return Row(names, of)

    def learned(name: str) -> Row:
        return row((name,), lambda done: (partial(answer, done, name), parameter_count(done.weights(name)["params"])))

    rows = {name: learned(name) for name in (TEACHER, ALONE, DISTILLED, ALL)}
    rows["ridge alone"] = row((), lambda done: ridge(transfers[done.seed], scales[done.seed]))
    rows["ridge, all targets"] = row((), lambda done: ridge(train, whole))
    report(config, workdir, study, compare.scored(study, workdir, arms, rows, PAIRS))


def errors(answers: np.ndarray, source: Source) -> dict[str, float]:
    """How far answers are from a table's targets."""
    targets = source.arrays["target"]
    scores = {"RMSE": root_mean_squared_error, "MAE": mean_absolute_error, "R²": r2_score}
    return {name: float(score(targets, answers)) for name, score in scores.items()}


def report(config: Config, workdir: Path, study: Study, compared: compare.Compared) -> None:
    """Table, paired differences, curves, results.json."""
    text, found = tables.table(compared.results, COLUMNS), dict[str, Any]()
    for pair, d in compare.subtracted(compared.results, PAIRS).items():
        found.setdefault(pair.name, {})[pair.score] = d
    for name, by_score in found.items():
        said = [f"{score} {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" for score, d in by_score.items()]
        text += f"\n\n{name}, 95% intervals over {config.seeds} paired seeds: {', '.join(said)}"
    title = f"{config.dataset}, {config.labels or 'all'} targets, {config.loss}, alpha={config.alpha:g}"
    figures.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    compare.save(workdir, compared, PAIRS, text, found)


if __name__ == "__main__":
    command.start(Config, main)

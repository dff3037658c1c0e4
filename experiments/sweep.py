"""A study of students over hyper-parameters and seeds, trained as one compiled program.

    python -m experiments.sweep
    python -m experiments.sweep --sweep='temperature:1,2,4,8;alpha:0.5,0.9' --seeds=4
    python -m experiments.sweep --sweep='learning_rate:log(1e-4,1e-2);temperature:uniform(1,20)' --sample=32
    JAX_NUM_CPU_DEVICES=2 python -m experiments.sweep --dataset=mnist --train_split='train[:80%]' --labels=0 \
        --teacher_hidden=1200,1200 --teacher_dropout=0.5 --teacher_epochs=3 --epochs=3 --learning_rate=1e-3 \
        --order=shared --sweep='temperature:1,2,3,4,6,8,12,16;alpha:0.5,0.9' --workdir=runs/sweep-mnist

The first is 4 temperatures x 2 alphas x 4 seeds on real digits, under a minute on two cores. Flags are those of
`experiments.distill`; a swept one is ignored. Axes are temperature, alpha, learning_rate and, as `loss.NAME`, the
numbers that the loss itself takes. One teacher (seed 0) answers for all students, and all see the same labelled images
(of seed 0); seeds are those of initialisation and data order.

Leaves results.jsonl (one student a line), results.json, table.md (best on validation, with its test score) and a map of
each pair of axes. Killed, the same command goes on. A student that diverges says so in `status`, and has no scores.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _answers, _networks, _report, _run, _sweep, _train, distill
from kdjax.config import field
from kdjax.data import pipeline
from kdjax.data.source import Source, hide_labels
from kdjax.losses import combine
from kdjax.recipes import distill as recipes
from kdjax.recipes.supervised import supervised
from kdjax.training import population, stacked
from kdjax.training.population import Member, Plan
from kdjax.training.state import variables
from kdjax.types import BadInput, LossFn, Model, PyTree

AXES = ("temperature", "alpha", "learning_rate")


@dataclass(frozen=True)
class Config(distill.Flags):
    """Flags of this experiment."""

    workdir: str = field("runs/sweep", "folder of the run", identity=False, smoke="runs/smoke/sweep")
    seeds: int = field(4, "students of each point, numbered from 0", low=1, smoke=2)
    epochs: int = field(60, "passes over the transfer set (all training images)", low=1, smoke=2)
    sweep: str = field(
        "temperature:1,2,4,8;alpha:0.5,0.9",
        "axes: name:1,2,4 or name:uniform(a,b) or name:log(a,b), separated by ;",
        smoke="temperature:1,4;alpha:0.5,0.9",
    )
    sample: int = field(0, "random points instead of the grid", low=0)
    order: str = field(
        "own", "data order: each student's own, or one for all, which is faster", choices=("own", "shared")
    )
    patience: int = field(0, "stop a student after so many epochs without a better validation accuracy; 0 never", low=0)
    members_per_call: int = field(0, "students trained at a time; 0 takes what memory holds", low=0)
    group: int = field(0, "students of one vmap; 0 chooses for the device", low=0)


def main(config: Config, workdir: Path) -> None:
    """Teacher, students, table, maps."""
    study = _train.open_study(config, workdir)
    axes, members, points = plan_members(config)
    loss = checked_losses(config, study.train.num_classes, points)
    _answers.check(config, study, workdir, [])
    if study.validation is None:
        raise BadInput("--validation_split= is empty; accepted: a split to choose the best point on.")
    if not isinstance(study.train, Source):
        raise BadInput(f"--dataset={config.dataset} is streamed; accepted are sets in memory.")
    student, _ = _networks.from_flags(config, study.shape, "student", train=study.train)
    transfer = hide_labels(study.train, config.labels, 0) if config.labels else study.train
    steps = -(-len(transfer) // config.batch_size)
    tx = _train.optimizer_of(config, steps=steps * config.epochs)
    teacher, answers = teacher_of(config, study, workdir)
    answered = _answers.answered(config, study, teacher, answers, transfer, workdir, 0)
    parts = population.train(
        members,
        student,
        tx,
        swept(student, answered.teacher, loss),
        data=answered.source.arrays,
        order=partial(order, len(transfer), config.batch_size),
        epochs=config.epochs,
        mesh=study.mesh,
        plan=Plan(config.order == "own", config.members_per_call, config.group),
        frozen=answered.frozen,
        evaluate=lambda states: score(study, student, states, "validation"),
        patience=config.patience,
        directory=workdir / "checkpoints" / "students",
        checkpoint_every=config.checkpoint_every,
    )
    rows = list(rows_of(study, student, parts, points, config.seeds))
    names = [axis.name for axis in axes]
    found = _sweep.summary(rows, names)
    title = f"{config.dataset}, {config.labels or 'all'} labels, {config.epochs} epochs, {config.seeds} seeds a point"
    _sweep.save_rows(rows, workdir / "results.jsonl")
    _sweep.heat_maps(found, axes, workdir, title=title, grid=not config.sample)
    _report.save_results(workdir, {"points": found, "members": rows}, _sweep.table(found, names))


def plan_members(config: Config) -> tuple[list[_sweep.Axis], list[Member], list[dict[str, float]]]:
    """The axes, every member, point by point and seed by seed, and the points."""
    limits = {f.name: (f.metadata["low"], f.metadata["high"]) for f in fields(config) if f.name in AXES}
    bounds: dict[str, tuple[float | None, float | None]] = {name: limits[name] for name in AXES}
    plain = combine.resolve(config.loss)
    for name, parameter in inspect.signature(plain).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and type(parameter.default) is float and name != "temperature":
            bounds[f"loss.{name}"] = (None, None)
    axes = _sweep.parse(config.sweep, bounds)
    points = _sweep.points(axes, config.sample)
    fixed = {name: getattr(config, name) for name in AXES}
    members = [Member(seed, {**fixed, **point}) for point in points for seed in range(config.seeds)]
    return axes, members, points


def checked_losses(config: Config, classes: int, points: list[dict[str, float]]) -> Any:
    """The loss that the flags name, once every point's own arguments of it have been checked."""
    for point in points:
        own = {n.removeprefix("loss."): x for n, x in point.items() if n.startswith("loss.")}
        given = ",".join(f"{n}={x}" for n, x in {**distill.parse_loss_args(config.loss_args), **own}.items())
        distill.checked_loss(_with(config, given), classes)
    return combine.resolve(config.loss, **distill.parse_loss_args(config.loss_args))


def _with(config: Config, loss_args: str) -> Config:
    return type(config)(**{**{f.name: getattr(config, f.name) for f in fields(config)}, "loss_args": loss_args})


def swept(student: Model, source: recipes.Teacher, loss: Any) -> LossFn:
    """Plain distillation whose loss takes its `loss.NAME` from the traced hyper-parameters too."""

    def loss_fn(params: Any, state: Any, batch: Any, key: Any) -> Any:
        own = {n.removeprefix("loss."): x for n, x in state.hparams.items() if n.startswith("loss.")}
        return recipes.distill(student.apply, source, partial(loss, **own))(params, state, batch, key)

    return loss_fn


def order(examples: int, batch_size: int, seed: int, epoch: int) -> dict[str, np.ndarray]:
    """The rows of an epoch, as a plain run with this seed sees them."""
    return pipeline.epoch_rows(examples, batch_size, seed=seed, epoch=epoch)


def teacher_of(config: Config, study: _train.Study, workdir: Path) -> tuple[Model, PyTree]:
    """The teacher of seed 0: given, or trained here."""
    if config.teacher:
        teacher, given = _networks.load_teachers(study, config.teacher)
        return teacher, given[0]
    teacher, described = _networks.from_flags(config, study.shape, "teacher", train=study.train)
    _networks.save_model(workdir, **described)
    settings = {"seed": 0, "epochs": config.teacher_epochs, "hparams": {"learning_rate": config.teacher_learning_rate}}
    state = _train.train(study, workdir, "teacher/seed-0", teacher, supervised(teacher.apply), **settings)
    return teacher, variables(state)


def score(study: _train.Study, student: Model, states: Any, split: str) -> dict[str, np.ndarray]:
    """Every member's accuracy and NLL on a split."""
    examples = getattr(study, split)
    logits = stacked.predict(student.apply, states, examples.arrays["image"], study.mesh)
    return {f"{split}_{name}": values for name, values in _sweep.scores(logits, examples.labels()).items()}


def rows_of(
    study: _train.Study,
    student: Model,
    parts: Iterator[population.Trained],
    points: list[dict[str, float]],
    seeds: int,
) -> Iterator[dict[str, Any]]:
    """One row per member, as its part ends."""
    at = 0
    for part in parts:
        scored = {**score(study, student, part.states, "validation"), **score(study, student, part.states, "test")}
        for i, (member, outcome) in enumerate(zip(part.members, part.outcomes, strict=True)):
            well = outcome.status != "diverged"
            numbers = {name: float(values[i]) if well else None for name, values in scored.items()}
            row = {"point": at // seeds, **points[at // seeds], "seed": member.seed, "status": outcome.status}
            yield {**row, "epochs": outcome.epochs, **numbers}
            at += 1


if __name__ == "__main__":
    _run.start(Config, main)

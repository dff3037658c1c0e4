"""A study over hyper-parameters and seeds, trained as one compiled program: students of a teacher, or teachers.

    python -m experiments.sweep --loss='response.kl(temperature=grid(1, 2, 4, 8)) + grid(0.1, 1)*labels' --seeds=4
    python -m experiments.sweep --method='kd(temperature=uniform(1, 20))' --learning_rate='log(1e-4, 1e-2)' \
        --sample=32 --workdir=runs/sweep-sample
    python -m experiments.sweep --workdir=runs/sweep-weights \
        --loss='0.9*response.kl + 0.1*labels + grid(0, 1, 25)*relation.rkd_distance'
    python -m experiments.sweep --members=teachers --attack='pgd(grid(0, 0.05, 0.1, 0.2), steps=7, random_start=True)' \
        --teacher='mlp(64)' --label_smoothing='grid(0, 0.1)' --under='pgd(0.1, steps=20)' --workdir=runs/sweep-eps
    JAX_NUM_CPU_DEVICES=2 python -m experiments.sweep --dataset=mnist --train_split='train[:80%]' --labels=0 \
        --teacher='mlp(1200, 1200, dropout=0.5)' --teacher_epochs=3 --epochs=3 --learning_rate=1e-3 \
        --order=shared --workdir=runs/sweep-mnist \
        --loss='response.kl(temperature=grid(1, 2, 3, 4, 6, 8, 12, 16)) + grid(0.1, 1)*labels'

The first is 4 temperatures x 2 weights of the labels x 4 seeds on real digits, under a minute on two cores; the
adversarial one is 4 epsilons x 2 label smoothings x 4 seeds. Minutes on two shared cores: sweep-teachers 1. Flags are
those of `experiments.distill`, and where a number stands in --method, --loss or --learning_rate a set may stand:
`grid(1, 2)`, `uniform(0, 1)`, `log(1e-4, 1e-2)`. Every combination is a point, or --sample of them. One teacher (seed
0) answers for all students, and all see the same labelled images (of seed 0), or with --own_labels each seed its own;
seeds are those of initialisation and data order.

With --members=teachers what is swept are networks that learn from all labels, as in `experiments.train_teacher`, with
the teacher_ flags; sets are in --teacher_learning_rate, --label_smoothing and the epsilon of --attack. The best ones
are a teacher for `experiments.distill --teacher=WORKDIR`.

Leaves results.jsonl (one member a line), results.json, table.md (best on validation, with its test score), a map of
each pair of axes, and the best point's networks in checkpoints/student or checkpoints/teacher. Killed, the same command
goes on. A member that diverges says so in `status`, and has no scores.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.sweep import figures, lessons, space
from kdjax import spec
from kdjax.config import field
from kdjax.data import pipeline
from kdjax.study import attacks, command, distillation, lineage, networks, report
from kdjax.study.compare import Arm, described
from kdjax.study.data import Study, open_study, optimizer_of
from kdjax.training import population, stacked
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.population import Member, Plan
from kdjax.training.program import chooses_scan
from kdjax.training.state import variables
from kdjax.types import STUDENT, BadInput

log = logging.getLogger("kdjax.sweep")


@dataclass(frozen=True)
class Config(distillation.Flags):
    """Flags of this experiment."""

    workdir: str = field("runs/sweep", "folder of the run", identity=False, smoke="runs/smoke/sweep")
    seeds: int = field(4, "members of each point, numbered from 0", low=1, smoke=2)
    epochs: int = field(60, "students' passes over the transfer set (all training images)", low=1, smoke=2)
    members: str = field(
        "students", "what is swept: students of one teacher, or teachers", choices=("students", "teachers")
    )
    method: str = field("", "a method with sets in its numbers, such as kd(temperature=grid(1, 2, 4)); or --loss")
    loss: str = field(
        "response.kl(temperature=grid(1, 2, 4, 8)) + grid(0.1, 1)*labels",
        "what students learn, with a set where a number is swept: grid(1, 2, 4), uniform(0, 1) or log(0.1, 10)",
    )
    learning_rate: str = field("3e-3", "students' peak rate, a number or a set such as log(1e-4, 1e-2)")  # pyright: ignore[reportIncompatibleVariableOverride]
    teacher_learning_rate: str = field("1e-3", "teachers' peak rate, a number or a set")  # pyright: ignore[reportIncompatibleVariableOverride]
    sample: int = field(0, "random points instead of the grid", low=0)
    order: str = field(
        "own", "data order: each member's own, or one for all, which is faster", choices=("own", "shared")
    )
    own_labels: bool = field(False, "each seed draws its own --labels, as in experiments.distill")
    attack: str = field("", "teachers' adversarial training; its epsilon can be a set: pgd(grid(0.1, 0.2), steps=7)")
    label_smoothing: str = field("0", "of teachers, a number or a set")
    under: str = field("", "attack such as pgd(0.1, steps=20); what accuracy it leaves on validation then chooses")
    patience: int = field(0, "stop a member after so many epochs without a better validation accuracy; 0 never", low=0)
    members_per_call: int = field(0, "members trained at a time; 0 takes what memory holds", low=0)


def main(config: Config, workdir: Path) -> None:
    """Teacher where there is one, members, table, maps, the best point's networks."""
    study = open_study(config, workdir)
    if study.validation is None:
        raise BadInput("--validation_split= is empty; accepted: a split to choose the best point on.")
    if config.under:
        attacks.named(config.under, flag="under")
    of = lessons.of_students if config.members == "students" else lessons.of_teachers
    lesson = of(config, study, workdir)
    axes, members, points = plan_members(config, lesson)
    tx = optimizer_of(config, steps=-(-len(study.train) // config.batch_size) * lesson.epochs)
    if not chooses_scan("auto", jax.eval_shape(lesson.network.init, jax.random.key(0))[0], study.mesh):
        log.warning("on a CPU a sweep's convolutions run inside a loop, where a step may cost twice what it does alone")
    taught, ask = lesson.prepare(workdir), stacked.Asked(lesson.network.apply, study.mesh)
    plan = Plan(config.order == "own", config.members_per_call)
    train = partial(
        population.Population(lesson.model, tx, taught.loss_fn, study.mesh, plan).train,
        members,
        data=taught.source.arrays,
        order=partial(order, len(taught.source), config.batch_size),
        epochs=lesson.epochs,
        frozen=taught.frozen,
        evaluate=lambda states: score(study, ask, states, lessons.CHOOSES),
        patience=config.patience,
        directory=workdir / "checkpoints" / lesson.role,
        checkpoint_every=config.checkpoint_every,
    )
    rows = list(rows_of(config, study, lesson, ask, train(), points))
    names = [axis.name for axis in axes]
    chooses = f"{lessons.CHOOSES}_{'attacked' if config.under else 'accuracy'}"
    found = space.summary(rows, names, chooses=chooses)
    labels = "all" if config.members == "teachers" else config.labels or "all"
    title = f"{config.dataset}, {labels} labels, {lesson.epochs} epochs, {config.seeds} seeds a point"
    space.save_rows(rows, workdir / "results.jsonl")
    figures.heat_maps(found, axes, workdir, title=title, grid=not config.sample, shown=chooses)
    keep_best(config, lesson, train, rows, found[0]["point"], workdir)
    text = f"{space.table(found, names)}\n\n{seen(config)}"
    role = lesson.role.removesuffix("s")
    arm = described(Arm(role, lesson.model, taught.loss_fn, lesson.epochs, lesson.fixed, lesson.lineage), study)
    arms = {**lesson.teacher, role: {**arm, "swept": {axis.name: axis.values for axis in axes}}}
    lineages = lineage.lineages(arms, {name: (role,) for name in ("points", "members")})
    report.save_results(workdir, {"points": found, "members": rows, **lineages}, text)


def plan_members(
    config: Config, lesson: lessons.Lesson
) -> tuple[list[space.Axis], list[Member], list[dict[str, float]]]:
    """The axes, every member, point by point and seed by seed, and the points; each point has been checked."""
    if not lesson.sets:
        raise BadInput(
            f"nothing is swept of {lesson.role}; accepted: a set where a number stands, such as grid(1, 2, 4)."
        )
    axes = space.axes(lesson.sets)
    try:
        points = [{name: float(x) for name, x in p.items()} for p in spec.points(lesson.sets, sample=config.sample)]
    except BadInput as error:
        raise BadInput(f"--{error}") from None
    lesson.check(points)
    draws = [{"draw": float(seed)} if config.own_labels else {} for seed in range(config.seeds)]
    members = [
        Member(seed, {**lesson.fixed, **point, **draws[seed]}) for point in points for seed in range(config.seeds)
    ]
    return axes, members, points


def seen(config: Config) -> str:
    """What the seeds of a point differ in, for the reader of its interval."""
    drawn = ["initialisation", *(["data order"] if config.order == "own" else [])]
    drawn += ["draw of labels"] if config.own_labels else []
    text = f"Seeds differ in {' and '.join(filter(None, [', '.join(drawn[:-1]), drawn[-1]]))}."
    if config.members == "teachers":
        return text
    labels = (
        " and one draw of labels, those of seed 0" if config.labels and not config.own_labels else ", that of seed 0"
    )
    return f"{text} All students have the same teachers{labels}: the intervals do not speak of others."


def order(examples: int, batch_size: int, seed: int, epoch: int) -> dict[str, np.ndarray]:
    """The rows of an epoch, as a plain run with this seed sees them."""
    return pipeline.epoch_rows(examples, batch_size, seed=seed, epoch=epoch)


def score(study: Study, ask: stacked.Asked, states: Any, split: str) -> dict[str, np.ndarray]:
    """Every member's accuracy and NLL on a split."""
    examples = getattr(study, split)
    logits = ask(states, examples.arrays["inputs"])
    return {f"{split}_{name}": values for name, values in space.scores(logits, examples.labels()).items()}


def rows_of(
    config: Config,
    study: Study,
    lesson: lessons.Lesson,
    ask: stacked.Asked,
    parts: Iterator[population.Trained],
    points: list[dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """One row per member, as its part ends."""
    at = 0
    for part in parts:
        scored = {**score(study, ask, part.states, "validation"), **score(study, ask, part.states, "test")}
        if config.under:
            each = [variables(stacked.member_state(part.states, i)) for i in range(len(part.members))]
            for split in ("validation", "test"):
                left = lessons.attacked_accuracy(lesson.network.apply, each, getattr(study, split), config.under)
                scored[f"{split}_attacked"] = left
        for i, (member, outcome) in enumerate(zip(part.members, part.outcomes, strict=True)):
            # The last update may overflow after a loss that was finite.
            well = outcome.status != "diverged" and all(np.isfinite(values[i]) for values in scored.values())
            numbers = {name: float(values[i]) if well else None for name, values in scored.items()}
            point, status = points[at // config.seeds], outcome.status if well else "diverged"
            row = {"point": at // config.seeds, **point, "seed": member.seed, "status": status}
            yield {**row, "epochs": outcome.epochs, **numbers}
            at += 1


def keep_best(
    config: Config,
    lesson: lessons.Lesson,
    train: Callable[[], Iterator[population.Trained]],
    rows: list[dict[str, Any]],
    best: int,
    workdir: Path,
) -> None:
    """The best point's networks as those of a plain run: model file, and checkpoints seed by seed.

    Finished parts come back from their checkpoints, so that no more than one is in memory at a time.
    """
    role = lesson.role.removesuffix("s")
    networks.save_model(workdir, role=role if role == "student" else "", **lesson.described)
    wanted = [i for i, row in enumerate(rows) if row["point"] == best and row["status"] != "diverged"]
    at = 0
    for part in train() if wanted else ():
        for i in range(len(part.members)):
            if at + i in wanted:
                state = stacked.member_state(part.states, i).replace(frozen=None)
                own = variables(state)
                state = state.replace(params={STUDENT: own.pop("params")}, model_state={STUDENT: own})
                seed = wanted.index(at + i)
                with Checkpointer(workdir / "checkpoints" / role / f"seed-{seed}", keep=1) as checkpointer:
                    checkpointer.save(state)
        at += len(part.members)


if __name__ == "__main__":
    command.start(Config, main)

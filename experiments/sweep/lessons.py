"""What the members of a sweep learn: students from a teacher, or teachers from labels; every axis a traced number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdjax import spec
from kdjax.attacks.catalogue import ATTACKS
from kdjax.attacks.run import run as attack_all
from kdjax.attacks.victims import white_box
from kdjax.data.source import Examples, Source, hide_labels
from kdjax.recipes.supervised import supervised
from kdjax.study import attacks, compare, distillation, networks, views
from kdjax.study import teacher as answering
from kdjax.study.data import Study
from kdjax.study.distillation import planned
from kdjax.study.lineage import Lineage, trained_elsewhere
from kdjax.study.students import seen
from kdjax.types import ApplyFn, BadInput, LossFn, Model, Networks, PyTree, TrainState

Point = Mapping[str, float]
RATE = "learning_rate"
CHOOSES = "validation"


class Prepared(NamedTuple):
    """A recipe that reads every axis from `state.hparams`, what to train on, and the step's frozen variables."""

    loss_fn: LossFn
    source: Source
    frozen: PyTree = None


class Lesson(NamedTuple):
    """What every member of a sweep learns.

    `role`: students or teachers; `described`: the network, as `create` takes it; `model`: what is trained, the network
    and perhaps connectors; `network`: the one that answers; `sets`: what is swept, by the place where it stands;
    `fixed`: all numbers, one of each set among them; `lineage`: where all of them come from; `check`: refuses points
    that cannot be trained; `prepare`: `workdir -> Prepared`, which may train a teacher first; `teacher`: that one as
    data, by its name.
    """

    role: str
    described: dict[str, Any]
    model: Model | Networks
    network: Model
    epochs: int
    sets: dict[str, spec.Set]
    fixed: dict[str, float]
    lineage: Lineage
    check: Callable[[Sequence[Point]], None]
    prepare: Callable[[Path], Prepared]
    teacher: Mapping[str, Any] = MappingProxyType({})


def swept(
    typed: str | float | spec.Set, flag: str, name: str, *, low: float = 0.0, high: float = float("inf")
) -> tuple[dict[str, spec.Set], float]:
    """What a flag sweeps that is a number or a set of numbers, and a number that stands for it.

    Raises:
        BadInput: another text; numbers out of range.
    """
    value = spec.number(typed, flag=flag)
    if isinstance(value, spec.Schedule):
        raise BadInput(f"--{flag}={typed}: a schedule; accepted: a number, or a set such as log(1e-4, 1e-2).")
    numbers = spec.ends(value) if isinstance(value, spec.Set) else (float(value),)
    for x in numbers:
        if not low <= x <= high:
            raise BadInput(f"--{flag}={typed}: {x:g}; accepted: numbers from {low:g} to {high:g}.")
    return ({name: value} if isinstance(value, spec.Set) else {}), numbers[0]


def of_students(config: Any, study: Study, workdir: Path) -> Lesson:
    """Students of one teacher, and of a method's further ones, all of seed 0.

    Swept are the sets in --method or --loss, and in --learning_rate.

    Raises:
        BadInput: flags that do not fit each other or the data.
    """
    if config.attack or config.label_smoothing != type(config).label_smoothing:
        raise BadInput("--attack and --label_smoothing are for --members=teachers; students learn from clean images.")
    if config.own_labels and not config.labels:
        raise BadInput("--own_labels: with --labels=0 all have all labels; accepted: --labels=N with it.")
    chosen = distillation.taught_by(config)
    if chosen.first:
        raise BadInput(f"--method={config.method} has two stages; accepted in sweeps: methods of one, or a --loss.")
    moments = study.train if config.standardize else None
    student, described = networks.named(config.student, study.shape, flag="student", train=moments)
    teacher, given, taught_by = networks.teacher_of(config, study)
    if taught_by:
        networks.save_model(workdir, **taught_by)
    steps = -(-len(study.train) // config.batch_size) * config.epochs
    others, others_weights = networks.further(chosen.others, study)
    plan = planned(config, study, student, teacher, steps, others=others)
    answering.check(config, study, workdir, given[:1])
    if plan.asks:
        asked = {f"--teacher={config.teacher}": (teacher, given[:1])}
        asked |= {f"{name}={path}": (others[name], others_weights[name][:1]) for name, path in chosen.others}
        answering.refuse_guessing(study, asked)
    transfer = hide_labels(study.train, config.labels, 0) if config.labels else study.train
    rates, rate = swept(config.learning_rate, "learning_rate", RATE)

    def check(points: Sequence[Point]) -> None:
        # A weight may be any number from 0; what a loss says of its own numbers is asked of each that it will meet.
        for point in points:
            if bad := [f"{n}={x:g}" for n, x in point.items() if n.endswith(".weight") and x < 0]:
                raise BadInput(f"{bad[0]}; accepted: weights from 0 up.")
        # An attack's numbers were looked at when it was read.
        typed = spec.sets(plan.expression)
        for own in {tuple((n, x) for n, x in p.items() if n in typed and not n.endswith(".weight")) for p in points}:
            if own:
                filled = spec.fill(plan.expression, dict(own))
                one = chosen._replace(expression=filled)
                planned(config, study, student, teacher, steps, others=others, chosen=one)

    def prepare(workdir: Path) -> Prepared:
        arm = _teacher_arm(config, study, teacher)
        answers = given[0] if given else compare.Trainer(study, workdir).train(arm, compare.Done(study, 0)).weights
        outputs = replace(config, teacher_outputs="live") if plan.live else config
        answered = answering.answered(outputs, study, teacher, answers, transfer, workdir, 0)
        source: Source = answered.source
        if config.own_labels:
            draws = [hide_labels(study.train, config.labels, seed).labels() for seed in range(config.seeds)]
            source = source.with_column("labels", np.stack(draws, 1))
        recipe = plan.taught_by(answering.teacher_of_step(outputs, teacher, study.train.num_classes))

        def loss_fn(params: Any, state: TrainState, batch: Any, key: Any) -> Any:
            if config.own_labels:
                at = state.hparams["draw"].astype(jnp.int32)
                batch = {**batch, "label": jnp.take(batch["labels"], at, axis=1)}
            return recipe(params, state, batch, key)

        further = {name: own[0] for name, own in others_weights.items()}
        return Prepared(loss_fn, source, plan.frozen(answered.frozen, source.labels, further))

    sets, fixed = {**plan.sets, **rates}, {RATE: rate, **plan.hparams}
    lineage = Lineage(
        str(plan.expression), ("teacher",), seen(config.labels, ", all images"), chosen_on=CHOOSES,
        facts={
            "teacher": config.teacher if given else "trained here", "own labels": config.own_labels,
            "attack": str(chosen.attack or ""), "further teachers": dict(chosen.others),
        },
    )  # fmt: skip
    if given:
        asked = trained_elsewhere({}, config.teacher)
    else:
        asked = compare.described(_teacher_arm(config, study, teacher), study)
    return Lesson(
        "students", described, plan.model, student, config.epochs, sets, fixed, lineage, check, prepare,
        {"teacher": asked},
    )  # fmt: skip


def of_teachers(config: Any, study: Study, workdir: Path) -> Lesson:
    """Networks that learn from all labels, as `experiments.train_teacher` trains them; swept are the sets
    in --teacher_learning_rate, --label_smoothing and the epsilon of --attack.

    Raises:
        BadInput: flags that do not fit each other or the data.
    """
    if config.own_labels:
        raise BadInput("--own_labels is for --members=students; teachers have all labels.")
    views.refuse_mixing(config.augment, why="teachers learn from labels alone")
    teacher, given, described = networks.teacher_of(config, study)
    if given:
        raise BadInput(f"--teacher={config.teacher}: --members=teachers trains teachers; accepted: {networks.NETWORK}.")
    augment = views.from_flag(config.augment, study.shape).from_labels
    rates, rate = swept(config.teacher_learning_rate, "teacher_learning_rate", RATE)
    smoothings, smoothing = swept(config.label_smoothing, "label_smoothing", "label_smoothing", high=1.0)
    sets, fixed = {**rates, **smoothings}, {RATE: rate, "label_smoothing": smoothing}
    against = None
    if config.attack:
        against = attacks.named(config.attack, flag="attack", swept=("epsilon",))
        if against.has("epsilon"):
            default = ATTACKS.parameters(against.call)["epsilon"].default
            radii, radius = swept(against.settings.pop("epsilon", default), "attack", "epsilon")
            sets, fixed = {**sets, **radii}, {**fixed, "epsilon": radius}

    def loss_fn(params: Any, state: TrainState, batch: Any, key: Any) -> Any:
        hparams, attacked = state.hparams, {}
        if against is not None:
            traced = {"epsilon": hparams["epsilon"]} if "epsilon" in hparams else {}
            attacked = {"attack": against.repeated(against.make(**traced)), "objective": against.objective}
        recipe = supervised(teacher, label_smoothing=hparams["label_smoothing"], augment=augment, **attacked)  # pyright: ignore[reportArgumentType]
        return recipe(params, state, batch, key)

    lineage = Lineage("labels", chosen_on=CHOOSES, facts={"attack": config.attack, "augment": config.augment})
    return Lesson(
        "teachers", described, teacher, teacher, config.teacher_epochs, sets, fixed, lineage,
        lambda points: None, lambda workdir: Prepared(loss_fn, _resident(config, study.train)),
    )  # fmt: skip


def attacked_accuracy(apply: ApplyFn, weights: Sequence[PyTree], source: Examples, typed: str) -> np.ndarray:
    """What accuracy an attack leaves each member, `[M]`."""
    against = attacks.named(typed, flag="under")
    attack = against.repeated(against.make())
    image, label = attacks.first(source, len(source))
    return np.array([
        1 - attack_all(attack, white_box(apply, w), image, label, objective=against.objective).success.mean()
        for w in weights
    ])  # fmt: skip


def _resident(config: Any, source: Examples) -> Source:
    if not isinstance(source, Source):
        raise BadInput(f"--dataset={config.dataset} is streamed; accepted are sets in memory.")
    return source


def _teacher_arm(config: Any, study: Study, teacher: Model) -> compare.Arm:
    """The teacher of all students, that of seed 0."""
    _, rate = swept(config.teacher_learning_rate, "teacher_learning_rate", RATE)
    recipe = supervised(teacher, augment=views.from_flag(config.augment, study.shape).from_labels)
    lineage = Lineage("labels", facts={"augment": config.augment})
    return compare.Arm("teacher", teacher, recipe, config.teacher_epochs, {RATE: rate}, lineage, once=True)

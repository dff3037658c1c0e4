"""What the members of a sweep learn: students from a teacher, or teachers from labels; every axis a traced number."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdjax.attacks import catalogue
from kdjax.attacks.run import run as attack_all
from kdjax.attacks.victims import white_box
from kdjax.data.source import Examples, Source, hide_labels
from kdjax.losses import combine, terms
from kdjax.recipes.supervised import supervised
from kdjax.study import attacks, networks, views
from kdjax.study import teacher as answering
from kdjax.study import train as training
from kdjax.study.data import Study
from kdjax.study.distillation import planned
from kdjax.training.state import variables
from kdjax.types import ApplyFn, BadInput, LossFn, Model, PyTree, TrainState

Bounds = dict[str, tuple[float | None, float | None]]
Point = Mapping[str, float]


class Taught(NamedTuple):
    """A recipe that reads every axis from `state.hparams`, what to train on, and the step's frozen variables."""

    loss_fn: LossFn
    source: Source
    frozen: PyTree = None


class Lesson(NamedTuple):
    """What every member of a sweep learns.

    `role`: students or teachers; `described`: the network, as `create` takes it; `model`: what is trained, the network
    and perhaps connectors; `apply`: the network on what was trained; `own`: the network's variables of the trained;
    `bounds`: the axes that there are, lowest and highest value; `fixed`: their values where no axis sweeps them;
    `check`: refuses points that cannot be trained; `prepare`: `workdir -> Taught`, which may train a teacher first.
    """

    role: str
    described: dict[str, Any]
    model: Model
    apply: ApplyFn
    own: Callable[[PyTree], PyTree]
    epochs: int
    bounds: Bounds
    fixed: dict[str, float]
    check: Callable[[Sequence[Point]], None]
    prepare: Callable[[Path], Taught]


def of_students(config: Any, study: Study, workdir: Path) -> Lesson:
    """Students of one teacher, that of seed 0; axes: temperature, alpha, learning_rate, the losses' weights as
    `weight.LOSS`, and the first response loss's own numbers as `loss.NAME`.

    Raises:
        BadInput: flags that do not fit each other or the data.
    """
    if config.attack or config.label_smoothing:
        raise BadInput("--attack and --label_smoothing are for --members=teachers; students learn from clean images.")
    if config.own_labels and not config.labels:
        raise BadInput("--own_labels: with --labels=0 all have all labels; accepted: --labels=N with it.")
    student, described = networks.from_flags(config, study.shape, "student", train=study.train)
    given: list[PyTree] = []
    if config.teacher:
        teacher, given = networks.load_teachers(study, config.teacher)
    else:
        teacher, taught_by = networks.from_flags(config, study.shape, "teacher", train=study.train)
        networks.save_model(workdir, **taught_by)
    steps = -(-len(study.train) // config.batch_size) * config.epochs
    plan = planned(config, study, student, teacher, steps)
    answering.check(config, study, workdir, given[:1])
    transfer = hide_labels(study.train, config.labels, 0) if config.labels else study.train

    first = next((t for t in terms.parse(config.loss) if t.on_logits), None)
    bounds: Bounds = {"learning_rate": (0.0, None)}
    fixed = {"learning_rate": config.learning_rate}
    if first is not None:
        low, high = {f.name: (f.metadata["low"], f.metadata["high"]) for f in fields(config)}["temperature"]
        bounds |= {"temperature": (low, high), "alpha": (0.0, None if "label_weight" in plan.hparams else 1.0)}
        for name, parameter in inspect.signature(combine.resolve(first.name)).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and type(parameter.default) is float and name != "temperature":
                bounds[f"loss.{name}"] = (None, None)
    # A loss on several layers has one weight on each of them, and one axis for all.
    weights = {name: _axis(name) for name in plan.hparams if name.startswith("weight/") or name == "label_weight"}
    bounds |= {axis: (0.0, None) for axis in weights.values()}
    fixed |= {name: value for name, value in plan.hparams.items() if name not in weights}

    def check(points: Sequence[Point]) -> None:
        for own in {tuple((n, x) for n, x in point.items() if n.startswith("loss.")) for point in points}:
            if own and first is not None:
                typed = [f"{first.name}.{n.removeprefix('loss.')}={x!r}" for n, x in own]
                text = ",".join(filter(None, [config.loss_args, *typed]))
                planned(replace(config, loss_args=text), study, student, teacher, steps)

    def prepare(workdir: Path) -> Taught:
        answers = given[0] if given else _teacher(config, study, workdir, teacher)
        answered = answering.answered(plan.outputs(config), study, teacher, answers, transfer, workdir, 0)
        source: Source = answered.source
        if config.own_labels:
            draws = [hide_labels(study.train, config.labels, seed).labels() for seed in range(config.seeds)]
            source = source.with_column("labels", np.stack(draws, 1))
        spoken = None
        if first is not None:
            spoken = terms.bound([first], terms.arguments(config.loss_args, terms.parse(config.loss)))[first.label]

        def loss_fn(params: Any, state: TrainState, batch: Any, key: Any) -> Any:
            mine = {n.removeprefix("loss."): x for n, x in state.hparams.items() if n.startswith("loss.")}
            bound = {"loss": partial(spoken, **mine)} if mine and spoken else {}
            hparams = {
                **state.hparams,
                **{n: state.hparams.get(a, jnp.float32(plan.hparams[n])) for n, a in weights.items()},
            }
            if config.own_labels:
                at = state.hparams["draw"].astype(jnp.int32)
                batch = {**batch, "label": jnp.take(batch["labels"], at, axis=1)}
            recipe = plan.recipe(answered.teacher, **bound)
            return recipe(params, state.replace(hparams=hparams), batch, key)

        return Taught(loss_fn, source, plan.frozen(answered.frozen, source))

    def apply(variables: PyTree, image: Any, *, train: bool, key: Any, mask: Any = None) -> Any:
        return student.apply(plan.own(variables), image, train=train, key=key, mask=mask)

    return Lesson("students", described, plan.model, apply, plan.own, config.epochs, bounds, fixed, check, prepare)


def of_teachers(config: Any, study: Study, workdir: Path) -> Lesson:
    """Networks that learn from all labels, as `experiments.train_teacher` trains them; axes: learning_rate,
    label_smoothing and, with --attack, epsilon.

    Raises:
        BadInput: flags that do not fit each other or the data.
    """
    if config.own_labels:
        raise BadInput("--own_labels is for --members=students; teachers have all labels.")
    views.refuse_mixing(config.augment, why="teachers learn from labels alone")
    teacher, described = networks.from_flags(config, study.shape, "teacher", train=study.train)
    augment = views.from_flag(config.augment, study.shape).from_labels
    bounds: Bounds = {"learning_rate": (0.0, None), "label_smoothing": (0.0, 1.0)}
    fixed = {"learning_rate": config.teacher_learning_rate, "label_smoothing": config.label_smoothing}
    against = None
    if config.attack:
        against = attacks.named(config.attack, flag="attack")
        if against.has("epsilon"):
            default = inspect.signature(catalogue.attacks()[against.name]).parameters["epsilon"].default
            bounds["epsilon"] = (0.0, 1.0)
            fixed["epsilon"] = float(against.settings.get("epsilon", default))
            against = against._replace(settings={n: x for n, x in against.settings.items() if n != "epsilon"})

    def loss_fn(params: Any, state: TrainState, batch: Any, key: Any) -> Any:
        hparams, attacked = state.hparams, {}
        if against is not None:
            traced = {"epsilon": hparams["epsilon"]} if "epsilon" in hparams else {}
            attacked = {"attack": against.repeated(against.make(**traced)), "objective": against.objective}
        recipe = supervised(teacher, label_smoothing=hparams["label_smoothing"], augment=augment, **attacked)  # pyright: ignore[reportArgumentType]
        return recipe(params, state, batch, key)

    return Lesson(
        "teachers", described, teacher, teacher.apply, lambda trained: trained, config.teacher_epochs, bounds, fixed,
        lambda points: None, lambda workdir: Taught(loss_fn, _resident(config, study.train)),
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


def _axis(hparam: str) -> str:
    """`weight/feature.hint@a=b` as an axis, weight.feature.hint."""
    return hparam.replace("/", ".").partition("@")[0]


def _resident(config: Any, source: Examples) -> Source:
    if not isinstance(source, Source):
        raise BadInput(f"--dataset={config.dataset} is streamed; accepted are sets in memory.")
    return source


def _teacher(config: Any, study: Study, workdir: Path, teacher: Model) -> PyTree:
    settings = {"seed": 0, "epochs": config.teacher_epochs, "hparams": {"learning_rate": config.teacher_learning_rate}}
    recipe = supervised(teacher, augment=views.from_flag(config.augment, study.shape).from_labels)
    return variables(training.train(study, workdir, "teacher/seed-0", teacher, recipe, **settings))

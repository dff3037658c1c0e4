"""What a student is to learn, from flags: losses on answers, layers and relations, their weights and schedules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.losses import combine, feature, response, terms
from kdjax.losses.layer_maps import layer_map
from kdjax.models import connectors
from kdjax.recipes.distill import Teacher, distill
from kdjax.recipes.knowledge import Knowledge, over_devices
from kdjax.recipes.supervised import Augment
from kdjax.training import parallel
from kdjax.types import BadInput, LossFn, Model, PyTree, TrainState

HELP = f"what is learned from the teacher: {terms.SYNTAX}; NAME one of labels, {', '.join(combine.names())}"
SCHEDULES = "NAME=warmup:FRACTION, NAME=linear:LAST or NAME=cosine:LAST, joined by commas"


class Plan(NamedTuple):
    """How to teach one student.

    `model`: what is trained, the student and its connectors; `own`: the student's variables of the trained ones;
    `recipe`: from a teacher to a `LossFn`; `hparams`: temperature and weights; `layers`: the pairs of numbered layers;
    `compares_layers`, `augmented`: two reasons why the teacher must be live; `uses_labels`: whether labels have weight.
    """

    model: Model
    own: Callable[[PyTree], PyTree]
    recipe: Callable[[Teacher], LossFn]
    hparams: dict[str, float]
    layers: tuple[tuple[int, int], ...]
    compares_layers: bool
    augmented: bool
    uses_labels: bool

    def outputs(self, config: Any) -> Any:
        """The flags, with a teacher that runs in every step where its layers are compared or views change."""
        return replace(config, teacher_outputs="live") if self.compares_layers or self.augmented else config


def plan(
    student: Model,
    teacher: Model,
    shape: Mapping[str, Any],
    *,
    loss: str,
    steps: int,
    alpha: float = 0.9,
    temperature: float = 4.0,
    loss_args: str = "",
    layers: str = "",
    layer_weights: Sequence[float] = (1.0,),
    schedules: str = "",
    wrapper: str = "jit",
    augment: Augment | None = None,
) -> Plan:
    """Read the flags and check them on shapes alone, so that nothing is refused after training began.

    Args:
        student, teacher: the networks.
        shape: of the data, classes and images.
        loss, loss_args, layers, layer_weights, schedules: as flags write them.
        steps: of the run, which schedules are fractions of.
        alpha: weight of the first response loss, where the text gives none.
        temperature: of every response loss.
        wrapper: `jit` or `pmap`.
        augment: makes the views that student and teacher see.

    Raises:
        BadInput: what cannot be used.
    """
    image = jax.ShapeDtypeStruct((2, *shape["image_shape"]), jnp.float32)
    like = {side: _variables(model) for side, model in (("student", student), ("teacher", teacher))}
    features = {
        side: list(jax.eval_shape(partial(_features, model), like[side], image))
        for side, model in (("student", student), ("teacher", teacher))
    }
    counted = {side: connectors.numbered(names) for side, names in features.items()}
    numbers = layer_map(layers, **{side: len(names) for side, names in counted.items()}) if layers else ()
    named = [(counted["student"][m - 1], counted["teacher"][g - 1]) for m, g in numbers]

    parsed = terms.parse(loss)
    own = terms.arguments(loss_args, parsed)
    found = terms.on_layers(parsed, named, weights=layer_weights)
    functions = terms.bound(found, own)
    labels = next((t for t in found if t.name == terms.LABELS), None)
    first = next((t for t in found if t.on_logits), None)
    rest = [t for t in found if t not in (labels, first)]

    hparams = {"temperature": temperature, "alpha": 0.0 if first is None else alpha}
    if first is not None and first.weight is not None:
        hparams["alpha"] = first.weight
    if labels is not None:
        hparams["label_weight"] = 1.0 if labels.weight is None else labels.weight
    elif hparams["alpha"] > 1:
        raise BadInput(f"--loss={loss}: a weight above 1 leaves less than nothing to the labels; add labels:WEIGHT.")
    main: Any = response.kl if first is None else functions[first.label]

    knowledge = [Knowledge(t.label, _complete(t.name, functions[t.label]), t.on_logits, t.sees_the_batch) for t in rest]
    hparams |= {k.weight: 1.0 if t.weight is None else t.weight for k, t in zip(knowledge, rest, strict=True)}
    links = {
        t.label: connectors.Link(t.student, t.teacher, connectors.connector(t.name)) for t in rest if not t.on_logits
    }
    factors = _schedules(schedules, found, first, steps)
    model, pairs = student, None
    if links:
        model, pairs = connectors.connect(
            student, links, image_shape=shape["image_shape"], teacher=(teacher, like["teacher"])
        )
    recipe = partial(
        _recipe,
        apply=model.apply,
        loss=main,
        knowledge=knowledge,
        pairs=pairs,
        schedules=factors,
        augment=augment,
    )
    _try(recipe, model, hparams, teacher, like["teacher"], image)
    axis_name = parallel.AXIS if wrapper == "pmap" else None
    if first is not None and first.sees_the_batch:
        main = over_devices(main, axis_name)
    recipe = partial(recipe, loss=main, axis_name=axis_name)
    own = connectors.without_adapter if links else lambda v: v
    uses_labels = hparams["label_weight"] > 0 if labels is not None else hparams["alpha"] < 1 or "alpha" in factors
    return Plan(model, own, recipe, hparams, numbers, bool(links), augment is not None, uses_labels)


def unchanged(state: TrainState) -> TrainState:
    """The initial state as it is."""
    return state


def after(trained: TrainState) -> Callable[[TrainState], TrainState]:
    """The initial state with the parameters of a run before; optimizer and step begin anew."""
    # Copies: what begins a run is donated to it.
    params, model_state = jax.tree.map(jnp.array, (trained.params, trained.model_state))
    return lambda state: state.replace(params=params, model_state=model_state)


def copies(given: Plan, teacher: PyTree) -> tuple[Callable[[TrainState], TrainState], list[str]]:
    """The initial state with the teacher's layers copied into the student where shapes agree, and which they are.

    Raises:
        BadInput: no layer map, or no pair of layers of the same shape.
    """

    def student(params: PyTree) -> PyTree:
        return params["student"] if given.compares_layers else params

    params = jax.eval_shape(given.model.init, jax.random.key(0))[0]
    names = connectors.copied(student(params), teacher["params"], given.layers)[1]
    if not names:
        raise BadInput("--copy_layers: no pair of --layers has the same shapes; accepted: layers of the same width.")

    def begin(state: TrainState) -> TrainState:
        new, _ = connectors.copied(student(state.params), teacher["params"], given.layers)
        # Copies of the copies: the state is donated, and the teacher must survive it.
        new = jax.tree.map(jnp.array, new)
        return state.replace(params={**state.params, "student": new} if given.compares_layers else new)

    return begin, names


def hints_alone(given: Plan) -> dict[str, float]:
    """The hyper-parameters of a first stage that compares layers and nothing else (FitNets)."""
    if not given.compares_layers:
        raise BadInput("--hint_epochs: no loss compares layers; accepted with one such as feature.hint:100@block2.")
    return {**given.hparams, "alpha": 0.0, "label_weight": 0.0}


def answers_alone(given: Plan) -> dict[str, float]:
    """The hyper-parameters of the second stage: all but what compares layers."""
    return {n: 0.0 if n.startswith(("weight/feature.", "weight/relation.")) else v for n, v in given.hparams.items()}


def _recipe(teacher: Teacher, *, apply: Any, loss: Any, **rest: Any) -> LossFn:
    return distill(apply, teacher, loss, **rest)


def _variables(model: Model) -> PyTree:
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    return {"params": params, **state}


def _features(model: Model, variables: PyTree, image: Array) -> dict[str, Array]:
    return model.apply(variables, image, train=False, key=None)[0].features


def _complete(name: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss that takes what its connector gives, where that is more than the two arrays."""
    if name == "feature.fsp":
        return lambda s, t, *, where: loss(feature.fsp_matrix(*s), feature.fsp_matrix(*t), where=where)
    if name == "feature.ft":
        return lambda s, t, *, where, reconstruction: loss(s, t, where=where) + jnp.where(where, reconstruction, 0)
    return loss


def _schedules(
    text: str, found: Sequence[terms.Term], first: terms.Term | None, steps: int
) -> dict[str, Callable[[Array], Array]]:
    """Factors of hyper-parameters by step."""
    known = {"temperature": ["temperature"], "alpha": ["alpha"]}
    for term in found:
        weight = "label_weight" if term.name == terms.LABELS else "alpha" if term is first else f"weight/{term.label}"
        # By its layers, or all terms of a loss at once.
        for name in dict.fromkeys((term.label, term.name)):
            known.setdefault(name, []).append(weight)
    factors: dict[str, Callable[[Array], Array]] = {}
    for part in filter(None, text.split(",")):
        # Labels of terms hold an equals sign of their own.
        name, _, rule = part.rpartition("=")
        kind, _, number = rule.partition(":")
        makers = {
            "warmup": lambda x: optax.linear_schedule(0.0, 1.0, max(round(x * steps), 1)),
            "linear": lambda x: optax.linear_schedule(1.0, x, steps),
            "cosine": lambda x: optax.cosine_decay_schedule(1.0, steps, alpha=x),
        }
        try:
            value = float(number)
            if kind not in makers or not 0 <= value < float("inf") or (kind == "warmup" and value > 1):
                raise ValueError
        except ValueError:
            raise BadInput(f"--schedules={text}: accepted is {SCHEDULES}; numbers from 0 up, FRACTION to 1.") from None
        if name not in known:
            raise BadInput(f"--schedules={text}: nothing is called {name!r}; accepted: {', '.join(known)}.")
        if name == "temperature" and (kind == "warmup" or value == 0):
            raise BadInput(f"--schedules={text}: a temperature cannot be 0; accepted: linear or cosine, LAST above 0.")
        factors |= dict.fromkeys(known[name], makers[kind](value))
    return factors


def _try(
    recipe: Any, model: Model, weights: Mapping[str, float], teacher: Model, variables: PyTree, image: Any
) -> None:
    """One step on shapes alone."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    hparams = {name: jnp.float32(value) for name, value in weights.items()}
    column = jax.ShapeDtypeStruct((2,), jnp.int32)
    rows = {"image": image, "label": column, "mask": column}

    def answer(frozen: PyTree, batch: Mapping[str, Any]) -> Any:
        return teacher.apply(frozen, batch["image"], train=False, key=None)[0]

    def step(params: PyTree, state: PyTree, frozen: PyTree, batch: Any) -> Array:
        whole = TrainState(jnp.int32(0), params, state, (), jax.random.key(0), hparams, frozen)
        return recipe(answer)(params, whole, batch, jax.random.key(0))[0]

    jax.eval_shape(step, params, state, variables, rows)

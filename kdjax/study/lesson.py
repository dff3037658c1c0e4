"""What a student is to learn, from flags: losses on answers, layers and relations, their weights and schedules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.data.source import Examples
from kdjax.losses import combine, feature, response, terms
from kdjax.losses.contrastive import Remembering
from kdjax.losses.layer_maps import layer_map, stages
from kdjax.models.connect import connectors
from kdjax.models.connect.factors import Factors
from kdjax.recipes._batch import Augment
from kdjax.recipes.distill import distill
from kdjax.recipes.knowledge import Frozen, Knowledge, over_devices, with_memories
from kdjax.study.schedules import parse as factors
from kdjax.teachers.live import Teacher
from kdjax.types import BadInput, LossFn, Model, PyTree, TrainState

HELP = (
    f"what is learned from the teacher: {terms.SYNTAX}; NAME one of labels, {', '.join(combine.names())}; feature.fsp "
    "stands between two layers, A-B, and feature.review fuses any number, A-B-C"
)
FACTORS = ("feature.ft", "feature.ft_crd")


class Plan(NamedTuple):
    """How to teach one student.

    `model`: what is trained, the student and its connectors; `own`: the student's variables of the trained ones;
    `recipe`: from a teacher to a `LossFn`; `hparams`: temperature and weights; `layers`: the pairs of numbered layers,
    `named`: the same by name;
    `compares_layers`, `augmented`: two reasons why the teacher must be live; `uses_labels`: whether labels have weight;
    `remembers`: the losses with a memory, by label.
    """

    model: Model
    own: Callable[[PyTree], PyTree]
    recipe: Callable[[Teacher], LossFn]
    hparams: dict[str, float]
    layers: tuple[tuple[int, int], ...]
    named: tuple[tuple[str, str], ...]
    compares_layers: bool
    augmented: bool
    uses_labels: bool
    remembers: Mapping[str, Remembering]

    def frozen(self, teacher: PyTree, source: Examples) -> PyTree:
        """What the step reads: the teacher's variables, and what losses with a memory must know of the data set."""
        facts = {name: one.about(source.labels()) for name, one in self.remembers.items() if one.about}
        return Frozen(teacher, facts) if self.remembers else teacher

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
    second: bool = False,
    examples: int | None = None,
    batch_size: int = 4,
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
        second: the plan is of the second of two stages, so that what learned in the first is held fast.
        examples: of the data set, None where that is not known; a loss with a bank of them needs it.
        batch_size: over all devices.
        augment: makes the views that student and teacher see.

    Raises:
        BadInput: what cannot be used.
    """
    image = jax.ShapeDtypeStruct((batch_size, *shape["image_shape"]), jnp.float32)
    like = {side: _variables(model) for side, model in (("student", student), ("teacher", teacher))}
    features = {
        side: list(jax.eval_shape(partial(_features, model), like[side], image))
        for side, model in (("student", student), ("teacher", teacher))
    }
    counted = {side: connectors.numbered(names) for side, names in features.items()}
    counting, others = stages(layers) if layers else ("", ())
    numbers = layer_map(counting, **{side: len(names) for side, names in counted.items()}) if counting else ()
    named = [(counted["student"][m - 1], counted["teacher"][g - 1]) for m, g in numbers]
    if unknown := [name for name in others if not all(name in names for names in features.values())]:
        both = [name for name in features["student"] if name in features["teacher"]]
        raise BadInput(
            f"--layers={layers}: {unknown[0]} is no map (every:2, offset:2, first, last, 1=2,2=4) and no layer of both "
            f"networks; accepted layers: {', '.join(both)}."
        )
    named += [(name, name) for name in others]

    parsed = terms.parse(loss)
    own = terms.arguments(loss_args, parsed)
    shown = features["student"], features["teacher"]
    found = terms.on_layers(parsed, named, weights=layer_weights, shown=shown)
    functions = terms.bound(found, own)
    if small := [t for t in found if t.least > batch_size]:
        raise BadInput(
            f"--batch_size={batch_size}: {small[0].name} compares examples of a batch; accepted: from {small[0].least}."
        )
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
    main: Any = response.kl if first is None else _named(first.label, functions[first.label])

    remembers = {t.label: _named(t.label, functions[t.label])(examples) for t in rest if t.remembers}
    functions |= {label: one.step for label, one in remembers.items()}
    knowledge = [
        Knowledge(
            t.label,
            _named(t.label, _complete(t.name, functions[t.label])),
            t.on_logits,
            t.sees_the_batch,
            remembers=t.remembers,
        )
        for t in rest
    ]
    hparams |= {k.weight: 1.0 if t.weight is None else t.weight for k, t in zip(knowledge, rest, strict=True)}
    modules = {t.label: _module(t.name, second) for t in rest if not t.on_logits}
    modules |= {label: connectors.Embed(one.dims) for label, one in remembers.items()}
    links = {t.label: connectors.Link(t.student, t.teacher, modules[t.label]) for t in rest if not t.on_logits}
    if not second:
        # A paraphraser learns of the teacher's layer alone, whatever the student's share weighs.
        own_loss = [Knowledge(_paraphraser(t), _reconstruction, pair=t.label) for t in rest if t.name in FACTORS]
        knowledge += own_loss
        hparams |= {k.weight: 1.0 for k in own_loss}
    scheduled = factors(schedules, found, first, steps)
    if labels is None and "alpha" in scheduled and hparams["alpha"] * float(scheduled["alpha"](jnp.asarray(steps))) > 1:
        raise BadInput(
            f"--schedules={schedules}: a weight that ends above 1 leaves less than nothing to the labels; add "
            "labels:WEIGHT to --loss."
        )
    model, pairs = student, None
    if links:
        model, pairs = connectors.connect(
            student, links, image_shape=shape["image_shape"], teacher=(teacher, like["teacher"])
        )
    if remembers:
        model = with_memories(model, {label: one.init for label, one in remembers.items()})
    recipe = partial(
        _recipe,
        apply=model.apply,
        loss=main,
        knowledge=knowledge,
        pairs=pairs,
        schedules=scheduled,
        augment=augment,
    )
    facts = {label: one.about(np.arange(examples or 2)) for label, one in remembers.items() if one.about}
    _try(recipe, model, hparams, teacher, like["teacher"], image, facts)
    if first is not None and first.sees_the_batch:
        recipe = partial(recipe, loss=over_devices(main))
    students = connectors.without_adapter if links else lambda v: v
    uses_labels = hparams["label_weight"] > 0 if labels is not None else hparams["alpha"] < 1 or "alpha" in scheduled
    numbered = tuple(named[: len(numbers)])
    return Plan(
        model, students, recipe, hparams, numbers, numbered, bool(links), augment is not None, uses_labels, remembers
    )


def _recipe(teacher: Teacher, *, apply: Any, loss: Any, **rest: Any) -> LossFn:
    return distill(apply, teacher, loss, **rest)


def _variables(model: Model) -> PyTree:
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    return {"params": params, **state}


def _features(model: Model, variables: PyTree, image: Array) -> dict[str, Array]:
    return connectors.layers_of(model.apply(variables, image, train=False, key=None)[0])


def _module(name: str, second: bool) -> Any:
    return Factors(learned=True) if second and name in FACTORS else connectors.connector(name)


def _paraphraser(term: terms.Term) -> str:
    return term._replace(name="paraphraser").label


def _reconstruction(student: Array, teacher: Array, *, where: Array, reconstruction: Array) -> Array:
    return jnp.where(where, reconstruction, 0)


def _named(label: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss whose refusals say which it is."""

    def called(*arrays: Any, **keywords: Any) -> Any:
        try:
            return loss(*arrays, **keywords)
        except BadInput as error:
            raise BadInput(f"{label}: {error}") from None

    return called


def _complete(name: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss that takes what its connector gives, where that is more than the two arrays."""
    if name == "feature.fsp":
        return lambda s, t, *, where: loss(feature.fsp_matrix(*s), feature.fsp_matrix(*t), where=where)
    if name in FACTORS:
        return lambda s, t, *, where, reconstruction=None: loss(s, t, where=where)
    if name == "feature.review":
        return lambda s, t, *, where: sum(loss(*level, where=where) for level in zip(s, t, strict=True))
    return loss


def _try(
    recipe: Any,
    model: Model,
    weights: Mapping[str, float],
    teacher: Model,
    variables: PyTree,
    image: Any,
    facts: dict[str, PyTree],
) -> None:
    """One step on shapes alone."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    hparams = {name: jnp.float32(value) for name, value in weights.items()}
    column, mask = (jax.ShapeDtypeStruct((len(image),), kind) for kind in (jnp.int32, jnp.float32))
    rows = {"image": image, "label": column, "mask": mask, "index": column}

    def answer(frozen: PyTree, batch: Mapping[str, Any]) -> Any:
        return teacher.apply(frozen, batch["image"], train=False, key=None)[0]

    def step(params: PyTree, state: PyTree, frozen: PyTree, batch: Any) -> Array:
        frozen = Frozen(frozen, facts) if facts else frozen
        whole = TrainState(jnp.int32(0), params, state, (), jax.random.key(0), hparams, frozen)
        return recipe(answer)(params, whole, batch, jax.random.key(0))[0]

    jax.eval_shape(step, params, state, variables, rows)

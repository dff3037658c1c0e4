"""A lesson: what one student learns from one teacher, as an expression says it, checked on shapes before training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import spec
from kdjax.ensembles.pools import Ensemble
from kdjax.losses.contrastive import Remembering
from kdjax.models.connect.connectors import connect
from kdjax.models.connect.connectors import layers_of as all_layers
from kdjax.recipes._batch import Augment
from kdjax.recipes.attack_reading import read_attack
from kdjax.recipes.attacked import Attacked
from kdjax.recipes.layers import Shown
from kdjax.recipes.learn import CONNECTORS, Frozen, learn
from kdjax.recipes.reading import OF_FACTORS, OF_LABELS, OF_LAYERS, VIEWS, Reader
from kdjax.recipes.terms import LABELS, TEACHER
from kdjax.spec import Call, Formula, Schedule, Set
from kdjax.teachers.live import Teacher, live
from kdjax.types import CLEAN, STUDENT, BadInput, LossFn, Model, Networks, Outputs, PyTree, Recipe, TrainState


@dataclass(frozen=True)
class Lesson:
    """What one student is to learn.

    Attributes:
        expression: as it was read.
        model: what is trained: the student, and its connectors where layers are compared.
        taught_by: from a teacher to a `LossFn`.
        teacher: the teacher's network, and `others`, further teachers' by name.
        hparams: the expression's numbers, by place (`spec.numbers`): traced, so that changing one compiles nothing.
        sets: the sets that stand where a number may, by place; `hparams` has one of each.
        kinds: what each weight weighs, by the place that its numbers begin with: `layers`, `factors` (layers whose
            connector must learn of the teacher first), `answers` or `labels`.
        layers: the pairs of numbered layers that a map gave, and `named`, all compared layers by name.
        augmented: whether images are augmented in each step.
        memories: the losses that remember, by name.
        by_label: whether an image without a label cannot be attacked.
        asks: the teachers that a term asks, or what the attack makes large, by name, each with the views that it is
            asked about.
    """

    expression: Formula
    model: Networks
    taught_by: Callable[[Teacher], LossFn]
    teacher: Model
    hparams: dict[str, float]
    sets: dict[str, Set]
    kinds: dict[str, str]
    layers: tuple[tuple[int, int], ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    augmented: bool = False
    by_label: bool = False
    asks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    memories: Mapping[str, Remembering] = field(default_factory=dict)
    others: Mapping[str, Model] = field(default_factory=dict)

    @property
    def loss_fn(self) -> LossFn:
        """The recipe with all teachers run in every step, on the variables in `frozen`."""
        return self.taught_by(live(self.teacher.apply))

    @property
    def compares_layers(self) -> bool:
        """Whether a loss compares layers, which no stored answer has."""
        return not {OF_LAYERS, OF_FACTORS}.isdisjoint(self.kinds.values())

    @property
    def uses_labels(self) -> bool:
        """Whether labels have weight, at any time."""
        return self.weighs(OF_LABELS)

    @property
    def live(self) -> bool:
        """Whether the teacher must run in every step: a stored answer is that to a clean image."""
        return self.compares_layers or self.augmented or not self.asks.get(TEACHER, frozenset()) <= {CLEAN}

    def refuse_sets(self, what: str) -> None:
        """Refuse a set, for who trains one network.

        Raises:
            BadInput: naming `what` was typed, and the number that is a set.
        """
        if self.sets:
            place, typed = next(iter(self.sets.items()))
            raise BadInput(
                f"{what}: {place} is {typed}, a set; accepted: a number or a schedule. experiments.sweep trains a set."
            )

    def weighs(self, *kinds: str) -> bool:
        """Whether a weight of these kinds is ever other than 0."""
        weights = [place for place, kind in self.kinds.items() if kind in kinds]
        varied = any(place.startswith(weight) for place in self.sets for weight in weights)
        return varied or self.scaled(dict.fromkeys(kinds, 0.0)) != self.hparams

    def scaled(self, factors: Mapping[str, float]) -> dict[str, float]:
        """The numbers, with the weights of each kind multiplied by its factor."""
        found = dict(self.hparams)
        for (weight, _), place in zip(self.expression.terms, spec.labels(self.expression), strict=True):
            name = f"{place}.weight"
            factor = factors.get(self.kinds[name], 1.0)
            if isinstance(weight, Schedule):
                found |= {n: float(x) for n, x in spec.numbers(weight * factor, name=name).items()}
            else:
                found[name] *= factor
        return found

    def with_weights(self, *kinds: str) -> dict[str, float]:
        """The numbers, with all weights 0 but those of some kinds: a stage that teaches nothing else."""
        return self.scaled({kind: 0.0 for kind in set(self.kinds.values()) - set(kinds)})

    def frozen(
        self, teacher: PyTree, labels: Callable[[], np.ndarray], others: Mapping[str, PyTree] = MappingProxyType({})
    ) -> PyTree:
        """What the step reads: the teachers' variables, and what losses with a memory must know of the data set.

        Args:
            teacher: its variables.
            labels: reads those of all training examples, `[examples]`; asked only if a loss must know them.
            others: further teachers' variables, by name.

        Raises:
            BadInput: other teachers than those of the lesson.
        """
        if set(others) != set(self.others):
            raise BadInput(f"others={sorted(others)}: accepted are the variables of {sorted(self.others)}, by name")
        facts = {name: one.about(labels()) for name, one in self.memories.items() if one.about}
        return Frozen(teacher, facts, dict(others)) if self.memories or self.others else teacher


def lesson(
    expression: str | Formula | Call,
    student: Model,
    teacher: Model,
    *,
    steps: int | None = None,
    examples: int | None = None,
    batch_size: int = 4,
    augment: Augment | None = None,
    attacked: Attacked | str | Call | None = None,
    others: Mapping[str, Model] = MappingProxyType({}),
    ensemble: Ensemble | None = None,
    taught: bool = False,
    flag: str = "loss",
) -> Lesson:
    """Read what a student is to learn: `0.9*response.kl(temperature=4) + 0.1*labels + 100*feature.hint(block2)`.

    A call names a loss of `kdjax.losses`, or `labels`, the cross-entropy with the labels. Its keywords are the loss's
    own; `student=` and `teacher=` say which view stands on its left and right (`clean`, where nothing is said, or
    `attacked`; `teacher=student(clean)` is the student itself), and `stop=False` lets the gradient through the right.
    Of losses on layers the arguments are layers or a layer map; losses between examples compare embeddings where
    nothing is said. `natural(attacked)` is the answer of another teacher, and `attacked - mirrored` what an answer
    changes by between two views; `times=confidence(teacher(attacked))` weighs each example by what is said of it, and
    terms that say `shared=progress` share a weight by what each costs; `teacher_temperature=class_risk` divides the
    teacher's logits by temperatures that are fitted.

    Args:
        expression: text, or the same expression in Python.
        student, teacher: the networks.
        steps: of the run; needed where a schedule stands.
        examples: of the data set; a loss with a bank of them needs it.
        batch_size: over all devices.
        augment: makes the views that student and teacher see.
        attacked: how the view `attacked` is made; an attack as text or in Python is read, its numbers are
            hyper-parameters too: see `read_attack`.
        others: further teachers' networks, by the names that the expression calls them.
        ensemble: makes one answer of several teachers'.
        taught: a first stage has taught what connectors learn of the teacher alone; it is held fast.
        flag: what messages call the expression.

    Raises:
        BadInput: a text that cannot be read, a loss, layer or keyword that there is not, numbers out of range, shapes
            that cannot be compared, too small a batch; the place in the text is shown.

    Reference: each loss's docstring; their sums in `kdjax.methods`.
    """
    formula = spec.formula(expression, flag=flag)
    shape = student.input_shape
    if not shape or not teacher.input_shape:
        raise BadInput(
            "a network without input_shape: accepted are those of models.create, or `_replace(input_shape=)`"
        )
    teachers = {TEACHER: teacher, **others}
    _refuse_other_inputs(shape, teachers)
    # Each network is traced once, however often it is looked at.
    mine, theirs = _shapes(student, shape), {name: _shapes(model, shape) for name, model in teachers.items()}
    shown = Shown(_names(mine.answers), _names(theirs[TEACHER].answers))
    views = VIEWS if attacked is not None else (CLEAN,)
    read = Reader(formula, shown, steps, examples, batch_size, taught, teachers=others, views=views)
    numbers, sets, typed = read.hparams, read.sets, attacked if isinstance(attacked, str | Call) else "the attack"
    if isinstance(attacked, str | Call):
        attack = read_attack(attacked, steps=steps, teachers=tuple(others))
        attacked, numbers, sets = attack.attacked, numbers | attack.hparams, sets | attack.sets
    connected = None
    if read.links:
        connected = connect(student, read.links, image_shape=shape, teacher=(teacher, theirs[TEACHER].variables))
    init = {STUDENT: student.init} | ({CONNECTORS: connected.init} if connected else {})

    def taught_by(who: Teacher) -> LossFn:
        function = learn(
            student,
            read.terms,
            teacher=who,
            others={name: live(model.apply) for name, model in others.items()},
            attacked=attacked,
            augment=augment,
            ensemble=ensemble,
            pairs=connected.pairs if connected else None,
            temperature=read.temperature,
        )
        return Recipe(function, numbers, sets)

    memories = {name: one.init for name, one in read.memories.items()}
    memories |= read.groups.memories(mine.classes)
    looked_at = {view for t in read.terms for side in t.sides for view in side.views}
    if attacked is not None and looked_at <= {CLEAN}:
        accepted = "a term that does, such as response.kl(student=attacked), or no attack"
        raise BadInput(f"{flag}={formula}: no term looks at the images of {typed}; accepted: {accepted}")
    asking = (*read.terms, *(attacked.terms if attacked else ()))
    asked = [(side.network, view) for t in asking for side in t.sides for view in side.views]
    asks = {name: frozenset(view for one, view in asked if one == name) for name in sorted({name for name, _ in asked})}
    asks = {name: seen for name, seen in asks.items() if name not in (STUDENT, LABELS)}
    if ensemble is None:
        answering = {side.network for t in asking if not t.on_layers for side in t.sides} & asks.keys()
        _refuse_other_classes(mine.classes, {name: theirs[name].classes for name in theirs if name in answering})
    made = Lesson(
        formula,
        Networks(init, memories),
        taught_by,
        teacher,
        numbers,
        sets,
        read.kinds,
        tuple(read.numbers),
        tuple(read.named),
        augment is not None,
        attacked is not None and attacked.needs_labels,
        asks,
        read.memories,
        others,
    )
    if ensemble is None:
        _try(made, batch_size, shape, mine, theirs)
        # The attack was looked at when it was read: here nobody is attacked.
        unmoved = attacked._replace(share=0.0) if attacked else None
        # Numbers that vary are traced in a step: losses see them plain here.
        for plain in spec.extremes(formula):
            if plain == formula:
                continue
            lesson(
                plain, student, teacher, examples=examples, batch_size=batch_size, augment=augment, attacked=unmoved,
                others=others, taught=taught, flag=flag,
            )  # fmt: skip
    return made


def _refuse_other_inputs(shape: tuple[int, ...], teachers: Mapping[str, Model]) -> None:
    for name, model in teachers.items():
        if model.input_shape and model.input_shape != shape:
            raise BadInput(f"{name} has input_shape={model.input_shape}; accepted: the student's, {shape}")


def _refuse_other_classes(classes: int, teachers: Mapping[str, int]) -> None:
    for name, own in teachers.items():
        if own != classes:
            raise BadInput(
                f"{name} answers with {own} classes; accepted: as many as the student, {classes}, or losses on layers"
            )


class _Shapes(NamedTuple):
    """The shapes of a network: its parameters and state, and what it says of two images."""

    params: PyTree
    state: PyTree
    answers: Outputs

    @property
    def variables(self) -> PyTree:
        return {"params": self.params, **self.state}

    @property
    def classes(self) -> int:
        return self.answers.logits.shape[-1]


def _shapes(model: Model, shape: tuple[int, ...]) -> _Shapes:
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    said = lambda v, x: model.apply(v, x, train=False, key=None)[0]  # noqa: E731
    return _Shapes(params, state, jax.eval_shape(said, {"params": params, **state}, image))


def layer_names(model: Model) -> list[str]:
    """The names of all that can be compared of a network: its features, and the logits."""
    return _names(_shapes(model, model.input_shape).answers)


def _names(answers: Outputs) -> list[str]:
    return list(jax.eval_shape(all_layers, answers))


def _try(
    made: Lesson, batch_size: int, shape: tuple[int, ...], student: _Shapes, teachers: Mapping[str, _Shapes]
) -> None:
    """One step on shapes alone, the expression's numbers as they are, so that losses see and refuse them."""
    column = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    image = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    rows = {"inputs": image, "label": column, "mask": jax.ShapeDtypeStruct((batch_size,), jnp.float32)}
    rows |= {"index": column, "epoch": column}
    others = {name: one for name, one in made.model.init.items() if name != STUDENT}
    init = {name: jax.eval_shape(one, jax.random.key(0)) for name, one in others.items()}
    init[STUDENT] = (student.params, student.state)
    params, states = ({name: pair[i] for name, pair in init.items()} for i in (0, 1))
    memory = {name: jax.eval_shape(begin, jax.random.key(0)) for name, begin in made.model.memory.items()}
    hparams: Any = dict(made.hparams)
    labels = np.arange(
        2 + max((len(jax.tree.leaves(m)[0]) for n, m in memory.items() if n in made.memories), default=0)
    )
    facts = {name: one.about(labels) for name, one in made.memories.items() if one.about}

    def step(params: PyTree, states: PyTree, memory: PyTree, teacher: PyTree, rows: Any) -> Array:
        frozen = Frozen(teacher[TEACHER], facts, {name: teacher[name] for name in made.others})
        state = TrainState(jnp.int32(0), params, states, (), jax.random.key(0), hparams, frozen, memory)
        return made.loss_fn(params, state, rows, jax.random.key(0))[0]

    variables = {name: one.variables for name, one in teachers.items()}
    jax.eval_shape(step, params, states, memory, variables, rows)

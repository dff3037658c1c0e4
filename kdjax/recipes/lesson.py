"""A lesson: what one student learns from one teacher, as an expression says it, checked on shapes before training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import spec
from kdjax.ensembles.pools import Ensemble
from kdjax.losses import response
from kdjax.losses.contrastive import Remembering
from kdjax.models.connect.connectors import Embed, Link, connect
from kdjax.models.connect.connectors import layers_of as all_layers
from kdjax.recipes._batch import Augment
from kdjax.recipes.comparisons import comparison, default_of, loss_of, memory_of, remembers
from kdjax.recipes.layers import Shown, layers_of
from kdjax.recipes.learn import CONNECTORS, Attacked, Frozen, learn
from kdjax.recipes.terms import LABELS, TEACHER, Number, Side, Term, fixed, hyper, need
from kdjax.spec import Call, Formula, Schedule, Set, grid
from kdjax.teachers.live import Teacher, live
from kdjax.types import ATTACKED, CLEAN, STUDENT, BadInput, LossFn, Model, Networks, PyTree, Recipe, TrainState

LARGEST = 1e18
"""The largest number of an expression."""

OF_LAYERS, OF_FACTORS, OF_ANSWERS, OF_LABELS = "layers", "factors", "answers", "labels"


@dataclass(frozen=True)
class Lesson:
    """What one student is to learn.

    Attributes:
        expression: as it was read.
        model: what is trained: the student, and its connectors where layers are compared.
        taught_by: from a teacher to a `LossFn`.
        teacher: the teacher's network.
        hparams: the expression's numbers, by place (`spec.numbers`): traced, so that changing one compiles nothing.
        sets: the sets that stand where a number may, by place; `hparams` has one of each.
        kinds: what each weight weighs, by the place that its numbers begin with: `layers`, `factors` (layers whose
            connector must learn of the teacher first), `answers` or `labels`.
        layers: the pairs of numbered layers that a map gave, and `named`, all compared layers by name.
        augmented: whether images are augmented in each step.
        memories: the losses that remember, by name.
        attacked: whether a term looks at the attacked view.
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
    attacked: bool = False
    memories: Mapping[str, Remembering] = field(default_factory=dict)

    @property
    def loss_fn(self) -> LossFn:
        """The recipe with the teacher run in every step, on the variables in `frozen`."""
        return self.taught_by(live(self.teacher.apply))

    @property
    def compares_layers(self) -> bool:
        """Whether a loss compares layers, which no stored answer has."""
        return not {LARGEST = 1e18
"""The largest number of an expression."""

OF_LAYERS, OF_FACTORS}.isdisjoint(self.kinds.values())

    @property
    def uses_labels(self) -> bool:
        """Whether labels have weight, at any time."""
        return self.weighs(OF_LABELS)

    @property
    def live(self) -> bool:
        """Whether the teacher must run in every step."""
        return self.compares_layers or self.augmented or self.attacked

    def weighs(self, *kinds: str) -> bool:
        """Whether a weight of these kinds is ever other than 0."""
        return self.scaled(dict.fromkeys(kinds, 0.0)) != self.hparams

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

    def frozen(self, teacher: PyTree, labels: np.ndarray) -> PyTree:
        """What the step reads: the teacher's variables, and what losses with a memory must know of the data set.

        Args:
            teacher: its variables.
            labels: of all training examples, `[examples]`.
        """
        facts = {name: one.about(labels) for name, one in self.memories.items() if one.about}
        return Frozen(teacher, facts) if self.memories else teacher


def lesson(
    expression: str | Formula | Call,
    student: Model,
    teacher: Model,
    *,
    steps: int | None = None,
    examples: int | None = None,
    batch_size: int = 4,
    augment: Augment | None = None,
    attacked: Attacked | None = None,
    ensemble: Ensemble | None = None,
    taught: bool = False,
    flag: str = "loss",
) -> Lesson:
    """Read what a student is to learn: `0.9*response.kl(temperature=4) + 0.1*labels + 100*feature.hint(block2)`.

    A call names a loss of `kdjax.losses`, or `labels`, the cross-entropy with the labels. Its keywords are the loss's
    own; `student=` and `teacher=` say which view stands on its left and right (`clean`, where nothing is said, or
    `attacked`; `teacher=student(clean)` is the student itself), and `stop=False` lets the gradient through the right.
    Of losses on layers the arguments are layers or a layer map; losses between examples compare embeddings where
    nothing is said.

    Args:
        expression: text, or the same expression in Python.
        student, teacher: the networks.
        steps: of the run; needed where a schedule stands.
        examples: of the data set; a loss with a bank of them needs it.
        batch_size: over all devices.
        augment: makes the views that student and teacher see.
        attacked: how the view `attacked` is made.
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
        raise BadInput("a network without input_shape: accepted are those of models.create, or `_replace(input_shape=)`")
    shown = Shown(*(layer_names(model) for model in (student, teacher)))
    read = _Reader(formula, shown, steps, examples, batch_size, taught)
    connected = None
    if read.links:
        variables = _variables(teacher)
        connected = connect(student, read.links, image_shape=shape, teacher=(teacher, variables))
    init = {STUDENT: student.init} | ({CONNECTORS: connected.init} if connected else {})

    def taught_by(who: Teacher) -> LossFn:
        function = learn(
            student,
            read.terms,
            teacher=who,
            attacked=attacked,
            augment=augment,
            ensemble=ensemble,
            pairs=connected.pairs if connected else None,
            temperature=read.temperature,
        )
        return Recipe(function, read.hparams)

    looked_at = {side.view for t in read.terms for side in (t.student, t.teacher)}
    made = Lesson(
        formula,
        Networks(init, {name: one.init for name, one in read.memories.items()}),
        taught_by,
        teacher,
        read.hparams,
        read.sets,
        read.kinds,
        tuple(read.numbers),
        tuple(read.named),
        augment is not None,
        ATTACKED in looked_at,
        read.memories,
    )
    if ensemble is None:
        _try(made, batch_size, shape)
        for plain in _ends(formula):
            lesson(
                plain, student, teacher, examples=examples, batch_size=batch_size, augment=augment, attacked=attacked,
                taught=taught, flag=flag,
            )  # fmt: skip
    return made


def _bounds(one: Set) -> tuple[float, ...]:
    return tuple(map(float, one.values() if isinstance(one, grid) else one.parts().values()))


def _ends(formula: Formula) -> list[Formula]:
    """The expression at both ends of its sets and its schedules, whose numbers are traced: losses see these plain."""
    sets, found = spec.sets(formula), []
    for end in (min, max):
        filled = spec.fill(formula, {place: end(_bounds(one)) for place, one in sets.items()})
        schedules = spec.schedules(filled)
        for share in (0.0, 1.0):
            found.append(spec.fill(filled, {place: float(one.at(share)) for place, one in schedules.items()}))
    return [plain for number, plain in enumerate(found) if plain != formula and plain not in found[:number]]


class _Reader:
    """Reads an expression term by term."""

    def __init__(
        self, formula: Formula, shown: Shown, steps: int | None, examples: int | None, batch_size: int, taught: bool
    ) -> None:
        self.shown, self.steps, self.examples, self.batch_size, self.taught = (
            shown, steps, examples, batch_size, taught
        )  # fmt: skip
        self.terms: list[Term] = []
        self.links: dict[str, Link] = {}
        self.memories: dict[str, Remembering] = {}
        self.hparams: dict[str, float] = {}
        self.sets: dict[str, Set] = {}
        self.kinds: dict[str, str] = {}
        self.numbers: list[tuple[int, int]] = []
        self.named: list[tuple[str, str]] = []
        self.temperature: Number = fixed(1.0)
        for (weight, call), place in zip(formula.terms, spec.labels(formula), strict=True):
            self._term(weight, call, place)

    def _term(self, weight: Any, call: Call, place: str) -> None:
        call, sides, stop = _sides(call)
        weigh = self._number(weight, f"{place}.weight")
        if call.name == LABELS:
            self.kinds[f"{place}.weight"] = OF_LABELS
            if call.args or call.kwargs or sides[1] != Side(TEACHER) or not stop:
                raise call.error(f"read more than a view of {LABELS}; accepted: {LABELS}, or {LABELS}(student=attacked)")
            self._add(Term(place, response.cross_entropy, weigh, sides[0], Side(LABELS)), call)
            return
        if remembers(call.name):
            row = comparison(call.name)
            self._layered(call, place, Term(place, response.cross_entropy, weigh, *sides, row=row, remembers=True))
            return
        loss, traced = loss_of(call)
        row = comparison(call.name)
        if row.least > self.batch_size:
            raise BadInput(
                f"batch_size={self.batch_size}: {call.name} compares examples of a batch; accepted: from {row.least}."
            )
        own = {key: self._number(value, f"{place}.{key}") for key, value in traced.items()}
        term = Term(place, loss, weigh, *sides, _all(own), row, stop)
        if row.connector is not None:
            self._layered(call, place, term)
            return
        if call.args:
            raise call.error(f"read {call!r}: {call.name} compares answers; accepted is no layer")
        self.kinds[f"{place}.weight"] = OF_ANSWERS
        if not any(kind == OF_ANSWERS for place_, kind in self.kinds.items() if place_ != f"{place}.weight"):
            self.temperature = own.get("temperature", fixed(default_of(call, "temperature", 1.0)))
        self._add(term, call)

    def _layered(self, call: Call, place: str, term: Term) -> None:
        """Terms on layers: one for each pair, and the connectors between them."""
        if term.teacher.network != TEACHER:
            raise call.error(f"{call.name} compares layers with the student's own; accepted: a view of the teacher")
        found = layers_of(call, term.row, self.shown)
        self.numbers += [pair for pair in found.numbers if pair not in self.numbers]
        self.kinds[f"{place}.weight"] = OF_FACTORS if term.row.beside else OF_LAYERS
        for number, (own, theirs) in enumerate(found.terms, start=1):
            name, share = _name(call.name, own, theirs), 0.5 ** (len(found.terms) - number)
            left, right = term.student._replace(layers=own), term.teacher._replace(layers=theirs)
            weight = _times(share, term.weight) if term.row.halves else term.weight
            one = term._replace(name=name, weight=weight, student=left, teacher=right)
            if term.remembers:
                if varying := [key for key, value in call.kwargs if isinstance(value, Schedule | Set)]:
                    raise call.error(f"{varying[0]} of {call.name} varies; accepted: a number, for it makes the memory")
                memory = memory_of(call, self.examples)
                self.memories[name] = memory
                one, module = one._replace(loss=memory.step), Embed(memory.dims)
            else:
                assert term.row.connector is not None
                module = term.row.connector(self.taught)
            self._add(one, call)
            self.named += list(zip(own, theirs, strict=True))
            self.links[name] = Link(own, theirs, module)
            if not self.taught:
                self.terms += [
                    one._replace(name=_name(word, own, theirs), loss=loss, weight=fixed(1.0), pair=name)
                    for word, loss in term.row.beside.items()
                ]

    def _add(self, term: Term, call: Call) -> None:
        if term.name in [t.name for t in self.terms]:
            raise call.error(f"{term.name} is named twice; accepted is each once")
        self.terms.append(term._replace(loss=_saying(term.name, term.loss)))

    def _number(self, value: Any, place: str) -> Number:
        """A number of the expression as a step reads it; its parts become hyper-parameters."""
        self.hparams |= {name: float(x) for name, x in spec.numbers(value, name=place).items()}
        self.sets |= (sets := spec.sets(value, name=place))
        self.hparams |= {name: float(one.sample(np.random.default_rng(0))) for name, one in sets.items()}
        for name, ends in {n: (x,) for n, x in spec.numbers(value, name=place).items()} | {
            n: _bounds(one) for n, one in sets.items()
        }.items():
            if large := [x for x in ends if abs(x) > LARGEST]:
                raise BadInput(f"{name}={large[0]:g}; accepted: up to {LARGEST:g}, so that float32 holds its square")
        if not isinstance(value, Schedule):
            return hyper(place)
        steps = self.steps
        if steps is None:
            raise BadInput(f"steps=None: {place}={value!r} follows the run; accepted: the number of its steps")
        parts = [*spec.numbers(value, name=place), *sets]

        def at(state: TrainState) -> Any:
            filled = spec.fill(value, {name: need(state, name) for name in parts}, name=place)
            return filled.at(jnp.asarray(state.step, jnp.float32) / steps)

        return at


def _sides(call: Call) -> tuple[Call, tuple[Side, Side], bool]:
    """The call without its views, and these."""
    own = dict(call.kwargs)
    stop = own.pop("stop", True)
    if not isinstance(stop, bool):
        raise call.error(f"read stop={stop!r}; accepted: True or False")
    left = _side(call, own.pop("student", Call(CLEAN)), STUDENT)
    right = _side(call, own.pop("teacher", Call(CLEAN)), TEACHER)
    if not stop and right.network != STUDENT:
        raise call.error(f"read stop=False: no gradient reaches a teacher; accepted with teacher={STUDENT}({CLEAN})")
    if left.network != STUDENT:
        raise call.error(f"read student={left.network}; accepted: a view of the student")
    return Call(call.name, call.args, tuple(own.items()), call.place), (left, right), stop


def _side(call: Call, value: Any, network: str) -> Side:
    """`attacked`, or `student(clean)`."""
    views = (CLEAN, ATTACKED)
    if isinstance(value, Call) and value.name in (STUDENT, TEACHER) and len(value.args) == 1 and not value.kwargs:
        network, value = value.name, value.args[0]
    if not isinstance(value, Call) or value.name not in views or value.args or value.kwargs:
        wanted = f"{CLEAN}, {ATTACKED}, {STUDENT}({CLEAN}) or {STUDENT}({ATTACKED})"
        raise call.error(f"read the view {value!r}; accepted: {wanted}")
    return Side(network, value.name)


def _name(name: str, own: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    sides = [own] if own == theirs else [own, theirs]
    return f"{name}({', '.join('-'.join(side) for side in sides)})"


def _times(factor: float, number: Number) -> Number:
    return lambda state: factor * number(state)


def _all(numbers: Mapping[str, Number]) -> Callable[[TrainState], dict[str, Any]]:
    return lambda state: {key: number(state) for key, number in numbers.items()}


def _saying(name: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss whose refusals say which it is."""

    def called(*arrays: Any, **keywords: Any) -> Any:
        try:
            return loss(*arrays, **keywords)
        except BadInput as error:
            raise BadInput(f"{name}: {error}") from None

    return called


def _variables(model: Model) -> PyTree:
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    return {"params": params, **state}


def layer_names(model: Model) -> list[str]:
    """The names of all that can be compared of a network: its features, and the logits."""
    image = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)

    def layers(variables: PyTree, image: Array) -> dict[str, Array]:
        return all_layers(model.apply(variables, image, train=False, key=None)[0])

    return list(jax.eval_shape(layers, _variables(model), image))


def _try(made: Lesson, batch_size: int, shape: tuple[int, ...]) -> None:
    """One step on shapes alone, the expression's numbers as they are, so that losses see and refuse them."""
    column = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    image = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    mask = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
    rows = {"image": image, "label": column, "mask": mask, "index": column}
    init = {name: jax.eval_shape(one, jax.random.key(0)) for name, one in made.model.init.items()}
    params, states = ({name: pair[i] for name, pair in init.items()} for i in (0, 1))
    memory = {name: jax.eval_shape(begin, jax.random.key(0)) for name, begin in made.model.memory.items()}
    hparams: Any = dict(made.hparams)
    labels = np.arange(2 + max((len(jax.tree.leaves(m)[0]) for m in memory.values()), default=0))
    facts = {name: one.about(labels) for name, one in made.memories.items() if one.about}

    def step(params: PyTree, states: PyTree, memory: PyTree, teacher: PyTree, rows: Any) -> Array:
        frozen = Frozen(teacher, facts) if made.memories else teacher
        state = TrainState(jnp.int32(0), params, states, (), jax.random.key(0), hparams, frozen, memory)
        return made.loss_fn(params, state, rows, jax.random.key(0))[0]

    jax.eval_shape(step, params, states, memory, _variables(made.teacher), rows)

"""Read an expression of losses into terms: layers, views, connectors, memories, and numbers by their places."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdjax import spec
from kdjax.losses import response
from kdjax.losses.contrastive import Remembering
from kdjax.models.connect.connectors import Embed, Link
from kdjax.recipes.comparisons import (
    BY_LABELS,
    EMPHASES,
    comparison,
    default_of,
    loss_of,
    memory_of,
    remembers,
)
from kdjax.recipes.groups import Groups, all_of, saying
from kdjax.recipes.layers import Shown, layers_of
from kdjax.recipes.terms import LABELS, TEACHER, Number, Side, Term, Times, fixed, hyper, need
from kdjax.spec import Call, Formula, Schedule, Set
from kdjax.types import ATTACKED, CLEAN, MIRRORED, STUDENT, BadInput, TrainState

LARGEST = 1e18
"""The largest number of an expression."""

VIEWS = (CLEAN, ATTACKED, MIRRORED)

_WITH_ATTACK = f"{ATTACKED} and {MIRRORED} with an attack, such as pgd(8/255) or that of a method in the same sum"

OF_LAYERS, OF_FACTORS, OF_ANSWERS, OF_LABELS = "layers", "factors", "answers", "labels"


class Reader:
    """Reads an expression term by term.

    Args:
        formula: the expression.
        shown: the layers of both networks; None where only answers are compared.
        steps: of the run, where schedules may stand.
        examples: of the data set.
        batch_size: over all devices.
        taught: whether connectors learned in a first stage.
        teachers: names of further teachers.
        prefix: what the names of terms and numbers begin with.
        stop: whether the right side is held fast in terms that do not say.
        views: that terms may look at.
        fits: whether teachers' temperatures are fitted here; or terms name those of an expression.
    """

    def __init__(
        self,
        formula: Formula,
        shown: Shown | None,
        steps: int | None,
        examples: int | None = None,
        batch_size: int = 4,
        taught: bool = False,
        *,
        teachers: Collection[str] = (),
        prefix: str = "",
        stop: bool = True,
        views: tuple[str, ...] = VIEWS,
        fits: bool = True,
    ) -> None:
        self.shown, self.steps, self.examples, self.batch_size, self.taught = (
            shown, steps, examples, batch_size, taught
        )  # fmt: skip
        self.teachers, self.stop, self.views = teachers, stop, views
        self.terms: list[Term] = []
        self.links: dict[str, Link] = {}
        self.memories: dict[str, Remembering] = {}
        self.hparams: dict[str, float] = {}
        self.sets: dict[str, Set] = {}
        self.kinds: dict[str, str] = {}
        self.numbers: list[tuple[int, int]] = []
        self.named: list[tuple[str, str]] = []
        self.groups = Groups(self.number, fits)
        self.temperature: Number = fixed(1.0)
        for (weight, call), place in zip(formula.terms, spec.labels(formula), strict=True):
            self._term(weight, call, f"{prefix}{place}")

    def _term(self, weight: Any, call: Call, place: str) -> None:
        call, sides, stop = self._sides(call)
        times, call = self._times(call, place)
        shared, call = self.groups.shared(call)
        softened, call = self.groups.softened(call)
        own_way: dict[str, Any] = {"times": times, "shared": shared, "softened": softened}
        weigh = self.number(weight, f"{place}.weight")
        if negative := [x for n, x in self.hparams.items() if n.startswith(f"{place}.weight") and x < 0]:
            raise call.weight_error(f"read the weight {negative[0]:g} of {call.name}; accepted: numbers from 0 up")
        if call.name == LABELS or call.name in BY_LABELS.functions:
            self.kinds[f"{place}.weight"] = OF_LABELS
            plain = call.name == LABELS
            if call.args or (plain and call.kwargs) or sides[1] != Side(TEACHER) or stop != self.stop or softened:
                raise call.error(
                    f"read more than a view of {call.name}; accepted: {call.name}, or {call.name}(student=attacked)"
                )
            loss, traced = (response.cross_entropy, {}) if plain else loss_of(call)
            own = {key: self.number(value, f"{place}.{key}") for key, value in traced.items()}
            self._add(
                Term(place, loss, weigh, sides[0], Side(LABELS), all_of(own), stop=stop, times=times, shared=shared),
                call,
            )
            return
        if remembers(call.name):
            row = comparison(call.name)
            bare = Term(place, response.cross_entropy, weigh, *sides, row=row, remembers=True, **own_way)
            self._layered(call, place, bare)
            return
        loss, traced = loss_of(call)
        row = comparison(call.name)
        if row.least > self.batch_size:
            raise BadInput(
                f"batch_size={self.batch_size}: {call.name} compares examples of a batch; accepted: from {row.least}."
            )
        own = {key: self.number(value, f"{place}.{key}") for key, value in traced.items()}
        term = Term(place, loss, weigh, *sides, all_of(own), row, stop, **own_way)
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
        if term.teacher.network != TEACHER or any(side.minus for side in term.sides):
            raise call.error(f"{call.name} compares layers with another's than the teacher's; accepted: a view of it")
        if term.times or term.shared or term.softened or self.shown is None:
            wanted = "times=, shared=, teacher_temperature=, and what attacks climb, of answers"
            raise call.error(f"{call.name} compares layers; accepted: {wanted}")
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
                    one._replace(
                        name=_name(f"{call.name}.{word}", own, theirs), loss=loss, weight=fixed(1.0), pair=name
                    )
                    for word, loss in term.row.beside.items()
                ]

    def _add(self, term: Term, call: Call) -> None:
        if term.name in [t.name for t in self.terms]:
            raise call.error(f"{term.name} is named twice; accepted is each once")
        self.terms.append(term._replace(loss=saying(term.name, term.loss, call)))

    def _sides(self, call: Call) -> tuple[Call, tuple[Side, Side], bool]:
        """The call without its views, and these."""
        own = dict(call.kwargs)
        stop = own.pop("stop", self.stop)
        if not isinstance(stop, bool):
            raise call.error(f"read stop={stop!r}; accepted: True or False")
        left = self._side(call, own.pop("student", Call(CLEAN)), STUDENT)
        right = self._side(call, own.pop("teacher", Call(CLEAN)), TEACHER)
        if self.stop and not stop and right.network != STUDENT:
            raise call.error(
                f"read stop=False: no gradient reaches a teacher; accepted with teacher={STUDENT}({CLEAN})"
            )
        if left.network != STUDENT:
            raise call.error(f"read student={left.network}; accepted: a view of the student")
        return Call(call.name, call.args, tuple(own.items()), call.place), (left, right), stop

    def _side(self, call: Call, value: Any, network: str) -> Side:
        """`attacked`, `student(clean)`, or a difference, `attacked - mirrored`."""
        networks = (STUDENT, TEACHER, *self.teachers)
        if isinstance(value, Call) and value.name in networks and len(value.args) == 1 and not value.kwargs:
            network, value = value.name, value.args[0]
        views = [(1, value)] if isinstance(value, Call) else [*value.terms] if isinstance(value, Formula) else []
        known = all(isinstance(c, Call) and c.name in self.views and not (c.args or c.kwargs) for _, c in views)
        if not known or [weight for weight, _ in views] not in ([1], [1, -1]):
            if self.views == (CLEAN,):
                raise call.error(
                    f"read {value!r}, and no attack makes such a view; accepted: {CLEAN}, or {_WITH_ATTACK}"
                )
            wanted = ", ".join([*self.views, *(f"{name}({ATTACKED})" for name in networks), f"{ATTACKED} - {MIRRORED}"])
            raise call.error(f"read the view {value!r}; accepted: {wanted}")
        return Side(network, views[0][1].name, minus=views[1][1].name if len(views) > 1 else "")

    def _times(self, call: Call, place: str) -> tuple[Times | None, Call]:
        """What multiplies each example, `times=confidence(teacher(attacked), power=0.1)`, and the call without it."""
        own = dict(call.kwargs)
        value = own.pop("times", None)
        if value is None:
            return None, call
        if not isinstance(value, Call) or len(value.args) != 1:
            wanted = ", ".join(f"{name}({TEACHER}({ATTACKED}))" for name in EMPHASES.names())
            raise call.error(f"read times={value!r}; accepted: {wanted}")
        EMPHASES.bind(Call(value.name, (), value.kwargs, value.place), given=("logits", "labels", "where"))
        side = self._side(call, value.args[0], TEACHER)
        numbers = {key: self.number(x, f"{place}.times.{key}") for key, x in value.kwargs}
        found = Times(saying(f"{place}.times", EMPHASES.functions[value.name], value), side, all_of(numbers))
        return found, Call(call.name, call.args, tuple(own.items()), call.place)

    def number(self, value: Any, place: str) -> Number:
        """A number of the expression as a step reads it; its parts become hyper-parameters."""
        self.hparams |= {name: float(x) for name, x in spec.numbers(value, name=place).items()}
        self.sets |= (sets := spec.sets(value, name=place))
        self.hparams |= {name: float(one.sample(np.random.default_rng(0))) for name, one in sets.items()}
        values = {n: (x,) for n, x in spec.numbers(value, name=place).items()} | {
            n: spec.ends(x) for n, x in sets.items()
        }
        for name, ends in values.items():
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


def _name(name: str, own: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    sides = [own] if own == theirs else [own, theirs]
    return f"{name}({', '.join('-'.join(side) for side in sides)})"


def _times(factor: float, number: Number) -> Number:
    return lambda state: factor * number(state)

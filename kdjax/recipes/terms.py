"""Terms: a loss, its weight, and whose answer to which view of a batch stands on its left and on its right."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from kdjax.training.state import need as need
from kdjax.types import CLEAN, STUDENT, TrainState

TEACHER, LABELS = "teacher", "labels"
LOGITS = ("logits",)

Number = Callable[[TrainState], Any]
"""A traced number of a step: a hyper-parameter, or one that follows a schedule."""


class Side(NamedTuple):
    """What a term looks at: a network's answer to a view, or `labels`.

    Attributes:
        network: `student`, `teacher`, another teacher's name, or `labels`.
        view: `clean`, `attacked` or `mirrored`; of labels nothing.
        layers: names in a network's features, or `logits`.
        minus: the view whose answer is taken away: what the answer changes by from there (IGDM).
    """

    network: str
    view: str = CLEAN
    layers: tuple[str, ...] = LOGITS
    minus: str = ""

    @property
    def views(self) -> tuple[str, ...]:
        """The views that the network is asked about."""
        return (self.view, self.minus) if self.minus else (self.view,)


class Times(NamedTuple):
    """What each example's loss is multiplied by: `emphasis(answer, labels, where=...) -> [B]` of a network's answer.

    Attributes:
        emphasis: one of `kdjax.losses.emphasis`.
        side: whose answer, to which view.
        numbers: its own traced keywords.
    """

    emphasis: Callable[..., Array]
    side: Side
    numbers: Callable[[TrainState], Mapping[str, Any]] = lambda state: {}


class Comparison(NamedTuple):
    """What a loss needs.

    Attributes:
        connector: makes what stands between the layers, given whether a first stage taught it; None: nothing does, the
            loss compares answers.
        layers: the fewest and the most layers of each side that it compares at once.
        between: of a map of n pairs it takes n - 1 pairs of neighbours (FSP), or all at once (review).
        halves: of a map, an earlier pair weighs half of the next, as in released code.
        before_relu: it looks before the ReLU where a network shows that, `NAME_pre`.
        couples: an example's number depends on the others, so it must be given the global batch.
        least: how many examples it compares at least; with fewer it teaches nothing.
        complete: the loss on what the connector gives, where that is more than two arrays.
        beside: further losses on the same layers that always come with it, by name: the connector's own.
    """

    connector: Callable[[bool], Any] | None = None
    layers: tuple[int, int] = (1, 1)
    between: str = ""
    halves: bool = False
    before_relu: bool = False
    couples: bool = False
    least: int = 1
    complete: Callable[[Callable[..., Array]], Callable[..., Array]] = lambda loss: loss
    beside: Mapping[str, Callable[..., Array]] = {}


class Shared(NamedTuple):
    """A weight of 1 that terms share: `divide(memory, losses, ...) -> (shares, memory)`.

    Attributes:
        group: the memory's name, the same for all terms that share.
        divide: one of `kdjax.losses.shares`.
        numbers: its own traced keywords.
    """

    group: str
    divide: Callable[..., Any]
    numbers: Callable[[TrainState], Mapping[str, Any]] = lambda state: {}


class Softened(NamedTuple):
    """A temperature of a teacher's answer that is fitted: `rule(**numbers) -> kdjax.losses.temperatures.Fitted`.

    Attributes:
        group: the memory's name, the same for all terms that share it.
        row: which of the terms that share it this is.
        rule: one of `kdjax.losses.temperatures`.
        numbers: its own traced keywords.
    """

    group: str
    row: int
    rule: Callable[..., Any]
    numbers: Callable[[TrainState], Mapping[str, Any]] = lambda state: {}


class Term(NamedTuple):
    """`weight x loss(student's side, teacher's side)`.

    Attributes:
        name: in metrics; two terms of a recipe have two names.
        loss: `(left, right, *, where, ...) -> [B]`; of answers it is given `labels` as well, of labels it is given
            them as the right.
        weight: multiplies it.
        student, teacher: its left and its right; the right may be the student too (TRADES).
        numbers: the loss's own traced keywords.
        row: what the loss needs.
        stop: whether no gradient passes through its right.
        pair: the connection whose arrays it compares, where that is not called as it is.
        remembers: it has a memory in the train state.
        times: what weighs each example, where not all weigh the same; `stop` holds for its answer too.
        shared: what other terms it shares a weight with, which `weight` multiplies.
        softened: what divides its right's logits, where that is fitted.
    """

    name: str
    loss: Callable[..., Any]
    weight: Number
    student: Side = Side(STUDENT)
    teacher: Side = Side(TEACHER)
    numbers: Callable[[TrainState], Mapping[str, Any]] = lambda state: {}
    row: Comparison = Comparison()
    stop: bool = True
    pair: str = ""
    remembers: bool = False
    times: Times | None = None
    shared: Shared | None = None
    softened: Softened | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """All that it looks at."""
        return (self.student, self.teacher, *([self.times.side] if self.times else []))

    @property
    def on_layers(self) -> bool:
        """Whether it compares layers, through a connector."""
        return self.row.connector is not None


def numbers_of(
    term: Term, state: TrainState, temperatures: Mapping[str, Array] = MappingProxyType({})
) -> dict[str, Any]:
    """All numbers of a term in a step.

    Args:
        term, state: whose, and when.
        temperatures: of teachers' answers where they are fitted, `[terms, B]` by group.

    Returns:
        Its `weight`, those of its `loss`, those of what it is `times`, and what its right is `softened` by, or None.
    """
    own = {"weight": term.weight(state), "loss": dict(term.numbers(state))}
    fitted = temperatures.get(term.softened.group) if term.softened else None
    softened = None if fitted is None or term.softened is None else fitted[term.softened.row]
    return own | {"times": dict(term.times.numbers(state)) if term.times else {}, "softened": softened}


def value_of(
    term: Term, numbers: Mapping[str, Any], answer: Callable[[Side], Array], label: Array, where: Array | None
) -> Array:
    """A term on answers, unweighed, `[B]`.

    Args:
        term: which compares no layers and remembers nothing.
        numbers: `numbers_of` it.
        answer: what a side says, `[B, K]`.
        label: `[B]`.
        where: the rows to keep.
    """

    def held(side: Side) -> Array:
        return jax.lax.stop_gradient(answer(side)) if term.stop else answer(side)

    mine = answer(term.student)
    if term.teacher.network == LABELS:
        value = term.loss(mine, label, **numbers["loss"])
    else:
        right = held(term.teacher)
        right = right if numbers["softened"] is None else right / numbers["softened"][:, None]
        value = term.loss(mine, right, labels=label, where=where, **numbers["loss"])
    if term.times is None:
        return value
    return term.times.emphasis(held(term.times.side), label, where=where, **numbers["times"]) * value


def fixed(value: float) -> Number:
    """A number that is the same in every step, and no hyper-parameter."""
    return lambda state: value


def hyper(name: str) -> Number:
    """A hyper-parameter.

    The step refuses a state that lacks it, by name.
    """

    def number(state: TrainState) -> Any:
        return need(state, name)

    return number

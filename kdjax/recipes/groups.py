"""What terms of an expression share and remember: a weight, or temperatures of teachers' answers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jaxtyping import Array

from kdjax.losses.shares import begin
from kdjax.recipes.comparisons import SHARES, TEMPERATURES
from kdjax.recipes.terms import Number, Shared, Softened
from kdjax.spec import Call
from kdjax.types import BadInput, PyTree, TrainState


class Groups:
    """Reads `shared=` and `teacher_temperature=` call by call; equal ones are one group.

    Args:
        number: makes what a step reads of a number and the name of its place.
        fits: whether temperatures are fitted here; or calls name those of another expression.
    """

    def __init__(self, number: Callable[[Any, str], Number], fits: bool = True) -> None:
        self._number, self._fits = number, fits
        self._weights: dict[Call, list[Shared]] = {}
        self._temperatures: dict[Call, list[Softened]] = {}

    def shared(self, call: Call) -> tuple[Shared | None, Call]:
        """What shares a weight with others, `shared=progress(rate=0.025)`, and the call without it."""
        own = dict(call.kwargs)
        value = own.pop("shared", None)
        if value is None:
            return None, call
        if not isinstance(value, Call) or value.args:
            raise call.error(f"read shared={value!r}; accepted: {', '.join(SHARES.names())}, with keywords")
        alike = self._weights.setdefault(value, [])
        if not alike:
            SHARES.bind(value, given=("memory", "losses"))
        group = alike[0].group if alike else _group(value, self._weights)
        numbers = {key: self._number(x, f"{group}.{key}") for key, x in value.kwargs}
        alike.append(Shared(group, saying(group, SHARES.functions[value.name], value), all_of(numbers)))
        return alike[0], Call(call.name, call.args, tuple(own.items()), call.place)

    def softened(self, call: Call) -> tuple[Softened | None, Call]:
        """What divides the teacher's logits, `teacher_temperature=class_risk(rate=0.1)`, and the call without it."""
        own = dict(call.kwargs)
        value = own.pop("teacher_temperature", None)
        if value is None:
            return None, call
        if not isinstance(value, Call) or value.args:
            wanted = ", ".join(TEMPERATURES.names())
            raise call.error(f"read teacher_temperature={value!r}; accepted: {wanted}, with keywords")
        if value.kwargs and not self._fits:
            raise call.error(f"read teacher_temperature={value!r} of an attack; accepted: {value.name}, a loss's")
        alike = self._temperatures.setdefault(value, [])
        if not alike:
            TEMPERATURES.bind(value)
            group = _group(value, self._temperatures)
            kept = {key: x for key, x in value.kwargs if isinstance(x, bool)}
            numbers = all_of({key: self._number(x, f"{group}.{key}") for key, x in value.kwargs if key not in kept})
            rule = saying(group, partial(TEMPERATURES.functions[value.name], **kept), value)
            alike.append(Softened(group, 0, rule, numbers))
        else:
            alike.append(alike[0]._replace(row=len(alike)))
        return alike[-1], Call(call.name, call.args, tuple(own.items()), call.place)

    def memories(self, classes: int) -> dict[str, Callable[[Array], PyTree]]:
        """What begins as the memory of each group.

        Args:
            classes: of an answer.
        """
        weights = {terms[0].group: partial(begin, len(terms)) for terms in self._weights.values()}
        fitted = {
            terms[0].group: partial(terms[0].rule().begin, len(terms), classes) for terms in self._temperatures.values()
        }
        return {group: partial(_begun, made) for group, made in (weights | fitted).items()}


def _group(call: Call, calls: Mapping[Call, Any]) -> str:
    """The name of a group that is new: of those of one rule, the second is RULE#2."""
    same = sum(other.name == call.name for other in calls)
    return f"{call.name}#{same}" if same > 1 else call.name


def _begun(made: Callable[[], PyTree], key: Array) -> PyTree:
    return made()


def all_of(numbers: Mapping[str, Number]) -> Callable[[TrainState], dict[str, Any]]:
    """Several numbers of a step, by name."""
    return lambda state: {key: number(state) for key, number in numbers.items()}


def saying(name: str, loss: Callable[..., Any], call: Call) -> Callable[..., Any]:
    """A loss whose refusals say which it is, and where it was read."""

    def called(*arrays: Any, **keywords: Any) -> Any:
        try:
            return loss(*arrays, **keywords)
        except BadInput as error:
            raise call.error(f"{name}: {error}") from None

    return called

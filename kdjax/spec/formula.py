"""Calls, and sums of weighted calls, written in Python as in text."""

import keyword
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax

from kdjax.spec.expression import Expression, Place, Scalar, Value, is_number, plain
from kdjax.spec.varying import KINDS, Set, Varying
from kdjax.types import BadInput

Weight = Scalar | Varying


class Summand(Expression):
    """A call or a formula: what is added, and multiplied by numbers, schedules and sets."""

    def __add__(self, other: "Summand") -> "Formula":
        if not isinstance(other, Summand):
            return NotImplemented
        return Formula(_terms(self) + _terms(other))

    def __sub__(self, other: "Summand") -> "Formula":
        return self + -other

    def __neg__(self) -> "Formula":
        return -1 * self

    def __mul__(self, factor: Weight) -> "Formula":
        if not (is_number(factor) or isinstance(factor, Varying)):
            return NotImplemented
        terms = _terms(self)
        if isinstance(factor, Set) and len(terms) > 1:
            raise BadInput(
                f"read {factor!r} before a sum, of which each part would vary alone; accepted: before a name"
            )
        return Formula(tuple(Weighted(plain(plain(factor) * weight), call) for weight, call in terms))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | int | jax.Array) -> "Formula":
        return self * (1 / divisor)


@dataclass(frozen=True, repr=False)
class Call(Summand):
    """`name(*args, **kwargs)`, not called yet. `labels` is the call `labels()`.

    `kwargs` are pairs of key and value, in the keys' order. `place` is where it was read, if it was; calls that
    differ in nothing else are equal.

    >>> Call("response.kl")(temperature=4)
    response.kl(temperature=4)
    """

    name: str
    args: tuple[Value, ...] = ()
    kwargs: tuple[tuple[str, Value], ...] = ()
    place: Place | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in self.name.split("."):
            _check_name(name, self.name)
        keys = [key for key, _ in self.kwargs]
        for key in keys:
            _check_name(key, key)
            if keys.count(key) > 1:
                raise BadInput(f"read {key} twice; accepted: each keyword once")
        if self.name in KINDS and (self.args or self.kwargs):
            raise BadInput(f"read {self.name} with arguments as a name; accepted: spec.{self.name}(...)")
        object.__setattr__(self, "args", plain(tuple(self.args)))
        object.__setattr__(self, "kwargs", tuple(sorted((key, plain(value)) for key, value in self.kwargs)))

    def __call__(self, *args: Value, **kwargs: Value) -> "Call":
        if self.args or self.kwargs:
            raise BadInput(f"read {self!r} called once more; accepted: NAME(...)")
        return Call(self.name, args, tuple(kwargs.items()), self.place)

    @property
    def keywords(self) -> dict[str, Value]:
        """`kwargs` as a dict."""
        return dict(self.kwargs)

    def error(self, problem: str) -> BadInput:
        """The problem, with the place where the call was read, if it was."""
        return self.place.error(problem) if self.place else BadInput(problem)

    def weight_error(self, problem: str) -> BadInput:
        """The same, with the place of the weight in front of the call."""
        weight = self.place.weight if self.place else None
        return self.error(problem) if weight is None else self.moved(column=weight).error(problem)

    def moved(self, **place: int) -> "Call":
        """The same call, of which a part of the place is another."""
        return replace(self, place=self.place._replace(**place)) if self.place else self

    def __repr__(self) -> str:
        inside = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs)]
        return f"{self.name}({', '.join(inside)})" if inside else self.name


class Weighted(NamedTuple):
    """A term of a formula."""

    weight: Weight
    call: Call


@dataclass(frozen=True, repr=False)
class Formula(Summand):
    """A sum of weighted calls, in the order in which they were written.

    >>> 0.5 * (Call("a") - 0.5 * Call("b"))
    0.5*a - 0.25*b
    """

    terms: tuple[Weighted, ...]

    def __repr__(self) -> str:
        alone, text = len(self.terms) == 1, ""
        for w, call in self.terms:
            sign = " + " if text else ""
            if text and isinstance(w, int | float) and w < 0:
                sign, w = " - ", -w
            text += sign + (f"{call!r}" if not alone and isinstance(w, int | float) and w == 1 else f"{w!r}*{call!r}")
        return text


class Names:
    """Names that share what stands before the dot, to write expressions in Python.

    >>> Names("response").kl, Names().labels
    (response.kl, labels)
    """

    def __init__(self, family: str = "") -> None:
        self._family = family

    def __getattr__(self, name: str) -> Call:
        if name.startswith("_"):
            raise AttributeError(name)
        return Call(f"{self._family}.{name}" if self._family else name)


def _terms(value: Any) -> tuple[Weighted, ...]:
    return value.terms if isinstance(value, Formula) else (Weighted(1, value),)


def _check_name(name: str, whole: str) -> None:
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name) or name.lower() in ("nan", "inf"):
        raise BadInput(f"read {whole!r} as a name; accepted: letters, digits and _, and dots between names")

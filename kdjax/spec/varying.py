"""What may stand where a number stands: schedules, which follow the run, and sets, which make populations.

A product with a number is a schedule or a set again: `100*linear(1, 0)` is `linear(100, 0)`.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.spec.expression import Expression, Scalar, Value, is_number, plain
from kdjax.types import BadInput

Number = Any
"""An int or a float; a traced number after `fill`."""

Numbers = Any
"""A tuple of them."""

Own = TypeVar("Own", bound="Varying")

# Of what it does not know Python asks the other operand, so types that are checked at run time must let all pass.
if TYPE_CHECKING:
    Factor = Scalar
else:
    Factor = object


class Varying(Expression):
    """A schedule or a set: its fields are numbers, sets, or tuples of them."""

    unscaled: ClassVar[tuple[str, ...]] = ()
    """Fields that a product leaves as they are."""

    def parts(self) -> dict[str, Value]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]

    def with_parts(self: Own, *parts: Value) -> Own:
        """The same with other values of its fields."""
        return type(self)(*parts)

    def __post_init__(self) -> None:
        for name, part in self.parts().items():
            object.__setattr__(self, name, plain(part))
            self._check(name, getattr(self, name))

    def _check(self, name: str, part: Value) -> None:
        if not (is_number(part) or isinstance(part, Set)):
            self._refuse(name, "a number or a set of numbers")

    def _refuse(self, name: str, accepted: str) -> None:
        raise BadInput(f"read {name}={getattr(self, name)!r} of {type(self).__name__}; accepted: {accepted}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parts().values()))})"

    def __mul__(self: Own, factor: Factor) -> Own:
        if not is_number(factor):
            return NotImplemented
        scaled = {n: p if n in self.unscaled else _times(p, plain(factor)) for n, p in self.parts().items()}
        return self.with_parts(*scaled.values())

    __rmul__ = __mul__

    def __truediv__(self: Own, divisor: float | int | jax.Array) -> Own:
        return self * (1 / divisor)

    def __neg__(self: Own) -> Own:
        return self * -1


class Schedule(Varying):
    """A number that follows the run."""

    def at(self, fraction: Number) -> Number:
        """The number when this fraction of the run is over, from 0 to 1; it may be traced."""
        raise NotImplementedError

    @property
    def turns(self) -> tuple[float, ...]:
        """Fractions of the run between 0 and 1 at which it turns: with both ends, it is nowhere less or more.

        >>> steps((0.1, -0.1, 0.1), (0.5, 0.75)).turns
        (0.25, 0.625, 0.875)
        """
        return ()

    @property
    def extremes(self) -> tuple[float, float]:
        """The fractions of the run at which the number is least and greatest.

        >>> warmup(0.5, linear(8, -1)).extremes
        (1.0, 0.5)
        """
        along = (0.0, 1.0, *self.turns)
        return min(along, key=self.at), max(along, key=self.at)

    def complement(self) -> "Schedule":
        """1 - the number, all along the run.

        >>> linear(1, 0.25).complement()
        linear(0, 0.75)

        Raises:
            BadInput: a number that is not from 0 to 1, or a set.
        """
        parts = {n: p if n in self.unscaled else self._from_one(n, p) for n, p in self.parts().items()}
        return self.with_parts(*parts.values())

    def _from_one(self, name: str, part: Value) -> Value:
        if isinstance(part, tuple):
            return tuple(self._from_one(name, x) for x in part)
        if not (isinstance(part, int | float) and 0 <= part <= 1):
            self._refuse(name, "numbers from 0 to 1")
        return round(1 - part, 12)

    @property
    def first(self) -> Number:
        """The number at the run's beginning."""
        return self.at(0.0)

    @property
    def last(self) -> Number:
        """The number at the run's end."""
        return self.at(1.0)


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """The same number for the whole run."""

    value: Number

    def at(self, fraction: Number) -> Number:
        return self.value


@dataclass(frozen=True, repr=False)
class linear(Schedule):
    """start + (end - start) x, where x is the fraction of the run, as `optax.linear_schedule`.

    >>> linear(1, 0).at(0.25)
    0.75
    """

    start: Number
    end: Number

    def at(self, fraction: Number) -> Number:
        return self.start + (self.end - self.start) * _clip(fraction)


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    """end + (start - end) (1 + cos πx) / 2, as `optax.cosine_decay_schedule` with alpha = end / start.

    >>> cosine(8, 1).at(0.5)
    4.5
    """

    start: Number
    end: Number

    def at(self, fraction: Number) -> Number:
        x = _clip(fraction)
        falling = (1 + (jnp.cos if isinstance(x, jax.Array) else math.cos)(math.pi * x)) / 2
        return self.end + (self.start - self.end) * falling


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    """From 0 in a straight line to `value` in the first `share` of the run; then `value`, or a schedule over the rest.

    `warmup(0.05, cosine(0.1, 0))` is `optax.warmup_cosine_decay_schedule`.

    >>> warmup(0.5, 8).at(0.25), warmup(0.5, linear(8, 0)).at(0.75)
    (4.0, 4.0)
    """

    share: Number
    value: "Number | Schedule" = 1
    unscaled: ClassVar[tuple[str, ...]] = ("share",)

    def _check(self, name: str, part: Value) -> None:
        if not (name == "value" and isinstance(part, Schedule)):
            super()._check(name, part)
        if name == "share" and isinstance(part, int | float) and not 0 < part < 1:
            self._refuse(name, "a fraction of the run, above 0 and below 1")

    def _from_one(self, name: str, part: Value) -> Value:
        raise BadInput(f"read {self!r}, which rises from 0; accepted: a schedule that has a value at once, as linear")

    @property
    def turns(self) -> tuple[float, ...]:
        inner = self.value.turns if isinstance(self.value, Schedule) else ()
        return (self.share, *(self.share + (1 - self.share) * x for x in inner))

    def at(self, fraction: Number) -> Number:
        rest = _clip((fraction - self.share) / (1 - self.share))
        value = self.value.at(rest) if isinstance(self.value, Schedule) else self.value
        # Until the rest begins the schedule stands at its first number.
        return value * _clip(fraction / self.share)


@dataclass(frozen=True, repr=False)
class steps(Schedule):
    """`values[i]` from the fraction `after[i - 1]` of the run on, as `optax.piecewise_constant_schedule`.

    >>> steps((0.1, 0.01, 0.001), (0.5, 0.75)).at(0.6)
    0.01
    """

    values: Numbers
    after: Numbers
    unscaled: ClassVar[tuple[str, ...]] = ("after",)

    def _check(self, name: str, part: Value) -> None:
        if not isinstance(part, tuple) or not part:
            self._refuse(name, "a tuple of numbers, such as steps((0.1, 0.01), (0.5,))")
        for x in part:
            super()._check(name, x)
        if name == "after":
            ends = [x for x in part if isinstance(x, int | float)]
            if ends != sorted(set(ends)) or any(not 0 < x < 1 for x in ends) or len(part) != len(self.values) - 1:
                self._refuse(name, f"{len(self.values) - 1} rising fractions of the run, one fewer than values")

    @property
    def turns(self) -> tuple[float, ...]:
        # The middle of each stretch: a rounded fraction at its end may belong to another.
        between = (0.0, *self.after, 1.0)
        return tuple((a + b) / 2 for a, b in itertools.pairwise(between))

    def at(self, fraction: Number) -> Number:
        found = self.values[0]
        for value, after in zip(self.values[1:], self.after, strict=True):
            # A share of the run in float32 may fall a rounding short: 20 / 100 in a compiled step is 0.19999999.
            reached = fraction >= after * (1 - 1e-6)
            found = jnp.where(reached, value, found) if isinstance(reached, jax.Array) else value if reached else found
        return found


class Set(Varying):
    """Numbers of which one stands at the place, another in another member of a population."""

    def sample(self, rng: np.random.Generator) -> float | int:
        """One of them."""
        raise NotImplementedError

    def _check(self, name: str, part: Value) -> None:
        if not is_number(part):
            self._refuse(name, "a number")

    def _rises(self, low: Number, high: Number) -> None:
        if not low < high:
            self._refuse("high", f"a number above low={low}")


@dataclass(frozen=True, repr=False, init=False)
class grid(Set):
    """These numbers and no others: `grid(1, 2, 4, 8)`."""

    numbers: tuple[Number, ...]

    def __init__(self, *numbers: Number) -> None:
        object.__setattr__(self, "numbers", numbers)
        self.__post_init__()
        if not numbers or len(set(numbers)) < len(numbers):
            self._refuse("numbers", "one number or more, each once")

    def _check(self, name: str, part: Value) -> None:
        for x in part:
            super()._check(name, x)

    def with_parts(self, *parts: Value) -> "grid":
        return grid(*parts[0])

    def __repr__(self) -> str:
        return f"grid({', '.join(map(repr, self.numbers))})"

    def values(self) -> tuple[Number, ...]:
        """All numbers, in their order."""
        return self.numbers

    def sample(self, rng: np.random.Generator) -> float | int:
        return self.numbers[int(rng.integers(len(self.numbers)))]


@dataclass(frozen=True, repr=False)
class uniform(Set):
    """Any number from `low` to `high`, all alike."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rises(self.low, self.high)

    def sample(self, rng: np.random.Generator) -> float | int:
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True, repr=False)
class log(Set):
    """Any number from `low` to `high`, both above 0, their logarithms all alike."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low > 0:
            self._refuse("low", "a number above 0")
        self._rises(self.low, self.high)

    def sample(self, rng: np.random.Generator) -> float | int:
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


KINDS: dict[str, type[Varying]] = {
    kind.__name__: kind for kind in (constant, linear, cosine, warmup, steps, grid, uniform, log)
}
"""By the word that is typed."""


def ends(one: Set) -> tuple[float, ...]:
    """The numbers of a grid, or the lowest and the highest of a range.

    >>> ends(uniform(0, 1))
    (0.0, 1.0)
    """
    return tuple(map(float, one.numbers if isinstance(one, grid) else one.parts().values()))


def _times(part: Value, factor: Number) -> Value:
    return tuple(x * factor for x in part) if isinstance(part, tuple) else part * factor


def _clip(x: Number) -> Number:
    return jnp.clip(x, 0, 1) if isinstance(x, jax.Array) else min(max(x, 0.0), 1.0)

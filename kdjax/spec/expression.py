"""What all values of the grammar share: what they may hold, and how a fault in one is shown."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax.types import BadInput

Value = Any
"""A number, text, True, False, None, an `Expression`, or a tuple of values; a traced number after `fill`."""


Scalar = float | int | jax.Array | np.generic


class Expression:
    """A call, a formula, a schedule or a set. It is frozen and prints as text that parses to an equal one."""

    __array_ufunc__ = None  # numpy's numbers leave products to us

    def __str__(self) -> str:
        return repr(self)


class Place(NamedTuple):
    """Where something was read: `column`, counted from 0, of the text that was typed for a flag.

    `weight`: the column at which the weight in front of it begins; None where there is none.
    """

    flag: str
    text: str
    column: int
    weight: int | None = None

    def error(self, problem: str) -> BadInput:
        """The problem, and the place under the text.

        >>> print(Place("loss", "2*respons.kl", 2).error("read respons.kl; accepted: response.kl"))
        loss, column 3: read respons.kl; accepted: response.kl
          2*respons.kl
            ^
        """
        start = max(self.column - 60, 0)
        shown = "".join(c if c.isprintable() else " " for c in self.text[start : start + 100])
        caret = " " * (self.column - start) + "^"
        return BadInput(f"{self.flag}, column {self.column + 1}: {problem}\n  {shown}\n  {caret}")


def is_number(value: Value) -> bool:
    """Whether a value is a number, traced or not; True and False are none."""
    return isinstance(value, int | float | jax.Array | np.generic) and not isinstance(value, bool | np.bool_)


def finite(value: float | int) -> bool:
    """Whether a number is one that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def plain(value: Value) -> Value:
    """A value as the grammar has it: numpy's numbers become Python's.

    Raises:
        BadInput: what no text can say.

    >>> plain((np.float32(0.5), "l2"))
    (0.5, 'l2')
    """
    if isinstance(value, tuple):
        return tuple(plain(part) for part in value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, int | float):
        if not finite(value):
            raise BadInput(f"read {value}; accepted: finite numbers")
        # A subclass, such as an enumeration's member, would print as something else.
        return value if isinstance(value, bool) else int(value) if isinstance(value, int) else float(value)
    if value is None or isinstance(value, str | Expression | jax.Array):
        return value
    raise BadInput(f"read {value!r}; accepted: numbers, strings, True, False, None, tuples, and expressions of spec")

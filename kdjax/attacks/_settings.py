"""What an attack's settings may be. A traced number has no value yet and passes; every other is looked at.

Each function returns nothing, and raises `BadInput` with the name, the value and what is accepted.
"""

import math
from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from kdjax.types import BadInput

Number = Array | np.number | float | int
"""A setting that may be traced: a number of anybody's."""

Radius = Array | np.ndarray | np.number | float | int
"""A length in pixel units: one number, or one per example `[B]`."""


def diameter(norm: str, size: int | None) -> float:
    """The largest distance of two images in [0, 1] of `size` numbers; infinite where only the size would tell.

    >>> diameter("linf", None), diameter("l2", 64), diameter("l1", 64)
    (1.0, 8.0, 64.0)
    """
    if norm == "linf":
        return 1.0
    if size is None:
        return math.inf
    return math.sqrt(size) if norm == "l2" else float(size)


def require_radius(name: str, value: Radius, norm: str = "", size: int | None = None, *, zero: bool = True) -> None:
    """Refuse a length that is negative, not a number, or longer than any two images of `size` numbers are apart.

    Args:
        name: of the setting.
        value: its value.
        norm: linf, l2 or l1; empty: no upper bound.
        size: numbers in an image; without it only linf has an upper bound.
        zero: whether 0 is accepted.
    """
    if isinstance(value, Tracer):
        return
    known = np.asarray(value, np.float64)
    high = diameter(norm, size) if norm else math.inf
    if not (np.all(known >= 0) and (zero or np.all(known > 0))):
        raise BadInput(f"{name}={value}: accepted are pixel units, {'0 or more' if zero else 'above 0'}.")
    # A radius that was rounded to float32, or to six digits, is still the whole image space.
    if np.any(known > high * (1 + 1e-5)):
        most = float(known.max())
        raise BadInput(
            f"{name}={most:g}: images lie in [0, 1] and are at most {high:.4g} apart in {norm}; accepted are pixel "
            f"units up to that. Did you mean 255ths? {most:g}/255 is {most / 255:.3g}."
        )


def require_step(value: Radius | None) -> None:
    """Refuse a step in linf that is not above 0, or longer than 1; None is the attack's own choice."""
    if value is not None:
        require_radius("step_size", value, "linf", zero=False)


def require_positive(name: str, value: Any) -> None:
    """Refuse what is not a finite number above 0."""
    _require(name, value, lambda x: x > 0, "finite numbers above 0")


def require_not_negative(name: str, value: Any) -> None:
    """Refuse what is not a finite number, 0 or more."""
    _require(name, value, lambda x: x >= 0, "finite numbers, 0 or more")


def require_share(name: str, value: Any, *, zero: bool = False) -> None:
    """Refuse what is no share or probability: outside (0, 1], or [0, 1] where `zero` is accepted."""
    accepted = "numbers from 0 to 1" if zero else "numbers above 0, up to 1"
    _require(name, value, lambda x: (x <= 1) & ((x >= 0) if zero else (x > 0)), accepted)


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a whole number, or below `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise BadInput(f"{name}={value}: accepted are {least} or more{'' if whole else ', whole numbers'}.")


def require_odd(name: str, value: Any) -> None:
    """Refuse what is not an odd whole number from 1 up."""
    require_count(name, value)
    if value % 2 == 0:
        raise BadInput(f"{name}={value}: accepted are odd sizes, 1 or more.")


def _require(name: str, value: Any, fits: Any, accepted: str) -> None:
    if isinstance(value, Tracer):
        return
    known = np.asarray(value, np.float64)
    if not (np.all(np.isfinite(known)) and np.all(fits(known))):
        raise BadInput(f"{name}={value}: accepted are {accepted}.")

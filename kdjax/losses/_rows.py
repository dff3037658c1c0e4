"""What every loss does with its rows before and after its formula: check, widen, leave out."""

from numbers import Real
from typing import Any, TypeAlias

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from kdjax.types import BadInput

Scalar: TypeAlias = float | int | Num[Array, ""]
"""A plain number, or a traced one: a schedule or a sweep then costs no compilation."""

Mask: TypeAlias = Bool[Array, " batch"] | Float[Array, " batch"] | None
"""Rows to keep: True or non-zero; None keeps all. It selects and does not weigh: weights are the caller's."""


def require_positive(name: str, value: Any) -> None:
    """Refuse a plain number that is not above 0. A traced one has no value yet and passes."""
    if isinstance(value, Real) and not float(value) > 0:
        raise BadInput(f"{name}={value!r}: expected a number above 0")


def require_fraction(name: str, value: Any) -> None:
    """Refuse a plain number outside [0, 1]. A traced one has no value yet and passes."""
    if isinstance(value, Real) and not 0 <= float(value) <= 1:
        raise BadInput(f"{name}={value!r}: expected a number from 0 to 1")


def check_shapes(student: Array, *, labels: Array | None = None, where: Mask = None, **alike: Array) -> None:
    """Refuse, while tracing, what does not fit the student's `[batch, columns]`; the message names both shapes."""
    if student.ndim != 2:
        raise BadInput(f"student has shape {student.shape}: expected two axes, the first is the batch")
    for name, other in {**alike, "labels": labels, "where": where}.items():
        expected = student.shape if name in alike else student.shape[:1]
        if other is None:
            continue
        try:
            chex.assert_shape(other, expected)
        except AssertionError:
            message = f"student has shape {student.shape} and {name} {other.shape}: expected {expected}"
            raise BadInput(message) from None


def blank(x: Array, where: Mask) -> Array:
    """`x` with zeros in the rows that `where` leaves out, whatever stood there, and no gradient to them.

    A loss needs it at both ends, on what goes in and on what comes out. At the end alone, the derivative of a
    row left out would still be formed, and 0 times NaN is NaN.
    """
    if where is None:
        return x
    keep = where.astype(bool).reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x, jnp.zeros((), x.dtype))


def clean(x: Array, where: Mask) -> Array:
    """What goes in: float32 or wider (float64 stays), blank where left out."""
    return blank(x.astype(jnp.promote_types(x.dtype, jnp.float32)), where)


def pair(student: Array, teacher: Array, where: Mask) -> tuple[Array, Array]:
    """Both sides of a loss, checked against each other and clean."""
    check_shapes(student, teacher=teacher, where=where)
    return clean(student, where), clean(teacher, where)

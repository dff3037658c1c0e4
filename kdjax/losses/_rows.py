"""What every loss does with its rows before and after its formula: check, widen, leave out."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Num

from kdjax.types import BadInput

Scalar: TypeAlias = float | int | Num[Array, ""]
"""A plain number, or a traced one: a schedule or a sweep then costs no compilation."""

Mask: TypeAlias = Bool[Array, " batch"] | Float[Array, " batch"] | None
"""Rows to keep: True or non-zero; None keeps all. It selects and does not weigh: weights are the caller's."""


def require(name: str, value: Any, accepted: str, fits: Callable[[float], bool]) -> None:
    """Refuse what is no single real number, or a number that does not fit. A traced one has no value yet: it passes."""
    shape, kind = np.shape(value), value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if shape or not jnp.issubdtype(kind, np.number) or jnp.issubdtype(kind, np.complexfloating):
        what = f"{kind} of shape {shape}" if hasattr(value, "dtype") else repr(value)
        raise BadInput(f"{name} is {what}; accepted: {accepted}")
    if not isinstance(value, Tracer) and not (math.isfinite(value) and fits(float(value))):
        raise BadInput(f"{name}={value}; accepted: {accepted}")


def require_positive(name: str, value: Any) -> None:
    """Refuse what is no number above 0."""
    require(name, value, "a number above 0", lambda x: x > 0)


def require_fraction(name: str, value: Any) -> None:
    """Refuse what is no number in [0, 1]."""
    require(name, value, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def check_shapes(student: Array, *, labels: Array | None = None, where: Mask = None, **alike: Array) -> None:
    """Refuse, while tracing, what does not fit the student's `[batch, columns]`; the message names both shapes."""
    if student.ndim != 2:
        raise BadInput(f"student has shape {student.shape}; accepted: two axes, the first is the batch")
    for name, other in {**alike, "labels": labels, "where": where}.items():
        expected = student.shape if name in alike else student.shape[:1]
        if other is None:
            continue
        try:
            chex.assert_shape(other, expected)
        except AssertionError:
            message = f"student has shape {student.shape} and {name} {other.shape}; accepted: {expected}"
            raise BadInput(message) from None
    if labels is not None and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise BadInput(
            f"labels is {labels.dtype} of shape {labels.shape}; accepted: integers, the number of each class"
        )


def blank(x: Array, where: Mask) -> Array:
    """`x` with zeros in the rows that `where` leaves out, whatever stood there, and no gradient to them.

    A loss needs it at both ends, on what goes in and on what comes out. At the end alone, the derivative of a
    row left out would still be formed, and 0 times NaN is NaN.
    """
    if where is None:
        return x
    x = jnp.asarray(x)
    keep = where.astype(bool).reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x, jnp.zeros((), x.dtype))


def clean(x: Array, where: Mask) -> Array:
    """What goes in: float32 or wider (float64 stays where JAX has it), blank where left out."""
    x = jnp.asarray(x)  # NumPy's float64, of which JAX warns that it does not have it
    return blank(x.astype(jnp.promote_types(x.dtype, jnp.float32)), where)


def pair(student: Array, teacher: Array, where: Mask) -> tuple[Array, Array]:
    """Both sides of a loss, checked against each other and clean."""
    check_shapes(student, teacher=teacher, where=where)
    return clean(student, where), clean(teacher, where)

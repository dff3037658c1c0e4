"""What losses on features share: shapes that fit, maps of one size, lengths that cannot fail."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kdjax.losses import _logits
from kdjax.losses._rows import Mask, clean
from kdjax.types import BadInput

EXACT = jax.lax.Precision.HIGHEST
"""Accelerators round the factors of a product to 8 or 11 bits unless told otherwise; a difference of two Gram
matrices would be mostly that rounding."""


def alike(student: Array, teacher: Array, where: Mask) -> tuple[Array, Array]:
    """Both sides of a loss that compares element by element, clean."""
    if student.shape != teacher.shape or student.ndim < 2:
        raise BadInput(
            f"student has shape {student.shape} and teacher {teacher.shape}; "
            "accepted: the same, two axes or more, the first is the batch"
        )
    _check_mask(student, where)
    return clean(student, where), clean(teacher, where)


def positions(where: Mask = None, **maps: Array) -> tuple[Array, Array]:
    """Two maps as `[batch, positions, channels]`, clean and of one height and width; channels may differ."""
    (first, a), (second, b) = maps.items()
    if a.ndim != b.ndim or a.ndim not in (3, 4) or len(a) != len(b) or (a.ndim == 3 and a.shape[1] != b.shape[1]):
        raise BadInput(
            f"{first} has shape {a.shape} and {second} {b.shape}; accepted: [batch, height, width, channels] twice, or "
            "[batch, positions, channels] twice with as many positions, and one batch"
        )
    _check_mask(a, where)
    a, b = clean(a, where), clean(b, where)
    if a.ndim == 4:
        height, width = (min(sizes) for sizes in zip(a.shape[1:3], b.shape[1:3], strict=True))
        a, b = average_pool(a, height, width), average_pool(b, height, width)
    return a.reshape(len(a), -1, a.shape[-1]), b.reshape(len(b), -1, b.shape[-1])


def per_channel(name: str, value: Array, features: Array) -> Array:
    """A number per channel, in the features' rank and kind of float."""
    if value.shape != features.shape[-1:]:
        raise BadInput(f"student has shape {features.shape} and {name} {value.shape}; accepted: {features.shape[-1:]}")
    return value.astype(features.dtype).reshape((1,) * (features.ndim - 1) + value.shape)


def average_pool(x: Float[Array, "batch _ _ channels"], height: int, width: int) -> Float[Array, "batch _ _ channels"]:
    """The map in `height` x `width` cells, each the mean of the pixels that it touches, as torch's adaptive pooling."""
    if x.shape[1:3] == (height, width):
        return x
    rows, columns = (jnp.asarray(_cells(*sizes), x.dtype) for sizes in ((x.shape[1], height), (x.shape[2], width)))
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=EXACT)


def _cells(size: int, cells: int) -> np.ndarray:
    # Cell i of n covers the pixels from floor(i·size/n) to ceil((i+1)·size/n): where n does not divide, cells overlap.
    cell, pixel = np.arange(cells)[:, None], np.arange(size)[None]
    inside = (pixel >= cell * size // cells) & (pixel < -(-(cell + 1) * size // cells))
    return inside / inside.sum(1, keepdims=True)


def unit(x: Array, axis: int = -1) -> Array:
    """`x` over its Euclidean length along `axis`; zeros, with gradient 0, where it has no length."""
    # The result does not know of scale, so a constant one changes no gradient; it keeps squares from over- and
    # underflow.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True))
    x = x / jnp.where(largest == 0, 1, largest)
    return _logits.divide(x, _logits.norm(x, axis), 0.0)


def apart(a: Array, b: Array) -> Array:
    """a - b, but 0 with gradient 0 where they agree up to rounding.

    A compiler rounds the lengths of two equal sides apart, and a kink at 0, of a size or a length, would push there.
    """
    difference = a - b
    return jnp.where(jnp.abs(difference) <= 16 * jnp.finfo(a.dtype).eps * jnp.abs(b), 0, difference)


def mean(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """The mean of each example's elements."""
    return x.mean(tuple(range(1, x.ndim)))


def total(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """The sum of each example's elements."""
    return x.sum(tuple(range(1, x.ndim)))


def kept(x: Array, where: Mask) -> Bool[Array, " batch"]:
    """`where` as booleans; all True where there is none."""
    _check_mask(x, where)
    return jnp.ones(len(x), bool) if where is None else where.astype(bool)


def _check_mask(x: Array, where: Mask) -> None:
    if where is not None and where.shape != x.shape[:1]:
        raise BadInput(f"student has shape {x.shape} and where {where.shape}; accepted: {x.shape[:1]}")

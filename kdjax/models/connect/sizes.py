"""Features of two networks brought to one size, so that they can be compared."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def same_size(a: Array, b: Array) -> tuple[Array, Array]:
    """Two features with the same axes before the channels.

    Of two maps `[B, H, W, C]` the larger one is averaged to the smaller. Beside tokens `[B, N, C]` or a vector
    `[B, C]` a map is its mean over pixels, and beside a vector tokens are their mean.
    """
    if a.ndim != b.ndim:
        return pooled(a), pooled(b)
    return smaller(a, b)


def smaller(a: Array, b: Array) -> tuple[Array, Array]:
    """Two feature maps at the smaller's height and width: the larger one's averages; other features as they are."""
    if a.ndim != 4 or b.ndim != 4 or a.shape[1:3] == b.shape[1:3]:
        return a, b
    height, width = (min(sides) for sides in zip(a.shape[1:3], b.shape[1:3], strict=True))
    return _average(a, (height, width)), _average(b, (height, width))


def _average(x: Array, size: tuple[int, int]) -> Array:
    # Cell i of n covers rows floor(i h / n) to ceil((i + 1) h / n), so no size must divide another.
    for axis, wanted in zip((1, 2), size, strict=True):
        had = x.shape[axis]
        at, row = np.arange(wanted)[:, None], np.arange(had)[None]
        inside = (row >= at * had // wanted) & (row < -(-(at + 1) * had // wanted))
        weights = jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype)
        product = jnp.tensordot(weights, x, (1, axis), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(product, 0, axis)
    return x


def pooled(x: Array) -> Array:
    """`[B, ..., C]` to `[B, C]`, the mean over pixels or tokens; `[B, C]` as it is."""
    return x.mean(tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x


def nearest(x: Array, size: tuple[int, ...]) -> Array:
    """A map `[B, H, W, C]` at another height and width: pixel i of n shows pixel floor(i h / n), nothing between.

    >>> nearest(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    for axis, wanted in zip((1, 2), size, strict=True):
        had = x.shape[axis]
        if wanted % had == 0:
            # Copies side by side: the gradient is a sum, where that of a look-up is a scatter.
            x = jnp.expand_dims(x, axis + 1)
            x = jnp.broadcast_to(x, (*x.shape[: axis + 1], wanted // had, *x.shape[axis + 2 :]))
            x = x.reshape(*x.shape[:axis], wanted, *x.shape[axis + 2 :])
        else:
            x = jnp.take(x, np.arange(wanted) * had // wanted, axis=axis)
    return x

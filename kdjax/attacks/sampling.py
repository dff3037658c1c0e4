"""Which coordinates a finite-difference oracle looks at: `(key, moved) -> index [K]`, for one example.

`moved` is the point minus where the attack began, flattened; indices are distinct.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

Sampling = Callable[[Array, Array], Array]


def everything() -> Sampling:
    """All coordinates, in order."""
    return lambda key, moved: jnp.arange(moved.size)


def uniform(count: int) -> Sampling:
    """`count` coordinates, all equally likely."""

    def sample(key: Array, moved: Array) -> Array:
        return jax.lax.top_k(jax.random.uniform(key, (moved.size,), moved.dtype), min(count, moved.size))[1]

    return sample


def important(count: int, shape: tuple[int, ...], *, blocks: int = 8) -> Sampling:
    """`count` coordinates, likelier where the modifier is large nearby.

    p is proportional to the largest |modifier| in windows of 1/`blocks` of the side around each pixel, channel by
    channel; uniform while nothing has moved. Drawn without replacement by the Gumbel trick.

    Args:
        count: K.
        shape: of the points: height, width, channels.
        blocks: windows per side.

    Reference:
        Chen et al., ZOO (2017), section 3.6.
    """
    window = tuple(max(side // blocks, 1) for side in shape[:2])

    def sample(key: Array, moved: Array) -> Array:
        size = jnp.abs(moved.reshape(shape))
        none = size.dtype.type(0)  # of the same type in float64 mode too
        pooled = jax.lax.reduce_window(size, none, jax.lax.max, (*window, 1), (1, 1, 1), "SAME").reshape(-1)
        # A floor, so that no coordinate is out of reach forever.
        p = pooled + jnp.maximum(1e-3 * pooled.max(), 1e-12)
        draw = jnp.log(p) + jax.random.gumbel(key, (moved.size,), moved.dtype)
        return jax.lax.top_k(draw, min(count, moved.size))[1]

    return sample

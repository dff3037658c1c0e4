"""Threat sets: `(image, origin) -> image`. Radii are in pixel units, one number or one per example `[B]`.

A radius longer than the diameter of the images, such as 8 in linf for 8/255, is refused: by linf at once, by l2 and l1
where they see the image's size.

A ball and the box are combined with `both`: ball first, then box. For these convex sets around an origin that lies in
the box the result satisfies both, because clipping to the box never moves a pixel away from the origin.
"""

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._settings import Radius, require_radius
from kdjax.types import BadInput, Projection


def spread(radius: Radius, image: Array) -> Array:
    """The radius with the image's axes: a scalar stays one number, `[B]` becomes `[B, 1, 1, 1]`."""
    radius = jnp.asarray(radius, image.dtype)
    return radius.reshape(radius.shape + (1,) * (image.ndim - 1)) if radius.ndim else radius


def lengths(delta: Array) -> dict[str, Array]:
    """Norms of a perturbation `[B, ...]`: `linf`, `l2`, `l1`, and `l0`, the count of changed numbers; each `[B]`."""
    flat = jnp.abs(delta.reshape(len(delta), -1))
    return {
        "linf": flat.max(-1),
        "l2": jnp.sqrt(jnp.sum(flat**2, -1)),
        "l1": flat.sum(-1),
        "l0": jnp.sum(flat > 0, -1).astype(jnp.float32),
    }


def linf(epsilon: Radius) -> Projection:
    """|x - x0| <= epsilon in every pixel: clip."""
    require_radius("epsilon", epsilon, "linf")

    def project(image: Array, origin: Array) -> Array:
        radius = spread(epsilon, image)
        return jnp.clip(image, origin - radius, origin + radius)

    return project


def l2(epsilon: Radius) -> Projection:
    """||x - x0||_2 <= epsilon: shrink towards the origin."""
    require_radius("epsilon", epsilon)

    def project(image: Array, origin: Array) -> Array:
        require_radius("epsilon", epsilon, "l2", origin[0].size)
        delta = image - origin
        length = spread(lengths(delta)["l2"], image)
        radius = spread(epsilon, image)
        return jnp.where(length > radius, origin + delta * (radius / jnp.maximum(length, 1e-30)), image)

    return project


def l1(epsilon: Radius) -> Projection:
    """||x - x0||_1 <= epsilon: soft-threshold every pixel's change by the one number that makes it so.

    Reference:
        Duchi, Shalev-Shwartz, Singer, Chandra, Efficient Projections onto the l1-Ball for Learning in High Dimensions,
        ICML 2008, figure 1.
    """
    require_radius("epsilon", epsilon)

    def project(image: Array, origin: Array) -> Array:
        require_radius("epsilon", epsilon, "l1", origin[0].size)
        delta = (image - origin).reshape(len(image), -1)
        size = jnp.abs(delta)
        radius = jnp.broadcast_to(jnp.asarray(epsilon, image.dtype), (len(image),))[:, None]
        falling = -jnp.sort(-size, axis=-1)
        rank = jnp.arange(1, size.shape[-1] + 1, dtype=image.dtype)[None]
        excess = (jnp.cumsum(falling, -1) - radius) / rank
        last = jnp.sum(falling > excess, -1, keepdims=True) - 1
        threshold = jnp.maximum(jnp.take_along_axis(excess, jnp.maximum(last, 0), -1), 0)
        inside = size.sum(-1, keepdims=True) <= radius
        shrunk = jnp.where(inside, delta, jnp.sign(delta) * jnp.maximum(size - threshold, 0))
        return origin + shrunk.reshape(image.shape)

    return project


def box(low: float = 0.0, high: float = 1.0) -> Projection:
    """low <= x <= high in every pixel."""
    return lambda image, origin: jnp.clip(image, low, high)


def both(*projections: Projection) -> Projection:
    """One after the other."""

    def project(image: Array, origin: Array) -> Array:
        for each in projections:
            image = each(image, origin)
        return image

    return project


def within(norm: str, epsilon: Radius) -> Projection:
    """The ball of a norm by name: `linf`, `l2`, `l1`."""
    balls = {"linf": linf, "l2": l2, "l1": l1}
    if norm not in balls:
        raise BadInput(f"norm={norm!r}: accepted are {', '.join(balls)}.")
    return balls[norm](epsilon)


def ball(norm: str, epsilon: Radius) -> Projection:
    """The ball of a norm by name (`linf`, `l2`, `l1`), then the box [0, 1]."""
    return both(within(norm, epsilon), box())

"""Optax transformations that attacks need and Optax lacks. Each acts on one example: attacks `vmap` them.

They return a direction of *ascent*, as Optax's `scale_by_*` do: chain them with `optax.scale(-step_size)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.attacks._settings import Radius, require_radius
from kdjax.types import BadInput


def normalize(order: int) -> optax.GradientTransformation:
    """g / ||g||_order, order 1 or 2; 0 where g is 0. (Optax's norm adds a constant, which matters for tiny slopes.)"""
    if order not in (1, 2):
        raise BadInput(f"order={order}: accepted are 1 and 2.")

    def unit(g: Any, params: Any = None) -> Array:
        # The largest entry is taken out first: the square of 1e-25 is 0 in float32.
        top = jnp.max(jnp.abs(g))
        scaled = g / jnp.where(top > 0, top, 1)
        length = jnp.sum(jnp.abs(scaled)) if order == 1 else jnp.sqrt(jnp.sum(scaled**2))
        return scaled / jnp.where(length > 0, length, 1)

    return optax.stateless_with_tree_map(unit)


def steepest(norm: str) -> optax.GradientTransformation:
    """The direction that goes farthest in a ball: the sign for linf, the unit vector for l2."""
    if norm not in ("linf", "l2"):
        raise BadInput(f"norm={norm!r}: accepted are linf, l2.")
    return optax.scale_by_sign() if norm == "linf" else normalize(2)


def no_longer(name: str, step_size: Radius, norm: str) -> optax.GradientTransformation:
    """Changes nothing; refuses a typed step that is not above 0, or longer than the images' diameter, once it sees one.

    Raises:
        BadInput: at once in linf, from the attack in l2, whose diameter is the root of the image's size.
    """
    require_radius(name, step_size, norm if norm == "linf" else "", zero=False)

    def init(params: Any) -> optax.EmptyState:
        require_radius(name, step_size, norm, params.size, zero=False)
        return optax.EmptyState()

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def smooth(size: int = 15, sigma: float = 3.0) -> optax.GradientTransformation:
    """Blur the slope with a Gaussian kernel: TI, which makes perturbations transfer.

    Reference:
        Dong, Pang, Su, Zhu, Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks,
        CVPR 2019, equation 7.
    """
    if size < 1 or size % 2 == 0:
        raise BadInput(f"size={size}: accepted are odd sizes, 1 or more.")
    at = jnp.arange(size) - size // 2
    line = jnp.exp(-0.5 * (at / sigma) ** 2)
    line = line / line.sum()

    def blur(g: Any, params: Any = None) -> Array:
        if size > 2 * (side := max(g.shape[:2])):  # as far as the edges, it would be the same slope for all pixels
            raise BadInput(f"kernel={size}: accepted are odd sizes up to twice the image's, {side}.")
        for axis in (0, 1):
            shape = tuple(size if a == axis else 1 for a in range(2))
            kernel = jnp.broadcast_to(line.astype(g.dtype).reshape(*shape, 1, 1), (*shape, 1, g.shape[-1]))
            g = jax.lax.conv_general_dilated(
                g[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=g.shape[-1],
            )[0]  # fmt: skip
        return g

    return optax.stateless_with_tree_map(blur)


class CoordinateAdamState(NamedTuple):
    """First and second moments, and how often each coordinate was updated."""

    first: Array
    second: Array
    times: Array


def coordinate_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformationExtraArgs:
    """Adam whose step counter is each coordinate's own; coordinates outside `mask` keep their moments and do not move.

    Reference:
        Chen, Zhang, Sharma, Yi, Hsieh, ZOO, AISec 2017, algorithm 2.
    """

    def init(params: Array) -> CoordinateAdamState:
        return CoordinateAdamState(jnp.zeros_like(params), jnp.zeros_like(params), jnp.zeros_like(params))

    def update(g: Array, state: CoordinateAdamState, params: Any = None, *, mask: Array | None = None, **_: Any):
        seen = jnp.ones_like(g) if mask is None else mask
        times = state.times + seen
        first = jnp.where(seen > 0, b1 * state.first + (1 - b1) * g, state.first)
        second = jnp.where(seen > 0, b2 * state.second + (1 - b2) * g * g, state.second)
        safe = jnp.maximum(times, 1)
        scale = jnp.sqrt(1 - b2**safe) / (1 - b1**safe)
        step = jnp.where(seen > 0, scale * first / (jnp.sqrt(second) + eps), 0)
        return step, CoordinateAdamState(first, second, times)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def fresh_after_success(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Forget moments at an example's first success: from there on the distance is what falls.

    Reference:
        Chen et al., ZOO (2017), code (`reset_adam`).
    """
    tx = optax.with_extra_args_support(tx)

    def update(g: Array, state: Any, params: Any = None, *, won: Array | None = None, **extra: Any):
        if won is not None:
            state = jax.tree.map(lambda new, old: jnp.where(won, new, old), tx.init(params), state)
        return tx.update(g, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)  # pyright: ignore[reportArgumentType]


def coordinate_newton(floor: float = 0.1) -> optax.GradientTransformationExtraArgs:
    """g / h with the second derivative h of each coordinate: 1 where h < 0, and at least `floor`.

    Reference:
        Chen et al., ZOO (2017), algorithm 3; the floor is their code's.
    """

    def update(
        g: Array, state: optax.EmptyState, params: Any = None, *, mask: Array | None = None,
        curvature: Array | None = None, **_: Any,
    ):  # fmt: skip
        if curvature is None:
            raise BadInput("Newton's step needs second derivatives; accepted: an oracle with curvature=True.")
        return _newton(g, curvature, floor), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)  # pyright: ignore[reportArgumentType]


def newton_or_adam(floor: float = 0.1) -> optax.GradientTransformationExtraArgs:
    """ZOO's hybrid: Newton's step where the curvature is not negative, Adam's elsewhere."""
    adam = coordinate_adam()

    def update(
        g: Array, state: CoordinateAdamState, params: Any = None, *, mask: Array | None = None,
        curvature: Array | None = None, **_: Any,
    ):  # fmt: skip
        if curvature is None:
            raise BadInput("the hybrid needs second derivatives; accepted: an oracle with curvature=True.")
        step, state = adam.update(g, state, params, mask=mask)  # pyright: ignore[reportAssignmentType, reportArgumentType]
        return jnp.where(curvature >= 0, _newton(g, curvature, floor), step), state  # pyright: ignore[reportArgumentType]

    return optax.GradientTransformationExtraArgs(adam.init, update)  # pyright: ignore[reportArgumentType]


def _newton(g: Array, curvature: Array, floor: float) -> Array:
    return g / jnp.maximum(jnp.where(curvature < 0, 1, curvature), floor)

"""Where attacks begin: `(key, image) -> image`, for one example; attacks project the result into their threat set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._settings import Number, Radius, require_radius
from kdjax.types import BadInput

Start = Callable[[Array, Array], Array]
"""`(key, image) -> image` for one example: where an attack begins."""


def uniform(norm: str, epsilon: Radius) -> Start:
    """Uniform in the ball of a norm around the image.

    L2: a Gaussian direction with radius epsilon u^(1/d), u uniform in [0, 1]. L1: exponential magnitudes with random
    signs, one more exponential left over, which is uniform in the ball.
    """
    require_radius("epsilon", epsilon, "linf" if norm == "linf" else "")

    def linf(key: Array, image: Array) -> Array:
        return image + epsilon * jax.random.uniform(key, image.shape, image.dtype, minval=-1.0, maxval=1.0)

    def l2(key: Array, image: Array) -> Array:
        direction, length = jax.random.split(key)
        normal = jax.random.normal(direction, image.shape, image.dtype)
        radius = epsilon * jax.random.uniform(length, (), image.dtype) ** (1 / image.size)
        return image + radius * normal / jnp.linalg.norm(normal.reshape(-1))

    def l1(key: Array, image: Array) -> Array:
        magnitude, sign = jax.random.split(key)
        sizes = jax.random.exponential(magnitude, (image.size + 1,), image.dtype)
        signs = jax.random.rademacher(sign, image.shape, image.dtype)
        return image + epsilon * signs * (sizes[:-1] / sizes.sum()).reshape(image.shape)

    starts = {"linf": linf, "l2": l2, "l1": l1}
    if norm not in starts:
        raise BadInput(f"norm={norm!r}: accepted are {', '.join(starts)}.")
    return starts[norm]


def gaussian(sigma: Number = 0.001) -> Start:
    """x + sigma N(0, I): hardly moved, so that a divergence from the answer to x has a slope.

    Reference:
        Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and Accuracy,
        ICML 2019, algorithm 1.
    """
    require_radius("sigma", sigma, "linf", zero=False)
    return lambda key, image: image + sigma * jax.random.normal(key, image.shape, image.dtype)


def signed(alpha: Radius) -> Start:
    """x + alpha sign(N(0, I)).

    Reference:
        Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, Ensemble Adversarial Training, ICLR 2018, equation 7.
    """
    require_radius("alpha", alpha, "linf")
    return lambda key, image: image + alpha * jnp.sign(jax.random.normal(key, image.shape, image.dtype))


def stripes(epsilon: Radius) -> Start:
    """Vertical stripes of plus or minus epsilon, channel by channel.

    Reference:
        Andriushchenko, Croce, Flammarion, Hein, Square Attack, ECCV 2020, section 3.2.
    """
    require_radius("epsilon", epsilon, "linf")

    def start(key: Array, image: Array) -> Array:
        signs = jax.random.rademacher(key, (1, *image.shape[1:]), image.dtype)
        return image + epsilon * jnp.broadcast_to(signs, image.shape)

    return start

"""The few formulas that the losses on logits share. Everything stays in logarithms until the last moment."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.losses._rows import Scalar

PEARSON_EPS = 1e-8
STANDARDIZE_EPS = 1e-7


def expectation(log_p: Array, x: Array) -> Array:
    """Σ_c p_c·x_c over the last axis. 0·anything is 0, even 0·∞; a NaN in `p` stays, so that it is seen."""
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p == 0, 0, x), axis=-1)


def divergence(log_p: Array, log_q: Array) -> Array:
    """KL(p‖q) over the last axis."""
    return expectation(log_p, log_p - log_q)


def negative_log_likelihood(
    logits: Float[Array, "batch classes"], target: Int[Array, " batch"], label_smoothing: Scalar
) -> Float[Array, " batch"]:
    """Cross-entropy to (1-ε)·onehot + ε/C. A target that is not a class gives NaN, so that it is seen."""
    log_q = jax.nn.log_softmax(logits)
    # "fill" is NaN beyond the last class; "clip" would train on the wrong class in silence.
    log_q_target = jnp.take_along_axis(log_q, target[:, None], axis=1, mode="fill")[:, 0]
    # Without smoothing a class that is ruled out adds 0, not 0·∞.
    spread = jnp.where(label_smoothing == 0, 0, label_smoothing * log_q.mean(axis=1))
    return -(1 - label_smoothing) * log_q_target - spread


def apart(a: Array, b: Array) -> tuple[Array, Bool[Array, "..."]]:
    """a - b, and which classes count: not those that both sides rule out with -inf, whose difference is 0."""
    possible = ~(jnp.isneginf(a) & jnp.isneginf(b))
    return jnp.where(possible, a - b, 0), possible


def mean_possible(x: Array, possible: Bool[Array, "..."]) -> Array:
    """The mean over the last axis of what is possible; NaN where nothing is."""
    return jnp.sum(jnp.where(possible, x, 0), axis=-1) / possible.sum(axis=-1)


def split_target(
    log_p: Float[Array, "batch classes"], target: Int[Array, " batch"]
) -> tuple[Float[Array, "batch 2"], Float[Array, "batch classes"]]:
    """log[p_t, 1-p_t], and the log-distribution over the other classes, -inf at the target."""
    is_target = jax.nn.one_hot(target, log_p.shape[1], dtype=bool)
    log_target = jnp.take_along_axis(log_p, target[:, None], axis=1, mode="fill")
    # Not log(1 - exp(log p_t)): that is -inf as soon as p_t rounds to 1. And not log_p - log_rest: both may be -1e4
    # or less, and float32 then leaves probabilities that miss a sum of 1 by 1e-3.
    log_rest = jax.nn.logsumexp(log_p, axis=1, keepdims=True, where=~is_target)
    log_others = jax.nn.log_softmax(log_p, where=~is_target)
    return jnp.concatenate([log_target, log_rest], axis=1), log_others


def centre(x: Array, axis: int, keep: Bool[Array, "..."] | None = None) -> Array:
    """`x` minus its mean along `axis`; with `keep`, the mean is over what is kept and the rest is 0."""
    # Taking the first element that counts away changes nothing but the rounding: what is constant becomes exactly 0.
    if keep is None:
        x = x - jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        return x - x.mean(axis, keepdims=True)
    x = x - jnp.take_along_axis(x, jnp.argmax(keep, axis, keepdims=True), axis)
    count = jnp.maximum(keep.sum(axis, keepdims=True), 1)
    return jnp.where(keep, x - jnp.where(keep, x, 0).sum(axis, keepdims=True) / count, 0)


def norm(x: Array, axis: int) -> Array:
    """Euclidean norm along `axis`, which it keeps, with gradient 0 and not NaN at 0."""
    # The largest entry is taken out first: the square of 1e20, or of 1e-25, is no float32. The norm does not depend on
    # what is taken out, which so needs no gradient.
    top = jax.lax.stop_gradient(jnp.abs(x).max(axis, keepdims=True))
    top = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    square = jnp.sum((x / top) ** 2, axis, keepdims=True)
    return jnp.where(square == 0, 0, top * jnp.sqrt(jnp.where(square == 0, 1, square)))


def size(x: Array) -> Array:
    """|x|, with slope 0 at 0, where that of `jnp.abs` is 1: it would push where both sides agree."""
    return x * jnp.sign(x)


def divide(x: Array, scale: Array, eps: float) -> Array:
    """x / (scale + eps), but 0 with gradient 0 where scale is 0. There the plain quotient has the gradient 1 / eps."""
    flat = scale == 0
    return jnp.where(flat, 0, x) / (jnp.where(flat, 1, scale) + eps)


def pearson(a: Array, b: Array, axis: int, keep: Bool[Array, "..."] | None = None) -> Array:
    """Pearson correlation along `axis`; 0, with gradient 0, where either side is constant."""
    a, b = centre(a, axis, keep), centre(b, axis, keep)
    covariance = jnp.sum(a * b, axis, keepdims=True)
    return divide(covariance, norm(a, axis) * norm(b, axis), PEARSON_EPS).squeeze(axis)

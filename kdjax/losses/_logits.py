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
    return -(1 - label_smoothing) * log_q_target - label_smoothing * log_q.mean(axis=1)


def split_target(
    log_p: Float[Array, "batch classes"], target: Int[Array, " batch"]
) -> tuple[Float[Array, "batch 2"], Float[Array, "batch classes"]]:
    """log[p_t, 1-p_t], and the log-distribution over the other classes, -inf at the target."""
    is_target = jax.nn.one_hot(target, log_p.shape[1], dtype=bool)
    log_target = jnp.take_along_axis(log_p, target[:, None], axis=1, mode="fill")
    # Not log(1 - exp(log p_t)): that is -inf as soon as p_t rounds to 1.
    log_rest = jax.nn.logsumexp(log_p, axis=1, keepdims=True, where=~is_target)
    return jnp.concatenate([log_target, log_rest], axis=1), jnp.where(is_target, -jnp.inf, log_p - log_rest)


def centre(x: Array, axis: int, keep: Bool[Array, "..."] | None = None) -> Array:
    """`x` minus its mean along `axis`; with `keep`, the mean is over what is kept and the rest is 0."""
    # Taking the first element away changes nothing but the rounding: what is constant becomes exactly 0.
    x = x - jnp.take(x, jnp.array([0]), axis=axis)
    if keep is None:
        return x - x.mean(axis, keepdims=True)
    count = jnp.maximum(keep.sum(axis, keepdims=True), 1)
    return jnp.where(keep, x - jnp.where(keep, x, 0).sum(axis, keepdims=True) / count, 0)


def norm(x: Array, axis: int) -> Array:
    """Euclidean norm along `axis` whose gradient at 0 is 0 and not NaN."""
    square = jnp.sum(x * x, axis, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def pearson(a: Array, b: Array, axis: int, keep: Bool[Array, "..."] | None = None) -> Array:
    """Pearson correlation along `axis`; 0, with gradient 0, where either side is constant."""
    a, b = centre(a, axis, keep), centre(b, axis, keep)
    scale = norm(a, axis) * norm(b, axis)
    # Without the inner `where` a constant side would receive the gradient b / 1e-8.
    return jnp.sum(jnp.where(scale > 0, a * b, 0) / (jnp.where(scale > 0, scale, 1) + PEARSON_EPS), axis)

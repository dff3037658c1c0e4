"""Logits of many classes cut short: the k largest, and how much the others weigh together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.types import BadInput


def shorten(
    logits: Float[Array, "*rows classes"], k: int
) -> tuple[Float[Array, "*rows {k}"], Int[Array, "*rows {k}"], Float[Array, "*rows"]]:
    """The k largest logits, their classes, and log Σ exp of the others.

    Args:
        logits: `[..., C]`, of one teacher or of several.
        k: from 1 to C.

    Returns: values `[..., k]`, largest first; classes `[..., k]`; rest `[...]`, -inf where k = C.

    Raises: BadInput: k out of range.

    >>> values, classes, rest = shorten(jnp.log(jnp.array([0.15, 0.5, 0.1, 0.25])), 2)
    >>> jnp.exp(values).round(5), classes, jnp.exp(rest).round(5)
    (Array([0.5 , 0.25], dtype=float32), Array([1, 3], dtype=int32), Array(0.25, dtype=float32))

    Reference: see `expand`.
    """
    number = logits.shape[-1]
    if not 1 <= k <= number:
        raise BadInput(f"k={k}; accepted: 1 to {number}, the number of classes")
    values, classes = jax.lax.top_k(logits, k)
    others = jnp.put_along_axis(logits, classes, -jnp.inf, axis=-1, inplace=False)
    return values, classes, jax.nn.logsumexp(others, axis=-1)


def expand(
    values: Float[Array, "*rows k"], classes: Int[Array, "*rows k"], rest: Float[Array, "*rows"], num_classes: int
) -> Float[Array, "*rows {num_classes}"]:
    """Logits of all classes again: those kept, and for each of the other C-k the same rest - log(C-k).

    What was kept, and the order of the classes kept, is exact. At T = 1 so are the probabilities of the k classes and
    the sum of the others', which are spread evenly; at T > 1 that sum comes out too large and the k classes' too small
    (x^(1/T) is concave), at T < 1 the other way. k = C gives the logits back bit for bit, k = C-1 to rounding. The
    result is logits, so that every loss and every ensemble takes it.

    Args:
        values, classes: `[..., k]`. rest: `[...]`.
        num_classes: C, at least k.

    Returns: `[..., C]`.

    Raises: BadInput: fewer classes than were kept.

    >>> values, classes, rest = shorten(jnp.log(jnp.array([0.15, 0.5, 0.1, 0.25])), 2)
    >>> jnp.exp(expand(values, classes, rest, 4)).round(5)
    Array([0.125, 0.5  , 0.125, 0.25 ], dtype=float32)

    Reference: Shen, Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022, marginal
    smoothing with top-k.
    """
    k = values.shape[-1]
    if num_classes < k:
        raise BadInput(f"num_classes={num_classes} for {k} classes kept; accepted: at least as many")
    even = rest[..., None] - jnp.log(max(num_classes - k, 1)).astype(values.dtype)
    every = jnp.broadcast_to(even, (*rest.shape, num_classes))
    return jnp.put_along_axis(every, classes, values, axis=-1, inplace=False)

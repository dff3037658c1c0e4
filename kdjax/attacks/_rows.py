"""Row by row: what an attack has found so far against what it sees now."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from kdjax.attacks.projections import lengths
from kdjax.types import Adversarial, Estimate

Keep = str
"""Which image an attack returns: the `last`; the one of lowest `value`; or, among the fooling ones, the one of least
`distance` (L2) or least `linf`. But for `last`, an image that fools comes before one that does not. An image whose
value is NaN is never given up for another."""
KEEP = ("last", "value", "distance", "linf")


def untouched(image: Array) -> Adversarial:
    """The clean images, nothing asked yet."""
    batch = len(image)
    zero = jnp.zeros(batch, jnp.int32)
    # Not weakly typed, as it would be without its type: else the first step of every attack is compiled for itself.
    return Adversarial(
        image,
        jnp.full(batch, jnp.inf, jnp.promote_types(image.dtype, jnp.float32)),
        jnp.zeros(batch, bool),
        zero,
        zero - 1,
    )


def merge(old: Adversarial, new: Adversarial, origin: Array, *, by: Keep, where: Array | None = None) -> Adversarial:
    """The better of two results per example, for the attacker; queries add up."""
    asked = jnp.ones(len(origin), bool) if where is None else where
    first = jnp.where(
        (old.first_success < 0) & (new.first_success >= 0), old.queries + new.first_success, old.first_success
    )
    take = asked & _better(new, old, origin, by)
    kept = pick(take, new, old)
    # A value that is no number tells of a slope that was none; what another run found must not hide it.
    value = jnp.where(jnp.isnan(old.value) | (asked & jnp.isnan(new.value)), jnp.nan, kept.value)
    queries = old.queries + jnp.where(asked, new.queries, 0)
    return kept._replace(
        value=value.astype(kept.value.dtype), queries=queries, first_success=jnp.where(asked, first, old.first_success)
    )


def repeat(count: int, body: Callable[[Any, Any], Any], carry: Any, *inputs: Any) -> Any:
    """A loop on the device where the inputs are traced, else in Python, so that attacks inside may step from Python."""
    if traced(inputs, carry):
        return jax.lax.fori_loop(0, count, body, carry)
    for number in range(count):
        carry = body(number, carry)
    return carry


def judge(kept: Adversarial, image: Array, seen: Estimate, active: Array, origin: Array, keep: Keep) -> Adversarial:
    """Take what was seen at a point into account: pay, note a first success, and keep the better image."""
    spent = kept.queries + jnp.where(active, seen.queries, 0)
    first = jnp.where(active & seen.success & (kept.first_success < 0), spent, kept.first_success)
    new = Adversarial(image, seen.value, seen.success, spent, first)
    take = active & _better(new, kept, origin, keep)
    return pick(take, new, kept)._replace(queries=spent, first_success=first)


def _better(new: Adversarial, old: Adversarial, origin: Array, by: Keep) -> Array:
    lower = new.value < old.value
    if by == "last":
        better = jnp.ones_like(new.success)
    elif by in ("distance", "linf"):
        norm = "l2" if by == "distance" else by
        nearer = lengths(new.image - origin)[norm] < lengths(old.image - origin)[norm]
        better = jnp.where(new.success & old.success, nearer, new.success | (~old.success & lower))
    else:
        better = jnp.where(new.success == old.success, lower, new.success)
    # What is no number is worse than nothing, yet it stays, so that it is seen at the end: a comparison would pass it
    # over and leave the clean image, as if the victim had held. Infinity is a value as any other, that of no image yet.
    return ~jnp.isnan(old.value) & (jnp.isnan(new.value) | better)


def pick(rows: Array, new: Any, old: Any) -> Any:
    """Rows of one tree, and of another elsewhere, in the other's types: a loop's state stays of one type."""
    where = lambda a, b: jnp.where(rows.reshape(rows.shape + (1,) * (a.ndim - 1)), a.astype(b.dtype), b)  # noqa: E731
    return jax.tree.map(where, new, old)


def fold(key: Array, number: Any) -> Array:
    """Each example's key, folded with a number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, number)


def traced(*trees: Any) -> bool:
    """Whether any array stands for one that is not there yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))

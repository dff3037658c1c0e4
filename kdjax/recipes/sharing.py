"""Terms that share a weight: their shares in a step, by what they cost over all devices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import axis
from kdjax.recipes.terms import Term
from kdjax.types import PyTree, TrainState


def shared_out(
    parts: Sequence[tuple[Term, Array]], mask: Array, state: TrainState
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Each sharing term's share by name, and the new memories.

    Args:
        parts: all terms, with their losses `[B]`.
        mask: 1 for a real row.
        state: of the step.
    """
    groups: dict[str, list[tuple[Term, Array]]] = {}
    for term, value in parts:
        if term.shared:
            groups.setdefault(term.shared.group, []).append((term, value))
    shares: dict[str, Array] = {}
    memories: dict[str, PyTree] = {}
    for group, members in groups.items():
        rule = members[0][0].shared
        assert rule is not None
        means = jnp.stack([_mean(jax.lax.stop_gradient(value), mask) for _, value in members])
        found, memories[group] = rule.divide(state.memory[group], means, **rule.numbers(state))
        shares |= {term.name: found[number] for number, (term, _) in enumerate(members)}
    return shares, memories


def _mean(value: Array, mask: Array) -> Array:
    """Over the real rows of all devices."""
    total, count = jnp.sum(jnp.where(mask > 0, value, 0)), jnp.sum(mask)
    if axis.batch_axis() is not None:
        total, count = jax.lax.psum((total, count), axis.batch_axis())
    return total / jnp.maximum(count, 1)

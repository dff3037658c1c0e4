"""Attacks that only propose and compare: random search."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._rows import fold, judge, pick, untouched
from kdjax.attacks._settings import require_count
from kdjax.attacks.iterate import Stop, on_success
from kdjax.attacks.starts import Start
from kdjax.types import Adversarial, Attack, Estimate, Objective, Projection

Propose = Callable[[Array, Array, Array, Array], Array]
"""`(key, best, origin, progress) -> image` for one example; progress runs from 0 to 1 over the search."""


def random_search(
    propose: Propose, projection: Projection, *, queries: int, start: Start, stop: Stop | None = None
) -> Attack:
    """Propose an image, project it, keep it if its value is lower; one query each, the start included.

    Args:
        propose: what to try next.
        projection: the threat set.
        queries: budget per example.
        start: the first proposal.
        stop: `on_success()` by default.
    """
    require_count("queries", queries)
    done = on_success() if stop is None else stop

    def search(objective: Objective, key: Array, image: Array, begun: Array | None, where: Array) -> Adversarial:
        def attempt(number: Array, carry: Any, tried: Array) -> Any:
            kept, active, memory = carry
            tried = projection(tried.astype(image.dtype), image)
            value, success = objective(tried, key=key[0], where=active)
            value = value.astype(kept.value.dtype)
            kept = judge(kept, tried, Estimate(value, success, tried, active.astype(jnp.int32)), active, image, "value")
            memory, stopped = done(memory, number, value, success)
            return kept, active & ~stopped, memory

        def step(carry: Any) -> Any:
            number, (kept, active, memory) = carry
            keys = fold(key, number)
            progress = number / queries
            tried = jax.vmap(propose, in_axes=(0, 0, 0, None))(keys, kept.image, image, progress)
            return number + 1, attempt(number, (kept, active, memory), tried)

        first = jax.vmap(start)(fold(key, queries), image)
        kept = untouched(image)
        begin = (kept, where, kept.value)  # infinity, both
        carry = attempt(jnp.asarray(0), begin, first if begun is None else begun)
        _, (kept, *_) = jax.lax.while_loop(lambda c: (c[0] < queries) & c[1][1].any(), step, (jnp.asarray(1), carry))
        return pick(where, kept, untouched(image))

    compiled = jax.jit(search)

    def attack(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        return compiled(objective, key, image, start, jnp.ones(len(image), bool) if where is None else where)

    return attack


def anywhere(start: Start) -> Propose:
    """A fresh draw, whatever was found before: random noise, the control."""
    return lambda key, best, origin, progress: start(key, origin)

"""An attack that reads decisions alone: who is fooled, never a score."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._rows import fold, pick, untouched
from kdjax.attacks._settings import require_count
from kdjax.attacks.projections import lengths, spread
from kdjax.types import Adversarial, Attack, Objective

HALVINGS = 10
"""Step sizes tried in each move, each half of the one before."""


def hop_skip_jump(*, iterations: int = 50, probes: int = 100, tries: int = 100, chunk: int | None = None) -> Attack:
    """Walk along the decision boundary towards the image: the nearest fooling image in L2 that decisions alone find.

    At a point x of the boundary, at distance r from the image, with D pixels and u_j uniform on the unit sphere,

    g = mean_j (phi_j - mean phi) u_j,    phi_j = +1 if x + (r / D) u_j fools, else -1
    x <- x + r / sqrt(t) 2^-k g / ||g||   with the least k that fools, then bisection towards the image

    Costs each example `cost` queries at most. Where no random start fools, the attack gives up.

    Args:
        iterations: moves along the boundary.
        probes: decisions asked for one slope; the paper lets them grow with sqrt(t), here they stay.
        tries: random images tried as a start, half of them of noisy pixels, half of 4 x 4 noisy blocks.
        chunk: probes per example evaluated at once; bounds memory and changes no result.

    Raises:
        BadInput: a count below 1.

    Reference:
        Chen, Jordan, Wainwright, HopSkipJumpAttack: A Query-Efficient Decision-Based Attack, IEEE S&P 2020,
        algorithms 1 and 2.
    """
    for name, count in {
        "iterations": iterations,
        "probes": probes,
        "tries": tries,
        "chunk": 1 if chunk is None else chunk,
    }.items():
        require_count(name, count)

    def search(objective: Objective, key: Array, image: Array, begun: Array | None, where: Array) -> Adversarial:
        bisections = _bisections(image[0].size)

        # Decisions alone: that an answer was no number (`mute`) is remembered, or it would pass for "does not fool".
        def fools(x: Array, active: Array) -> tuple[Array, Array]:
            value, success = objective(x, key=key[0], where=active)
            return success, active & jnp.isnan(value)

        def fools_each(points: Array, active: Array) -> tuple[Array, Array]:
            if chunk is None:
                return jax.vmap(lambda x: fools(x, active))(points)
            return jax.lax.map(lambda x: fools(x, active), points, batch_size=chunk)

        def bisect(x: Array, active: Array, mute: Array) -> tuple[Array, Array]:
            def halve(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                low, high, mute = carry
                middle = (low + high) / 2
                hit, lost = fools(image + spread(middle, image) * (x - image), active)
                return jnp.where(hit, low, middle), jnp.where(hit, middle, high), mute | lost

            ends = jnp.zeros(len(image), image.dtype), jnp.ones(len(image), image.dtype)
            _, high, mute = jax.lax.fori_loop(0, bisections, halve, (*ends, mute))
            # A share of 1 is the point itself, to the last bit.
            return pick(active & (high < 1), image + spread(high, image) * (x - image), x), mute

        def attempt(number: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            x, found, spent, mute = carry
            tried = jax.vmap(lambda k: _noise(k, image[0], number))(fold(key, number))
            hit, lost = fools(tried, where & ~found)
            hit = hit & where & ~found
            return pick(hit, tried, x), found | hit, spent + (where & ~found), mute | lost

        def move(number: Array, x: Array, active: Array) -> tuple[Array, Array]:
            far = lengths(x - image)["l2"]
            radius = jnp.maximum(far / image[0].size, 1e-5)
            u = jax.vmap(lambda k: jax.random.normal(k, (probes, *image.shape[1:]), image.dtype))(
                fold(key, tries + number)
            )
            u = jnp.moveaxis(u, 1, 0)
            u = u / jnp.linalg.norm(u.reshape(probes, len(image), -1), axis=-1).reshape(u.shape[:2] + (1,) * 3)
            points = jnp.clip(x[None] + spread(radius, image)[None] * u, 0, 1)
            u = (points - x[None]) / spread(radius, image)[None]  # what is left of them in the box
            fooled, mute = fools_each(points, active)
            phi = 2 * fooled.astype(image.dtype) - 1
            mean = phi.mean(0, keepdims=True)
            weight = jnp.where(jnp.abs(mean) == 1, phi, phi - mean)
            slope = (weight.reshape(weight.shape + (1,) * 3) * u).mean(0)
            slope = slope / spread(jnp.maximum(lengths(slope)["l2"], 1e-12), image)
            size = far / jnp.sqrt(number + 1.0).astype(image.dtype)
            halves = 2.0 ** -jnp.arange(HALVINGS, dtype=image.dtype).reshape(-1, 1, 1, 1, 1)
            steps = jnp.clip(x[None] + halves * (spread(size, image) * slope)[None], 0, 1)
            hits, lost = fools_each(steps, active)
            first = steps[jnp.argmax(hits, 0), jnp.arange(len(image))]
            return pick(active & hits.any(0), first, x), mute.any(0) | lost.any(0)

        def iteration(number: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            x, best, active, mute = carry
            x, lost = move(number, x, active)
            x, mute = bisect(x, active, mute | lost)
            nearer = lengths(x - image)["l2"] < lengths(best - image)["l2"]
            return x, pick(active & nearer, x, best), active, mute

        already, mute = fools(image, where)
        already = already & where
        found, spent, x = already, where.astype(jnp.int32), image
        if begun is not None:
            hit, lost = fools(begun, where & ~found)
            hit = hit & where & ~found
            spent, x, found, mute = spent + (where & ~found), pick(hit, begun, x), found | hit, mute | lost
        x, found, spent, mute = jax.lax.fori_loop(0, tries, attempt, (x, found, spent, mute))
        first_success = jnp.where(found, spent, -1)
        active = found & ~already
        x, mute = bisect(x, active, mute)
        _, best, _, mute = jax.lax.fori_loop(0, iterations, iteration, (x, x, active, mute))
        each = (iterations + 1) * bisections + iterations * (probes + HALVINGS)
        value, success = objective(best, key=key[0], where=where)
        spent = spent + jnp.where(active, each, 0) + where
        last = Adversarial(best, jnp.where(mute, jnp.nan, value), success & ~mute, spent, first_success)
        return pick(where, last, untouched(image))

    compiled = jax.jit(search)

    def attack(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        return compiled(objective, key, image, start, jnp.ones(len(image), bool) if where is None else where)

    return attack


def cost(iterations: int, size: int, *, probes: int = 100, tries: int = 100) -> int:
    """Most queries of `hop_skip_jump` on images of `size` numbers: a look, the start, moves and bisections, a look."""
    return 3 + tries + (iterations + 1) * _bisections(size) + iterations * (probes + HALVINGS)


def _bisections(size: int) -> int:
    # Down to a quarter of the distance at which slopes are measured.
    return math.ceil(math.log2(max(size, 2))) + 2


def _noise(key: Array, image: Array, number: Any) -> Array:
    """Noisy pixels, or noisy blocks of a 4 x 4 grid, which more classes answer to."""
    fine = jax.random.uniform(key, image.shape, image.dtype)
    blocks = jax.image.resize(jnp.round(fine[:4, :4]), image.shape, "nearest")
    return jnp.where(number % 2 == 0, fine, blocks)

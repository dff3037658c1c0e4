"""An attack that reads decisions alone: who is fooled, never a score."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._rows import fold, pick
from kdjax.attacks.projections import lengths, spread
from kdjax.types import Adversarial, Attack, BadInput, Objective

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
        if count < 1:
            raise BadInput(f"{name}={count}: accepted are 1 or more.")

    def search(objective: Objective, key: Array, image: Array, begun: Array | None, where: Array) -> Adversarial:
        bisections = _bisections(image[0].size)

        def fools(x: Array, active: Array) -> Array:
            return objective(x, key=key[0], where=active)[1]

        def fools_each(points: Array, active: Array) -> Array:
            if chunk is None:
                return jax.vmap(lambda x: fools(x, active))(points)
            return jax.lax.map(lambda x: fools(x, active), points, batch_size=chunk)

        def bisect(x: Array, active: Array) -> Array:
            def halve(_: Any, share: tuple[Array, Array]) -> tuple[Array, Array]:
                low, high = share
                middle = (low + high) / 2
                hit = fools(image + spread(middle, image) * (x - image), active)
                return jnp.where(hit, low, middle), jnp.where(hit, middle, high)

            ends = jnp.zeros(len(image)), jnp.ones(len(image))
            high = jax.lax.fori_loop(0, bisections, halve, ends)[1]
            # A share of 1 is the point itself, to the last bit.
            return pick(active & (high < 1), image + spread(high, image) * (x - image), x)

        def attempt(number: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, found, spent = carry
            tried = jax.vmap(lambda k: _noise(k, image.shape[1:], number))(fold(key, number))
            hit = fools(tried, where & ~found) & where & ~found
            return pick(hit, tried, x), found | hit, spent + (where & ~found)

        def move(number: Array, x: Array, active: Array) -> Array:
            far = lengths(x - image)["l2"]
            radius = jnp.maximum(far / image[0].size, 1e-5)
            u = jax.vmap(lambda k: jax.random.normal(k, (probes, *image.shape[1:])))(fold(key, tries + number))
            u = jnp.moveaxis(u, 1, 0)
            u = u / jnp.linalg.norm(u.reshape(probes, len(image), -1), axis=-1).reshape(u.shape[:2] + (1,) * 3)
            points = jnp.clip(x[None] + spread(radius, image)[None] * u, 0, 1)
            u = (points - x[None]) / spread(radius, image)[None]  # what is left of them in the box
            phi = 2.0 * fools_each(points, active) - 1
            mean = phi.mean(0, keepdims=True)
            weight = jnp.where(jnp.abs(mean) == 1, phi, phi - mean)
            slope = (weight.reshape(weight.shape + (1,) * 3) * u).mean(0)
            slope = slope / spread(jnp.maximum(lengths(slope)["l2"], 1e-12), image)
            size = far / jnp.sqrt(number + 1.0)
            halves = 2.0 ** -jnp.arange(HALVINGS).reshape(-1, 1, 1, 1, 1)
            steps = jnp.clip(x[None] + halves * (spread(size, image) * slope)[None], 0, 1)
            hits = fools_each(steps, active)
            first = steps[jnp.argmax(hits, 0), jnp.arange(len(image))]
            return pick(active & hits.any(0), first, x)

        def iteration(number: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, best, active = carry
            x = bisect(move(number, x, active), active)
            nearer = lengths(x - image)["l2"] < lengths(best - image)["l2"]
            return x, pick(active & nearer, x, best), active

        already = fools(image, where) & where
        found, spent, x = already, where.astype(jnp.int32), image
        if begun is not None:
            hit = fools(begun, where & ~found) & where & ~found
            spent, x, found = spent + (where & ~found), pick(hit, begun, x), found | hit
        x, found, spent = jax.lax.fori_loop(0, tries, attempt, (x, found, spent))
        first_success = jnp.where(found, spent, -1)
        active = found & ~already
        x = bisect(x, active)
        _, best, _ = jax.lax.fori_loop(0, iterations, iteration, (x, x, active))
        each = (iterations + 1) * bisections + iterations * (probes + HALVINGS)
        value, success = objective(best, key=key[0], where=where)
        spent = spent + jnp.where(active, each, 0) + where
        return Adversarial(
            pick(where, best, image), jnp.where(where, value, jnp.inf), success & where, spent, first_success
        )

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


def _noise(key: Array, shape: tuple[int, ...], number: Any) -> Array:
    """Noisy pixels, or noisy blocks of a 4 x 4 grid, which more classes answer to."""
    fine = jax.random.uniform(key, shape)
    blocks = jax.image.resize(jnp.round(fine[:4, :4]), shape, "nearest")
    return jnp.where(number % 2 == 0, fine, blocks)

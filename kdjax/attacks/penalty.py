"""Attacks that look for the nearest image: squared distance plus c times the objective, and the search on c."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from kdjax.attacks._rows import fold, merge, repeat, untouched
from kdjax.attacks._settings import Number, require_count, require_positive
from kdjax.attacks.objectives import Penalised
from kdjax.types import Adversarial, Attack, BadInput, Objective


def nearest(attack: Attack, weight: Array) -> Attack:
    """The attack on |x - x0|^2 + weight f(x), x0 being the image that it is given; weight is `[B]`."""

    def penalised(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        return attack(Penalised(objective, image, weight), key, image, start, where=where)

    return penalised


def search_weight(
    attack_at: Callable[[Array], Attack], *, steps: int = 9, initial: Number = 1e-2, ceiling: float = 1e10
) -> Attack:
    """Binary search on the constant c of `Penalised`, each example its own: the nearest image over all c tried.

    Success halves the interval from above; failure raises c tenfold while no success bounds it, then halves from below.

    Args:
        attack_at: makes the attack at weights c `[B]`.
        steps: constants tried.
        initial: the first c, above 0: tenfold 0 is 0 for ever.
        ceiling: largest c, so that c times the objective stays a number where nothing fools.

    Raises:
        BadInput: no step, or `initial` outside (0, ceiling].

    Reference:
        Carlini, Wagner (2017), section V.C and code.
    """
    require_count("steps", steps)
    require_positive("initial", initial)
    if not isinstance(initial, Tracer) and initial > ceiling:
        raise BadInput(f"initial={initial}: accepted are numbers above 0, up to the ceiling {ceiling:g}.")

    def attack(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        result = untouched(image)

        def narrow(number: Any, carry: Any) -> Any:
            result, low, high, weight = carry
            new = attack_at(weight)(objective, fold(key, number), image, start, where=where)
            high = jnp.where(new.success, weight, high)
            low = jnp.where(new.success, low, weight)
            weight = jnp.where(jnp.isfinite(high), (low + high) / 2, jnp.minimum(weight * 10, ceiling))
            return merge(result, new, image, by="distance", where=where), low, high, weight

        unbounded = result.value
        ends = jnp.zeros_like(unbounded), unbounded, jnp.full_like(unbounded, initial)
        return repeat(steps, narrow, (result, *ends), objective, key)[0]

    return attack

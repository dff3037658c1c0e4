"""Attacks made of attacks: one after another, the worst of several, the worst of several runs."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._rows import Keep, fold, merge, repeat, untouched
from kdjax.attacks._settings import require_count
from kdjax.types import Adversarial, Attack, BadInput, Objective


def then(first: Attack, second: Attack, *, by: Keep = "value") -> Attack:
    """The second begins where the first ended, with a key of its own; the better image of the two is returned."""

    def attack(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        a = first(objective, fold(key, 0), image, start, where=where)
        b = second(objective, fold(key, 1), image, a.image, where=where)
        return merge(a, b, image, by=by, where=where)

    return attack


def worst_of(*attacks: Attack, by: Keep = "value", skip_solved: bool = False) -> Attack:
    """For each example the worst that any of the attacks found: never a weaker result than one of them alone.

    Args:
        attacks: one or more.
        by: which of two results is worse: lower `value`, or smaller `distance` among those that fool.
        skip_solved: examples that one attack solved pay the next ones no query (AutoAttack's cascade).
    """
    if not attacks:
        raise BadInput("worst_of(): accepted are one or more attacks.")

    def attack(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        asked = jnp.ones(len(image), bool) if where is None else where
        result = untouched(image)
        for each in attacks:
            # The same keys as the member alone would get, so that "never weaker" is exact.
            new = each(objective, key, image, start, where=asked)
            result = merge(result, new, image, by=by, where=asked)
            asked = asked & ~new.success if skip_solved else asked
        return result

    return attack


def restarts(attack: Attack, count: int, *, by: Keep = "value", skip_solved: bool = True) -> Attack:
    """The worst of several runs that differ in their keys; it needs an attack with a random start."""
    require_count("restarts", count)

    def repeated(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        asked = jnp.ones(len(image), bool) if where is None else where

        def again(number: Any, carry: tuple[Adversarial, Array]) -> tuple[Adversarial, Array]:
            result, left = carry
            new = attack(objective, fold(key, number), image, start, where=left)
            return merge(result, new, image, by=by, where=left), left & ~new.success if skip_solved else left

        return repeat(count, again, (untouched(image), asked), objective, key)[0]

    return repeated

"""Attacks made of attacks: one after another, the worst of several, of several runs, of several wrong classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._rows import Keep, fold, merge, pick, repeat, untouched
from kdjax.attacks._settings import Radius, require_count
from kdjax.attacks.objectives import Scored
from kdjax.attacks.projections import lengths
from kdjax.types import Adversarial, Attack, BadInput, Objective

Play = Callable[..., Adversarial]
"""`(members, objective, key, image, start, where) -> Adversarial`."""


@dataclass(frozen=True)
class Combined:
    """An attack made of attacks, which lie open, so that they can be compiled one by one (`sweep.at_radius`)."""

    members: tuple[Attack, ...]
    play: Play

    def __call__(
        self, objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        asked = jnp.ones(len(image), bool) if where is None else where
        return self.play(self.members, objective, key, image, start, asked)


def then(first: Attack, second: Attack, *, by: Keep = "value") -> Attack:
    """The second begins where the first ended, with a key of its own; the better image of the two is returned."""

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        a = members[0](objective, fold(key, 0), image, start, where=where)
        b = members[1](objective, fold(key, 1), image, a.image, where=where)
        return merge(a, b, image, by=by, where=where)

    return Combined((first, second), play)


def worst_of(*attacks: Attack, by: Keep = "value", skip_solved: bool = False) -> Attack:
    """For each example the worst that any of the attacks found: never a weaker result than one of them alone.

    Args:
        attacks: one or more.
        by: which of two results is worse: lower `value`, or smaller `distance` among those that fool.
        skip_solved: examples that one attack solved pay the next ones no query (AutoAttack's cascade).
    """
    if not attacks:
        raise BadInput("worst_of(): accepted are one or more attacks.")

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        result, asked = untouched(image), where
        for each in members:
            # The same keys as the member alone would get, so that "never weaker" is exact.
            new = each(objective, key, image, start, where=asked)
            result = merge(result, new, image, by=by, where=asked)
            asked = asked & ~new.success if skip_solved else asked
        return result

    return Combined(attacks, play)


def restarts(attack: Attack, count: int, *, by: Keep = "value", skip_solved: bool = True) -> Attack:
    """The worst of several runs that differ in their keys; it needs an attack with a random start."""
    require_count("restarts", count)

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        def again(number: Any, carry: tuple[Adversarial, Array]) -> tuple[Adversarial, Array]:
            result, left = carry
            new = members[0](objective, fold(key, number), image, start, where=left)
            return merge(result, new, image, by=by, where=left), left & ~new.success if skip_solved else left

        return repeat(count, again, (untouched(image), where), objective, key)[0]

    return Combined((attack,), play)


def each_target(
    attack: Attack, goal: Callable[..., Scored], count: int = 9, *, by: Keep = "value", skip_solved: bool = True
) -> Attack:
    """The worst of runs towards each of the likeliest wrong classes, likeliest first; any wrong class is a success.

    What is found is judged by the objective that the whole was given. That and the clean answer cost a query each.

    Args:
        attack: of one target.
        goal: `(victim, label, toward=class) -> Objective`, such as `objectives.dlr`.
        count: of classes; all wrong ones where there are fewer.
        by: as for `worst_of`, by the goal's values.
        skip_solved: examples that one run solved pay the next ones no query.
    """
    require_count("targets", count)

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        victim, label = _asked(objective)
        order = _likeliest(objective, key[0], image, where, count)

        def toward(number: Any, carry: tuple[Adversarial, Array]) -> tuple[Adversarial, Array]:
            result, left = carry
            own = goal(victim, label, toward=jnp.take(order, number, axis=1))
            new = members[0](own, fold(key, number), image, start, where=left)
            return merge(result, new, image, by=by, where=left), left & ~new.success if skip_solved else left

        begun = untouched(image)._replace(queries=where.astype(jnp.int32))
        found = repeat(order.shape[1], toward, (begun, where), objective, key)[0]
        return _judged(objective, key[0], found, image, where)

    return Combined((attack,), play)


def aimed(attack: Attack, goal: Callable[..., Scored]) -> Attack:
    """The attack with an objective of its own; what it finds is judged by the one it was given, at one query more."""

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        found = members[0](goal(*_asked(objective)), key, image, start, where=where)
        return _judged(objective, key[0], found, image, where)

    return Combined((attack,), play)


def within(attack: Attack, epsilon: Radius) -> Attack:
    """The attack's images as far as they lie in the linf ball; in the place of others the clean ones, at one query."""

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        found = members[0](objective, key, image, start, where=where)
        beyond = where & (lengths(found.image - image)["linf"] > epsilon + 1e-6)
        value, _ = _seen(objective, image, key[0], beyond)
        none = untouched(image)._replace(value=value, queries=found.queries + 1)
        return pick(beyond, none, found)

    return Combined((attack,), play)


def unattacked() -> Attack:
    """The images as they are, at one query: who is fooled before anybody attacks."""

    def play(members: Any, objective: Objective, key: Array, image: Array, start: Any, where: Array) -> Adversarial:
        return _judged(objective, key[0], untouched(image)._replace(queries=jnp.zeros_like(where, int)), image, where)

    return Combined((), play)


def _asked(objective: Objective) -> tuple[Any, Array]:
    """The victim and the labels of an objective."""
    if not isinstance(objective, Scored) or "target" in objective.data:
        raise BadInput(
            "this attack has objectives of its own and is untargeted; accepted: an untargeted objective of a victim."
        )
    return objective.victim, objective.data["label"]


@partial(jax.jit, static_argnums=4)
def _likeliest(objective: Scored, key: Array, image: Array, where: Array, count: int) -> Array:
    """The wrong classes of the largest logits, `[B, count]` or fewer."""
    logits = objective.logits(image, key=key, where=where)
    own = jax.nn.one_hot(objective.data["label"], logits.shape[-1], dtype=bool)
    return jax.lax.top_k(jnp.where(own, -jnp.inf, logits), min(count, logits.shape[-1] - 1))[1]


_seen = jax.jit(lambda objective, image, key, where: objective(image, key=key, where=where))


def _judged(objective: Objective, key: Array, found: Adversarial, origin: Array, where: Array) -> Adversarial:
    """What was found, with the value and the success that an objective sees in it, at one query."""
    value, success = _seen(objective, found.image, key, where)
    value = jnp.where(jnp.isnan(found.value), found.value.astype(value.dtype), value)
    queries = found.queries + where.astype(found.queries.dtype)
    known = jnp.where(found.first_success < 0, queries, found.first_success)
    judged = Adversarial(found.image, value, success, queries, jnp.where(success, known, -1))
    return pick(where, judged, untouched(origin))

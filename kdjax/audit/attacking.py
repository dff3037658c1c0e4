"""Attacks as an audit runs them: per example who stands, and whether what the attack claims is true."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks import named, objectives, oracles, projections, starts
from kdjax.attacks._rows import fold, merge, untouched
from kdjax.attacks.run import run
from kdjax.attacks.victims import Victim
from kdjax.audit.subject import Subject, chunk_size, chunks, scores
from kdjax.types import Adversarial, Attack, Objective

Goal = Callable[..., objectives.Scored]


class AttackResult(NamedTuple):
    """What an attack did to every example.

    `broken [N]`; the attack's images `[N, H, W, C]`; `excess`, how far the farthest lies outside the ball, and
    `outside`, outside the box; `unconfirmed`, the share of claimed successes that the network, asked again in another
    order, does not confirm.
    """

    broken: np.ndarray
    image: np.ndarray
    excess: float
    outside: float
    unconfirmed: float


class Progress(NamedTuple):
    """How an attack went, step by step: the mean best loss, and the share of all examples broken so far."""

    value: list[float]
    broken: list[float]


def claims(
    subject: Subject, victim: Victim, image: np.ndarray, success: np.ndarray, radius: float, *, limit: bool = True
) -> AttackResult:
    """Check an attack's images and successes against the images themselves and a fresh forward pass."""
    lengths = projections.lengths(jnp.asarray(image - subject.image))[subject.threat.norm]
    excess = float(jnp.max(lengths)) - radius if limit else 0.0
    outside = max(0.0, -float(image.min()), float(image.max()) - 1)
    # In reverse, so that an answer that hangs on an example's neighbours, as in training mode, is caught.
    # One that is paid is asked about what is claimed alone.
    rows = np.flatnonzero(success | (not victim.on_host))[::-1]
    answers = scores(subject, victim, image[rows]).argmax(-1) if len(rows) else subject.label[rows]
    false = success[rows] & (answers == subject.label[rows])
    return AttackResult(success, image, max(excess, 0.0), outside, float(false.sum() / max(success.sum(), 1)))


def attack_examples(
    subject: Subject,
    attack: Attack,
    goal: Goal,
    *,
    where: np.ndarray | None = None,
    target: np.ndarray | None = None,
    limit: bool = True,
) -> AttackResult:
    """Run an attack of the algebra on the examples `where`; the others come back as they are, not broken.

    Args:
        subject: network, examples and threat.
        attack: any.
        goal: an objective of `attacks.objectives`.
        where: `[N]` bool, all by default.
        target: `[N]` classes wanted.
        limit: whether the attack is bound to the ball.
    """
    rows = np.arange(len(subject.label)) if where is None else np.flatnonzero(where)
    image, success = subject.image.copy(), np.zeros(len(subject.label), bool)
    if len(rows):
        # Filled up to whole chunks, so that every call of an attack has the shape it is compiled for; not paid ones.
        whole = -(-len(rows) // chunk_size(subject)) * chunk_size(subject)
        full = rows if subject.victim.on_host else np.resize(rows, whole)
        found = run(
            attack, subject.victim, subject.image[full], subject.label[full], objective=goal, seed=subject.seed,
            target=None if target is None else target[full], chunk=chunk_size(subject),
        )  # fmt: skip
        image[rows], success[rows] = found.image[: len(rows)], found.success[: len(rows)]
    return claims(subject, subject.victim, image, success, subject.threat.epsilon, limit=limit)


def climb(
    subject: Subject,
    goal: Goal,
    *,
    steps: int,
    radius: float | None = None,
    step_size: float | None = None,
    victim: Victim | None = None,
    random_start: int | None = None,
    where: np.ndarray | None = None,
    whole: bool = False,
    draws: int = 1,
) -> tuple[AttackResult, Progress]:
    """PGD that keeps the worst image, one compiled step for every radius, step size and number of steps.

    Args:
        subject: network, examples and threat.
        goal: an objective of `attacks.objectives`.
        steps: how many.
        radius: the threat's by default.
        step_size: 2.5 radius / steps by default.
        victim: another than the subject's.
        random_start: number of the random start; None begins at the image.
        where: `[N]` bool, examples to attack, all by default.
        whole: go on to the end where all is broken already, for the sake of the course.
        draws: slopes averaged at each step, for a victim that draws random numbers.
    """
    victim = subject.victim if victim is None else victim
    radius = subject.threat.epsilon if radius is None else radius
    size = jnp.asarray(2.5 * radius / steps if step_size is None else step_size, jnp.float32)
    epsilon = jnp.asarray(radius, jnp.float32)
    step, begin = _step(subject.threat.norm, draws), _begin(subject.threat.norm)
    base = jax.random.fold_in(jax.random.key(subject.seed), 0 if random_start is None else random_start + 1)
    picked = np.arange(len(subject.label)) if where is None else np.flatnonzero(where)
    worst, broken = subject.image.copy(), np.zeros(len(subject.label), bool)
    courses = []
    for places, asked in chunks(subject, len(picked)):
        rows = picked[places]
        image, real = jnp.asarray(subject.image[rows]), jnp.asarray(asked)
        objective = goal(victim, jnp.asarray(subject.label[rows]))
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, rows)
        point = image if random_start is None else begin(keys, image, epsilon)
        best, course = untouched(image), []
        for number in range(steps):
            point, best, tally = step(objective, keys, image, point, best, epsilon, size, real, np.int32(number))
            course.append(tally)
            if not whole and np.asarray(tally)[1] == asked.sum():
                break
        worst[rows[asked]], broken[rows[asked]] = np.asarray(best.image)[asked], np.asarray(best.success)[asked]
        courses.append(np.asarray(course))
    count = min(map(len, courses), default=0)
    total = np.sum([course[:count] for course in courses], axis=0) / len(subject.image)
    found = claims(subject, victim, worst, broken, radius)
    value, share = np.reshape(total, (-1, 2)).T.tolist() if courses else ([], [])
    return found, Progress(value, share)


@functools.cache
def _step(norm: str, draws: int) -> Callable[..., tuple[Array, Adversarial, Array]]:
    oracle = oracles.autodiff() if draws == 1 else oracles.eot(oracles.autodiff(), draws)

    def step(
        objective: Objective, key: Array, image: Array, point: Array, best: Adversarial, epsilon: Array, size: Array,
        real: Array, number: Array,
    ) -> tuple[Array, Adversarial, Array]:  # fmt: skip
        key = fold(key, number)
        moved = named.pgd(epsilon, steps=1, step_size=size, norm=norm, oracle=oracle)(objective, key, image, point)
        best = merge(best, moved, image, by="value")
        return (
            moved.image,
            best,
            jnp.stack([jnp.sum(jnp.where(real, best.value, 0)), jnp.sum(1.0 * (best.success & real))]),
        )

    return jax.jit(step)


@functools.cache
def _begin(norm: str) -> Callable[[Array, Array, Array], Array]:
    def begin(key: Array, image: Array, epsilon: Array) -> Array:
        return projections.ball(norm, epsilon)(jax.vmap(starts.uniform(norm, epsilon))(key, image), image)

    return jax.jit(begin)

"""A generalist of all classes and specialists for those that it confuses, as one teacher.

A specialist for the classes S knows them and a dustbin, which stands for all others: its logits are `[batch, |S| + 1]`,
the dustbin last. Half of what it learns from is of its classes, so that it overrates them until `correct_dustbin`.

Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 5.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from kdjax.ensembles.unify import Unified
from kdjax.losses._rows import clean
from kdjax.types import BadInput

Subset: TypeAlias = tuple[int, ...]


def confusable(
    probabilities: Float[np.ndarray, "examples classes"], clusters: int, *, seed: int = 0
) -> tuple[Subset, ...]:
    """Sets of classes that the generalist gives probability to together: k-means on the columns of its covariance.

    Args:
        probabilities: the generalist's, of many examples, `[examples, classes]`.
        clusters: how many sets, from 1 to the number of classes.
        seed: of k-means.

    Returns: the classes of each set, in rising order; sets of one class are left out, since nothing in them can be told
        apart.

    Raises: BadInput: a number of clusters out of range.

    >>> p = np.array([[0.6, 0.4, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.6, 0.4]])
    >>> sorted(confusable(p, 2))
    [(0, 1), (2, 3)]

    Reference: section 5.3, assigning classes to specialists.
    """
    from sklearn.cluster import KMeans  # half a second, which no other ensemble should cost

    classes = probabilities.shape[1]
    if not 1 <= clusters <= classes:
        raise BadInput(f"clusters={clusters}; accepted: 1 to {classes}, the number of classes")
    covariance = np.cov(probabilities.astype(np.float64), rowvar=False)
    member = KMeans(clusters, n_init=10, random_state=seed).fit(covariance.T).labels_  # pyright: ignore[reportArgumentType]
    sets = [tuple(np.flatnonzero(member == c).tolist()) for c in range(clusters)]
    return tuple(s for s in sets if len(s) > 1)


def specialist_labels(labels: Integer[np.ndarray, " examples"], subset: Subset) -> Int[np.ndarray, " examples"]:
    """Labels as a specialist sees them: its own numbering, |S| for the dustbin, -1 where not known.

    >>> specialist_labels(np.array([7, 2, 4, -1]), (4, 7))
    array([ 1,  2,  0, -1], dtype=int32)
    """
    table = np.full(max(labels.max(initial=0), *subset) + 2, len(subset), np.int32)
    table[list(subset)] = np.arange(len(subset))
    table[-1] = -1
    return table[labels]


def half_and_half(
    labels: Integer[np.ndarray, " examples"], subset: Subset, *, seed: int
) -> tuple[Int[np.ndarray, " chosen"], float]:
    """What a specialist learns from: every example of its classes, and as many of the others, drawn at random.

    Args:
        labels: `[examples]`, all known. subset: its classes. seed: of the draw.

    Returns: the chosen examples in rising order, one more than once where the others are too few; and by how much its
        classes are over-sampled against the others.

    Raises: BadInput: no example of its classes, or none of the others.

    >>> chosen, ratio = half_and_half(np.array([0, 1, 2, 2, 1, 2, 2, 2]), (0, 1), seed=0)
    >>> len(chosen), round(ratio, 5)  # three of three against three of five
    (6, 1.66667)
    """
    own = np.isin(labels, subset)
    special, rest = np.flatnonzero(own), np.flatnonzero(~own)
    if not len(special) or not len(rest):
        raise BadInput(
            f"subset={subset}: {len(special)} examples of its classes and {len(rest)} of others; accepted: some of both"
        )
    drawn = np.random.default_rng(seed).choice(rest, len(special), replace=len(rest) < len(special))
    return np.sort(np.concatenate([special, drawn])), len(rest) / len(special)


def with_dustbin(logits: Float[Array, "batch classes"], subset: Subset) -> Float[Array, "batch own"]:
    """A network of all classes as a specialist: the logits of its classes, and log Σ exp of all others.

    softmax of the result is softmax(logits) with the others added up, so a copy of the generalist begins as what the
    generalist knows, and no new layer is needed.

    Args:
        logits: `[batch, classes]`. subset: the specialist's classes.

    Returns: `[batch, |S| + 1]`.

    Raises: BadInput: a subset that is empty, holds every class, or a class twice or out of range.

    >>> jnp.exp(with_dustbin(jnp.log(jnp.array([[5.0, 2.0, 1.0, 2.0]])), (1, 0))).round(4)
    Array([[2., 5., 3.]], dtype=float32)
    """
    own = _members((subset,), logits.shape[1])[0]
    logits = clean(logits, None)
    rest = jax.nn.logsumexp(logits[:, ~own], axis=1, keepdims=True)
    return jnp.concatenate([logits[:, np.array(subset)], rest], axis=1)


def correct_dustbin(logits: Float[Array, "batch own"], ratio: float) -> Float[Array, "batch own"]:
    """A specialist's logits for data as it is: the dustbin's raised by the log of the over-sampling ratio.

    >>> jax.nn.softmax(correct_dustbin(jnp.zeros((1, 2)), 3.0)).round(5)
    Array([[0.25, 0.75]], dtype=float32)

    Reference: section 5.2, training specialists.
    """
    return logits.at[:, -1].add(math.log(ratio))


def committee(
    generalist: Float[Array, "batch classes"],
    specialists: Sequence[Float[Array, "batch _"]],
    subsets: Sequence[Subset],
    *,
    tolerance: float = 1e-6,
    steps: int = 500,
) -> Unified:
    """The answer nearest to what all say: the q of min KL(p_g‖q) + Σ_{m active} KL(p_m‖q_m).

    q_m is q with its classes outside S_m added up. A specialist is active where the generalist's largest class is one
    of its own. The problem is convex in q, though not in logits of q, and solved by expectation-maximisation: a
    dustbin's probability is dealt out as q has it, then q is the mean of all. With one active specialist that is exact
    at once: on S, q = (p_g + p_m)/2; elsewhere the rest of the mass in the generalist's proportions.

    Args:
        generalist: logits `[batch, classes]`.
        specialists: corrected logits `[batch, |S_m| + 1]`, the dustbin last; none at all gives p_g.
        subsets: the classes of each.
        tolerance: stop where a step changes no q(c) by more than this.
        steps: or after so many.

    Returns: log q as logits, and the residual: what the last step changed.

    Raises: BadInput: subsets or shapes that do not fit.

    >>> g, m = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1]])), jnp.log(jnp.array([[0.1, 0.5, 0.4]]))
    >>> print(np.exp(committee(g, [m], [(0, 1)]).logits).round(4))  # (.5 + .1)/2, (.3 + .5)/2, and .3 in two halves
    [[0.3  0.4  0.15 0.15]]

    Reference: section 5.4, equation 5.
    """
    classes = generalist.shape[1]
    shapes = [s.shape for s in specialists]
    expected = [(generalist.shape[0], len(s) + 1) for s in subsets]
    if shapes != expected:
        raise BadInput(f"specialists have shapes {shapes}; accepted: {expected}, a dustbin beside each subset")
    log_g = jax.nn.log_softmax(clean(generalist, None))
    if not subsets:
        return Unified(log_g, jnp.zeros_like(log_g[:, 0]))
    own = jnp.asarray(_members(subsets, classes))
    answers = [jax.nn.log_softmax(clean(s, None)) for s in specialists]
    # [M, B, K]: what specialist m says of each class; of those outside its own, of their sum.
    log_m = jnp.stack(
        [
            jnp.broadcast_to(s[:, -1:], log_g.shape).at[:, np.array(subset)].set(s[:, :-1])
            for s, subset in zip(answers, subsets, strict=True)
        ]
    )
    active = own[:, jnp.argmax(log_g, axis=1)]
    log_count = jnp.log(1.0 + active.sum(0))

    def solve(log_g: Array, log_m: Array, active: Array, log_count: Array) -> tuple[Array, Array]:
        counted = jnp.concatenate([jnp.ones((1, classes), bool), jnp.broadcast_to(active[:, None], own.shape)])

        def update(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            step, old, _ = carry
            q = jnp.broadcast_to(old, own.shape)
            rest = jax.nn.logsumexp(q, axis=1, keepdims=True, where=~own)
            dealt = jnp.where(own, log_m, log_m + q - rest)
            every = jnp.concatenate([log_g[None], dealt])
            new = jax.nn.log_softmax(jax.nn.logsumexp(every, axis=0, where=counted) - log_count)
            return step + 1, new, jnp.abs(jnp.exp(new) - jnp.exp(old)).max()

        def unsolved(carry: tuple[Array, Array, Array]) -> Array:
            return (carry[0] < steps) & (carry[2] > tolerance)

        start = (jnp.zeros((), jnp.int32), log_g, jnp.ones((), log_g.dtype))
        _, log_q, change = jax.lax.while_loop(unsolved, update, start)
        return log_q, change

    every = jax.lax.stop_gradient((log_g, log_m, active, log_count))
    return Unified(*jax.vmap(solve, in_axes=(0, 1, 1, 0))(*every))


def _members(subsets: Sequence[Subset], classes: int) -> np.ndarray:
    """True where class c belongs to subset m, `[M, K]`; refuses what is no proper subset."""
    for subset in subsets:
        good = 0 < len(set(subset)) == len(subset) < classes and all(0 <= c < classes for c in subset)
        if not good:
            raise BadInput(
                f"subset={subset}; accepted: one class or more but not all, each once and from 0 to {classes - 1}"
            )
    return np.stack([np.isin(np.arange(classes), subset) for subset in subsets])

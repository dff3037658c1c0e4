"""Teachers that know different but overlapping classes, as one teacher of the union (UHC).

The model: there is a q over the union, and teacher i says p_i(l) = q(l) / Σ_{k in L_i} q(k) for its classes L_i. Three
ways to q, each refused where no shared classes link the teachers (`label_spaces.refuse_unlinked`):

- `cross_entropy`: the q that explains the answers best, a convex problem per example;
- `factorise_logits`, `factorise_probabilities`: least squares, z_i(l) = u(l) + b_i and p_i(l) = u(l)·c_i;
- `block_kl`: no q at all, the student is held against every teacher on that teacher's classes.

The first three give one answer `[batch, union]` per example that any loss can follow; `answers` are one
`[batch, classes]` of logits per teacher, in its own numbering. They are constants: no gradient passes through them.

Reference: Vongkulbhaisal, Vinayavekhin, Visentini-Scarzanella, "Unifying Heterogeneous Classifiers with Distillation",
CVPR 2019, sections 3.2 (estimation of q) and 3.3 (backpropagation).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kdjax.ensembles.label_spaces import LabelSpaces, embed_all, refuse_unlinked
from kdjax.losses import response
from kdjax.losses._rows import Mask, Scalar, require_positive
from kdjax.types import BadInput

Answers: TypeAlias = Sequence[Float[Array, "batch _"]]


_LEAST = 1e-6


class Unified(NamedTuple):
    """An answer over the union: `logits [B, U]`, T log q, and `residual [B]`, how far the solver stopped from a
    solution, in probability; near 0 for every example whose q is to be trusted."""

    logits: Array
    residual: Array


def cross_entropy(
    answers: Answers, spaces: LabelSpaces, *, temperature: Scalar = 1.0, tolerance: float = 1e-6, steps: int = 50
) -> Unified:
    """The maximum-likelihood q: the minimum over u, q = softmax(u), of -Σ_i Σ_{l in L_i} p_i(l) log softmax_{L_i}(u)_l.

    Convex, and flat only along a constant added to u. Newton's method, damped by ln(1 + r)/r with r the range of the
    step over classes: as |third derivative| ≤ r·(second) along any step, no line search is needed. It starts at
    `factorise_logits`, which is the solution already where the teachers agree on what they share. Where they disagree
    and all that they share is improbable, say 1e-3 in all, the mass of the blocks is only as sure as residual/1e-3.
    Where float32 finds no solution, probabilities below 1e-6 count as 1e-6.

    Args:
        answers: logits `[batch, classes]` per teacher.
        spaces: who knows what.
        temperature: T > 0; p_i = softmax(v_i/T).
        tolerance: stop where every |Σ_i (softmax_{L_i}(u) - p_i)| is at most this.
        steps: or after so many.

    Returns: logits T log q, and the residual max |Σ_i (softmax_{L_i}(u) - p_i)|.

    Raises: BadInput: classes that nothing links, shapes that do not fit, or a temperature ≤ 0.

    >>> spaces = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    >>> answers = jnp.log(jnp.array([[5.0, 3.0]])), jnp.log(jnp.array([[3.0, 2.0]]))  # of q = (.5, .3, .2)
    >>> print(np.exp(cross_entropy(answers, spaces).logits).round(4))
    [[0.5 0.3 0.2]]

    Reference: UHC, section 3.2.1, the cross-entropy method.
    """
    start, known, log_p = _prepare(answers, spaces, temperature)

    def solve(u: Array, p: Array) -> tuple[Array, Array]:
        def told(u: Array) -> Array:
            return jax.nn.softmax(jnp.broadcast_to(u, known.shape), where=known)

        def slope(u: Array) -> Array:
            return jnp.sum(told(u) - p, axis=0)

        def update(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            step, u, gradient = carry
            predicted = told(u)
            # Scaled to a unit diagonal: probabilities span many decades. The ridge settles the flat direction.
            scale = jax.lax.rsqrt(jnp.maximum(jnp.sum(predicted * (1 - predicted), axis=0), 1e-30))
            hessian = jnp.diag(jnp.sum(predicted, axis=0)) - predicted.T @ predicted
            scaled = scale[:, None] * hessian * scale[None, :] + 1e-6 * jnp.eye(len(u), dtype=u.dtype)
            move = -scale * jnp.linalg.solve(scaled, scale * gradient)
            reach = jnp.maximum(jnp.ptp(move), 1e-6)
            newton = u + move * jnp.log1p(reach) / reach
            # Where float32 cannot solve the system, a step of iterative scaling, which never makes the sum larger.
            scaling = u + jnp.log(jnp.sum(p, 0)) - jnp.log(jnp.maximum(jnp.sum(predicted, 0), 1e-30))
            u = jax.nn.log_softmax(jnp.where(jnp.all(jnp.isfinite(newton)), newton, scaling))
            return step + 1, u, slope(u)

        def unsolved(carry: tuple[Array, Array, Array]) -> Array:
            return (carry[0] < steps) & (jnp.abs(carry[2]).max() > tolerance)

        _, u, gradient = jax.lax.while_loop(unsolved, update, (jnp.zeros((), jnp.int32), u, slope(u)))
        return u, jnp.abs(gradient).max()

    log_q, residual = jax.vmap(solve, in_axes=(0, 1))(start, jnp.exp(log_p))
    # Very sure teachers that disagree may have no solution that float32 can reach. With no probability below `_LEAST`
    # there is one, and what it solves is as near to what was asked.
    unsure = jax.nn.log_softmax(jnp.maximum(log_p, np.log(_LEAST)), where=known[:, None])
    again, left = jax.vmap(solve, in_axes=(0, 1))(_least_squares(unsure, spaces), jnp.exp(unsure))
    unsolved = ~((residual <= 10 * tolerance) & jnp.all(jnp.isfinite(log_q), axis=-1))
    return Unified(temperature * jnp.where(unsolved[:, None], again, log_q), jnp.where(unsolved, left, residual))


def factorise_logits(
    answers: Answers, spaces: LabelSpaces, *, temperature: Scalar = 1.0
) -> Float[Array, "batch union"]:
    """Least squares on logits: the u of min over u, b of Σ_i Σ_{l in L_i} (v_i(l) - u(l) - b_i)².

    Linear in the answers, so one constant matrix solves it; tempering before or after is the same.

    Args:
        answers: logits `[batch, classes]` per teacher. temperature: T > 0; changes a constant per example alone.
        spaces: who knows what.

    Returns: `[batch, union]`, T log probabilities of softmax(u/T).

    Raises: BadInput: classes that nothing links, shapes that do not fit, or a temperature ≤ 0.

    >>> spaces = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    >>> answers = jnp.log(jnp.array([[5.0, 3.0]])), 7 + jnp.log(jnp.array([[3.0, 2.0]]))
    >>> print(np.exp(factorise_logits(answers, spaces)).round(4))
    [[0.5 0.3 0.2]]

    Reference: UHC, section 3.2.2, matrix factorisation in logit space.
    """
    return temperature * _prepare(answers, spaces, temperature)[0]


def factorise_probabilities(
    answers: Answers, spaces: LabelSpaces, *, temperature: Scalar = 1.0, tolerance: float = 1e-6, steps: int = 1000
) -> Unified:
    """Least squares on probabilities: min over u, c ≥ 0 of Σ_i Σ_{l in L_i} (p_i(l) - u(l)·c_i)², q = u/Σu.

    Alternating: the best u for given c and the best c for given u are quotients, and no step makes the sum larger.
    It starts at `factorise_logits`, the solution already where the teachers agree on what they share. Small
    probabilities weigh little here, and where all that is shared is improbable the alternation is slow.

    Args:
        answers: logits `[batch, classes]` per teacher.
        spaces: who knows what.
        temperature: T > 0; p_i = softmax(v_i/T).
        tolerance: stop where a sweep changes no q(l) by more than this.
        steps: or after so many sweeps.

    Returns: logits T log q, and the residual: what the last sweep changed.

    Raises: BadInput: classes that nothing links, shapes that do not fit, or a temperature ≤ 0.

    >>> spaces = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    >>> answers = jnp.log(jnp.array([[5.0, 3.0]])), jnp.log(jnp.array([[3.0, 2.0]]))
    >>> print(np.exp(factorise_probabilities(answers, spaces).logits).round(4))
    [[0.5 0.3 0.2]]

    Reference: UHC, section 3.2.2, matrix factorisation in probability space.
    """
    log_q, known, log_p = _prepare(answers, spaces, temperature)

    def solve(log_q: Array, log_p: Array) -> tuple[Array, Array]:
        # In logarithms throughout: the square of a small probability underflows.
        def total(x: Array, axis: int) -> Array:
            return jax.nn.logsumexp(x, axis=axis, keepdims=True, where=known)

        def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            step, old, _ = carry
            u = jnp.broadcast_to(old, known.shape)
            c = jnp.broadcast_to(total(log_p + u, 1) - total(2 * u, 1), known.shape)
            new = jax.nn.log_softmax((total(log_p + c, 0) - total(2 * c, 0))[0])
            return step + 1, new, jnp.abs(jnp.exp(new) - jnp.exp(old)).max()

        def unsolved(carry: tuple[Array, Array, Array]) -> Array:
            return (carry[0] < steps) & (carry[2] > tolerance)

        _, log_q, change = jax.lax.while_loop(
            unsolved, sweep, (jnp.zeros((), jnp.int32), log_q, jnp.ones((), log_q.dtype))
        )
        return log_q, change

    log_q, change = jax.vmap(solve, in_axes=(0, 1))(log_q, log_p)
    return Unified(temperature * log_q, change)


def block_kl(
    student: Float[Array, "batch union"],
    teacher: Float[Array, "batch own"],
    *,
    spaces: LabelSpaces,
    labels: Int[Array, " batch"] | None = None,
    temperature: Scalar = 1.0,
    where: Mask = None,
) -> Float[Array, " batch"]:
    """Each teacher against the student on the teacher's classes: Σ_i T² KL(p_i ‖ softmax_{L_i}(student/T)).

    It is `cross_entropy`'s sum, as a loss of the student, less the teachers' entropies.

    Args:
        student: logits over the union.
        teacher: the teachers' logits side by side in the order of the maps, `[batch, Σ_i |L_i|]`.
        spaces: who knows what.
        temperature: T > 0. where: rows to keep. labels: ignored.

    Returns: `[batch]`, T² nats; 0 where the student relates each teacher's classes as that teacher does.

    Raises: BadInput: classes that nothing links, shapes that do not fit, or a temperature ≤ 0.

    >>> spaces = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    >>> teacher = jnp.log(jnp.array([[9.0, 1.0, 1.0, 1.0]]))
    >>> block_kl(jnp.zeros((1, 3)), teacher, spaces=spaces).round(5)  # ln 2 - H(.9), and 0
    Array([0.36806], dtype=float32)

    Reference: UHC, section 3.3, direct backpropagation.
    """
    refuse_unlinked(spaces)
    ends = np.cumsum([0, *map(len, spaces.maps)])
    if student.shape[1:] != (spaces.union,) or teacher.shape[1:] != (ends[-1],):
        raise BadInput(
            f"student has shape {student.shape} and teacher {teacher.shape}; accepted: [batch, {spaces.union}] and "
            f"[batch, {ends[-1]}]"
        )
    blocks = zip(spaces.maps, pairwise(ends), strict=True)
    losses = [
        response.kl(student[:, np.array(own)], teacher[:, a:b], temperature=temperature, where=where)
        for own, (a, b) in blocks
    ]
    return jnp.sum(jnp.stack(losses), axis=0)


def _prepare(
    answers: Answers, spaces: LabelSpaces, temperature: Scalar
) -> tuple[Float[Array, "batch union"], Bool[Array, "teachers union"], Float[Array, "teachers batch union"]]:
    """Checks; then least squares on logits and the answers, both as log-probabilities, and who knows what."""
    require_positive("temperature", temperature)
    refuse_unlinked(spaces)
    embedded = jax.lax.stop_gradient(embed_all(answers, spaces)) / temperature
    log_p = jax.nn.log_softmax(embedded)
    return _least_squares(log_p, spaces), jnp.asarray(spaces.mask), log_p


def _least_squares(log_p: Float[Array, "teachers batch union"], spaces: LabelSpaces) -> Float[Array, "batch union"]:
    """The log-probabilities over the union that come nearest to the answers', but for a constant of each teacher."""
    teacher = np.repeat(np.arange(len(spaces.maps)), [len(own) for own in spaces.maps])
    union = np.concatenate(spaces.maps)
    # One row per answer: 1 at its class and 1 at its teacher. The smallest of all solutions is as good as any.
    design = np.concatenate([np.eye(spaces.union)[union], np.eye(len(spaces.maps))[teacher]], axis=1)
    solution = jnp.asarray(np.linalg.pinv(design)[: spaces.union], log_p.dtype)
    return jax.nn.log_softmax(jnp.matmul(solution, log_p[teacher, :, union], precision="highest").T)

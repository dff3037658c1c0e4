"""Many teachers as one: pools, all called alike, which every student loss can follow unchanged.

    pool(logits, weights, *, temperature=1.0, **own) -> logits [batch, classes]

- `logits`: the teachers' answers `[teachers, batch, classes]`. Halves are computed in float32.
- `weights`: `[batch, teachers]`, rows that sum to 1, from a gate of `kdjax.ensembles.gates`. A teacher of weight 0 says
  nothing, whatever it holds.
- `temperature` T: no unit, above 0, that of the loss that follows.

As Σ_k w_k KL(p_k‖q) = KL(Σ_k w_k p_k‖q) + Σ_k w_k KL(p_k‖Σ_j w_j p_j), `response.kl` after `mean_probability` has the
gradient of the weighted mean of the teachers' losses, and a value that is smaller by a constant.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.ensembles import gates as gating
from kdjax.ensembles.gates import Answers, Domain, Labels, Student, Weights, check_answers
from kdjax.losses._rows import Mask, Scalar, blank, clean, require_fraction, require_positive
from kdjax.spec import Family, formula
from kdjax.spec.formula import Summand
from kdjax.types import BadInput, nearest

Pooled: TypeAlias = Float[Array, "batch classes"]

_CERTAIN = 1e3
"""Logits this far apart make a one-hot: exp(-1000) is 0 in float64 too."""


class Vote(NamedTuple):
    """What voters agreed on: a one-hot as `logits [B, K]`, and `weight [B]`, how much the example counts; 0: nobody
    was sure enough to vote."""

    logits: Array
    weight: Array


@runtime_checkable
class Ensemble(Protocol):
    """Answers `[T, B, K]` to one, `[B, K]`; a `Vote` where examples count differently."""

    def __call__(
        self,
        logits: Array,
        *,
        student: Array | None = None,
        labels: Array | None = None,
        domain: Array | None = None,
        temperature: Scalar = 1.0,
    ) -> Array | Vote: ...


def _without_weightless(logits: Array, weights: Array) -> tuple[Array, Array]:
    """Answers without those of teachers of weight 0, and weights `[T, B, 1]`."""
    check_answers(logits, weights=(weights, "BT"))
    share = weights.T[:, :, None].astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jnp.where(share == 0, 0, clean(logits, None)), share


def _sum(answers: Array, share: Array) -> Array:
    return jnp.sum(share * answers, axis=0)


def _log_mean(answers: Array, share: Array, temperature: Scalar) -> Array:
    log_p = jax.nn.log_softmax(answers / temperature)
    return jax.nn.logsumexp(log_p, axis=0, b=jnp.broadcast_to(share, log_p.shape))


def mean_probability(logits: Answers, weights: Weights, *, temperature: Scalar = 1.0) -> Pooled:
    """Temper, then average: T log Σ_k w_k softmax(v_k/T), so that softmax(·/T) is the mean of the tempered answers.

    Args:
        logits: `[teachers, batch, classes]`. weights: `[batch, teachers]`.
        temperature: T > 0.

    Returns: `[batch, classes]`, T log probabilities.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.

    >>> answers, even = jnp.log(jnp.array([[[9.0, 1.0]], [[1.0, 1.0]]])), jnp.array([[0.5, 0.5]])
    >>> jax.nn.softmax(mean_probability(answers, even, temperature=2.0) / 2).round(5)  # of (.75, .25), (.5, .5)
    Array([[0.625, 0.375]], dtype=float32)

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 3.
    """
    require_positive("temperature", temperature)
    return temperature * _log_mean(*_without_weightless(logits, weights), temperature)


def mean_probability_then_temper(logits: Answers, weights: Weights, *, temperature: Scalar = 1.0) -> Pooled:
    """Average, then temper: log Σ_k w_k softmax(v_k), which the loss divides by T.

    Args:
        logits: `[teachers, batch, classes]`. weights: `[batch, teachers]`. temperature: ignored.

    Returns: `[batch, classes]`, log probabilities.

    Raises: BadInput: shapes that do not fit.

    >>> answers, even = jnp.log(jnp.array([[[9.0, 1.0]], [[1.0, 1.0]]])), jnp.array([[0.5, 0.5]])
    >>> jax.nn.softmax(mean_probability_then_temper(answers, even) / 2).round(5)  # the roots of .7 and .3
    Array([[0.60436, 0.39564]], dtype=float32)
    """
    return _log_mean(*_without_weightless(logits, weights), 1.0)


def mean_logit(logits: Answers, weights: Weights, *, temperature: Scalar = 1.0) -> Pooled:
    """Average the logits: Σ_k w_k v_k.

    Args:
        logits: `[teachers, batch, classes]`. weights: `[batch, teachers]`. temperature: ignored.

    Returns: `[batch, classes]`.

    Raises: BadInput: shapes that do not fit.

    >>> answers, even = jnp.log(jnp.array([[[9.0, 1.0]], [[1.0, 1.0]]])), jnp.array([[0.5, 0.5]])
    >>> jax.nn.softmax(mean_logit(answers, even)).round(5)  # the mean probability is (.7, .3)
    Array([[0.75, 0.25]], dtype=float32)
    """
    return _sum(*_without_weightless(logits, weights))


def geometric(logits: Answers, weights: Weights, *, temperature: Scalar = 1.0) -> Pooled:
    """Geometric mean of the tempered answers, normalised: softmax(·/T) ∝ Π_k softmax(v_k/T)^w_k.

    This is softmax(Σ_k w_k v_k / T): the same answer as `mean_logit` at every temperature. The logits are T log
    probabilities here, and differ from those by a constant per example, which only losses of raw logits see.

    Args:
        logits: `[teachers, batch, classes]`. weights: `[batch, teachers]`.
        temperature: T > 0.

    Returns: `[batch, classes]`, T log probabilities.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.

    >>> answers, even = jnp.log(jnp.array([[[9.0, 1.0]], [[1.0, 1.0]]])), jnp.array([[0.5, 0.5]])
    >>> jnp.exp(geometric(answers, even)).round(5)  # as 3 to 1
    Array([[0.75, 0.25]], dtype=float32)
    """
    require_positive("temperature", temperature)
    return temperature * jax.nn.log_softmax(_sum(*_without_weightless(logits, weights)) / temperature)


def majority(logits: Answers, weights: Weights, *, temperature: Scalar = 1.0) -> Vote:
    """Every teacher votes for its class with its weight; the class with the most wins, a tie by summed confidence.

    Args:
        logits: `[teachers, batch, classes]`. weights: `[batch, teachers]`.
        temperature: T > 0; softmax(·/T) of the result is one-hot.

    Returns: a `Vote` whose weight is 1: everyone votes on every example.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.

    >>> answers = jnp.array([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 9.0]]])
    >>> result = majority(answers, jnp.full((1, 3), 1 / 3))
    >>> jax.nn.softmax(result.logits), result.weight
    (Array([[1., 0.]], dtype=float32), Array([1.], dtype=float32))
    """
    require_positive("temperature", temperature)
    ballots, confidence, share = _ballots(logits, weights)
    votes = jnp.sum(share * ballots, axis=0)
    tied = votes >= votes.max(1, keepdims=True) - 1e-6
    favour = jnp.where(tied, jnp.sum(share * confidence * ballots, axis=0), -1)
    return Vote(_one_hot(favour, temperature), jnp.ones_like(favour[:, 0]))


def vote(logits: Answers, weights: Weights, *, temperature: Scalar = 1.0, threshold: Scalar = 0.9) -> Vote:
    """KD3A: teachers surer than the threshold vote with their confidence for their class; the largest sum wins.

    Where no teacher is sure enough all of them vote, so that there is an answer to look at, and the example's weight is
    0: it stays in the batch, is counted, and teaches nothing.

    Args:
        logits: `[teachers, batch, classes]`.
        weights: `[batch, teachers]`; votes are T·w_k times the confidence, so that equal weights give the paper's sums.
        temperature: T > 0; softmax(·/T) of the result is one-hot. Confidence is judged at T = 1.
        threshold: from 0 (all vote) to 1. The authors raise it from 0.9 to 0.95 over training.

    Returns: a `Vote` whose weight is the winner's summed confidence, from 0 to the number of teachers.

    Raises: BadInput: shapes that do not fit, a temperature ≤ 0, or a threshold outside [0, 1].

    >>> answers = jnp.log(jnp.array([[[0.95, 0.05]], [[0.92, 0.08]], [[0.2, 0.8]]]))
    >>> result = vote(answers, jnp.full((1, 3), 1 / 3))
    >>> jax.nn.softmax(result.logits), result.weight.round(5)  # the third is not sure enough
    (Array([[1., 0.]], dtype=float32), Array([1.87], dtype=float32))

    Reference: Feng et al., "KD3A: Unsupervised Multi-Source Decentralized Domain Adaptation via Knowledge
    Distillation", ICML 2021, section 3.2.
    """
    require_positive("temperature", temperature)
    require_fraction("threshold", threshold)
    ballots, confidence, share = _ballots(logits, weights)
    sure = ~(confidence <= threshold) & (share > 0)  # a NaN votes too, so that it is seen
    anyone = sure.any(0)
    voice = jnp.where(sure | ~anyone[None], confidence, 0)
    votes = len(logits) * jnp.sum(share * voice * ballots, axis=0)
    return Vote(_one_hot(votes, temperature), jnp.where(anyone[:, 0], votes.max(1), 0))


def _ballots(logits: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Each teacher's class as a one-hot `[T, B, K]`, its confidence and its weight `[T, B, 1]`."""
    answers, share = _without_weightless(logits, weights)
    ballots = jax.nn.one_hot(answers.argmax(-1), answers.shape[-1], dtype=answers.dtype)
    return ballots, jax.nn.softmax(answers).max(-1, keepdims=True), share


def _one_hot(scores: Pooled, temperature: Scalar) -> Pooled:
    winner = jax.nn.one_hot(scores.argmax(1), scores.shape[1], dtype=scores.dtype)
    hot = temperature * _CERTAIN * (winner - 1)
    return jnp.where(jnp.isnan(scores).any(1, keepdims=True), jnp.nan, hot)  # argmax would hide it


def confidence_aware_features(
    student: Float[Array, "teachers batch ..."] | Sequence[Float[Array, "batch ..."]],
    teacher: Float[Array, "teachers batch ..."] | Sequence[Float[Array, "batch ..."]],
    *,
    logits: Answers,
    labels: Int[Array, " batch"],
    where: Mask = None,
) -> Float[Array, " batch"]:
    """CA-MKD's feature term: Σ_k w_k·mean((r_k(s) - f_k)²), w = `confidence_aware(logits)`.

    Args:
        student: the student's last features, projected for each teacher, `[teachers, batch, ...]`; where the teachers'
            features differ in shape, a sequence of `[batch, ...]`.
        teacher: the teachers' features, of the same shapes.
        logits: `[teachers, batch, classes]`, what each teacher's classifier says of the features projected for it. The
            weights are constants: no gradient passes through them.
        labels: `[batch]`; negative (not known): equal weights. where: rows to keep.

    Returns: `[batch]`, squared features. The authors weigh it by 50.

    Raises: BadInput: shapes that do not fit.

    >>> ones, right = jnp.ones((2, 1, 3)), jnp.exp(-jnp.array([0.1, 1.1]))  # CE = 0.1 and 1.1: weights .73, .27
    >>> student = jnp.log(jnp.stack([right, 1 - right], 1))[:, None]
    >>> teacher = jnp.array([1.0, 3.0])[:, None, None] * ones  # squared differences 0 and 4
    >>> confidence_aware_features(ones, teacher, logits=student, labels=jnp.array([0])).round(5)
    Array([1.07577], dtype=float32)

    Reference: Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, equations 5 to
    7.
    """
    check_answers(logits, labels=(labels, "B"))
    shapes = [[x.shape for x in side] for side in (student, teacher)]
    if shapes[0] != shapes[1] or [x[:1] for x in shapes[0]] != [logits.shape[1:2]] * len(logits):
        raise BadInput(
            f"student has shapes {shapes[0]}, teacher {shapes[1]} and logits {logits.shape}; accepted: the same "
            "features, and teachers and batch as in logits"
        )
    weights = jax.lax.stop_gradient(gating.confidence_aware(logits, labels=labels))
    gaps = [clean(mine, where) - clean(theirs, where) for mine, theirs in zip(student, teacher, strict=True)]
    squares = jnp.stack([jnp.square(gap).reshape(len(gap), -1).mean(-1) for gap in gaps])
    return blank(jnp.sum(blank(weights, where).T * squares, axis=0), where)


def combine(pool: Callable[..., Array | Vote], gate: Callable[..., Array] = gating.uniform) -> Ensemble:
    """A pool fed by a gate: answers `[T, B, K]` to one answer `[B, K]`.

    >>> import functools
    >>> ensemble = combine(mean_logit, functools.partial(gating.fixed, shares=(1, 0)))
    >>> ensemble(jnp.array([[[3.0, 1.0]], [[0.0, 0.0]]]))
    Array([[3., 1.]], dtype=float32)
    """

    def ensemble(
        logits: Answers,
        *,
        student: Student = None,
        labels: Labels = None,
        domain: Domain = None,
        temperature: Scalar = 1.0,
    ) -> Array | Vote:
        weights = gate(logits, labels=labels, student=student, domain=domain, temperature=temperature)
        return pool(logits, weights, temperature=temperature)

    return ensemble


POOLS = Family(sys.modules[__name__], first=("logits", "weights"))
"""The pools by name."""

GATES = Family(gating, first=("logits", "labels"))
"""The gates by name."""

_GIVEN = ("logits", "weights", "labels", "student", "domain", "temperature")


def resolve(value: str | Summand, *, flag: str = "ensemble") -> Ensemble:
    """The ensemble that an expression says: a pool, plus a gate where it is not `uniform`.

    Args:
        value: `vote(threshold=0.5) + entropy(scale=0.3)`, as text or as it is.
        flag: that it was typed for, for messages.

    Raises: BadInput: another expression, an unknown name or keyword, or a keyword that is missing.

    >>> resolve("mean_logit + fixed(shares=(0, 1))")(jnp.array([[[3.0, 1.0]], [[0.0, 2.0]]]))
    Array([[0., 2.]], dtype=float32)
    """
    known, found = POOLS.names() + GATES.names(), dict[str, Callable[..., Any]]()
    terms = formula(value, flag=flag).terms
    for weight, call in terms:
        if call.name not in known:
            names = f"the pools {', '.join(POOLS.names())}, and the gates {', '.join(GATES.names())}"
            raise call.error(f"read the name {call.name}; accepted: {names}{nearest(call.name, known)}")
        family = POOLS if call.name in POOLS.functions else GATES
        part = "pool" if family is POOLS else "gate"
        if not (isinstance(weight, int | float) and weight == 1) or part in found:
            raise call.error(f"read {weight!r}*{call!r}; accepted: POOL or POOL + GATE, of each one, and no weights")
        found[part] = family.resolve(call, given=_GIVEN, varying=False)
    if "pool" not in found:
        raise terms[0].call.error(
            f"read {value} without a pool; accepted: POOL + GATE, with one of {', '.join(POOLS.names())}"
        )
    return combine(**found)

"""How much each of several teachers counts, example by example: gates, all called alike.

    gate(logits, *, labels=None, student=None, domain=None, temperature=1.0, **own) -> weights [batch, teachers]

So that one call fits all, each gate accepts all of the following, and its Args name what it reads:

- `logits`: the teachers' answers `[teachers, batch, classes]`, before any softmax. Halves are computed in float32.
- `labels`: int `[batch]`, negative where not known.
- `student`: the student's logits `[batch, classes]`.
- `domain`: int `[batch]`, where each example comes from, negative where not known; for `given`, weights
  `[batch, teachers]`.
- `temperature` T: no unit, above 0, that of the loss. Confidence is always judged at T = 1.

A row of weights sums to 1. `kdjax.ensembles.pools` pools answers by them.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from kdjax.ensembles._minimum_norm import minimum_norm
from kdjax.losses import _logits
from kdjax.losses._rows import Scalar, clean, require, require_positive
from kdjax.types import BadInput

Answers: TypeAlias = Float[Array, "teachers batch classes"]
Weights: TypeAlias = Float[Array, "batch teachers"]
Labels: TypeAlias = Int[Array, " batch"] | None
Student: TypeAlias = Float[Array, "batch classes"] | None
Domain: TypeAlias = Int[Array, " batch"] | Float[Array, "batch teachers"] | None

_NORM_FLOOR = 1e-6


def check_answers(logits: Array, **others: tuple[Array, str]) -> None:
    """Refuse what does not fit answers `[teachers, batch, classes]`; others come with their axes, such as "BT"."""
    if logits.ndim != 3:
        raise BadInput(f"logits has shape {logits.shape}; accepted: three axes, teachers, batch and classes")
    sizes = dict(zip("TBK", logits.shape, strict=True))
    for name, (other, axes) in others.items():
        expected = tuple(sizes[axis] for axis in axes)
        if other.shape != expected:
            raise BadInput(f"logits has shape {logits.shape} and {name} {other.shape}; accepted: {expected}")


def _even(logits: Array) -> Array:
    check_answers(logits)
    teachers, batch, _ = logits.shape
    return jnp.full((batch, teachers), 1 / teachers, jnp.promote_types(logits.dtype, jnp.float32))


def _log_p(logits: Array) -> Array:
    check_answers(logits)
    return jax.nn.log_softmax(clean(logits, None))


def _entropy(logits: Array) -> Array:
    log_p = _log_p(logits)
    return _logits.expectation(log_p, -log_p)


def _of_the_others(share: Float[Array, "teachers batch"]) -> Weights:
    """(1 - share) / (T - 1): what goes to a teacher is what the others have; a lone teacher has all."""
    others = len(share) - 1
    return ((1 - share) / others if others else jnp.ones_like(share)).T


def uniform(
    logits: Answers, *, labels: Labels = None, student: Student = None, domain: Domain = None, temperature: Scalar = 1.0
) -> Weights:
    """Every teacher counts the same: 1/T.

    Args:
        logits: `[teachers, batch, classes]`, of which only the shape is read. The rest is ignored.

    Returns: `[batch, teachers]`.

    >>> uniform(jnp.zeros((2, 1, 3)))
    Array([[0.5, 0.5]], dtype=float32)
    """
    return _even(logits)


def fixed(
    logits: Answers,
    *,
    labels: Labels = None,
    student: Student = None,
    domain: Domain = None,
    temperature: Scalar = 1.0,
    shares: Sequence[float | int] | Float[Array, " teachers"],
) -> Weights:
    """Weights given once for all examples: shares / Σ shares.

    Args:
        logits: `[teachers, batch, classes]`, of which only the shape is read.
        shares: one per teacher, none negative, at least one positive; an array that is traced cannot be checked.
        labels, student, domain, temperature: ignored.

    Returns: `[batch, teachers]`.

    Raises: BadInput: shares of another number than teachers, a negative one, or none positive.

    >>> fixed(jnp.zeros((2, 1, 3)), shares=(3, 1))
    Array([[0.75, 0.25]], dtype=float32)
    """
    even = _even(logits)
    if not isinstance(shares, Tracer):
        numbers = np.asarray(shares, np.float64)
        if not (numbers.shape == (len(logits),) and np.isfinite(numbers).all() and numbers.min() >= 0 < numbers.max()):
            raise BadInput(f"shares={shares}; accepted: {len(logits)} numbers, none negative, at least one positive")
    wanted = jnp.asarray(shares, even.dtype)
    return jnp.broadcast_to((wanted / wanted.sum())[None, :], even.shape)


def given(
    logits: Answers, *, labels: Labels = None, student: Student = None, domain: Domain = None, temperature: Scalar = 1.0
) -> Weights:
    """Weights that travel with each example, such as a domain classifier's probabilities: domain / Σ domain.

    Args:
        logits: `[teachers, batch, classes]`, of which only the shape is read.
        domain: `[batch, teachers]`, none negative. A row of zeros gives equal weights.
        labels, student, temperature: ignored.

    Returns: `[batch, teachers]`.

    Raises: BadInput: no domain, or one of another shape.

    >>> given(jnp.zeros((2, 1, 3)), domain=jnp.array([[0.2, 0.6]])).round(5)
    Array([[0.25, 0.75]], dtype=float32)
    """
    even = _even(logits)
    if domain is None:
        raise BadInput("domain=None: given reads each example's weights there; accepted: domain [batch, teachers]")
    check_answers(logits, domain=(domain, "BT"))
    wanted = domain.astype(even.dtype)
    total = wanted.sum(1, keepdims=True)
    return jnp.where(total == 0, even, wanted / jnp.where(total == 0, 1, total))


def oracle(
    logits: Answers, *, labels: Labels = None, student: Student = None, domain: Domain = None, temperature: Scalar = 1.0
) -> Weights:
    """The teacher of the example's own domain, and no other: onehot(domain).

    Args:
        logits: `[teachers, batch, classes]`, of which only the shape is read.
        domain: int `[batch]`, teacher d being the expert of domain d. Negative (not known): equal weights. T or above:
            NaN, so that it is seen.
        labels, student, temperature: ignored.

    Returns: `[batch, teachers]`.

    Raises: BadInput: no domain, or no integers `[batch]`.

    >>> oracle(jnp.zeros((2, 2, 3)), domain=jnp.array([1, -1]))
    Array([[0. , 1. ],
           [0.5, 0.5]], dtype=float32)
    """
    even = _even(logits)
    if domain is None or not jnp.issubdtype(domain.dtype, jnp.integer):
        has = "None" if domain is None else f"{domain.dtype} of shape {domain.shape}"
        raise BadInput(f"domain={has}: oracle asks the teacher of each example's domain; accepted: integers [batch]")
    check_answers(logits, domain=(domain, "B"))
    hot = jax.nn.one_hot(domain, len(logits), dtype=even.dtype)
    hot = jnp.where((domain < len(logits))[:, None], hot, jnp.nan)
    return jnp.where((domain < 0)[:, None], even, hot)


def entropy(
    logits: Answers,
    *,
    labels: Labels = None,
    student: Student = None,
    domain: Domain = None,
    temperature: Scalar = 1.0,
    scale: Scalar = 1.0,
) -> Weights:
    """The surer, the more: softmax over teachers of -H(p_k)/s.

    Args:
        logits: `[teachers, batch, classes]`.
        scale: s > 0, nats; towards 0 only the surest teacher counts.
        labels, student, domain, temperature: ignored.

    Returns: `[batch, teachers]`.

    Raises: BadInput: a scale ≤ 0.

    >>> sure, unsure = [[1e4, 0.0]], [[0.0, 0.0]]  # H = 0 and ln 2: weights as 1 to 1/2
    >>> np.asarray(entropy(jnp.array([sure, unsure])), float).round(5)
    array([[0.66667, 0.33333]])
    """
    require_positive("scale", scale)
    return jax.nn.softmax(-_entropy(logits) / scale, axis=0).T


def ebkd(
    logits: Answers, *, labels: Labels = None, student: Student = None, domain: Domain = None, temperature: Scalar = 1.0
) -> Weights:
    """The surer, the more, linearly: (1 - H_k / Σ_j H_j) / (T - 1).

    The published weights are 1 - H_k / Σ_j H_j, which sum to T - 1, and the authors divide the loss by T: theirs is
    (T - 1)/T times ours.

    Args:
        logits: `[teachers, batch, classes]`.
        labels, student, domain, temperature: ignored.

    Returns: `[batch, teachers]`; equal where no teacher is in any doubt. With two teachers, one of them sure of itself,
    the other has no weight at all.

    >>> ebkd(jnp.array([[[1e4, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]))  # H = 0, ln 2, ln 2
    Array([[0.5 , 0.25, 0.25]], dtype=float32)

    Reference: Kwon, Na, Lee, Kim, "Adaptive Knowledge Distillation Based on Entropy", ICASSP 2020.
    """
    doubt = _entropy(logits)
    total = doubt.sum(0, keepdims=True)
    return _of_the_others(jnp.where(total == 0, 1 / len(doubt), doubt / jnp.where(total == 0, 1, total)))


def max_probability(
    logits: Answers,
    *,
    labels: Labels = None,
    student: Student = None,
    domain: Domain = None,
    temperature: Scalar = 1.0,
    scale: Scalar = 1.0,
) -> Weights:
    """Confidence: softmax over teachers of max_c p_k(c) / s.

    Args:
        logits: `[teachers, batch, classes]`.
        scale: s > 0. At 1 two weights differ by a factor e at most; at 0.1 by e^10.
        labels, student, domain, temperature: ignored.

    Returns: `[batch, teachers]`.

    Raises: BadInput: a scale ≤ 0.

    >>> answers = jnp.log(jnp.array([[[0.9, 0.1]], [[0.5, 0.5]]]))
    >>> np.asarray(max_probability(answers, scale=0.4), float).round(5)  # as e to 1
    array([[0.73106, 0.26894]])
    """
    require_positive("scale", scale)
    return jax.nn.softmax(jnp.exp(_log_p(logits).max(-1)) / scale, axis=0).T


def confidence_aware(
    logits: Answers, *, labels: Labels = None, student: Student = None, domain: Domain = None, temperature: Scalar = 1.0
) -> Weights:
    """CA-MKD: who knows the label better counts more, (1 - softmax_k(CE_k)) / (T - 1), CE_k teacher k's cross-entropy.

    The authors' code divides the loss by T once more.

    Args:
        logits: `[teachers, batch, classes]`.
        labels: `[batch]`, needed. Negative (not known): equal weights. K or above: NaN, so that it is seen.
        student, domain, temperature: ignored.

    Returns: `[batch, teachers]`.

    Raises: BadInput: no labels, or labels of another length.

    >>> right = jnp.exp(-jnp.array([0.1, 1.1]))  # what each teacher gives to the label, so CE = 0.1 and 1.1
    >>> answers = jnp.log(jnp.stack([right, 1 - right], 1))[:, None]
    >>> np.asarray(confidence_aware(answers, labels=jnp.array([0])), float).round(5)
    array([[0.73106, 0.26894]])

    Reference: Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022, equations 2 to
    4.
    """
    check_answers(logits)
    if labels is None:
        raise BadInput("labels=None: confidence_aware weighs by them; accepted: labels [batch], -1 if not known")
    check_answers(logits, labels=(labels, "B"))
    target = jnp.maximum(labels, 0)
    cost = jax.vmap(lambda z: _logits.negative_log_likelihood(z, target, 0.0))(clean(logits, None))
    weights = _of_the_others(jax.nn.softmax(cost, axis=0))
    return jnp.where((labels < 0)[:, None], 1 / len(logits), weights)


def gradient_space(
    logits: Answers,
    *,
    labels: Labels = None,
    student: Student = None,
    domain: Domain = None,
    temperature: Scalar = 1.0,
    bound: Scalar = 0.6,
    normalize: bool | float = True,
    shared: bool | float = False,
) -> Weights:
    """AE-KD: a direction that no teacher opposes much, min_a ‖Σ_k a_k u_k‖² with Σa = 1 and 0 ≤ a ≤ C.

    u_k = g_k/‖g_k‖, g_k = T(q - p_k), the gradient of `response.kl` of teacher k by the student's logits. The weights
    are a_k/‖g_k‖, made to sum to 1: those of the g_k themselves in that direction. The quadratic programme is solved
    exactly, not by a fixed number of steps. The weights are constants: no gradient passes through them.

    Args:
        logits: `[teachers, batch, classes]`.
        student: `[batch, classes]`, needed.
        temperature: T > 0.
        bound: C, from 1/T (equal a) to 1 (no bound), for T teachers. With one teacher it is not read.
        normalize: False takes g_k for u_k, and a for the weights.
        shared: True finds one `a` for the batch, from the gradients of its mean loss, as the authors do. It then sees
            padding, and under pmap the device's own examples only. False finds one for each example.
        labels, domain: ignored.

    Returns: `[batch, teachers]`. A teacher with whom the student agrees fully has g = 0; ‖g‖/T is taken as 1e-6 at
    least.

    Raises: BadInput: no student, one of another shape, or a bound that no weights can meet.

    >>> answers = jnp.log(jnp.array([[[0.9, 0.1]], [[0.3, 0.7]]]))  # q - p: -0.4 and 0.2 of (1, -1)
    >>> np.asarray(gradient_space(answers, student=jnp.zeros((1, 2))), float).round(5)  # the two cancel
    array([[0.33333, 0.66667]])

    Reference: Du et al., "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space", NeurIPS 2020.
    """
    check_answers(logits)
    if student is None:
        raise BadInput("student=None: gradient_space looks at its gradients; accepted: logits [batch, classes]")
    check_answers(logits, student=(student, "BK"))
    require_positive("temperature", temperature)
    teachers = len(logits)
    if teachers == 1:
        return _even(logits)
    accepted = f"a number from 1/{teachers} to 1, as {teachers} weights sum to 1"
    require("bound", bound, accepted, lambda x: 1 / teachers <= x <= 1)
    answers, mine = jax.lax.stop_gradient((clean(logits, None), clean(student, None)))
    slope = jax.nn.softmax(mine / temperature)[None] - jax.nn.softmax(answers / temperature)
    gram = jnp.einsum("tbk,sbk->bts", slope, slope, precision="highest")
    if shared:
        gram = jnp.broadcast_to(gram.mean(0, keepdims=True), gram.shape)
    if not normalize:
        return minimum_norm(gram, bound)
    length = jnp.maximum(jnp.sqrt(jnp.diagonal(gram, axis1=1, axis2=2)), _NORM_FLOOR)
    a = minimum_norm(gram / (length[:, :, None] * length[:, None, :]), bound)
    weights = a / length
    return weights / weights.sum(1, keepdims=True)

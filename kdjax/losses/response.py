"""Distillation losses on logits, all called alike.

    f(student, teacher, *, labels=None, temperature=..., where=None, **own) -> [batch]

So that one call fits all, each loss accepts all of the following, and its Args name those that it ignores:

- `student`, `teacher`: logits `[batch, classes]`, before any softmax. Halves are computed in float32.
- `labels`: int `[batch]`, negative where not known.
- `temperature` T: no unit, above 0. A number is checked, in an array too; one that is traced cannot be.
- `where`: `[batch]`, True or non-zero for the rows to keep. It does not weigh. A row left out gives exactly 0
  and sends no gradient, whatever it holds.

Below, q = softmax(student / T), p = softmax(teacher / T), C is the number of classes. A class that both sides rule out
with -inf adds nothing and is not counted, but by `mean_kl` and `dist`. Results are per example:
the caller averages, once. Gradients flow to both sides: the recipe stops them at the teacher. T² multiplies
every loss of softened probabilities, so that the size of its gradient survives a change of T.
"""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.losses import _logits
from kdjax.losses._rows import (
    Mask,
    Scalar,
    blank,
    check_shapes,
    clean,
    pair,
    require,
    require_fraction,
    require_positive,
)
from kdjax.types import BadInput

Logits: TypeAlias = Float[Array, "batch classes"]
Labels: TypeAlias = Int[Array, " batch"] | None
PerExample: TypeAlias = Float[Array, " batch"]


def _log_q_and_log_p(student: Array, teacher: Array, temperature: Scalar, where: Mask) -> tuple[Array, Array]:
    require_positive("temperature", temperature)
    student, teacher = pair(student, teacher, where)
    return jax.nn.log_softmax(student / temperature), jax.nn.log_softmax(teacher / temperature)


def cross_entropy(
    student: Logits, labels: Int[Array, " batch"], *, label_smoothing: Scalar = 0.0, where: Mask = None
) -> PerExample:
    """Cross-entropy to labels: -Σ_c y_c log softmax(student)_c with y = (1-ε)·onehot + ε/C.

    This is Müller's form of smoothing. Tf-KD's form, `a` on the label and (1-a)/(C-1) on each other class, is
    the same loss with ε = (1-a)·C/(C-1).

    Args:
        student: logits `[batch, classes]`. where: rows to keep.
        labels: `[batch]`. Negative (not known): loss 0 and gradient 0. C or above: NaN, so that it is seen.
        label_smoothing: ε, from 0 to 1.

    Returns: `[batch]`, nats.

    Raises: BadInput: shapes that do not fit, or ε outside [0, 1].

    >>> cross_entropy(jnp.log(jnp.array([[0.7, 0.2, 0.1]])), jnp.array([0])).round(5)  # -ln 0.7
    Array([0.35667], dtype=float32)

    Reference: Müller, Kornblith, Hinton, "When Does Label Smoothing Help?", NeurIPS 2019; Yuan et al.,
    "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020 (Tf-KD).
    """
    require_fraction("label_smoothing", label_smoothing)
    check_shapes(student, labels=labels, where=where)
    known = blank(labels >= 0, where)
    logits, target = clean(student, known), blank(labels, known)
    return blank(_logits.negative_log_likelihood(logits, target, label_smoothing), known)


def boosted_cross_entropy(student: Logits, labels: Int[Array, " batch"], *, where: Mask = None) -> PerExample:
    """Cross-entropy, and as much again for the wrong class that is believed most: -log q_y - log(1 - max_{k≠y} q_k).

    Args:
        student: logits `[batch, classes]`, q their softmax. where: rows to keep.
        labels: `[batch]`. Negative (not known): loss 0 and gradient 0. C or above: NaN, so that it is seen.

    Returns: `[batch]`, nats.

    Raises: BadInput: shapes that do not fit.

    >>> boosted_cross_entropy(jnp.log(jnp.array([[0.7, 0.2, 0.1]])), jnp.array([0])).round(5)  # -ln 0.7 - ln 0.8
    Array([0.57982], dtype=float32)

    Reference: Wang, Zou, Yi, Bailey, Ma, Gu, "Improving Adversarial Robustness Requires Revisiting Misclassified
    Examples" (MART), ICLR 2020, equation 9.
    """
    hard = cross_entropy(student, labels, where=where)
    known = blank(labels >= 0, where)
    log_q = jax.nn.log_softmax(clean(student, known))
    wrong = jnp.where(jax.nn.one_hot(labels, log_q.shape[1], dtype=bool), -jnp.inf, log_q)
    believed = jnp.argmax(wrong, axis=1)
    # log(1 - q_k) of the others' probabilities: 1 - q_k is 0 as soon as q_k rounds to 1.
    rest = _logits.split_target(log_q, believed)[0][:, 1]
    return hard - blank(rest, known)


def kl(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 4.0, where: Mask = None
) -> PerExample:
    """Knowledge distillation: T²·KL(p‖q) = T²·Σ_c p_c (log p_c - log q_c).

    Its gradient by the student is T(q - p). As T → ∞ it tends to half of `centred_logit_mse`.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels: ignored.
        temperature: T > 0. The default is that of the usual CIFAR-100 recipe.

    Returns: `[batch]`, T² nats; 0 where the logits differ by a constant.

    Raises: BadInput: shapes that differ, or a temperature ≤ 0.

    >>> kl(jnp.zeros((1, 2)), jnp.log(jnp.array([[9.0, 1.0]])), temperature=2.0).round(5)
    Array([0.52325], dtype=float32)

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    log_q, log_p = _log_q_and_log_p(student, teacher, temperature, where)
    return blank(temperature**2 * _logits.divergence(log_p, log_q), where)


def mean_kl(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 1.0, where: Mask = None
) -> PerExample:
    """`kl` as released code often has it, its mean over classes and not its sum: (T²/C)·KL(p‖q).

    `torch.nn.KLDivLoss()` divides by the number of numbers that it adds, examples times classes.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels: ignored.
        temperature: T > 0.

    Returns: `[batch]`, T² nats; 0 where the logits differ by a constant.

    Raises: BadInput: shapes that differ, or a temperature ≤ 0.

    >>> mean_kl(jnp.zeros((1, 2)), jnp.log(jnp.array([[9.0, 1.0]])), temperature=2.0).round(5)  # half of `kl`
    Array([0.26162], dtype=float32)

    Reference: the code released with Goldblum, Fowl, Feizi, Goldstein, "Adversarially Robust Distillation", AAAI 2020,
    and with Zi, Zhao, Ma, Jiang, "Revisiting Adversarial Robustness Distillation", ICCV 2021.
    """
    student, teacher = pair(student, teacher, where)
    return kl(student, teacher, temperature=temperature, where=where) / student.shape[1]


def soft_cross_entropy(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 4.0, where: Mask = None
) -> PerExample:
    """Cross-entropy to the teacher: T²·H(p, q) = -T²·Σ_c p_c log q_c.

    This is `kl` plus T² times the teacher's entropy: the same gradient by the student, another value.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels: ignored.
        temperature: T > 0.

    Returns: `[batch]`, T² nats.

    Raises: BadInput: shapes that differ, or a temperature ≤ 0.

    >>> z, v = jnp.zeros((1, 2)), jnp.log(jnp.array([[9.0, 1.0]]))
    >>> soft_cross_entropy(z, v, temperature=2.0).round(5)  # 4 ln 2
    Array([2.77259], dtype=float32)

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    log_q, log_p = _log_q_and_log_p(student, teacher, temperature, where)
    return blank(temperature**2 * _logits.expectation(log_p, -log_q), where)


def reverse_kl(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 1.0, where: Mask = None
) -> PerExample:
    """The divergence that seeks modes: T²·KL(q‖p) = T²·Σ_c q_c (log q_c - log p_c).

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels: ignored.
        temperature: T > 0.

    Returns: `[batch]`, T² nats; 0 where the logits differ by a constant.

    Raises: BadInput: shapes that differ, or a temperature ≤ 0.

    >>> reverse_kl(jnp.zeros((1, 2)), jnp.log(jnp.array([[9.0, 1.0]]))).round(5)  # ln(5/3)
    Array([0.51083], dtype=float32)

    Reference: Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", ICLR 2024.
    """
    log_q, log_p = _log_q_and_log_p(student, teacher, temperature, where)
    return blank(temperature**2 * _logits.divergence(log_q, log_p), where)


def jensen_shannon(
    student: Logits,
    teacher: Logits,
    *,
    labels: Labels = None,
    temperature: Scalar = 1.0,
    where: Mask = None,
    beta: Scalar = 0.5,
) -> PerExample:
    """Generalised Jensen-Shannon: T²·(β·KL(p‖m) + (1-β)·KL(q‖m)) with m = βp + (1-β)q.

    At β = 0 and β = 1, where this formula is 0, KL(p‖q) and KL(q‖p) are meant: its limits after division by β
    or by 1-β. So the value jumps at both ends. The paper has T = 1, hence no T².

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels: ignored.
        temperature: T > 0.
        beta: β from 0 to 1, the teacher's share of m; may be traced. At 0.5 the sides can be exchanged.

    Returns: `[batch]`, T² nats; 0 where the logits differ by a constant.

    Raises: BadInput: shapes that differ, a temperature ≤ 0, or β outside [0, 1].

    >>> z, v = jnp.log(jnp.array([[1.0, 9.0]])), jnp.log(jnp.array([[9.0, 1.0]]))
    >>> [f"{jensen_shannon(z, v, beta=beta)[0]:.5f}" for beta in (0.5, 0.1)]
    ['0.36806', '0.14631']

    Reference: Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated
    Mistakes" (GKD), ICLR 2024.
    """
    require_fraction("beta", beta)
    log_q, log_p = _log_q_and_log_p(student, teacher, temperature, where)
    beta = jnp.asarray(beta, log_q.dtype)
    inner = jnp.where((beta > 0) & (beta < 1), beta, 0.5)  # no log 0 in the branch that is not taken
    # What both rule out m rules out; logaddexp has no gradient there.
    neither = jnp.isneginf(log_p) & jnp.isneginf(log_q)
    parts = jnp.log(inner) + jnp.where(neither, 0, log_p), jnp.log1p(-inner) + jnp.where(neither, 0, log_q)
    log_m = jnp.where(neither, -jnp.inf, jnp.logaddexp(*parts))
    between = inner * _logits.divergence(log_p, log_m) + (1 - inner) * _logits.divergence(log_q, log_m)
    end = jnp.where(beta <= 0, _logits.divergence(log_p, log_q), _logits.divergence(log_q, log_p))
    return blank(temperature**2 * jnp.where(inner == beta, between, end), where)


def standardize(logits: Logits) -> Logits:
    """Each row to mean 0 and sample standard deviation 1: (z - z̄) / (std(z) + 1e-7).

    The deviation divides by C - 1, as the authors' PyTorch code does; C would change T by √((C-1)/C).

    Args:
        logits: `[batch, classes]`.

    Returns: `[batch, classes]`. A row of equal entries has no direction: it gives zeros, with gradient 0. A class that
    is ruled out with -inf stays so, and enters neither mean nor deviation.

    >>> standardize(jnp.array([[3.0, 1.0, -1.0]])).round(5)
    Array([[ 1.,  0., -1.]], dtype=float32)

    Reference: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024.
    """
    logits = clean(logits, None)
    possible = ~jnp.isneginf(logits)
    centred = _logits.centre(logits, axis=-1, keep=possible)
    std = _logits.norm(centred, axis=-1) / jnp.sqrt(jnp.maximum(possible.sum(-1, keepdims=True) - 1, 1))
    return jnp.where(possible, _logits.divide(centred, std, _logits.STANDARDIZE_EPS), -jnp.inf)


def standardized_kl(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 2.0, where: Mask = None
) -> PerExample:
    """`kl` of logits that `standardize` has stripped of their scale.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels: ignored.
        temperature: base temperature T > 0. The default is that of the authors' CIFAR-100 command.

    Returns: `[batch]`, T² nats; 0 where student = a·teacher + b with a > 0, so for two classes wherever the
    larger one is the same on both sides.

    Raises: BadInput: shapes that differ, or a temperature ≤ 0.

    >>> standardized_kl(jnp.array([[3.0, 1.0, -1.0]]), jnp.array([[16.0, 6.0, -4.0]])).round(5)
    Array([0.], dtype=float32)

    Reference: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024.
    """
    student, teacher = pair(student, teacher, where)
    return kl(standardize(student), standardize(teacher), temperature=temperature, where=where)


def logit_mse(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 1.0, where: Mask = None
) -> PerExample:
    """Mean squared difference of logits: (1/C)·‖z - v‖².

    It sees a constant added to one side, which no softmax does. See `centred_logit_mse`.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels, temperature: ignored.

    Returns: `[batch]`, squared logits; 0 where the logits are equal.

    Raises: BadInput: shapes that differ.

    >>> logit_mse(jnp.zeros((1, 2)), jnp.array([[3.0, 1.0]]))  # (9 + 1) / 2
    Array([5.], dtype=float32)

    Reference: Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014.
    """
    student, teacher = pair(student, teacher, where)
    apart, possible = _logits.apart(student, teacher)
    return blank(_logits.mean_possible(apart**2, possible), where)


def logit_l1(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 1.0, where: Mask = None
) -> PerExample:
    """Mean absolute difference of logits: (1/C)·‖z - v‖₁.

    Its slope is as steep close to the teacher as far from it; where the logits are equal it is 0.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels, temperature: ignored.

    Returns: `[batch]`, logits; 0 where the logits are equal.

    Raises: BadInput: shapes that differ.

    >>> logit_l1(jnp.zeros((1, 2)), jnp.array([[3.0, -1.0]]))  # (3 + 1) / 2
    Array([2.], dtype=float32)
    """
    student, teacher = pair(student, teacher, where)
    apart, possible = _logits.apart(student, teacher)
    # The slope of `jnp.abs` is 1 at nought; and at infinity, which it would hide.
    sign = jax.lax.stop_gradient(jnp.where(jnp.isfinite(apart), jnp.sign(apart), jnp.nan))
    return blank(_logits.mean_possible(sign * apart, possible), where)


def centred_logit_mse(
    student: Logits, teacher: Logits, *, labels: Labels = None, temperature: Scalar = 1.0, where: Mask = None
) -> PerExample:
    """`logit_mse` of logits minus their row's mean: (1/C)·‖(z - z̄) - (v - v̄)‖².

    Half of it, (1/2C)·‖·‖², is what `kl` tends to as T → ∞.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels, temperature: ignored.

    Returns: `[batch]`, squared logits; 0 where the logits differ by a constant.

    Raises: BadInput: shapes that differ.

    >>> centred_logit_mse(jnp.zeros((1, 2)), jnp.array([[3.0, 1.0]]))  # (1, -1) against 0
    Array([1.], dtype=float32)

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.1.
    """
    student, teacher = pair(student, teacher, where)
    apart, possible = _logits.apart(student, teacher)
    return blank(_logits.mean_possible(_logits.centre(apart, axis=1, keep=possible) ** 2, possible), where)


def hard_label(
    student: Logits,
    teacher: Logits,
    *,
    labels: Labels = None,
    temperature: Scalar = 1.0,
    where: Mask = None,
    label_smoothing: Scalar = 0.0,
) -> PerExample:
    """Cross-entropy to the teacher's decision: `cross_entropy(student, argmax teacher)`.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep. labels, temperature: ignored.
        label_smoothing: ε from 0 to 1, in the form of `cross_entropy`.

    Returns: `[batch]`, nats. Not smallest at student = teacher: unsmoothed, a surer student pays less. NaN where the
        teacher has no finite largest logit.

    Raises: BadInput: shapes that differ, or ε outside [0, 1].

    >>> hard_label(jnp.log(jnp.array([[0.7, 0.2, 0.1]])), jnp.array([[1.0, 5.0, 2.0]])).round(5)  # -ln 0.2
    Array([1.60944], dtype=float32)

    Reference: Touvron et al., "Training data-efficient image transformers & distillation through attention"
    (DeiT), ICML 2021.
    """
    student, teacher = pair(student, teacher, where)
    # argmax takes a NaN for the largest, and class 0 where there is none: added to the student, what is no answer
    # stays NaN, in value and slope.
    no_answer = ~jnp.isfinite(teacher.max(1, keepdims=True))
    student = student + jnp.where(no_answer, jnp.nan, 0)
    return cross_entropy(student, jnp.argmax(teacher, 1), label_smoothing=label_smoothing, where=where)


def dkd(
    student: Logits,
    teacher: Logits,
    *,
    labels: Labels = None,
    temperature: Scalar = 4.0,
    where: Mask = None,
    alpha: Scalar | PerExample = 1.0,
    beta: Scalar | PerExample = 8.0,
) -> PerExample:
    """Decoupled distillation: T²·(α·TCKD + β·NCKD).

    With t the label, TCKD = KL([p_t, 1-p_t] ‖ [q_t, 1-q_t]), and NCKD is the KL of p and q without t, both
    renormalised. As KL(p‖q) = TCKD + (1-p_t)·NCKD, `kl` is the case α = 1, β = 1-p_t. For two classes NCKD is 0.

    Args:
        student, teacher: logits `[batch, classes]`. where: rows to keep.
        labels: `[batch]`, needed. Negative (not known): t is the teacher's largest class, which keeps such a row
            on the scale of the others, as plain `kl` would not. C or above: NaN, so that it is seen.
        temperature: T > 0.
        alpha, beta: weights, one number or one per example `[batch]`. Good values of β vary with the teacher.

    Returns: `[batch]`, T² nats; 0 where the logits differ by a constant.

    Raises: BadInput: no labels, shapes that do not fit, or a temperature ≤ 0.

    >>> z, v = jnp.zeros((1, 3)), jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    >>> dkd(z, v, labels=jnp.array([0]), temperature=1.0).round(5)  # 0.27980 + 8·0.05663
    Array([0.73287], dtype=float32)

    Reference: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """
    if labels is None:
        raise BadInput("labels=None: dkd sets the label's class apart; accepted: labels [batch], -1 if not known")
    check_shapes(student, labels=labels)
    for name, weight in (("alpha", alpha), ("beta", beta)):
        if jnp.shape(weight) not in ((), student.shape[:1]):
            raise BadInput(
                f"student has shape {student.shape} and {name} {jnp.shape(weight)}; accepted: one number, or "
                f"{student.shape[:1]}"
            )
    log_q, log_p = _log_q_and_log_p(student, teacher, temperature, where)
    labels = blank(labels, where)
    target = jnp.where(labels < 0, jnp.argmax(log_p, axis=1), labels)
    q_target, q_others = _logits.split_target(log_q, target)
    p_target, p_others = _logits.split_target(log_p, target)
    tckd, nckd = _logits.divergence(p_target, q_target), _logits.divergence(p_others, q_others)
    return blank(temperature**2 * (alpha * tckd + beta * nckd), where)


def dist(
    student: Logits,
    teacher: Logits,
    *,
    labels: Labels = None,
    temperature: Scalar = 1.0,
    where: Mask = None,
    beta: Scalar = 1.0,
    gamma: Scalar = 1.0,
) -> PerExample:
    """Relations, not values: T²·(β·(1 - ρ(q_b, p_b)) + γ·(1 - mean_c ρ(q_·c, p_·c))), ρ Pearson correlation.

    The first term relates the classes within an example. The second relates the batch's examples within a class;
    it is one number, given to every row, so that the mean over rows is the paper's loss. Under pmap it sees the
    device's own examples only.

    ρ = cov/(‖·‖‖·‖ + 1e-8) of centred sides, which is the authors' code; torchdistill's has the 1e-8 in each length.
    It is not small against the products of many classes at a high temperature: of 1000 classes with logits of
    deviation 0.1 at T = 20 the gradient is 36 % of the correlation's own.

    Args:
        student, teacher: logits `[batch, classes]`. labels: ignored.
        temperature: T > 0.
        where: rows to keep. The others do not enter the second term.
        beta, gamma: weights of the two terms.

    Returns: `[batch]`, T² times no unit. ρ is 0, with gradient 0, where a side is constant. So a class that does
    not vary within the batch costs γ/C even at student = teacher, and a batch of one pays γ whatever it says.

    Raises: BadInput: shapes that differ, or a temperature ≤ 0.

    >>> z, v = jnp.log(jnp.array([[7.0, 2, 1], [2, 7, 1]])), jnp.log(jnp.array([[6.0, 3, 1], [1, 8, 1]]))
    >>> f"{dist(z, v, gamma=0.0).mean():.5f} {dist(z, v, beta=0.0).mean():.5f}"  # the second is 1/3: class 3
    '0.02194 0.33333'

    Reference: Huang et al., "Knowledge Distillation from A Stronger Teacher" (DIST), NeurIPS 2022.
    """
    require("beta", beta, "a number", math.isfinite)
    require("gamma", gamma, "a number", math.isfinite)
    log_q, log_p = _log_q_and_log_p(student, teacher, temperature, where)
    q, p = jnp.exp(log_q), jnp.exp(log_p)
    keep = None if where is None else where.astype(bool)[:, None]
    across_classes = 1 - _logits.pearson(q, p, axis=1)
    across_examples = 1 - jnp.mean(_logits.pearson(q, p, axis=0, keep=keep))
    return blank(temperature**2 * (beta * across_classes + gamma * across_examples), where)

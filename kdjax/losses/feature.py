"""Distillation losses on features, one layer at a time, all called alike.

    f(student, teacher, *, where=None, **own) -> [batch]

- `student`, `teacher`: `[batch, height, width, channels]`, `[batch, positions, channels]` or `[batch, dims]`. Halves
  are computed in float32. Losses that compare element by element want one shape on both sides: what makes a student's
  layer fit (a projection, a mean of variance, a factor) has parameters, and is applied before. `attention`, `nst` and
  `fsp_matrix` take any numbers of channels, and average the larger map to the smaller.
- `where`: `[batch]`, True or non-zero for the rows to keep. It does not weigh. A row left out gives exactly 0 and sends
  no gradient, whatever it holds.

Results are per example: the caller averages over the batch and adds layers, once. Gradients flow to both sides: the
recipe stops them at the teacher. Means and sums over an example's elements are what each paper's weight was chosen
for; each loss says which it takes.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import _logits, _maps
from kdjax.losses._rows import Mask, Scalar, blank, require, require_positive
from kdjax.types import BadInput

Features: TypeAlias = Float[Array, "batch *rest channels"]
Maps: TypeAlias = Float[Array, "batch ..."]
PerChannel: TypeAlias = Float[Array, " channels"]
PerExample: TypeAlias = Float[Array, " batch"]


def hint(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Mean squared difference over all elements: mean (s - t)².

    Args:
        student, teacher: `[batch, ...]`, one shape. where: rows to keep.

    Returns: `[batch]`, squared features. It does not depend on how many elements there are.

    Raises: BadInput: shapes that differ.

    >>> hint(jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3)))
    Array([1.], dtype=float32)

    Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation 3; layer by layer, Jiao et al.,
    "TinyBERT", Findings of EMNLP 2020, equation 8.
    """
    student, teacher = _maps.alike(student, teacher, where)
    return blank(_maps.mean((student - teacher) ** 2), where)


def _attention_maps(student: Array, teacher: Array, p: Scalar, where: Mask) -> tuple[Array, Array]:
    require("p", p, "a number from 1 up; below, the gradient at a feature of 0 is infinite", lambda x: x >= 1)
    student, teacher = _maps.positions(where, student=student, teacher=teacher)
    ours, theirs = (_maps.unit((_logits.size(x) ** p).mean(2)) for x in (student, teacher))
    return ours, theirs


def attention(student: Maps, teacher: Maps, *, where: Mask = None, p: Scalar = 2.0) -> PerExample:
    """Where a layer looks, as the authors' code has it: mean over positions of (Q_s - Q_t)².

    Q is the map of mean_c |f_c|^p, over its Euclidean length. A layer of zeros has Q = 0. For the paper's own formula
    see `attention_paper`; they differ by a square and by the number of positions.

    Args:
        student, teacher: `[batch, height, width, channels]` or `[batch, positions, channels]`. where: rows to keep.
        p: power, from 1 up.

    Returns: `[batch]`, no unit. The same for any positive multiple of either side.

    Raises: BadInput: shapes that do not fit, or p < 1.

    >>> left, right = jnp.array([[[[3.0], [0.0]]]]), jnp.array([[[[0.0], [1.0]]]])
    >>> attention(left, right), attention_paper(left, right).round(5)
    (Array([1.], dtype=float32), Array([1.41421], dtype=float32))

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional
    Neural Networks via Attention Transfer", ICLR 2017, equation 2, as released.
    """
    ours, theirs = _attention_maps(student, teacher, p, where)
    return blank(_maps.mean((ours - theirs) ** 2), where)


def attention_paper(student: Maps, teacher: Maps, *, where: Mask = None, p: Scalar = 2.0) -> PerExample:
    """Where a layer looks, as the paper has it: ‖Q_s - Q_t‖, with the Q of `attention`.

    Args:
        student, teacher: `[batch, height, width, channels]` or `[batch, positions, channels]`. where: rows to keep.
        p: power, from 1 up.

    Returns: `[batch]`, no unit, at most √2. At student = teacher the gradient is taken to be 0.

    Raises: BadInput: shapes that do not fit, or p < 1.

    Reference: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2.
    """
    ours, theirs = _attention_maps(student, teacher, p, where)
    return blank(_logits.norm(_maps.apart(ours, theirs), axis=1)[:, 0], where)


def nst(student: Maps, teacher: Maps, *, where: Mask = None) -> PerExample:
    """Neuron selectivity: mean k(t, t) + mean k(s, s) - 2 mean k(s, t) over pairs of channels, k(a, b) = ⟨a, b⟩².

    Each channel is its map over its Euclidean length. This is the squared maximum mean discrepancy of the two sets of
    channels under that kernel, and equals ‖mean_c t tᵀ - mean_c s sᵀ‖². Memory is that of the smaller of channels² and
    positions² per example.

    Args:
        student, teacher: `[batch, height, width, channels]` or `[batch, positions, channels]`. where: rows to keep.

    Returns: `[batch]`, no unit; 0 where the sets of channels are the same, in any order and scale.

    Raises: BadInput: shapes that do not fit.

    >>> nst(jnp.eye(2)[None], jnp.array([[[1.0, 1.0], [0.0, 0.0]]]))  # e1, e2 against e1, e1: 1 + 1/2 - 1
    Array([0.5], dtype=float32)

    Reference: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, section 4.
    """
    student, teacher = (_maps.unit(x, axis=1) for x in _maps.positions(where, student=student, teacher=teacher))
    if student.shape[1] <= min(student.shape[2], teacher.shape[2]):
        between = [jnp.einsum("bpc,bqc->bpq", x, x, precision=_maps.EXACT) / x.shape[2] for x in (student, teacher)]
        return blank(_maps.total((between[1] - between[0]) ** 2), where)

    def kernel(a: Array, b: Array) -> Array:
        return _maps.mean(jnp.einsum("bpc,bpd->bcd", a, b, precision=_maps.EXACT) ** 2)

    return blank(kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher), where)


def fsp_matrix(lower: Maps, upper: Maps) -> Float[Array, "batch _ _"]:
    """How one layer flows into the next: G_cd = mean over positions of lower_c · upper_d.

    Args:
        lower, upper: `[batch, height, width, channels]` or `[batch, positions, channels]`, any channels. The larger
            map is averaged to the smaller; the paper takes the largest values instead.

    Returns: `[batch, lower channels, upper channels]`, which `fsp` compares.

    Raises: BadInput: shapes that do not fit.

    >>> fsp_matrix(jnp.ones((1, 4, 4, 1)), jnp.full((1, 2, 2, 1), 3.0))
    Array([[[3.]]], dtype=float32)

    Reference: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
    Transfer Learning", CVPR 2017, equation 1.
    """
    lower, upper = _maps.positions(lower=lower, upper=upper)
    return jnp.einsum("bpc,bpd->bcd", lower, upper, precision=_maps.EXACT) / lower.shape[1]


def fsp(
    student: Float[Array, "batch lower upper"], teacher: Float[Array, "batch lower upper"], *, where: Mask = None
) -> PerExample:
    """Flow of solution procedure: mean squared difference of two `fsp_matrix`.

    Args:
        student, teacher: `[batch, lower channels, upper channels]`. where: rows to keep.

    Returns: `[batch]`, features to the fourth power.

    Raises: BadInput: shapes that differ, such as those of layers with other numbers of channels.

    >>> fsp(jnp.zeros((1, 1, 2)), jnp.array([[[3.0, 1.0]]]))  # (9 + 1) / 2
    Array([5.], dtype=float32)

    Reference: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, equation 2; a mean over the matrix, as in
    the CIFAR-100 code of Tian et al., "Contrastive Representation Distillation", ICLR 2020.
    """
    student, teacher = _maps.alike(student, teacher, where)
    return blank(_maps.mean((student - teacher) ** 2), where)


def vid(student: Features, teacher: Features, *, where: Mask = None, variance: PerChannel) -> PerExample:
    """Variational information: mean over elements of ½[(μ - t)²/σ² + log σ²].

    It is the teacher's negative log-likelihood, without ½ log 2π, and may be below 0. The variance must be learned
    with the mean: held fixed this is a weighted `hint`.

    Args:
        student: μ, `[batch, ..., channels]`, predicted from the student's layer. where: rows to keep.
        teacher: t, as μ.
        variance: σ² > 0, `[channels]`.

    Returns: `[batch]`, nats per element; at μ = t mean ½ log σ².

    Raises: BadInput: shapes that do not fit.

    >>> vid(jnp.zeros((1, 2)), jnp.zeros((1, 2)), variance=jnp.full(2, 5.0)).round(5)  # ½ ln 5
    Array([0.80472], dtype=float32)

    Reference: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, equation 5.
    """
    student, teacher = _maps.alike(student, teacher, where)
    variance = _maps.per_channel("variance", variance, student)
    return blank(_maps.mean(0.5 * ((student - teacher) ** 2 / variance + jnp.log(variance))), where)


def ofd_margin(scale: PerChannel, shift: PerChannel) -> PerChannel:
    """The mean of a BatchNorm's negative outputs: m = μ - σ·φ(μ/σ)/Φ(-μ/σ), or -3σ where Φ(-μ/σ) ≤ 0.001.

    Args:
        scale: γ of the teacher's last BatchNorm before the layer, `[channels]`; σ = |γ|.
        shift: μ, its β, `[channels]`.

    Returns: `[channels]`, at most 0.

    >>> ofd_margin(jnp.array([1.0, 1.0]), jnp.array([0.0, 4.0])).round(5)
    Array([-0.79788, -3.     ], dtype=float32)

    Reference: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, equation 3; -3σ as released.
    """
    spread = jnp.abs(scale)
    flat = spread == 0
    # A channel without spread is its shift: forty spreads below 0, or above.
    ratio = jnp.where(flat, jnp.where(shift < 0, -40.0, 40.0), shift / jnp.where(flat, 1, spread))
    below = jax.scipy.stats.norm.cdf(-ratio)
    rare = below <= 0.001
    expected = shift - spread * jax.scipy.stats.norm.pdf(ratio) / jnp.where(rare, 1, below)
    return jnp.where(rare, -3 * spread, expected)


def ofd(student: Features, teacher: Features, *, where: Mask = None, margin: PerChannel) -> PerExample:
    """Partial distance before the ReLU: sum over elements of (s - max(t, m))², but 0 where t ≤ 0 and s ≤ max(t, m).

    What the ReLU will hide need not be copied: a negative target must only not be exceeded.

    Args:
        student: `[batch, ..., channels]`, through a 1 x 1 convolution and BatchNorm. where: rows to keep.
        teacher: as the student's, before its ReLU.
        margin: m ≤ 0, `[channels]`: the mean of the teacher's negative values, or `ofd_margin`.

    Returns: `[batch]`, squared features, a sum (the authors divide it by 1000, and halve it for each layer before the
        last).

    Raises: BadInput: shapes that do not fit.

    >>> s, t = jnp.array([[1.0, -3.0, -0.5]]), jnp.array([[-2.0, -2.0, 0.5]])
    >>> ofd(s, t, margin=jnp.full(3, -1.0))  # (1 + 1)² + 0 + 1²
    Array([5.], dtype=float32)

    Reference: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, equation 2.
    """
    student, teacher = _maps.alike(student, teacher, where)
    target = jnp.maximum(teacher, _maps.per_channel("margin", margin, student))
    # Asking when it is free, not when it pays: a comparison with NaN is False, and NaN must not look free.
    free = (teacher <= 0) & (student <= target)
    return blank(_maps.total(jnp.where(free, 0, student - target) ** 2), where)


def ab(student: Features, teacher: Features, *, where: Mask = None, margin: Scalar = 1.0) -> PerExample:
    """Activation boundaries: sum over elements of max(0, m - s)² where t > 0, of max(0, m + s)² elsewhere.

    Args:
        student: `[batch, ...]`, through a connector, before its ReLU. where: rows to keep.
        teacher: as the student's. Only its sign matters, which is the same after the ReLU.
        margin: m > 0.

    Returns: `[batch]`, squared features, a sum (the CIFAR-100 code weighs it by 0.003, halved for each layer before the
        last). 0 where every sign agrees by the margin, not at student = teacher.

    Raises: BadInput: shapes that differ, or m ≤ 0.

    >>> ab(jnp.array([[2.0, 0.5, 0.5]]), jnp.array([[1.0, 1.0, -1.0]]))  # 0 + 0.5² + 1.5²
    Array([2.5], dtype=float32)

    Reference: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    AAAI 2019, equation 4.
    """
    require_positive("margin", margin)
    student, teacher = _maps.alike(student, teacher, where)
    short = jnp.maximum(jnp.where(teacher > 0, margin - student, margin + student), 0)
    return blank(_maps.total(jnp.where(jnp.isnan(teacher), teacher, short**2)), where)


def ft(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Factor transfer, as the authors' code has it: mean over elements of |s/‖s‖ - t/‖t‖|.

    The lengths are those of an example's whole factor. For the CIFAR-100 code's, which is another loss, see `ft_crd`.

    Args:
        student: the translator's factor, `[batch, ...]`. where: rows to keep.
        teacher: the paraphraser's.

    Returns: `[batch]`, no unit. The paper has the sum; the authors' code the mean, with a weight of 500. At an element
        on which both sides agree exactly the gradient is 0.

    Raises: BadInput: shapes that differ.

    >>> ft(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]]))  # (1 + 1) / 2
    Array([1.], dtype=float32)

    Reference: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018,
    equation 3, with p = 1, as released.
    """
    return blank(_factor_distance(*_maps.alike(student, teacher, where)), where)


def ft_crd(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Factor transfer, as the CIFAR-100 code has it: `ft` of the maps of mean_c s_c² and of mean_c t_c².

    The factor's channels are gone before they are compared: this sees where a factor is large, `ft` what it holds.
    Their gradients have next to nothing in common.

    Args:
        student: the translator's factor, `[batch, ..., channels]`, two axes of it or more. where: rows to keep.
        teacher: the paraphraser's.

    Returns: `[batch]`, no unit; its weight in that code is 200. The same for any positive multiple of either side.

    Raises: BadInput: shapes that differ, or a factor without places.

    >>> ft_crd(jnp.array([[[3.0], [0.0]]]), jnp.array([[[0.0], [1.0]]]))  # (1 + 1) / 2
    Array([1.], dtype=float32)

    Reference: the code of Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, there for Kim,
    Park, Kwak, NeurIPS 2018.
    """
    student, teacher = _maps.alike(student, teacher, where)
    if student.ndim < 3:
        raise BadInput(
            f"student has shape {student.shape}; accepted: [batch, ..., channels], maps of one place or more"
        )
    return blank(_factor_distance(*((x**2).mean(-1) for x in (student, teacher))), where)


def _factor_distance(student: Array, teacher: Array) -> Array:
    ours, theirs = (_maps.unit(x.reshape(len(x), -1)) for x in (student, teacher))
    return _maps.mean(_logits.size(_maps.apart(ours, theirs)))


def review(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Hierarchical context: `hint` of the maps and of their averages in 4 x 4, 2 x 2 and one cell, weighed.

    The maps weigh 1, and each coarser level that is smaller than they are half of the one before; the weights are
    divided by their sum.

    Args:
        student: one level's `[batch, height, width, channels]`, after the fusion (`models.connect.review.Fusion`).
        teacher: as the student's. where: rows to keep.

    Returns: `[batch]`, squared features. A constant difference d gives d² at every size. The method's loss is the sum
        over levels, its weight warmed up over 20 of 240 epochs in the CIFAR-100 code.

    Raises: BadInput: shapes that differ, or no maps.

    >>> review(jnp.full((1, 8, 8, 2), 3.0), jnp.ones((1, 8, 8, 2))).round(5)
    Array([4.], dtype=float32)

    Reference: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.4.
    """
    student, teacher = _maps.alike(student, teacher, where)
    if student.ndim != 4:
        raise BadInput(f"student has shape {student.shape}; accepted: [batch, height, width, channels]")
    difference = student - teacher
    levels = [_maps.mean(difference**2)]
    for cells in (4, 2, 1):
        if cells < min(difference.shape[1:3]):
            # Averaging is linear: the difference of the averages is the average of the difference.
            levels.append(_maps.mean(_maps.average_pool(difference, cells, cells) ** 2))
    weights = [0.5**level for level in range(len(levels))]
    weighed = [weight * level for weight, level in zip(weights, levels, strict=True)]
    return blank(jnp.stack(weighed).sum(0) / sum(weights), where)


def pkd(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Patient distillation: mean over elements of (s/‖s‖ - t/‖t‖)², lengths along the last axis.

    Args:
        student, teacher: `[batch, ..., dims]`. where: rows to keep.

    Returns: `[batch]`, no unit: 2/dims of `cosine`. The paper has the sum over dims; the mean is that of the authors'
        code, for which their weights of 10 to 1000 were chosen.

    Raises: BadInput: shapes that differ.

    >>> pkd(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]]))  # (1² + 1²) / 2
    Array([1.], dtype=float32)

    Reference: Sun, Cheng, Gan, Liu, "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019,
    equation 7.
    """
    student, teacher = _maps.alike(student, teacher, where)
    return blank(_maps.mean((_maps.unit(student) - _maps.unit(teacher)) ** 2), where)


def cosine(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Direction: 1 - cos(s, t) along the last axis, mean over all other elements.

    Args:
        student, teacher: `[batch, ..., dims]`. where: rows to keep.

    Returns: `[batch]`, from 0 to 2. A vector of zeros has no direction: ½ against any other, 0 against its like.

    Raises: BadInput: shapes that differ.

    >>> cosine(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 3.0], [-1.0, 0.0]]))
    Array([1., 2.], dtype=float32)

    Reference: Sanh, Debut, Chaumond, Wolf, "DistilBERT, a Distilled Version of BERT: Smaller, Faster, Cheaper and
    Lighter", 2019, section 3.
    """
    student, teacher = _maps.alike(student, teacher, where)
    # 1 - cos is half the squared distance of the directions, which near 0 loses no digits.
    return blank(_maps.mean(0.5 * ((_maps.unit(student) - _maps.unit(teacher)) ** 2).sum(-1)), where)

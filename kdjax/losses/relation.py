"""Distillation losses on relations between the examples of a batch, all called alike.

    f(student, teacher, *, where=None, **own) -> [batch]

- `student`, `teacher`: embeddings `[batch, dims]`, not logits; what has more axes is flattened. Relations are numbers
  between examples, so dims may differ (but for `cc_neighbours`). Halves are computed in float32.
- `where`: `[batch]`, True or non-zero for the rows to keep. It does not weigh. A row left out is no anchor and nobody's
  partner, gives exactly 0 and sends no gradient, whatever it holds: a padded batch means what it would without.

The number of an example i, the anchor, is the mean over its partners, so that the caller's mean over the kept rows is
the mean over all pairs, or triplets, that each paper states. Every example sees the whole batch: a value is that of
the global batch only if the global batch is given. One row alone has no relations: 0, whatever it holds (for `sp`
unless one side alone is zeros). Gradients flow to both sides, the means that normalise included: the recipe stops
them at the teacher.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses import _logits, _maps
from kdjax.losses._rows import Mask, Scalar, blank, clean, require_positive
from kdjax.types import BadInput

Features: TypeAlias = Float[Array, "batch ..."]
PerExample: TypeAlias = Float[Array, " batch"]

_ANCHORS_AT_ONCE = 8
_DISTANCE_FLOOR = 1e-12
_PKT_EPS = 1e-7


def _rows(student: Array, teacher: Array, where: Mask) -> tuple[Array, Array, Bool[Array, " batch"], Array]:
    """Both sides as clean `[batch, dims]`, which rows are kept, and how many, at least 1."""
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise BadInput(
            f"student has shape {student.shape} and teacher {teacher.shape}; "
            "accepted: two axes or more on each side, the first is the batch"
        )
    keep = _maps.kept(student, where)
    student, teacher = (clean(x, where).reshape(len(x), -1) for x in (student, teacher))
    return student, teacher, keep, jnp.maximum(keep.sum(), 1).astype(student.dtype)


def _by_anchor(function: Callable[..., Array], anchors: Array | tuple[Array, Array]) -> Array:
    """`function` of each anchor, a few at a time; what it computes on the way is computed again for the gradient."""
    return jax.lax.map(jax.checkpoint(function), anchors, batch_size=_ANCHORS_AT_ONCE)


def _products(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.T, precision=_maps.EXACT)


def _huber(difference: Array) -> Array:
    size = _logits.size(difference)
    near = jnp.minimum(size, 1)
    return near * (size - 0.5 * near)


def rkd_distance(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """How far examples lie apart: mean over j of huber(s_ij - t_ij), x_ij = ‖x_i - x_j‖ over its mean over i ≠ j.

    The mean over j has j = i in it, so that the mean over the batch is that over all batch² pairs. Huber is ½d² up to
    1. The squared distance of different examples is at least 1e-12; there the gradient is 0.

    Args:
        student, teacher: `[batch, ...]`. where: rows to keep.

    Returns: `[batch]`, no unit; unchanged where one side is moved, turned or scaled.

    Raises: BadInput: batches that differ.

    >>> s, t = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [1.0], [3.0]])
    >>> (72 * rkd_distance(s, t).mean()).round(4)
    Array(1., dtype=float32)

    Reference: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, equations 5 to 8 (the weight is 25).
    """
    student, teacher, keep, count = _rows(student, teacher, where)
    pairs = keep[:, None] & keep[None, :] & ~jnp.eye(len(keep), dtype=bool)

    def distances(x: Array) -> Array:
        def from_anchor(anchor: Array) -> Array:
            # The difference itself, not squares less products: those of near points in a far place cancel.
            return jnp.sqrt(jnp.maximum(((x - anchor[None, :]) ** 2).sum(1), _DISTANCE_FLOOR))

        apart = jnp.where(pairs, _by_anchor(from_anchor, x), 0)
        mean = apart.sum() / jnp.maximum(pairs.sum(), 1)
        return apart / jnp.where(mean == 0, 1, mean)

    return blank(_huber(distances(student) - distances(teacher)).sum(1) / count, where)


def rkd_angle(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """The angles at an example: mean over j, k of huber(cos s_jik - cos t_jik), between x_j - x_i and x_k - x_i.

    The mean has j = i, k = i and j = k in it, so that the mean over the batch is that over all batch³ triplets. Points
    in one place have the cosine 0. Anchors are taken a few at a time, and again for the gradient: memory is a small
    multiple of batch², and time grows as batch³·dims.

    Args:
        student, teacher: `[batch, ...]`. where: rows to keep.

    Returns: `[batch]`, no unit; unchanged where one side is moved, turned or scaled.

    Raises: BadInput: batches that differ.

    >>> s, t = jnp.array([[0.0, 0], [1, 0], [2, 0]]), jnp.array([[0.0, 0], [1, 0], [0, 1]])
    >>> (27 * rkd_angle(s, t).mean()).round(4)
    Array(3.5, dtype=float32)

    Reference: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, equations 9 and 10 (the weight is
    50).
    """
    student, teacher, keep, count = _rows(student, teacher, where)

    def cosines(x: Array, anchor: Array) -> Array:
        directions = jnp.where(keep[:, None], _maps.unit(x - anchor[None, :]), 0)
        return _products(directions, directions)

    def from_anchor(anchors: tuple[Array, Array]) -> Array:
        return _huber(cosines(student, anchors[0]) - cosines(teacher, anchors[1])).sum()

    return blank(_by_anchor(from_anchor, (student, teacher)) / count**2, where)


def sp(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Similarity-preserving: mean over j of (S_ij - T_ij)², rows of the Gram matrices F Fᵀ over their Euclidean length.

    The rows are normalised after the product, not the features before it.

    Args:
        student, teacher: `[batch, ...]`, flattened. The paper and the CIFAR-100 code, whose weight is 3000, take the
            last maps and not their means, the embedding. where: rows to keep.

    Returns: `[batch]`, no unit; its mean is ‖S - T‖²/batch². Unchanged where one side is turned or scaled.

    Raises: BadInput: batches that differ.

    >>> (1 - sp(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))).round(4)  # 1/√2
    Array([0.7071, 0.7071], dtype=float32)

    Reference: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, equations 2 to 4.
    """
    student, teacher, _, count = _rows(student, teacher, where)
    difference = _maps.unit(_products(student, student)) - _maps.unit(_products(teacher, teacher))
    return blank((difference**2).sum(1) / count, where)


def pkt(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Probabilistic: mean over j of p_ij log((p_ij + ε)/(q_ij + ε)), rows of (1 + cos)/2 over their sum, ε = 1e-7.

    p is the teacher's, q the student's; j = i is in the rows.

    Args:
        student, teacher: `[batch, ...]`. where: rows to keep.

    Returns: `[batch]`, nats over batch: a mean over batch² pairs, for which the CIFAR-100 code's weight of 30000 was
        chosen. Unchanged where one side is turned or its rows are scaled, each for itself.

    Raises: BadInput: batches that differ.

    >>> pkt(jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])).round(5)  # ln(1.125) / 4
    Array([0.02945, 0.02945], dtype=float32)

    Reference: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
    equations 3 to 8.
    """
    student, teacher, keep, count = _rows(student, teacher, where)

    def probabilities(x: Array) -> Array:
        directions = _maps.unit(x)
        # Rounding may take a cosine below -1.
        near = jnp.maximum((1 + _products(directions, directions)) / 2, 0)
        near = jnp.where(keep[None, :], near, 0)
        # A kept row has 1 in it, its own, or ½ if it is zeros.
        return near / jnp.where(keep, near.sum(1), 1)[:, None]

    p, q = probabilities(teacher), probabilities(student)
    return blank((p * jnp.log((p + _PKT_EPS) / (q + _PKT_EPS))).sum(1) / count, where)


def cc_kernel(
    student: Features, teacher: Features, *, where: Mask = None, gamma: Scalar = 0.4, order: int | float = 2
) -> PerExample:
    """Correlation congruence: mean over j of (K(s_i, s_j) - K(t_i, t_j))², K a Gaussian kernel's Taylor series.

    K(x, y) = e^-2γ Σ_{p ≤ P} (2γ)^p/p! ⟨x, y⟩^p of rows over their Euclidean length, where e^(-γ‖x - y‖²) is the limit.

    Args:
        student, teacher: embeddings `[batch, ...]`. where: rows to keep.
        gamma: γ > 0.
        order: P, a whole number from 1 up.

    Returns: `[batch]`, no unit; its mean is ‖K_s - K_t‖²/batch², as in the paper (some code has ‖K_s - K_t‖/batch²).
        Unchanged where one side is turned or its rows are scaled, each for itself.

    Raises: BadInput: batches that differ, γ ≤ 0, or another order.

    >>> s, t = jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> cc_kernel(s, t).round(5)  # e^-1.6 (0.8 + 0.32)² / 2
    Array([0.12663, 0.12663], dtype=float32)

    Reference: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, section 3.
    """
    require_positive("gamma", gamma)
    if order < 1 or order != int(order):
        raise BadInput(f"order={order!r}; accepted: a whole number from 1 up")
    student, teacher, _, count = _rows(student, teacher, where)

    def kernel(x: Array) -> Array:
        directions = _maps.unit(x)
        cosine = _products(directions, directions)
        terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(int(order) + 1)]
        return jnp.exp(-2 * gamma) * jnp.stack(terms).sum(0)

    # A row left out is zeros, which both kernels compare alike.
    return blank(((kernel(student) - kernel(teacher)) ** 2).sum(1) / count, where)


def cc_neighbours(student: Features, teacher: Features, *, where: Mask = None) -> PerExample:
    """Congruence of neighbours: Σ_d |s_i - t_i|_d·|s_j - t_j|_d, j the next kept row, times n/(n - 1).

    This is what the CIFAR-100 code calls CC; the paper's loss is `cc_kernel`. It depends on the order of the batch. The
    last of the n kept rows has no next and gives 0; the factor makes the mean over n rows the mean over n - 1 pairs.

    Args:
        student, teacher: embeddings `[batch, ...]`, one shape. where: rows to keep.

    Returns: `[batch]`, squared features, a sum over dims (the weight is 0.02).

    Raises: BadInput: shapes that differ.

    >>> cc_neighbours(jnp.zeros((3, 4)), jnp.ones((3, 4)))  # the mean is 4
    Array([6., 6., 0.], dtype=float32)

    Reference: the code of Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, there for Peng
    et al., ICCV 2019.
    """
    _maps.alike(student, teacher, where)
    student, teacher, keep, count = _rows(student, teacher, where)
    size, nobody = _logits.size(student - teacher), len(keep)
    candidates = jnp.where(keep, jnp.arange(nobody), nobody)
    following = jnp.append(jax.lax.cummin(candidates, reverse=True)[1:], nobody)
    products = (size * size.at[following].get(mode="fill", fill_value=0)).sum(1)
    return blank(products * count / jnp.maximum(count - 1, 1), where)

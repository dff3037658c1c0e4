"""Distillation losses on numbers, all called alike.

    f(student, teacher, *, targets=None, where=None, **own) -> [batch]

Means over dims throughout, so that a weight means the same whatever their number. As in `response`: `where`
`[batch]` selects and does not weigh, a row left out gives exactly 0 and sends no gradient, halves are computed
in float32, and gradients flow to both sides.
"""

import math
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import _logits
from kdjax.losses._rows import Mask, Scalar, blank, check_shapes, clean, pair, require, require_positive
from kdjax.types import BadInput

Numbers: TypeAlias = Float[Array, "batch dims"]
PerExample: TypeAlias = Float[Array, " batch"]


def mse(student: Numbers, teacher: Numbers, *, targets: Numbers | None = None, where: Mask = None) -> PerExample:
    """Mean squared difference: (1/D)·‖s - t‖².

    Args:
        student, teacher: `[batch, dims]`, in one unit. where: rows to keep. targets: ignored.

    Returns: `[batch]`, that unit squared.

    Raises: BadInput: shapes that differ.

    >>> mse(jnp.zeros((1, 2)), jnp.array([[3.0, 1.0]]))
    Array([5.], dtype=float32)
    """
    student, teacher = pair(student, teacher, where)
    return blank(jnp.mean((student - teacher) ** 2, axis=1), where)


def huber(
    student: Numbers,
    teacher: Numbers,
    *,
    targets: Numbers | None = None,
    where: Mask = None,
    delta: Scalar = 1.0,
) -> PerExample:
    """Quadratic near, linear far: mean of ½d² where |d| ≤ δ, of δ(|d| - ½δ) elsewhere, d = s - t.

    Args:
        student, teacher: `[batch, dims]`, in one unit. where: rows to keep. targets: ignored.
        delta: δ > 0, in that unit.

    Returns: `[batch]`, that unit squared.

    Raises: BadInput: shapes that differ, or δ ≤ 0.

    >>> huber(jnp.zeros((1, 2)), jnp.array([[3.0, 1.0]]))  # (2.5 + 0.5) / 2
    Array([1.5], dtype=float32)

    Reference: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics, 1964.
    """
    require_positive("delta", delta)
    student, teacher = pair(student, teacher, where)
    distance = _logits.size(student - teacher)
    near = jnp.minimum(distance, delta)
    return blank(jnp.mean(near * (distance - 0.5 * near), axis=1), where)


def teacher_bounded(
    student: Numbers,
    teacher: Numbers,
    *,
    targets: Numbers | None = None,
    where: Mask = None,
    margin: Scalar = 0.0,
) -> PerExample:
    """The teacher as a bound: e_s if e_s + m > e_t, else 0, with e = (1/D)·‖· - targets‖².

    A teacher's number can be worse than none, so it is not copied: the student is drawn to the target, and pays
    no more once it beats the teacher by the margin. The paper has no 1/D, and adds this to the student's loss.

    Args:
        student, teacher: `[batch, dims]`, in one unit. where: rows to keep.
        targets: `[batch, dims]`, needed.
        margin: m, in that unit squared, of the mean over dims.

    Returns: `[batch]`, that unit squared. At m = 0 a student equal to the teacher pays nothing.

    Raises: BadInput: no targets, or shapes that differ.

    >>> s, t = jnp.array([[2.0], [1.0]]), jnp.array([[1.0], [2.0]])
    >>> teacher_bounded(s, t, targets=jnp.zeros((2, 1)))  # worse than the teacher; better than the teacher
    Array([4., 0.], dtype=float32)

    Reference: Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS
    2017, section 3.3.
    """
    require("margin", margin, "a number", math.isfinite)
    if targets is None:
        raise BadInput("targets=None: teacher_bounded compares two errors; accepted: targets [batch, dims]")
    student, teacher = pair(student, teacher, where)
    check_shapes(student, targets=targets)
    targets = clean(targets, where)
    student_error = jnp.mean((student - targets) ** 2, axis=1)
    teacher_error = jnp.mean((teacher - targets) ** 2, axis=1)
    # Asking when it is free, not when it pays: a comparison with NaN is False, and NaN must not look free.
    return blank(jnp.where(student_error + margin <= teacher_error, 0, student_error), where)

"""Scores of embeddings with a memory's, `x·m / T`, and the sums over them that contrastive losses take."""

import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import _logits, _maps
from kdjax.losses._rows import Mask, Scalar, blank, check_shapes, clean, require_positive
from kdjax.types import BadInput

Banks: TypeAlias = tuple[Array, Array]

_GATHERED_AT_ONCE = 64
_PRODUCT_UP_TO = 8


def unit(x: Array) -> Array:
    """Rows of length 1; zeros stay zeros, with gradient 0."""
    # Divided by its largest entry first: squares of entries beyond 1e19, or below 1e-19, are no float32. Length 1 does
    # not depend on that entry, so its gradient is not missed.
    largest = jax.lax.stop_gradient(jnp.abs(x).max(1, keepdims=True))
    x = _logits.divide(x, largest, 0.0)
    return _logits.divide(x, _logits.norm(x, 1), 0.0)


def check_width(student: Array, bank: Array, name: str) -> None:
    """Raises BadInput where a bank has another number of columns."""
    if student.shape[1] != bank.shape[1]:
        raise BadInput(f"student has shape {student.shape} and {name} {bank.shape}; accepted: as many columns")


def check(student: Array, teacher: Array, banks: Banks, index: Array, where: Mask) -> None:
    """Raises BadInput where shapes do not fit."""
    check_shapes(student, teacher=teacher, where=where)
    check_width(student, banks[0], "the memory")
    if banks[0].shape != banks[1].shape or index.shape != student.shape[:1]:
        raise BadInput(
            f"student has shape {student.shape}, index {index.shape}, the memory's sides {banks[0].shape} and "
            f"{banks[1].shape}; accepted: one index per row, and equal sides"
        )


class Scores(NamedTuple):
    """x·m / T: with its own place `[batch]`, with others `[batch, n]`, and how often each of those was drawn."""

    own: Array
    others: Array
    times: Array


def log_totals(scores: Scores) -> Array:
    """log(exp(own) + Σ times·exp(others)) of each row, `[batch]`.

    Own scores are not put beside the others: one column more could not be split over devices as the bank is.
    """
    own, others, times = scores
    others = jnp.where(times > 0, others, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.maximum(own, others.max(1)))
    return jnp.log(jnp.exp(own - largest) + (times * jnp.exp(others - largest[:, None])).sum(1)) + largest


def log_z(scores: Scores, examples: int, where: Mask) -> Array:
    """log(examples · mean exp(score)) over all that were scored; log(examples) where no row is kept."""
    keep = _maps.kept(scores.own, where)
    counted = jnp.where(keep, 1 + scores.times.sum(1), 0).sum()
    mean = jax.nn.logsumexp(log_totals(scores), where=keep) - jnp.log(jnp.maximum(counted, 1))
    return jax.lax.stop_gradient(math.log(examples) + jnp.where(keep.any(), mean, 0))


def both_scores(
    student: Array,
    teacher: Array,
    banks: Banks,
    index: Array,
    negatives: Array,
    temperature: Scalar,
    where: Mask,
) -> tuple[Scores, Scores]:
    """Those of the student's embeddings with the teacher's bank and of the teacher's with the student's.

    Args:
        student, teacher: `[batch, dims]`. where: rows to keep.
        banks: the student's and the teacher's, `[examples, dims]` each.
        index, negatives: `[batch]` and `[batch, K]`, places in the banks.
        temperature: T > 0.
    """
    require_positive("temperature", temperature)
    check(student, teacher, banks, index, where)
    if negatives.ndim != 2 or len(negatives) != len(student) or not negatives.shape[1]:
        raise BadInput(
            f"student has shape {student.shape} and negatives {negatives.shape}; accepted: [batch, 1 or more]"
        )
    index, negatives = blank(index, where), blank(negatives, where)
    whole = len(banks[0]) <= _PRODUCT_UP_TO * negatives.shape[1]
    x, y = unit(clean(student, where)), unit(clean(teacher, where))
    if whole:
        times = jnp.zeros((len(x), len(banks[0])), x.dtype)
        times = times.at[jnp.arange(len(x))[:, None], negatives].add(1, mode="drop")
    else:
        times = jnp.ones((1, 1), x.dtype)

    def scores(x: Array, bank: Array) -> Scores:
        bank = jax.lax.stop_gradient(bank).astype(x.dtype)

        def at(place: Array) -> Array:
            found = bank.at[place].get(mode="fill", fill_value=jnp.nan)
            return jnp.einsum("bd,bd->b", found, x, precision=_maps.EXACT)

        if whole:
            others = jnp.matmul(x, bank.T, precision=_maps.EXACT)
        else:
            others = jax.lax.map(jax.checkpoint(at), negatives.T, batch_size=_GATHERED_AT_ONCE).T
        return Scores(at(index) / temperature, others / temperature, jnp.broadcast_to(times, others.shape))

    return scores(x, banks[1]), scores(y, banks[0])

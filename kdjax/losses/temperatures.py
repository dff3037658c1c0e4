"""Temperatures of teachers' answers that are fitted while the run goes on; all are made alike.

    f(**own) -> Fitted

A term of an expression that has one divides its teacher's logits by it before its loss sees them; the loss's own
temperature, of both sides, stays apart. The terms that say the same share one memory, with a row for each term.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.losses import _logits
from kdjax.losses._rows import Scalar, require, require_positive
from kdjax.losses.response import cross_entropy
from kdjax.types import BadInput

Memory = dict[str, Array]
Answers = Float[Array, "terms batch classes"]


class Fitted(NamedTuple):
    """Temperatures with a memory.

    Attributes:
        begin: `(terms, classes) -> memory`.
        now: `(memory, labels [B], visit) -> (temperatures [terms, B], memory)`, at the beginning of a step; `visit`
            says how many times the data set was seen whole, None where nobody knows.
        learn: `(memory, teachers [terms, B, K], student [terms, B, K], labels [B], where [B]) -> memory`, at its end:
            of the logits of teachers and student over all devices.
    """

    begin: Callable[[int, int], Memory]
    now: Callable[[Memory, Int[Array, " batch"], Array | None], tuple[Float[Array, "terms batch"], Memory]]
    learn: Callable[[Memory, Answers, Answers, Int[Array, " batch"], Bool[Array, " batch"]], Memory]


def entropy_balance(rate: Scalar = 0.001, least: Scalar = 1.0, most: Scalar = 10.0) -> Fitted:
    """Teachers brought to the same entropy: T_k <- T_k - r sign(H_k / H_j - 1), within bounds, after every step.

    H_k is the batch's mean entropy of softmax(z_k / T_k), H_j the mean of the others'. All begin at 1.

    Args:
        rate: r, 0 or more.
        least, most: the bounds of T_k, above 0.

    Raises: BadInput: numbers out of range, or fewer than two terms.

    >>> fitted = entropy_balance(rate=0.5)
    >>> teachers = jnp.array([[[9.0, 0.0]], [[1.0, 0.0]]])  # the first is surer
    >>> fitted.learn(fitted.begin(2, 2), teachers, teachers, jnp.array([0]), jnp.array([True]))["temperatures"]
    Array([1.5, 1. ], dtype=float32)

    Reference: the code released with Zhao, Wang, Wei, "Mitigating Accuracy-Robustness Trade-off via Balanced
    Multi-Teacher Adversarial Distillation" (B-MTARD), IEEE TPAMI 2024.
    """
    _require_bounds(rate, least, most)

    def begin(terms: int, classes: int) -> Memory:
        if terms < 2:
            raise BadInput(f"teacher_temperature=entropy_balance in {terms} term; accepted: in two or more")
        return {"temperatures": jnp.ones(terms, jnp.float32)}

    def now(memory: Memory, labels: Array, visit: Array | None) -> tuple[Array, Memory]:
        return jnp.broadcast_to(memory["temperatures"][:, None], (len(memory["temperatures"]), len(labels))), memory

    def learn(memory: Memory, teachers: Array, student: Array, labels: Array, where: Array) -> Memory:
        old = memory["temperatures"]
        log_p = jax.nn.log_softmax(jnp.where(where[None, :, None], teachers, 0) / old[:, None, None])
        each = jax.vmap(_logits.expectation)(log_p, -log_p)
        entropy = jnp.sum(jnp.where(where[None], each, 0), axis=1) / jnp.maximum(jnp.sum(where), 1)
        others = (entropy.sum() - entropy) / (len(entropy) - 1)
        return {"temperatures": jnp.clip(old - rate * jnp.sign(entropy - others), least, most)}

    return Fitted(begin, now, learn)


def class_risk(rate: Scalar = 0.1, least: Scalar = 0.5, most: Scalar = 5.0, *, released: bool = False) -> Fitted:
    """A temperature for every class, lower where the student fails: T_c <- T_c - r (R_c - mean R) / max |R - mean R|.

    R_c is the mean cross-entropy of the student's answers to images of class c, since T_c moved last: it moves after
    each pass over the data set. All begin at 1; an image without a label keeps 1.

    Args:
        rate: r, 0 or more.
        least, most: the bounds of T_c, above 0.
        released: as the code does it: R_c is the sum over the images of class c, and every term's answer is divided by
            the product of all terms' temperatures, since their rows share memory there.

    Raises: BadInput: numbers out of range, or a batch that does not say which pass it is of.

    Reference: Zhao, Wang, Wei, "Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation" (ABSLD),
    NeurIPS 2024, and its released code.
    """
    _require_bounds(rate, least, most)

    def begin(terms: int, classes: int) -> Memory:
        zeros = jnp.zeros((terms, classes), jnp.float32)
        return {"count": zeros, "loss": zeros, "temperatures": zeros + 1, "visit": jnp.full((1, 1), -1, jnp.int32)}

    def now(memory: Memory, labels: Array, visit: Array | None) -> tuple[Array, Memory]:
        if visit is None:
            raise BadInput("the batch has no epoch: temperatures of classes move after each pass; accepted: one with")
        seen = memory["count"] > 0
        risk = memory["loss"] / (1.0 if released else jnp.maximum(memory["count"], 1))
        mean = jnp.sum(jnp.where(seen, risk, 0), 1, keepdims=True) / jnp.maximum(seen.sum(1, keepdims=True), 1)
        gap = jnp.where(seen, risk - mean, 0)
        widest = jnp.max(jnp.abs(gap), axis=1, keepdims=True)
        moved = jnp.clip(memory["temperatures"] - rate * gap / jnp.where(widest > 0, widest, 1), least, most)
        turned = visit > memory["visit"]
        table = jnp.where(turned, moved, memory["temperatures"])
        kept = {name: jnp.where(turned, 0, memory[name]) for name in ("count", "loss")}
        each = jnp.where(labels[None] < 0, 1, table[:, jnp.maximum(labels, 0)])
        if released:
            each = jnp.broadcast_to(jnp.prod(each, axis=0, keepdims=True), each.shape)
        return each, kept | {"temperatures": table, "visit": jnp.maximum(memory["visit"], visit)}

    def learn(memory: Memory, teachers: Array, student: Array, labels: Array, where: Array) -> Memory:
        keep = where & (labels >= 0)
        of_class = jax.nn.one_hot(labels, student.shape[-1]) * keep[:, None]
        each = jax.vmap(cross_entropy, (0, None))(
            jnp.where(keep[None, :, None], student, 0), jnp.where(keep, labels, 0)
        )
        return memory | {
            "count": memory["count"] + of_class.sum(0, keepdims=True),
            "loss": memory["loss"] + jnp.where(keep[None], each, 0) @ of_class,
        }

    return Fitted(begin, now, learn)


def _require_bounds(rate: Scalar, least: Scalar, most: Scalar) -> None:
    require("rate", rate, "a number, 0 or more", lambda x: x >= 0)
    require_positive("least", least)
    require("most", most, "a number, `least` or more", lambda x: not isinstance(least, float | int) or x >= least)

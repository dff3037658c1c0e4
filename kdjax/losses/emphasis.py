"""How much an example counts in a term, by what a network says of it: factors of a loss, all called alike.

    f(logits, labels, *, where=None, **own) -> [batch]

- `logits`: an answer `[batch, classes]`, before any softmax. Halves are computed in float32.
- `labels`: int `[batch]`; where negative (not known) the answer's largest class stands for it.
- `where`: rows to keep; the others are 0.

p = softmax(logits). Gradients flow to the answer, unless the term stops them there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import _logits
from kdjax.losses._rows import Mask, Scalar, blank, check_shapes, clean, require, require_positive
from kdjax.losses.response import Labels, Logits, PerExample


def confidence(logits: Logits, labels: Labels, *, where: Mask = None, power: Scalar = 1.0) -> PerExample:
    """The answer's probability of the label: p_y^power.

    Args:
        logits: `[batch, classes]`. labels: `[batch]`. where: rows to keep.
        power: 0 or more; at 0 all count the same.

    Returns: `[batch]`, in [0, 1].

    Raises: BadInput: shapes that do not fit, or a power below 0.

    >>> confidence(jnp.log(jnp.array([[0.81, 0.19]])), jnp.array([0]), power=0.5).round(5)
    Array([0.9], dtype=float32)

    Reference: Zhu et al., "Reliable Adversarial Distillation with Unreliable Teachers", ICLR 2022, equation 5.
    """
    require("power", power, "a number, 0 or more", lambda x: x >= 0)
    return blank(jnp.exp(power * _of_label(logits, labels, where)), where)


def doubt(logits: Logits, labels: Labels, *, where: Mask = None, power: Scalar = 1.0) -> PerExample:
    """What is missing of `confidence`: 1 - p_y^power.

    Args, Returns, Raises: as `confidence`.

    >>> doubt(jnp.log(jnp.array([[0.81, 0.19]])), jnp.array([0])).round(5)
    Array([0.19], dtype=float32)

    Reference: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020,
    equation 12; Zhu et al., ICLR 2022, equation 5.
    """
    require("power", power, "a number, 0 or more", lambda x: x >= 0)
    return blank(-jnp.expm1(power * _of_label(logits, labels, where)), where)


def uncertainty(logits: Logits, labels: Labels, *, where: Mask = None, scale: Scalar = 5.0) -> PerExample:
    """How much less sure the answer is than the surest of the batch: s (H(p) - min H), H the entropy.

    Args:
        logits: `[batch, classes]`. labels: ignored. where: rows to keep; the others do not enter the minimum.
        scale: s, above 0.

    Returns: `[batch]`, nats times s.

    Raises: BadInput: shapes that do not fit, or a scale that is not above 0.

    >>> uncertainty(jnp.array([[0.0, 0.0], [1e4, 0.0]]), jnp.array([0, 0]), scale=1.0).round(5)
    Array([0.69315, 0.     ], dtype=float32)

    Reference: Lee et al., "Sample-wise Adaptive Adversarial Distillation" (SAAD), TMLR 2026, the released code.
    """
    require_positive("scale", scale)
    entropy, low, _ = _entropies(logits, where)
    return blank(scale * (entropy - low), where)


def certainty(logits: Logits, labels: Labels, *, where: Mask = None) -> PerExample:
    """How sure the answer is among those of the batch: (max H - H) / (max H - min H), H the entropy; 0 if all agree.

    Args:
        logits: `[batch, classes]`. labels: ignored. where: rows to keep; the others are not compared with.

    Returns: `[batch]`, in [0, 1].

    Raises: BadInput: shapes that do not fit.

    >>> certainty(jnp.array([[0.0, 0.0], [1e4, 0.0]]), jnp.array([0, 0]))
    Array([0., 1.], dtype=float32)

    Reference: as `uncertainty`.
    """
    entropy, low, high = _entropies(logits, where)
    flat = high == low
    return blank(jnp.where(flat, 0, (high - entropy) / jnp.where(flat, 1, high - low)), where)


def _entropies(logits: Logits, where: Mask) -> tuple[Array, Array, Array]:
    """H of each row, and the lowest and the highest of those kept."""
    check_shapes(logits, where=where)
    log_p = jax.nn.log_softmax(clean(logits, where))
    entropy = _logits.expectation(log_p, -log_p)
    keep = jnp.ones(len(entropy), bool) if where is None else where.astype(bool)
    return entropy, jnp.min(jnp.where(keep, entropy, jnp.inf)), jnp.max(jnp.where(keep, entropy, -jnp.inf))


def _of_label(logits: Logits, labels: Labels, where: Mask) -> PerExample:
    """log p_y."""
    assert labels is not None
    check_shapes(logits, labels=labels, where=where)
    log_p = jax.nn.log_softmax(clean(logits, where))
    target = jnp.where(labels < 0, jnp.argmax(log_p, axis=1), blank(labels, where))
    return _logits.split_target(log_p, target)[0][:, 0]

"""What an attacker wants small, and when it has won.

Each function builds an objective of a victim and the labels; with `target` it wants the target class instead of any
wrong one; with `toward` it moves to that class, and any wrong one is a success. Z are logits, y the label, t the
target or the class moved to.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks.victims import Victim, require_classes
from kdjax.losses import response
from kdjax.types import BadInput

Score = Callable[[Array, dict[str, Array]], tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scored:
    """An `Objective` that scores a victim's logits: `score(logits [B, K], data) -> (value [B], success [B])`.

    Attributes:
        victim: who is asked.
        data: per example: `label [B]`, and what else the score reads.
        score: the formula.
    """

    victim: Any  # a `Victim`; JAX also builds pytrees of other things than arrays
    data: dict[str, Any]
    score: Score = dataclasses.field(metadata={"static": True})

    def __call__(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> tuple[Array, Array]:
        value, success = self.score(self.logits(image, key=key, where=where), self.data)
        # The largest of NaNs is the first class: without this, an answer that is no number fools.
        return value, success & ~jnp.isnan(value)

    def logits(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array:
        """The victim's answer, `[B, K]`, in float32 where it comes in half precision: scores need the digits."""
        found = self.victim(image, key=key, where=where)
        require_classes(found.shape[-1])
        wide = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        if wide.dtype == found.dtype:
            return found
        # XLA may leave out a rounding that is undone at once; who asks the victim again would meet other ties.
        kind = jnp.finfo(found.dtype)
        return jax.lax.reduce_precision(wide, kind.nexp, kind.nmant)

    @property
    def white_box(self) -> bool:
        """Whether gradients may be taken: not of what is no `Victim`."""
        return isinstance(self.victim, Victim) and self.victim.white_box


def cross_entropy(victim: Victim, label: Array, *, target: Array | None = None) -> Scored:
    """f = -CE(Z, y); targeted CE(Z, t).

    In float32 its gradient is exactly 0 once the label's logit leads by 17: a saturated model then looks robust.
    """
    return Scored(victim, _data(label, target), _cross_entropy)


def margin(victim: Victim, label: Array, *, target: Array | None = None, kappa: Array | float | int = 0.0) -> Scored:
    """f = max(Z_y - max_{i != y} Z_i, -kappa); targeted max(max_{i != t} Z_i - Z_t, -kappa).

    Success asks for the margin kappa as well. Differences of log-probabilities are the same numbers, so this is ZOO's
    loss too.

    Reference:
        Carlini, Wagner, Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017, f_6; Chen, Zhang, Sharma,
        Yi, Hsieh, ZOO, AISec 2017, equations 3 and 4.
    """
    floor = jnp.broadcast_to(-jnp.asarray(kappa, jnp.float32), label.shape)
    return Scored(victim, {**_data(label, target), "floor": floor}, _margin)


def dlr(victim: Victim, label: Array, *, target: Array | None = None, toward: Array | None = None) -> Scored:
    """Difference of logits ratio, blind to shift and scale: f = (Z_y - max_{i != y} Z_i) / (Z_1st - Z_3rd).

    Targeted: f = (Z_y - Z_t) / (Z_1st - (Z_3rd + Z_4th) / 2), the order being that of Z, largest first.

    Raises:
        BadInput: fewer than 3 classes, or 4 when targeted.

    Reference:
        Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
        ICML 2020, equations 6 and 7 (signs turned: here small is good for the attacker).
    """
    return Scored(victim, _data(label, target, toward), _dlr)


def gap(victim: Victim, label: Array, *, toward: Array) -> Scored:
    """f = Z_y - Z_t, 0 on the boundary between the label and the class `toward [B]`.

    Reference:
        Croce, Hein (ICML 2020), FAB-T.
    """
    return Scored(victim, _data(label, None, toward), _gap)


def divergence(victim: Victim, label: Array, *, reference: Array) -> Scored:
    """f = -KL(softmax(reference) || softmax(Z)): move the answer away from `reference [B, K]`, the clean logits.

    Reference:
        Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and Accuracy,
        ICML 2019, equation 5 (the inner problem of TRADES).
    """
    return Scored(victim, {**_data(label, None), "reference": reference}, _divergence)


def divided(victim: Victim, by: Array | float | int) -> Victim:
    """The victim with its logits divided: undoes a temperature that saturates cross-entropy, and changes no answer."""
    return dataclasses.replace(victim, variables=(victim, jnp.asarray(by, jnp.float32)), forward=_divided)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Penalised:
    """|x - x0|^2 + c f(x): the nearest image that still fools, at the right c; `weight` is c `[B]`.

    Reference:
        Szegedy et al., Intriguing Properties of Neural Networks, ICLR 2014; Carlini, Wagner (2017), section V.
    """

    objective: Any
    origin: Any
    weight: Any

    def __call__(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> tuple[Array, Array]:
        value, success = self.objective(image, key=key, where=where)
        return jnp.sum((image - self.origin) ** 2, axis=tuple(range(1, image.ndim))) + self.weight * value, success

    def logits(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array:
        """The victim's answer."""
        return self.objective.logits(image, key=key, where=where)

    @property
    def data(self) -> Mapping[str, Array]:
        """What answers are scored by."""
        return self.objective.data

    @property
    def white_box(self) -> bool:
        """Whether gradients may be taken."""
        return self.objective.white_box


def _data(label: Array, target: Array | None, toward: Array | None = None) -> dict[str, Array]:
    given = {"label": label, "target": target, "toward": toward}
    return {name: jnp.asarray(classes) for name, classes in given.items() if classes is not None}


def _divided(variables: Any, image: Array, key: Array | None, where: Array | None) -> Array:
    victim, by = variables
    return victim(image, key=key, where=where) / by


def _fooled(logits: Array, data: dict[str, Array]) -> Array:
    top = jnp.argmax(logits, -1)
    return top == data["target"] if "target" in data else top != data["label"]


def _lead(logits: Array, cls: Array) -> Array:
    """Z_cls - max_{i != cls} Z_i, `[B]`."""
    own = jax.nn.one_hot(cls, logits.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(own, logits, 0), -1) - jnp.max(jnp.where(own, -jnp.inf, logits), -1)


def _cross_entropy(logits: Array, data: dict[str, Array]) -> tuple[Array, Array]:
    if "target" in data:
        return response.cross_entropy(logits, data["target"]), _fooled(logits, data)
    return -response.cross_entropy(logits, data["label"]), _fooled(logits, data)


def _margin(logits: Array, data: dict[str, Array]) -> tuple[Array, Array]:
    lead = -_lead(logits, data["target"]) if "target" in data else _lead(logits, data["label"])
    return jnp.maximum(lead, data["floor"]), _fooled(logits, data) & (lead <= data["floor"])


def _dlr(logits: Array, data: dict[str, Array]) -> tuple[Array, Array]:
    aim = data.get("target", data.get("toward"))
    need = 3 if aim is None else 4
    if logits.shape[-1] < need:
        raise BadInput(f"dlr: {logits.shape[-1]} classes; accepted: {need} or more.")
    order = jax.lax.top_k(logits, need)[0]
    if aim is not None:
        return _gap_to(logits, data, aim) / (order[:, 0] - order[:, 2:].mean(-1) + 1e-12), _fooled(logits, data)
    return _lead(logits, data["label"]) / (order[:, 0] - order[:, 2] + 1e-12), _fooled(logits, data)


def _gap(logits: Array, data: dict[str, Array]) -> tuple[Array, Array]:
    return _gap_to(logits, data, data["toward"]), _fooled(logits, data)


def _gap_to(logits: Array, data: dict[str, Array], cls: Array) -> Array:
    own, other = (jnp.take_along_axis(logits, at[:, None], -1)[:, 0] for at in (data["label"], cls))
    return own - other


def _divergence(logits: Array, data: dict[str, Array]) -> tuple[Array, Array]:
    return -response.kl(logits, data["reference"], temperature=1.0), _fooled(logits, data)

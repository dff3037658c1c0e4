"""Optax optimizers by name and schedules, at unit learning rate.

The step multiplies the updates of a `UnitRate` by `state.hparams["learning_rate"]`, a traced scalar. So an optimizer
here is built with a schedule whose peak is 1, and one compiled program serves every learning rate. This is exact for
optimizers whose updates are proportional to the learning rate; the names below are those, and a test checks each
against Optax itself. An optimizer of Optax's own, such as `optax.adam(1e-3)`, moves weights as its manual says.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.spec import Schedule
from kdjax.types import BadInput, PyTree, nearest

# Decay decoupled from the gradient is the optimizer's own; for the others it is added to the gradient (L2), as the
# CIFAR recipes of the field do with SGD.
DECOUPLED = ("adamw", "lamb", "lion", "nadamw", "adan")
COUPLED = ("adabelief", "adagrad", "adam", "adamax", "amsgrad", "nadam", "radam", "rmsprop", "sgd", "yogi")
MOMENTUM = ("rmsprop", "sgd")
OPTIMIZERS = tuple(sorted(DECOUPLED + COUPLED))


class UnitRate(optax.GradientTransformationExtraArgs):
    """An Optax transformation whose updates a step multiplies by the traced learning rate.

    Attributes:
        max_norm: what `bounded` keeps the weights within after each update; 0 bounds nothing.
    """

    max_norm: float = 0.0


def unit_rate(tx: optax.GradientTransformation, *, max_norm: float = 0.0) -> UnitRate:
    """The same transformation, as one that the traced learning rate multiplies; it must have rate 1."""
    made = UnitRate(tx.init, optax.with_extra_args_support(tx).update)
    made.max_norm = max_norm
    return made


def bounded(params: PyTree, max_norm: float) -> PyTree:
    """Weight constraints: the weights into one unit, scaled down to an L2 norm of `max_norm` where theirs is larger.

    w_j <- w_j min(1, max_norm / ||w_j||), j along a kernel's last axis. Biases and scales, which have one axis, stay.

    Reference: Hinton, Srivastava, Krizhevsky, Sutskever, Salakhutdinov, Improving neural networks by preventing
    co-adaptation of feature detectors, arXiv:1207.0580, page 2.
    """

    def one(w: jax.Array) -> jax.Array:
        if w.ndim < 2:
            return w
        norm = jnp.sqrt(jnp.sum(w * w, axis=tuple(range(w.ndim - 1)), keepdims=True))
        return w * (max_norm / jnp.maximum(norm, max_norm)).astype(w.dtype)

    return jax.tree.map(one, params)


def following(schedule: Schedule, *, steps: int) -> optax.Schedule:
    """A factor of the learning rate, as Optax takes it: `schedule` at the fraction count / steps of the run.

    Args:
        schedule: such as `cosine(1, 0)`; the learning rate stands where it is 1.
        steps: updates in the run.

    Raises:
        BadInput: a factor that is negative, above 1, or nowhere above 0.

    >>> from kdjax.spec import cosine
    >>> following(cosine(1, 0), steps=100)(50)
    0.5
    """
    factors = [float(schedule.at(i / 1000)) for i in range(1001)]
    if not (min(factors) >= 0 and 0 < max(factors) <= 1):
        raise BadInput(
            f"schedule={schedule!r} runs from {min(factors):g} to {max(factors):g}; accepted: a factor of the learning "
            "rate, from 0 to 1 and not always 0"
        )
    return lambda count: schedule.at(count / steps)


def optimizer(
    name: str,
    *,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    grad_clip: float = 0.0,
    max_norm: float = 0.0,
) -> UnitRate:
    """An Optax optimizer by name.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: number or schedule; leave at unit scale when the step multiplies by a traced rate.
        momentum: heavy-ball coefficient in [0, 1), for sgd and rmsprop only.
        weight_decay: decoupled for `DECOUPLED`, otherwise added to the gradient.
        grad_clip: largest global norm of the gradient; 0 does not clip.
        max_norm: largest norm of the weights into one unit, see `bounded`; 0 bounds nothing.

    Raises:
          BadInput: an unknown name, a value out of range, or momentum for an optimizer that has its own.
    """
    if name not in OPTIMIZERS:
        raise BadInput(f"optimizer={name!r}; accepted: {', '.join(OPTIMIZERS)}{nearest(name, OPTIMIZERS)}")
    if not 0 <= momentum < 1:
        raise BadInput(f"momentum={momentum}: accepted are numbers in [0, 1).")
    if momentum and name not in MOMENTUM:
        raise BadInput(f"momentum={momentum} with optimizer={name!r}: only {', '.join(MOMENTUM)} take it.")
    for number, value in {"weight_decay": weight_decay, "grad_clip": grad_clip, "max_norm": max_norm}.items():
        if not 0 <= value < float("inf"):
            raise BadInput(f"{number}={value}: accepted are numbers from 0.")
    own: dict[str, Any] = {}
    if momentum:
        own["momentum"] = momentum
    if name in DECOUPLED:
        own["weight_decay"] = weight_decay
    parts = [optax.clip_by_global_norm(grad_clip)] if grad_clip else []
    if weight_decay and name in COUPLED:
        parts.append(optax.add_decayed_weights(weight_decay))
    return unit_rate(optax.chain(*parts, getattr(optax, name)(learning_rate, **own)), max_norm=max_norm)

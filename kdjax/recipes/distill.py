"""Learning from a teacher."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import response
from kdjax.recipes.supervised import Augment, augmented, correct, known
from kdjax.types import ApplyFn, Batch, Loss, LossFn, Metrics, Outputs, PyTree, TrainState

Teacher = Callable[[PyTree, Batch], Outputs]
"""`(frozen, batch) -> Outputs`: what the teacher says of a batch."""


def live(apply: ApplyFn) -> Teacher:
    """A teacher that is run in every step, in evaluation mode, on variables found in `state.frozen`."""
    return lambda frozen, batch: apply(frozen, jnp.asarray(batch["image"]), train=False, key=None)[0]


def cached() -> Teacher:
    """A teacher whose logits were computed once and travel with the data as `teacher_logits [B, K]`.

    Exact where inputs are not augmented: the same example gets the same answer every epoch.
    """
    return lambda frozen, batch: Outputs(jnp.asarray(batch["teacher_logits"]))


def distill(student: ApplyFn, teacher: Teacher, loss: Loss, *, augment: Augment | None = None) -> LossFn:
    """Weigh a teacher's answers against the labels.

    l = alpha * loss(student, teacher; temperature) + (1 - alpha) * cross_entropy(student, label)

    per example; an example whose label is -1 has no second term. `alpha` and `temperature` are read from
    `state.hparams`, so they are traced.

    Args:
        student: the model in training.
        teacher: `live(apply)` or `cached()`.
        loss: a response loss; T^2 is its own business.

    Returns:
        A `LossFn` with the metrics `distillation`, `cross_entropy` and `agreement` (with the teacher's top class).

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop,
        section 2.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, tuple[PyTree, Metrics]]:
        batch, key = augmented(batch, key, augment)
        # The one place where the gradient stops.
        target = jax.lax.stop_gradient(teacher(state.frozen, batch)).logits
        variables = {"params": params, **state.model_state}
        outputs, model_state = student(variables, jnp.asarray(batch["image"]), train=True, key=key)
        logits, label = outputs.logits, jnp.asarray(batch["label"])
        soft = loss(
            logits, target, labels=label, temperature=state.hparams["temperature"], where=jnp.asarray(batch["mask"]) > 0
        )
        hard = response.cross_entropy(logits, label)
        alpha = state.hparams["alpha"]
        metrics = {
            "distillation": soft,
            "cross_entropy": (hard, known(label)),
            "agreement": correct(logits, target.argmax(-1)),
        }
        return alpha * soft + (1 - alpha) * hard, (model_state, metrics)

    return loss_fn

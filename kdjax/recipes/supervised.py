"""Learning from labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import response
from kdjax.types import ApplyFn, Batch, LossFn, Metrics, PyTree, TrainState

Augment = Callable[[Array, Array], Array]
"""`(key, image) -> image`, on the device."""


def supervised(apply: ApplyFn, *, label_smoothing: float = 0.0, augment: Augment | None = None) -> LossFn:
    """Cross-entropy with the labels; an example whose label is -1 contributes nothing.

    Args:
        apply: the model in training.
        label_smoothing: share of the target spread evenly over the classes.
        augment: applied to the images of each step, with a key of its own.

    Returns:
        A `LossFn` with the metric `accuracy`.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, tuple[PyTree, Metrics]]:
        batch, key = augmented(batch, key, augment)
        variables = {"params": params, **state.model_state}
        outputs, model_state = apply(variables, jnp.asarray(batch["image"]), train=True, key=key)
        labels = jnp.asarray(batch["label"])
        losses = response.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
        return losses, (model_state, {"accuracy": (correct(outputs.logits, labels), known(labels))})

    return loss_fn


def augmented(batch: Batch, key: Array, augment: Augment | None) -> tuple[Batch, Array]:
    """The batch with its images augmented, if asked, and the key that is left for the model."""
    if augment is None:
        return batch, key
    model_key, augment_key = jax.random.split(key)
    return {**batch, "image": augment(augment_key, jnp.asarray(batch["image"]))}, model_key


def known(label: Array) -> Array:
    """1 where the label is known, `[B]`."""
    return (label >= 0).astype(jnp.float32)


def correct(logits: Array, label: Array) -> Array:
    """1 where the largest logit is the label's, `[B]`."""
    return (jnp.argmax(logits, -1) == label).astype(jnp.float32)

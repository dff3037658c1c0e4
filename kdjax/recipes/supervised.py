"""Learning from labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import response
from kdjax.types import ApplyFn, Batch, LossFn, Metrics, Outputs, PyTree, TrainState

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

    def loss_fn(
        params: PyTree, state: TrainState, batch: Batch, key: Array
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        outputs, model_state = forward(apply, params, state, batch, key, augment)
        losses = response.cross_entropy(outputs.logits, batch["label"], label_smoothing=label_smoothing)
        return losses, (model_state, {"accuracy": correct(outputs.logits, batch["label"])})

    return loss_fn


def forward(
    apply: ApplyFn,
    params: PyTree,
    state: TrainState,
    batch: Batch,
    key: Array,
    augment: Augment | None = None,
) -> tuple[Outputs, PyTree]:
    """The model in training mode on a batch, augmented first if asked."""
    model_key, augment_key = jax.random.split(key)
    image = augment(augment_key, batch["image"]) if augment else batch["image"]
    return apply({"params": params, **state.model_state}, image, train=True, key=model_key)


def correct(logits: Array, label: Array) -> Array:
    """1 where the largest logit is the label's, `[B]`."""
    return (jnp.argmax(logits, -1) == label).astype(jnp.float32)

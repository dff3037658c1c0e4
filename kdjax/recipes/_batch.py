"""What recipes do to a batch: augment it, choose its rows, and tell which labels are known and which answers right."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.data import views
from kdjax.types import Batch

Augment = Callable[[Array, Array, Array], Array]
"""`(key [B], image, mask [B]) -> image`, on the device: one key per image; `mask` is 1 for a real row."""


def spread_rows(share: float, rows: int) -> np.ndarray:
    """Which rows make up a share, spread evenly so that each device of several gets its part, `[rows]` bool.

    >>> spread_rows(0.5, 6).astype(int)
    array([0, 1, 0, 1, 0, 1])
    """
    # A hair more than the share, or 0.29 of 100 rows would be 28.
    return np.diff(np.floor(np.arange(rows + 1) * share + 1e-9)) > 0


def augmented(batch: Batch, key: Array, augment: Augment | None, *, run_key: Array) -> tuple[Batch, Array]:
    """The batch with its images augmented, if asked, and the key that is left for the model.

    An example's view is a function of the run's key, its `index` and its `epoch` (`data.views.keys`), whatever the
    step, the row and the device that it lies in. Without `epoch` in the batch, each example's own key is made of the
    step's and of its `index`; without that, of its row.

    Args:
        batch: as the step got it.
        key: the step's.
        augment: what makes the views; None leaves batch and key as they are.
        run_key: the state's.
    """
    if augment is None:
        return batch, key
    image, mask = jnp.asarray(batch["inputs"]), jnp.asarray(batch["mask"])
    index = jnp.asarray(batch["index"]) if "index" in batch else jnp.arange(len(image))
    if "epoch" in batch:
        return {**batch, "inputs": augment(views.keys(run_key, index, jnp.asarray(batch["epoch"])), image, mask)}, key
    model_key, augment_key = jax.random.split(key)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(augment_key, index)
    return {**batch, "inputs": augment(keys, image, mask)}, model_key


def known(label: Array) -> Array:
    """1 where the label is known, `[B]`."""
    return (label >= 0).astype(jnp.float32)


def correct(logits: Array, label: Array) -> Array:
    """1 where the largest logit is the label's, `[B]`; NaN where no logit is a finite largest: argmax would hide it."""
    right = (jnp.argmax(logits, -1) == label).astype(jnp.float32)
    return jnp.where(jnp.isfinite(logits.max(-1)), right, jnp.nan)


def agreement(a: Array, b: Array) -> Array:
    """1 where two answers have the same largest logit, `[B]`; NaN where one of them has no finite largest."""
    return jnp.where(jnp.isfinite(b.max(-1)), correct(a, jnp.argmax(b, -1)), jnp.nan)

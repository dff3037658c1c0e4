"""Learning from labels, on clean images or on attacked ones."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks import objectives, victims
from kdjax.data import views
from kdjax.losses import response
from kdjax.types import ApplyFn, Attack, BadInput, Batch, LossFn, Metrics, Objective, PyTree, TrainState

Augment = Callable[[Array, Array], Array]
"""`(key [B], image) -> image`, on the device: one key per image."""


def supervised(
    apply: ApplyFn,
    *,
    label_smoothing: float | Array = 0.0,
    augment: Augment | None = None,
    attack: Attack | None = None,
    objective: Callable[..., Objective] = objectives.cross_entropy,
    attacked: float = 1.0,
) -> LossFn:
    """Cross-entropy with the labels; an example whose label is -1 contributes nothing.

    With an attack, adversarial training:

    l = CE(f(x'), y),  x' = attack(x) for a share of the rows, x for the others

    The attack runs inside the step against the model as it is deployed: in evaluation mode, its weights constants. No
    gradient passes through it.

    Args:
        apply: the model in training.
        label_smoothing: share of the target spread evenly over the classes.
        augment: applied to the images of each step, with a key of its own, before the attack.
        attack: any of the algebra; None trains on clean images.
        objective: what the attack makes small: `(victim, label) -> Objective`.
        attacked: share of each batch's rows that is attacked, in [0, 1]; padding and unknown labels never are.

    Returns:
        A `LossFn` with the metric `accuracy`, on what was trained on, and with an attack `attacked_accuracy`, on the
        attacked rows.

    Raises:
        BadInput: a share outside [0, 1].

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
        ICLR 2018, equation 2.1; with one step of PGD from a random start, Wong, Rice, Kolter, Fast is better than
        free: revisiting adversarial training, ICLR 2020, algorithm 3.
    """
    if not 0 <= attacked <= 1:
        raise BadInput(f"attacked={attacked}: accepted are shares of a batch, from 0 to 1.")

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, tuple[PyTree, Metrics]]:
        batch, key = augmented(batch, key, augment, run_key=state.key)
        variables = {"params": params, **state.model_state}
        image, labels = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
        rows = (jnp.asarray(batch["mask"]) > 0) & (labels >= 0) & spread_rows(attacked, len(labels))
        if attack is not None and attacked > 0:
            victim = victims.white_box(apply, jax.lax.stop_gradient(variables))
            # Folded and not split, so that the model draws what it would draw without an attack.
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, 1), jnp.arange(len(labels)))
            image = jax.lax.stop_gradient(attack(objective(victim, labels), keys, image, where=rows).image)
        outputs, model_state = apply(variables, image, train=True, key=key)
        losses = response.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
        right = correct(outputs.logits, labels)
        metrics: Metrics = {"accuracy": (right, known(labels))}
        if attack is not None:
            metrics["attacked_accuracy"] = (right, rows.astype(jnp.float32))
        return losses, (model_state, metrics)

    return loss_fn


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
    image = jnp.asarray(batch["image"])
    index = jnp.asarray(batch["index"]) if "index" in batch else jnp.arange(len(image))
    if "epoch" in batch:
        return {**batch, "image": augment(views.keys(run_key, index, jnp.asarray(batch["epoch"])), image)}, key
    model_key, augment_key = jax.random.split(key)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(augment_key, index)
    return {**batch, "image": augment(keys, image)}, model_key


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

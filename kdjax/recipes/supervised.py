"""Learning from labels, on clean images or on attacked ones."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks import objectives, victims
from kdjax.losses import response
from kdjax.recipes._batch import Augment, augmented, correct, known, spread_rows
from kdjax.types import ApplyFn, Attack, BadInput, Batch, LossFn, Metrics, Objective, PyTree, TrainState


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
        outputs, model_state = apply(variables, image, train=True, key=key, mask=jnp.asarray(batch["mask"]))
        losses = response.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
        right = correct(outputs.logits, labels)
        metrics: Metrics = {"accuracy": (right, known(labels))}
        if attack is not None:
            metrics["attacked_accuracy"] = (right, rows.astype(jnp.float32))
        return losses, (model_state, metrics)

    return loss_fn

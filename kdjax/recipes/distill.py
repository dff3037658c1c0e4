"""Learning from a teacher."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import response, top_k
from kdjax.losses.ensemble import Ensemble, Vote
from kdjax.recipes.supervised import Augment, augmented, correct, known
from kdjax.types import ApplyFn, BadInput, Batch, Loss, LossFn, Metrics, Outputs, PyTree, TrainState

Teacher = Callable[[PyTree, Batch], Outputs]
"""`(frozen, batch) -> Outputs`: what the teacher says of a batch; several teachers' logits are `[T, B, K]`."""


def live(apply: ApplyFn) -> Teacher:
    """A teacher that is run in every step, in evaluation mode, on variables found in `state.frozen`."""
    return lambda frozen, batch: apply(frozen, jnp.asarray(batch["image"]), train=False, key=None)[0]


def cached() -> Teacher:
    """A teacher whose logits were computed once and travel with the data as `teacher_logits [B, K]`.

    Exact where inputs are not augmented: the same example gets the same answer every epoch. `[B, T, K]` are those of
    several teachers.
    """

    return lambda frozen, batch: Outputs(_teachers_first(jnp.asarray(batch["teacher_logits"])))


def cached_top_k(num_classes: int) -> Teacher:
    """The same where only the k largest logits travel with the data, and the others' sum: see `kdjax.losses.top_k`.

    The batch has `teacher_values` and `teacher_classes [B, k]` and `teacher_rest [B]`; several teachers' are
    `[B, T, k]` and `[B, T]`. All `num_classes` logits exist for one batch at a time.
    """

    def teacher(frozen: PyTree, batch: Batch) -> Outputs:
        values, classes, rest = (jnp.asarray(batch[f"teacher_{name}"]) for name in ("values", "classes", "rest"))
        return Outputs(_teachers_first(top_k.expand(values, classes, rest, num_classes)))

    return teacher


def _teachers_first(said: Array) -> Array:
    return jnp.moveaxis(said, 1, 0) if said.ndim == 3 else said


def distill(
    student: ApplyFn,
    teacher: Teacher,
    loss: Loss,
    *,
    augment: Augment | None = None,
    ensemble: Ensemble | None = None,
) -> LossFn:
    """Weigh a teacher's answers against the labels.

    l = alpha * loss(student, teacher; temperature) + (1 - alpha) * cross_entropy(student, label)

    per example; an example whose label is -1 has no second term. `alpha` and `temperature` are read from
    `state.hparams`, so they are traced.

    Args:
        student: the model in training.
        teacher: `live(apply)` or `cached()`; with an ensemble, one of several: `cached()` and those of
            `kdjax.recipes.teachers`.
        loss: a response loss; T^2 is its own business.
        ensemble: makes one answer of several teachers', such as `ensemble.resolve("mean_probability")`. It sees the
            labels, the student's logits and, where the batch has it, `domain`. Where it votes, the first term is
            multiplied by the example's weight.

    Returns:
        A `LossFn` with the metrics `distillation` (the mean over what was voted on), `cross_entropy` and `agreement`
        (with the teacher's top class).

    Raises:
        BadInput: when called, several teachers without an ensemble, or an ensemble for one teacher's `[B, K]`.

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop,
        section 2.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, tuple[PyTree, Metrics]]:
        batch, key = augmented(batch, key, augment)
        answers = teacher(state.frozen, batch).logits
        variables = {"params": params, **state.model_state}
        outputs, model_state = student(variables, jnp.asarray(batch["image"]), train=True, key=key)
        logits, label = outputs.logits, jnp.asarray(batch["label"])
        temperature, alpha = state.hparams["temperature"], state.hparams["alpha"]
        if answers.ndim != (2 if ensemble is None else 3):
            raise BadInput(
                f"the teacher's logits have shape {answers.shape}: accepted are one teacher's [B, K] without an "
                "ensemble, or several teachers' [T, B, K] with one"
            )
        if ensemble is not None:
            domain = jnp.asarray(batch["domain"]) if "domain" in batch else None
            answers = ensemble(answers, student=logits, labels=label, domain=domain, temperature=temperature)
        # The one place where the gradient stops.
        answers = jax.lax.stop_gradient(answers)
        target, weight = answers if isinstance(answers, Vote) else (answers, None)
        soft = loss(logits, target, labels=label, temperature=temperature, where=jnp.asarray(batch["mask"]) > 0)
        hard = response.cross_entropy(logits, label)
        metrics = {
            "distillation": soft if weight is None else (soft, weight),
            "cross_entropy": (hard, known(label)),
            "agreement": correct(logits, target.argmax(-1)),
        }
        soft = soft if weight is None else weight * soft
        return alpha * soft + (1 - alpha) * hard, (model_state, metrics)

    return loss_fn

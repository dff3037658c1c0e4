"""Learning numbers: from targets, or from a teacher's numbers beside the targets that there are.

A model's numbers stand where a classifier's logits would, `[B, T]`. A batch has `target [B, T]` and `label [B]`, -1
where the target is not known (see `kdjax.data.tabular`): such a row's target is never read, whatever stands there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import regression
from kdjax.recipes._batch import known
from kdjax.teachers.live import Teacher
from kdjax.training.state import need
from kdjax.types import STUDENT, Aux, BadInput, Batch, Loss, LossFn, Metrics, Model, PyTree, TrainState


def supervised(model: Model) -> LossFn:
    """The mean squared error to the target; a row whose target is not known contributes nothing.

    Args:
        model: the network in training.

    Returns:
        A `LossFn` with the metric `mse`, over the known rows.

    Raises:
        BadInput: while tracing: no target in the batch, or one of another shape than the model's numbers.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        answers, model_state = _answers(model, params, state, batch, key)
        where = known(jnp.asarray(batch["label"]))
        hard = regression.mse(answers, _targets(batch, answers), where=where)
        return hard, Aux(model_state, {"mse": (hard, where)})

    return loss_fn


def distill(student: Model, teacher: Teacher, loss: Loss, *, needs_targets: bool = False) -> LossFn:
    """Weigh a teacher's numbers against the targets.

    l = alpha * loss(student, teacher) + (1 - alpha) * mse(student, target)

    per example; where the target is not known the second term is 0. `alpha` is read from `state.hparams`: traced.

    Args:
        student: the model in training.
        teacher: `kdjax.teachers.live.live(apply)`, or `cached()` for numbers that travel with the data as
            `teacher_logits [B, T]`; in the units of the target.
        loss: of `kdjax.losses.regression`, its own hyper-parameters bound.
        needs_targets: the loss compares the teacher with the target, as `teacher_bounded` does; it is then asked only
            where the target is known, and is 0 elsewhere.

    Returns:
        A `LossFn` with the metrics `distillation`, over the rows it is asked for, and `mse`, over the known rows.

    Raises:
        BadInput: while tracing: no target in the batch, or shapes of target, teacher and student that differ.

    Reference: with `mse`, Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014, equation 1; with
        `teacher_bounded`, Chen, Choi, Yu, Han, Chandraker, Learning Efficient Object Detection Models with Knowledge
        Distillation, NeurIPS 2017, section 3.3, where the weights are nu and 1.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        answers, model_state = _answers(student, params, state, batch, key)
        targets, alpha = _targets(batch, answers), need(state, "alpha")
        has_target = known(jnp.asarray(batch["label"]))
        asked = has_target if needs_targets else jnp.ones_like(has_target)
        # The one place where the gradient stops.
        theirs = jax.lax.stop_gradient(teacher(state.frozen, batch).logits)
        soft = loss(answers, theirs, targets=targets, where=asked)
        hard = regression.mse(answers, targets, where=has_target)
        metrics: Metrics = {"distillation": (soft, asked), "mse": (hard, has_target)}
        return alpha * soft + (1 - alpha) * hard, Aux(model_state, metrics)

    return loss_fn


def _answers(model: Model, params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, PyTree]:
    inputs = jnp.asarray(batch["inputs"])
    variables = {"params": params[STUDENT], **state.model_state[STUDENT]}
    outputs, model_state = model.apply(variables, inputs, train=True, key=key, mask=jnp.asarray(batch["mask"]))
    return outputs.logits, {STUDENT: model_state}


def _targets(batch: Batch, answers: Array) -> Array:
    if "target" not in batch:
        raise BadInput(f"the batch has {sorted(batch)}: accepted is one with target [B, T] beside them")
    targets = jnp.asarray(batch["target"])
    if targets.shape != answers.shape:
        raise BadInput(f"student has shape {answers.shape} and target {targets.shape}: accepted are equal shapes")
    return targets

"""Learning from a teacher."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ensembles.pools import Ensemble, Vote
from kdjax.losses import response
from kdjax.recipes._batch import Augment, agreement, augmented, known
from kdjax.recipes.knowledge import Frozen, Knowledge, Pairs, hyper, over_devices, recall
from kdjax.teachers.live import Teacher
from kdjax.training.state import MEMORY, variables
from kdjax.types import ApplyFn, BadInput, Batch, Loss, LossFn, Metrics, Outputs, PyTree, TrainState


def distill(
    student: ApplyFn,
    teacher: Teacher,
    loss: Loss,
    *,
    augment: Augment | None = None,
    ensemble: Ensemble | None = None,
    knowledge: Sequence[Knowledge] = (),
    pairs: Pairs | None = None,
    schedules: Mapping[str, Callable[[Array], Array]] | None = None,
) -> LossFn:
    """Weigh a teacher's answers, and what else it knows, against the labels.

    l = alpha * loss(student, teacher; temperature) + label_weight * cross_entropy(student, label)
        + sum_i weight_i * knowledge_i(student's layer, teacher's layer)

    per example; an example whose label is -1 has no second term. `alpha`, `temperature`, `label_weight` (1 - alpha
    where it is not given) and `weight/NAME` are read from `state.hparams`, so they are traced. Losses that remember
    find their memories in `state.model_state`, and what they must know of the data set in `state.frozen`.

    Args:
        student: the model in training; with `pairs`, the model that `models.connect.connectors.connect` made.
        teacher: `live(apply)` or `cached()`; with an ensemble, one of several: `cached()` and those of
            `kdjax.teachers.several`. Where features are compared it must be live.
        loss: a response loss; T^2 is its own business.
        ensemble: makes one answer of several teachers', such as `ensemble.resolve("mean_probability")`. It sees the
            labels, the student's logits and, where the batch has it, `domain`. Where it votes, the first term is
            multiplied by the example's weight.
        knowledge: further losses.
        pairs: what those compare that are not on logits.
        schedules: a factor per step for hyper-parameters by name: `{"temperature": step -> factor}`.

    Returns:
        A `LossFn` with the metrics `distillation` (the mean over what was voted on), `cross_entropy`, `agreement`
        (with the teacher's top class) and one per further loss, under its name.

    Raises:
        BadInput: further losses on layers without `pairs` or with an ensemble; when called, several teachers without an
            ensemble, or an ensemble for one teacher's `[B, K]`.

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop,
        section 2.
    """
    on_layers = [k.name for k in knowledge if not k.on_logits]
    if on_layers and (pairs is None or ensemble is not None):
        raise BadInput(f"{on_layers} compare layers: accepted with pairs and one teacher, not with an ensemble")
    couples = {k.name: over_devices(k.loss, remembers=k.remembers) if k.sees_the_batch else k.loss for k in knowledge}

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, tuple[PyTree, Metrics]]:
        batch, key = augmented(batch, key, augment, run_key=state.key)
        said = teacher(state.frozen.teacher if isinstance(state.frozen, Frozen) else state.frozen, batch)
        answers = said.logits
        held = variables(state.replace(params=params))
        mask = jnp.asarray(batch["mask"])
        outputs, model_state = student(held, jnp.asarray(batch["image"]), train=True, key=key, mask=mask)
        logits, label = outputs.logits, jnp.asarray(batch["label"])
        hparams, where = hyper(state, schedules or {}), mask > 0
        temperature, alpha = hparams["temperature"], hparams["alpha"]
        if answers.ndim != (2 if ensemble is None else 3):
            raise BadInput(
                f"the teacher's logits have shape {answers.shape}: accepted are one teacher's [B, K] without an "
                "ensemble, or several teachers' [T, B, K] with one"
            )
        if ensemble is not None:
            domain = jnp.asarray(batch["domain"]) if "domain" in batch else None
            answers = ensemble(answers, student=logits, labels=label, domain=domain, temperature=temperature)
        # The one place where the gradient stops.
        answers, seen = jax.lax.stop_gradient((answers, said.features))
        target, weight = answers if isinstance(answers, Vote) else (answers, None)
        soft = loss(logits, target, labels=label, temperature=temperature, where=where)
        hard = response.cross_entropy(logits, label)
        metrics: Metrics = {
            "distillation": soft if weight is None else (soft, weight),
            "cross_entropy": (hard, known(label)),
            "agreement": agreement(logits, target),
        }
        soft = soft if weight is None else weight * soft
        total = alpha * soft + hparams.get("label_weight", 1 - alpha) * hard
        compared, memories = {}, {}
        if on_layers and pairs is not None:
            compared, adapted = pairs(held, outputs, Outputs(target, seen), train=True, mask=mask)
            # Connectors' states lie beside the student's; those that have none, and other collections, stay.
            model_state = {
                name: {**tree, "adapter": {**tree["adapter"], **adapted.get(name, {})}}
                for name, tree in model_state.items()
            }
        for one in knowledge:
            if one.on_logits:
                value = couples[one.name](logits, target, labels=label, temperature=temperature, where=where)
            elif one.remembers:
                mine, theirs, keywords = compared[one.name]
                recalled = recall(one.name, state, batch)
                value, memories[one.name] = couples[one.name](mine, theirs, where=where, **keywords, **recalled)
            else:
                mine, theirs, keywords = compared[one.pair or one.name]
                value = couples[one.name](mine, theirs, where=where, **keywords)
            metrics[one.name] = value
            total = total + hparams[one.weight] * value
        model_state = {**model_state, MEMORY: memories} if memories else model_state
        return total, (model_state, metrics)

    return loss_fn

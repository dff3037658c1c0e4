"""CA-MKD: several teachers' answers and last features, weighed by how well each knows the label.

A teacher's last features are its `embedding`, from which its classifier, the dense layer called `logits`, makes its
answer: as in every network of `kdjax.models`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.ensembles.pools import Ensemble, confidence_aware_features
from kdjax.recipes.distill import distill
from kdjax.recipes.learn import CONNECTORS, Pairs
from kdjax.teachers.live import Teacher
from kdjax.training.state import need
from kdjax.types import STUDENT, Aux, BadInput, Batch, Loss, LossFn, Model, Outputs, PyTree, TrainState

WEIGHT = "weight/features"
"""The hyper-parameter that weighs the feature term."""


def classifier(variables: PyTree) -> PyTree:
    """The part of a teacher's variables that its features are classified by.

    Raises:
        BadInput: a network without a dense layer `logits`.
    """
    layer = variables["params"].get("logits", {})
    if "kernel" not in layer:
        raise BadInput(
            f"layers {', '.join(variables['params'])}: accepted is a network whose last one is called logits"
        )
    return {"params": {"logits": layer}}


def classify(variables: PyTree, features: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
    """What a teacher's classifier says of features."""
    layer = variables["params"]["logits"]
    answer = features @ layer["kernel"]
    return answer + layer["bias"][None] if "bias" in layer else answer


def distill_with_features(
    student: Model, pairs: Pairs, teacher: Teacher, loss: Loss, *, names: Sequence[str], ensemble: Ensemble
) -> LossFn:
    """Distillation from an ensemble, and from each teacher's last features.

    l = distill(...) + w sum_k w_k mean((r_k(s) - f_k)^2),   w_k = confidence_aware(classifier_k(r_k(s)))

    The weight w is `state.hparams["weight/features"]`; the authors' is 50, beside weights 1 of labels and answers.

    Args:
        student: with projections r_k of its embedding, as `models.connect.connectors.connect` makes it.
        pairs: the projections: `connect`'s, one by the name of each teacher, to its `NAME/embedding`.
        teacher: `cached_with_features(names)` or `teachers.together`, which names features alike.
        loss: of the ensemble's answer.
        names: of the teachers, as in `state.frozen`, in the order of their logits.
        ensemble: makes one answer of several; CA-MKD's is the gate `confidence_aware`.

    Returns:
        A `LossFn` with the metrics of `distill`, and `features`, the unweighted term.

    Reference:
        Zhang, Chen, Wang, Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022, equations 5 to 8. Their
        code leaves the term out of the first epoch; here it is there from the start.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        mask = jnp.asarray(batch["mask"])
        variables = {"params": params[STUDENT], **state.model_state[STUDENT]}
        answered = student.apply(variables, jnp.asarray(batch["inputs"]), train=True, key=key, mask=mask)
        answers = jax.lax.stop_gradient(teacher(state.frozen, batch))

        def of_student(*_: Any, **__: Any) -> tuple[Outputs, PyTree]:
            return answered  # once for both terms

        once = Model(student.init, of_student)
        plain = distill(once, Teacher(lambda frozen, batch: answers, teacher.views), loss, ensemble=ensemble)
        losses, aux = plain(params, state, batch, key)
        held = {"params": params[CONNECTORS], **state.model_state[CONNECTORS]}
        compared, moved = pairs(held, answered[0], answers, train=True, mask=mask)
        mine: list[Any] = [compared[name][0] for name in names]
        theirs: list[Any] = [compared[name][1] for name in names]
        term = confidence_aware_features(
            mine,
            theirs,
            logits=jnp.stack([classify(state.frozen[name], r) for name, r in zip(names, mine, strict=True)]),
            labels=jnp.asarray(batch["label"]),
            where=mask > 0,
        )
        found = Aux({**aux.model_state, CONNECTORS: moved}, {**aux.metrics, "features": term})
        return losses + need(state, WEIGHT) * term, found

    return loss_fn

"""Learning from a teacher's answers."""

from typing import Any

from kdjax.ensembles.pools import Ensemble
from kdjax.losses import response
from kdjax.recipes._batch import Augment
from kdjax.recipes.learn import learn
from kdjax.recipes.terms import LABELS, Side, Term, hyper, need
from kdjax.teachers.live import Teacher
from kdjax.types import Loss, LossFn, Model, TrainState


def distill(
    student: Model,
    teacher: Teacher,
    loss: Loss,
    *,
    augment: Augment | None = None,
    ensemble: Ensemble | None = None,
) -> LossFn:
    """Weigh a teacher's answers against the labels.

    l = alpha * loss(student, teacher; temperature) + label_weight * cross_entropy(student, label)

    per example; an example whose label is -1 has no second term. `alpha`, `temperature` and `label_weight` (1 - alpha
    where it is not given) are read from `state.hparams`, so they are traced. Sums of other losses, on layers too, are
    lessons: see `kdjax.recipes.lesson`.

    Args:
        student: the network in training.
        teacher: `live(apply)` or `cached()`; with an ensemble, one of several: `cached()` and those of
            `kdjax.teachers.several`.
        loss: a response loss; T^2 is its own business.
        augment: applied to the images of each step; the teacher sees what the student sees.
        ensemble: makes one answer of several teachers', such as `pools.resolve("mean_probability")`. Where it votes,
            the first term is multiplied by the example's weight.

    Returns:
        A `LossFn` with the metrics `distillation` (the mean over what was voted on), `cross_entropy`, `accuracy` and
        `agreement` (with the teacher's top class).

    Raises:
        BadInput: when called, several teachers without an ensemble, or an ensemble for one teacher's `[B, K]`; a
            hyper-parameter that is missing.

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop,
        section 2.
    """

    def of_labels(state: TrainState) -> Any:
        return state.hparams.get("label_weight", 1 - need(state, "alpha"))

    temperature = hyper("temperature")
    terms = [
        Term("distillation", loss, hyper("alpha"), numbers=lambda state: {"temperature": temperature(state)}),
        Term("cross_entropy", response.cross_entropy, of_labels, teacher=Side(LABELS)),
    ]
    return learn(student, terms, teacher=teacher, augment=augment, ensemble=ensemble, temperature=temperature)

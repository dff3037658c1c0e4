"""Learning from labels, on clean images or on attacked ones."""

from collections.abc import Callable

from jaxtyping import Array

from kdjax.attacks import objectives
from kdjax.losses import response
from kdjax.recipes._batch import Augment
from kdjax.recipes.attacked import Attacked
from kdjax.recipes.learn import learn
from kdjax.recipes.terms import LABELS, Side, Term, fixed
from kdjax.types import ATTACKED, CLEAN, STUDENT, Attack, LossFn, Model, Objective


def supervised(
    model: Model,
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

    Args:
        model: the network in training.
        label_smoothing: share of the target spread evenly over the classes.
        augment: applied to the images of each step, with a key of its own, before the attack.
        attack: any of the algebra; None trains on clean images.
        objective: what the attack makes small: `(victim, label) -> Objective`.
        attacked: share of each batch's rows that is attacked, in [0, 1]; padding and unknown labels never are.

    Returns:
        A `LossFn` with the metrics `cross_entropy` and `accuracy`, on what was trained on, and with an attack
        `attacked_accuracy`, on the attacked rows.

    Raises:
        BadInput: a share outside [0, 1].

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
        ICLR 2018, equation 2.1; with one step of PGD from a random start, Wong, Rice, Kolter, Fast is better than
        free: revisiting adversarial training, ICLR 2020, algorithm 3.
    """
    term = Term(
        "cross_entropy",
        response.cross_entropy,
        fixed(1.0),
        Side(STUDENT, CLEAN if attack is None else ATTACKED),
        Side(LABELS),
        numbers=lambda state: {"label_smoothing": label_smoothing},
    )
    made = None if attack is None else Attacked(attack, objective, share=attacked)
    return learn(model, [term], attacked=made, augment=augment)

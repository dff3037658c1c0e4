"""Learning that resists attacks: an expression, and how its attacked view is made.

Each function takes the attack, which says how far an image may be moved, and returns what `lesson` or `learn` need.
"""

from typing import NamedTuple

from kdjax.attacks import objectives
from kdjax.methods.formulas import labels, response
from kdjax.recipes.learn import Attacked
from kdjax.spec import Formula, Names
from kdjax.types import STUDENT, Attack

_views = Names()


class Robust(NamedTuple):
    """What is learned, and the attacked view."""

    expression: Formula
    attacked: Attacked


def pgd_at(attack: Attack) -> Robust:
    """CE(f(x'), y), x' being attacked by cross-entropy.

    Reference: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
    ICLR 2018, equation 2.1.
    """
    return Robust(1.0 * labels(student=_views.attacked), Attacked(attack))


def trades(attack: Attack, beta: float = 6.0) -> Robust:
    """CE(f(x), y) + beta KL(f(x) || f(x')), with gradient on both sides; x' makes the same KL large.

    Args:
        attack: the released code begins at x + 0.001 N(0, I) and climbs 10 steps.
        beta: 1 / lambda, 6 in the released command.

    Reference: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and
    Accuracy, ICML 2019, equation 5 and the released code (`KLDivLoss(log_softmax(f(x')), softmax(f(x)))`).
    """
    both = response.kl(
        student=_views.attacked, teacher=_views.student(_views.clean), temperature=1.0, stop=False
    )  # fmt: skip
    return Robust(1.0 * labels + beta * both, Attacked(attack, objectives.divergence, STUDENT))

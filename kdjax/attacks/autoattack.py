"""AutoAttack by name, and FAB-T, the one of its four attacks that is no other's."""

import optax

from kdjax.attacks import _settings, objectives
from kdjax.attacks._settings import Number, Radius
from kdjax.attacks.adaptive import boundary_step
from kdjax.attacks.combine import aimed, each_target, unattacked, within, worst_of
from kdjax.attacks.iterate import iterate, never
from kdjax.attacks.named import apgd, square
from kdjax.types import Attack, Oracle


def fab(
    *, steps: int = 100, targets: int = 9, overshoot: Number = 0.05, alpha_max: Number = 0.1, beta: Number = 0.9
) -> Attack:
    """FAB-T in linf: the nearest image across the boundary to each of the likeliest wrong classes, the nearest of all.

    A step costs two queries: is the point fooled, and where is the boundary.

    Args:
        steps: to each class.
        targets: classes, likeliest first; 9 in AutoAttack.
        overshoot: how much farther than the boundary, above 0; eta - 1.
        alpha_max: most weight of the step from the clean image, in (0, 1].
        beta: share of the way from the clean image at which the search goes on behind the boundary, in (0, 1].

    Reference:
        Croce, Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020,
        algorithm 1; targeted as in Reliable Evaluation of Adversarial Robustness, ICML 2020, section 5.
    """
    oracle = boundary_step(overshoot=overshoot, alpha_max=alpha_max, beta=beta)
    return each_target(_across(oracle, steps), objectives.gap, targets, by="linf", skip_solved=False)


def standard(epsilon: Radius = 0.1, *, steps: int = 100, targets: int = 9, queries: int = 5000) -> Attack:
    """The standard AutoAttack in linf: APGD on cross-entropy, APGD on targeted DLR, FAB-T, Square, image by image.

    Each has its own objective and goes on with the images that nobody has taken yet; any wrong class is a success.
    Images that no attack takes come back as the one of lowest value that was found.

    Args:
        epsilon: radius.
        steps: of APGD and FAB, on each target.
        targets: wrong classes, likeliest first.
        queries: of Square.

    Reference:
        Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
        ICML 2020, section 6.
    """
    climb = apgd(epsilon, steps=steps)
    return worst_of(
        unattacked(),
        aimed(climb, objectives.cross_entropy),
        each_target(climb, objectives.dlr, targets),
        each_target(within(_across(boundary_step(), steps), epsilon), objectives.gap, targets),
        aimed(square(epsilon, queries=queries), objectives.margin),
        skip_solved=True,
    )


def _across(oracle: Oracle, steps: int) -> Attack:
    _settings.require_count("steps", steps)
    # Nobody stops early; but where nobody is left, there is nothing to do.
    return iterate(oracle, optax.scale(-1.0), steps=steps, stop=never(), keep="linf")

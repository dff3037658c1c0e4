"""Steps of one length: what FGSM and PGD are made of."""

import optax

from kdjax.attacks import oracles, projections, starts, transforms
from kdjax.attacks._rows import Keep
from kdjax.attacks._settings import Radius
from kdjax.attacks.iterate import iterate
from kdjax.types import Attack, Oracle, Projection


def descend(
    epsilon: Radius,
    step_size: Radius,
    *more: optax.GradientTransformation,
    steps: int,
    norm: str,
    start: starts.Start | None = None,
    start_projection: Projection | None = None,
    oracle: Oracle | None = None,
    keep: Keep = "last",
) -> Attack:
    """Steps of one length along the steepest direction, each projected to the ball and the box."""
    return iterate(
        oracle or oracles.autodiff(),
        optax.chain(transforms.steepest(norm), optax.scale(-step_size), *more),
        projections.ball(norm, epsilon),
        steps=steps,
        start=start,
        start_projection=start_projection,
        keep=keep,
    )

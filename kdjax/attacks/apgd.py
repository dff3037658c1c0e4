"""Auto-PGD's update, as an Optax transformation: momentum, and a step size that halves when progress stalls."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from kdjax.attacks._settings import Radius
from kdjax.types import BadInput, Projection


class ApgdState(NamedTuple):
    """Per example: step number and size, the point before, the best point with its slope and value, and counters."""

    step: Array
    size: Array
    before: Array
    best: Array
    best_grad: Array
    best_value: Array
    last_value: Array
    falls: Array
    checkpoint: Array
    halved: Array
    value_then: Array


WINDOWS = ("released", "paper")


def checkpoints(steps: int, windows: str = "released") -> list[int]:
    """The steps at which progress is judged.

    paper: ceil(p_j N), p_1 = 0.22, gaps shrinking by 0.03 down to 0.06.
    released: the authors' code rounds the windows down, each to 1 at least: at few steps it looks, and halves, far
    earlier, and is up to 6 points stronger there. At 100 steps both are the same.

    >>> checkpoints(100) == checkpoints(100, "paper")
    True
    >>> checkpoints(100), checkpoints(10), checkpoints(10, "paper")
    ([22, 41, 57, 70, 80, 87, 93, 99], [2, 3, 4, 5, 6, 7, 8, 9, 10], [3, 5, 6, 7, 8, 9, 10])

    Raises:
        BadInput: windows other than these two.
    """
    if windows not in WINDOWS:
        raise BadInput(f"windows={windows!r}: accepted are {', '.join(WINDOWS)}.")
    if windows == "released":
        window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
        found = [window]
        while found[-1] < steps:
            window = max(window - shrink, least)
            found.append(found[-1] + window)
        return [at for at in found if at <= steps]
    p, found = [0.0, 0.22], []
    while p[-1] <= 1:
        found.append(math.ceil(round(p[-1] * steps, 9)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return sorted(set(found))


def scale_by_apgd(
    projection: Projection,
    *,
    epsilon: Radius,
    norm: str,
    steps: int,
    windows: str = "released",
    alpha: float = 0.75,
    rho: float = 0.75,
) -> optax.GradientTransformationExtraArgs:
    """APGD's move; it needs `value` and `origin` from the attack loop, and projects by itself.

    z = P(x - eta d(g)),  x' = P(x + alpha (z - x) + (1 - alpha) (x - x_before))

    d is the sign for linf, g / ||g||_2 for l2. eta begins at 2 epsilon and halves, going back to the best point, where
    at a checkpoint fewer than rho of the steps since the last one lowered the value, or where neither eta nor the best
    value has changed since.

    Reference:
        Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
        ICML 2020, algorithm 1 (here values are to be small).
    """
    if norm not in ("linf", "l2"):
        raise BadInput(f"norm={norm!r}: accepted are linf, l2.")
    looks = np.array(checkpoints(steps, windows), np.int32)

    def init(params: Array) -> ApgdState:
        real = jnp.promote_types(params.dtype, jnp.float32)
        inf = jnp.array(jnp.inf, real)
        zero = jnp.zeros((), jnp.int32)
        return ApgdState(
            step=zero, size=2 * jnp.asarray(epsilon, real), before=params, best=params,
            best_grad=jnp.zeros_like(params), best_value=inf, last_value=inf, falls=zero, checkpoint=zero,
            halved=jnp.array(True), value_then=inf,
        )  # fmt: skip

    def project(x: Array, origin: Array) -> Array:
        return projection(x[None], origin[None])[0]

    def update(
        g: Array, s: ApgdState, params: Any = None, *, value: Array | None = None, origin: Array | None = None, **_: Any
    ):
        if value is None or origin is None or params is None:
            raise BadInput("scale_by_apgd needs value, origin and params; accepted: inside attacks.iterate.")
        better = value < s.best_value
        best, best_grad = jnp.where(better, params, s.best), jnp.where(better, g, s.best_grad)
        best_value = jnp.minimum(value, s.best_value)
        falls = s.falls + ((value < s.last_value) & (s.step > 0))

        look = jnp.any(s.step == looks)
        few = falls < rho * (s.step - s.checkpoint)
        stuck = ~s.halved & (best_value >= s.value_then)
        halve = look & (few | stuck)
        size = jnp.where(halve, s.size / 2, s.size)
        x, slope = jnp.where(halve, best, params), jnp.where(halve, best_grad, g)

        if norm == "linf":
            direction = jnp.sign(slope)
        else:
            direction = slope / jnp.maximum(jnp.linalg.norm(slope.reshape(-1)), 1e-12)
        z = project(x - size * direction, origin)
        # The first step has no point before it, and goes the whole way.
        share = jnp.where(s.step == 0, 1.0, alpha)
        moved = project(x + share * (z - x) + (1 - share) * (x - s.before), origin)
        new = ApgdState(
            step=s.step + 1, size=size, before=x, best=best, best_grad=best_grad, best_value=best_value,
            last_value=value, falls=jnp.where(look, 0, falls), checkpoint=jnp.where(look, s.step, s.checkpoint),
            halved=jnp.where(look, halve, s.halved), value_then=jnp.where(look, best_value, s.value_then),
        )  # fmt: skip
        return moved - params, new

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]

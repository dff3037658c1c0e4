"""FAB's oracle: a step onto the linearised boundary between two classes, drawn to the clean image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.attacks import _settings
from kdjax.attacks._settings import Number
from kdjax.attacks.oracles import Estimator
from kdjax.attacks.projections import spread
from kdjax.types import BadInput, Estimate, Objective, Oracle


def boundary_step(*, overshoot: Number = 0.05, alpha_max: Number = 0.1, beta: Number = 0.9) -> Oracle:
    """An oracle whose slope is minus FAB's step.

    With x0 the clean image, x the point, or x0 + beta (x - x0) where the point fools, and d, d0 the shortest ways from
    x and x0 onto the plane f(x) + <grad f(x), z - x> = 0 within the box (`onto_plane`),

    x' = (1 - alpha) (x + eta d) + alpha (x0 + eta d0),  clipped to [0, 1],  alpha = min(|d| / (|d| + |d0|), alpha_max)

    Raises:
        BadInput: settings out of range, or a black box.

    Reference:
        Croce, Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020,
        algorithm 1.
    """
    _settings.require_positive("overshoot", overshoot)
    _settings.require_share("alpha_max", alpha_max)
    _settings.require_share("beta", beta)

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        if not objective.white_box:
            raise BadInput("FAB needs the gradients of a white-box victim; accepted: such a one, or square, zoo, nes.")
        seen, success = objective(point, key=key[0], where=where)
        x = jnp.where(spread(1.0 * success, point) > 0, origin + beta * (point - origin), point)
        value, pull = jax.vjp(lambda x: objective(x, key=key[0], where=where)[0], x)
        (slope,) = pull(jnp.ones_like(value))
        flat = lambda image: image.reshape(len(image), -1)  # noqa: E731
        w, away = flat(slope), value + jnp.sum(flat(slope) * flat(origin - x), -1)
        here, there = onto_plane(flat(x), w, value), onto_plane(flat(origin), w, away)
        size, size0 = (jnp.maximum(jnp.abs(d).max(-1), 1e-8) for d in (here, there))
        alpha = spread(jnp.minimum(size / (size + size0), alpha_max), point)
        here, there = (d.reshape(point.shape) for d in (here, there))
        eta = 1 + overshoot
        moved = (1 - alpha) * (x + eta * here) + alpha * (origin + eta * there)
        step = jnp.clip(moved, 0, 1).astype(point.dtype) - point
        return Estimate(seen, success, -step, 2 * where.astype(jnp.int32))

    return Estimator(2, estimate)


def onto_plane(
    x: Float[Array, "batch size"], w: Float[Array, "batch size"], value: Float[Array, " batch"]
) -> Float[Array, "batch size"]:
    """The smallest d in linf with value + <w, d> = 0 and x + d in [0, 1]; the corner nearest to it, if there is none.

    Each number moves by min(t, u), u being its room in the direction that helps, and F(t) = sum |w| min(t, u) must be
    |value|. F is concave and made of lines: from t = 0, the root of the line at t never lies beyond the root of F, and
    is a t from which to go on, until no number meets its bound any more. So the result is exact after finitely many.

    Args:
        x: points in [0, 1].
        w: slopes of the value.
        value: at x.
    """
    # The largest entry is taken out first, so that sums neither overflow nor vanish.
    top = jnp.maximum(jnp.abs(w).max(-1, keepdims=True), jnp.finfo(w.dtype).tiny)
    toward = -jnp.sign(value)[:, None] * jnp.sign(w)
    room, size = jnp.where(toward > 0, 1 - x, x), jnp.abs(w) / top
    need = jnp.abs(value) / top[:, 0]

    def further(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t, _ = carry
        free = room > t[:, None]
        rise, held = jnp.where(free, size, 0).sum(-1), jnp.where(free, 0, size * room).sum(-1)
        root = jnp.where(rise > 0, (need - held) / jnp.where(rise > 0, rise, 1), t)
        return jnp.maximum(root, t), root > t

    start = jnp.zeros_like(need)
    t, _ = jax.lax.while_loop(lambda carry: carry[1].any(), further, (start, need > 0))
    return toward * jnp.minimum(t[:, None], room)

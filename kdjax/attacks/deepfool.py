"""DeepFool's oracle: the step to the nearest boundary of the linearised classifier."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._settings import require_count
from kdjax.attacks.oracles import Estimator
from kdjax.types import BadInput, Estimate, Objective, Oracle


def nearest_boundary(norm: str = "l2", *, candidates: int = 10) -> Oracle:
    """An oracle whose slope is minus the shortest step that carries the linearised classifier over a boundary.

    With w_k = grad (Z_k - Z_y) and f_k = Z_k - Z_y, over the classes k != y,

    l2:    k* = argmin |f_k| / ||w_k||_2,  step = |f_k*| / ||w_k*||_2^2 w_k*
    linf:  k* = argmin |f_k| / ||w_k||_1,  step = |f_k*| / ||w_k*||_1 sign(w_k*)

    One query: a forward pass and one backward pass for each class k, which takes memory for as many.

    Args:
        norm: l2 or linf.
        candidates: classes considered, y and those of the largest other logits: 10 in the authors' code, which takes
            those of the clean image; here they are those of the point.

    Raises:
        BadInput: fewer than 2 candidates, a black box, or an objective that is targeted.

    Reference:
        Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a Simple and Accurate Method to Fool Deep Neural Networks,
        CVPR 2016, algorithm 2 and section 3.3.
    """
    if norm not in ("l2", "linf"):
        raise BadInput(f"norm={norm!r}: accepted are l2, linf.")
    require_count("candidates", candidates, 2)

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        if "target" in objective.data or not objective.white_box:
            raise BadInput(
                "DeepFool needs the gradients of a white-box victim and is untargeted; accepted: such a one."
            )
        value, success = objective(point, key=key[0], where=where)
        logits, pull = jax.vjp(lambda x: objective.logits(x, key=key[0], where=where), point)
        classes = logits.shape[-1]
        own = jax.nn.one_hot(objective.data["label"], classes, dtype=logits.dtype)
        # A class that is masked away (-inf) still comes before the label.
        ranked = jnp.where(own > 0, -jnp.inf, jnp.maximum(logits, jnp.finfo(logits.dtype).min))
        others = jax.lax.top_k(ranked, min(candidates, classes) - 1)[1]
        # In the classes' own order, so that a tie goes to the first of them.
        others = jnp.sort(others, -1)  # [B, candidates - 1]
        against = jax.nn.one_hot(others, classes, dtype=logits.dtype) - own[:, None]
        w = jax.vmap(lambda toward: pull(toward)[0], in_axes=1, out_axes=1)(against)
        w = w.reshape(*others.shape, -1)
        label = objective.data["label"][:, None]
        f = jnp.abs(jnp.take_along_axis(logits, others, 1) - jnp.take_along_axis(logits, label, 1))
        # The largest entry is taken out first: the square of 1e20 is no float32. Dead slopes stay 0.
        top = jnp.maximum(jnp.abs(w).max(-1, keepdims=True), 1e-12)
        w = w / top
        length = jnp.sqrt(jnp.sum(w**2, -1)) if norm == "l2" else jnp.abs(w).sum(-1)
        length = jnp.maximum(length, 1)
        distance = f / top[..., 0] / length
        nearest = jnp.argmin(distance, -1)
        pick = lambda x: jnp.take_along_axis(x, nearest.reshape((-1,) + (1,) * (x.ndim - 1)), 1)[:, 0]  # noqa: E731
        w, distance, length = pick(w), pick(distance)[:, None], pick(length)[:, None]
        step = distance * (w / length if norm == "l2" else jnp.sign(w))
        return Estimate(value, success, -step.reshape(point.shape).astype(point.dtype), where.astype(jnp.int32))

    return Estimator(1, estimate)

"""The loop of every attack that follows slopes, and the rules by which it stops early.

Called with plain arrays, an attack steps from Python with one compiled step; called inside `jax.jit`, it is a loop on
the device, or its steps one after another where a loop would be slow (`_form`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.attacks import spaces
from kdjax.attacks._form import repeated
from kdjax.attacks._rows import KEEP, Keep, fold, judge, pick, traced, untouched
from kdjax.attacks._settings import require_count
from kdjax.attacks.starts import Start
from kdjax.types import Adversarial, Attack, BadInput, Estimate, Objective, Oracle, Projection

Stop = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
"""`(memory [B], step, value [B], success [B]) -> (memory, stopped [B])`; memory starts at infinity."""


def never() -> Stop:
    """Go on to the end."""
    return lambda memory, step, value, success: (memory, jnp.zeros_like(success))


def on_success() -> Stop:
    """Stop an example when it is fooled: it pays no further query."""
    return lambda memory, step, value, success: (memory, success)


def on_plateau(every: int = 100, factor: float = 0.9999) -> Stop:
    """Stop an example whose value, looked at every so many steps, is not below `factor` times what it was.

    Reference:
        Carlini, Wagner (2017), and Chen et al., ZOO (2017): "abort early" in their code.
    """

    def stop(memory: Array, step: Array, value: Array, success: Array) -> tuple[Array, Array]:
        look = (step % every == 0) & (step > 0)
        # For negative values "not below a little less" would be the wrong way round.
        stalled = look & (value > memory - (1 - factor) * jnp.abs(memory))
        return jnp.where(look, value, memory), stalled

    return stop


class _Progress(NamedTuple):
    point: Array
    opt_state: Any
    kept: Adversarial
    active: Array
    memory: Array


def iterate(
    oracle: Oracle,
    tx: optax.GradientTransformation,
    projection: Projection | None = None,
    *,
    steps: int,
    space: spaces.Space = spaces.pixels,
    start: Start | None = None,
    start_projection: Projection | None = None,
    stop: Stop | None = None,
    keep: Keep = "last",
    budget: int | None = None,
) -> Attack:
    """The product: ask the oracle, transform, move, project; `steps` times.

    Args:
        oracle: where slopes come from; its value at each point also says who is fooled.
        tx: Optax's, of ascent direction: ends in `optax.scale(-step_size)`. Applied to each example by itself.
        projection: applied to points after every step, and to the start.
        steps: at most so many.
        space: where the points live.
        start: where each example begins, unless the attack is given a start.
        start_projection: applied to the start in the place of `projection`.
        stop: when an example is done before the last step; `never()` by default.
        keep: which image is returned.
        budget: most queries per example; fewer steps are made where it does not reach.

    Returns:
        An attack that costs each example `steps * oracle.queries + 1` queries at most: the last image is checked.

    Raises:
        BadInput: no step, an unknown `keep`, or a budget that does not pay for one step and the last check.
    """
    require_count("steps", steps)
    if keep not in KEEP:
        raise BadInput(f"keep={keep!r}: accepted are {', '.join(KEEP)}.")
    if budget is not None:
        if budget < oracle.queries + 1:
            raise BadInput(
                f"budget={budget}: one step costs {oracle.queries} queries and the last check 1; "
                f"accepted are {oracle.queries + 1} or more."
            )
        steps = min(steps, (budget - 1) // oracle.queries)
    tx = optax.with_extra_args_support(tx)
    done, settle = stop or never(), start_projection or projection

    def update(state: _Progress, estimate: Estimate, home: Array, won: Array) -> tuple[Array, Any]:
        def one(grad: Array, opt_state: Any, point: Array, extra: Any) -> tuple[Array, Any]:
            updates, new = tx.update(grad, opt_state, point, **extra)
            return point + updates, new  # pyright: ignore[reportOperatorIssue]

        known = {"value": estimate.value, "mask": estimate.mask, "curvature": estimate.curvature}
        return jax.vmap(one)(estimate.grad, state.opt_state, state.point, {**known, "origin": home, "won": won})

    def step(objective: Objective, key: Array, origin: Array, state: _Progress, number: Array) -> _Progress:
        inside, home = spaces.InSpace(objective, origin, space), space.encode(origin, origin)
        keys = fold(key, number)
        estimate = oracle(inside, keys, state.point, home, where=state.active)
        estimate = estimate._replace(value=_value_at(state.point, estimate.value, state.kept))
        image = space.decode(state.point, origin)
        kept = judge(state.kept, image, estimate, state.active, origin, keep)
        memory, stopped = done(state.memory, number, estimate.value, estimate.success)
        active = state.active & ~stopped
        won = (kept.first_success >= 0) & (state.kept.first_success < 0)
        point, opt_state = update(state, estimate, home, won)
        point = point if projection is None else projection(point, home)
        point, opt_state = pick(active, (point, opt_state), (state.point, state.opt_state))
        return _Progress(point, opt_state, kept, active, memory)

    def begin(objective: Objective, key: Array, image: Array, begun: Array | None, where: Array) -> _Progress:
        if begun is None and start is not None:
            begun = jax.vmap(start)(fold(key, steps), image)
        point = space.encode(image if begun is None else begun.astype(image.dtype), image)
        if settle is not None and begun is not None:
            point = settle(point, space.encode(image, image))
        opt_state = jax.vmap(tx.init)(point)
        kept = untouched(image)
        return _Progress(point, opt_state, kept, where, kept.value)  # infinity, both

    def finish(objective: Objective, key: Array, origin: Array, state: _Progress) -> Adversarial:
        image = space.decode(state.point, origin)
        value, success = objective(image, key=key[0], where=state.active)
        value = _value_at(state.point, value, state.kept)
        return judge(
            state.kept,
            image,
            Estimate(value, success, image, state.active.astype(jnp.int32)),
            state.active,
            origin,
            keep,
        )

    def on_device(objective: Objective, key: Array, image: Array, begun: Array | None, where: Array) -> Adversarial:
        state = begin(objective, key, image, begun, where)
        if steps == 1:
            state = step(objective, key, image, state, jnp.asarray(0))
        else:

            def next_step(state: _Progress, number: Array, objective: Objective, key: Array, image: Array) -> _Progress:
                return step(objective, key, image, state, number)

            state = repeated(steps, next_step, lambda s: s.active.any(), state, objective, key, image)
        return finish(objective, key, image, state)

    # Loops of forward passes are as fast on the device everywhere, and there nobody need look who is still active.
    looped = steps == 1 or oracle.forward_only
    return Iterated(steps, stop, looped, *map(jax.jit, (begin, step, finish, on_device)))


def _value_at(point: Array, value: Array, kept: Adversarial) -> Array:
    """NaN where the point has one: a slope that is none leads there, and a network may hide it (ReLU of it is 0)."""
    lost = jnp.isnan(point).reshape(len(point), -1).any(-1)
    return jnp.where(lost, jnp.nan, value).astype(kept.value.dtype)


@dataclass(frozen=True)
class Iterated:
    """An attack in stages, each one program: `begin`, `step` after step, `finish`; or `whole`, all of it on the device.

    Attributes:
        steps: at most so many.
        stop: None where every step is made, so that nobody need look.
        on_device: whether `whole` is called with plain arrays too.
        begin: `(objective, key, image, start, where) -> progress`.
        step: `(objective, key, image, progress, number) -> progress`.
        finish: `(objective, key, image, progress) -> Adversarial`.
        whole: `(objective, key, image, start, where) -> Adversarial`.
    """

    steps: int
    stop: Stop | None
    on_device: bool
    begin: Callable[..., _Progress]
    step: Callable[..., _Progress]
    finish: Callable[..., Adversarial]
    whole: Callable[..., Adversarial]

    def __call__(
        self, objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        asked = jnp.ones(len(image), bool) if where is None else where
        if self.on_device or traced(objective, key, image, start, asked):
            return self.whole(objective, key, image, start, asked)
        state = self.begin(objective, key, image, start, asked)
        for number in range(self.steps):
            if self.stop is not None and not bool(state.active.any()):
                break
            state = self.step(objective, key, image, state, jnp.asarray(number))
        return self.finish(objective, key, image, state)

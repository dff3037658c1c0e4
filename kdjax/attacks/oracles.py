"""Where slopes come from: from autodiff, or from queries alone. Any oracle goes with any update.

An oracle is `(objective, key [B], point, origin, where=[B]) -> Estimate`. Randomness is per example, so that a
batch of n is n batches of one.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._settings import Number, require_count, require_radius, require_share
from kdjax.attacks.sampling import Sampling
from kdjax.types import BadInput, Estimate, Objective, Oracle


@dataclass(frozen=True)
class Estimator:
    """An `Oracle` made of its price and its function; `forward_only` where it takes no gradient."""

    queries: int
    estimate: Callable[..., Estimate]
    forward_only: bool = False

    def __call__(self, objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        return self.estimate(objective, key, point, origin, where=where)


def autodiff() -> Oracle:
    """Value and exact gradient: one query.

    Raises:
        BadInput: when called on a black box.
    """

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        if not objective.white_box:
            raise BadInput(
                "this attack needs gradients and the victim is a black box; accepted: a white-box victim, or an attack "
                "that only asks, such as zoo, nes, spsa or square."
            )

        def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
            value, success = objective(x, key=key[0], where=where)
            return value.sum(), (value, success)

        grad, (value, success) = jax.grad(total, has_aux=True)(point)
        return Estimate(value, success, grad, where.astype(jnp.int32))

    return Estimator(1, estimate)


def coordinates(
    sampling: Sampling, count: int, *, h: Number = 1e-4, curvature: bool = False, chunk: int | None = None
) -> Oracle:
    """Symmetric differences along single coordinates: 2 count + 1 queries, one of them at the point itself.

    g_i = (f(x + h e_i) - f(x - h e_i)) / 2h,    h_ii = (f(x + h e_i) - 2 f(x) + f(x - h e_i)) / h^2

    Args:
        sampling: which coordinates; `count` of them.
        count: how many that is; of smaller points, all.
        h: in the point's units; 1e-4 is about float32's optimum for images in [0, 1].
        curvature: also the second derivatives, which Newton's step needs.
        chunk: probes per example evaluated at once; bounds memory and changes no result.

    Reference:
        Chen, Zhang, Sharma, Yi, Hsieh, ZOO, AISec 2017, equations 6 and 7.
    """
    require_count("count", count)
    require_radius("h", h, "linf", zero=False)
    _require_chunk(chunk)

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        batch = len(point)
        rows = jnp.arange(batch)
        flat = point.reshape(batch, -1)
        places = jnp.arange(flat.shape[1])[None]
        index = jax.vmap(sampling)(key, flat - origin.reshape(batch, -1))
        taken = index.shape[1]  # fewer than asked for where there are no more
        # One more probe that goes nowhere: the point itself, so that the victim is called once.
        which = jnp.concatenate([index.T, index.T, index.T[:1]])
        step = jnp.repeat(
            jnp.array([h, -h, 0.0], point.dtype), jnp.array([taken, taken, 1]), total_repeat_length=2 * taken + 1
        )

        def probe(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
            at, by = arguments
            # A comparison and no scatter: XLA fuses it with what follows, and its scatter on a CPU is slow.
            moved = flat + by * (places == at[:, None]).astype(flat.dtype)
            return objective(moved.reshape(point.shape), key=key[0], where=where)

        values, successes = _precise_map(probe, (which, step), chunk)
        up, down, value = values[:taken].T, values[taken:-1].T, values[-1]
        zeros = jnp.zeros_like(flat)

        def scatter(numbers: Array) -> Array:
            return zeros.at[rows[:, None], index].set(numbers.astype(zeros.dtype)).reshape(point.shape)

        return Estimate(
            value,
            successes[-1],
            scatter((up - down) / (2 * h)),
            where.astype(jnp.int32) * (2 * taken + 1),
            mask=scatter(jnp.ones_like(up)),
            curvature=scatter((up - 2 * value[:, None] + down) / h**2) if curvature else None,
        )

    return Estimator(2 * count + 1, estimate, forward_only=True)


def nes(samples: int = 50, *, sigma: Number = 1e-3, chunk: int | None = None) -> Oracle:
    """Natural evolution strategies with antithetic Gaussian directions: samples + 1 queries.

    g = 1 / (n sigma) sum_j u_j f(x + sigma u_j),    u_{n/2 + j} = -u_j,    u ~ N(0, I)

    Reference:
        Ilyas, Engstrom, Athalye, Lin, Black-box Adversarial Attacks with Limited Queries and Information, ICML 2018,
        algorithm 1.
    """
    require_radius("sigma", sigma, "linf", zero=False)
    return _directions(jax.random.normal, samples, sigma, chunk)


def spsa(samples: int = 128, *, delta: Number = 0.01, chunk: int | None = None) -> Oracle:
    """Simultaneous perturbation: random signs v, g = mean_j (f(x + delta v_j) - f(x - delta v_j)) / (2 delta) v_j.

    `samples` counts evaluations, two per direction; samples + 1 queries.

    Reference:
        Uesato, O'Donoghue, van den Oord, Kohli, Adversarial Risk and the Dangers of Evaluating Against Weak Attacks,
        ICML 2018, algorithm 1; Spall, IEEE Transactions on Automatic Control 37 (1992).
    """
    require_radius("delta", delta, "linf", zero=False)
    return _directions(jax.random.rademacher, samples, delta, chunk)


def eot(oracle: Oracle, draws: int) -> Oracle:
    """Expectation over transformation: the mean of an oracle over draws of whatever is random in it or in the victim.

    The value is the mean too, and success means that most draws were fooled.

    Reference:
        Athalye, Engstrom, Ilyas, Kwok, Synthesizing Robust Adversarial Examples, ICML 2018, equation 2.
    """
    require_count("draws", draws)

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        def draw(number: Array) -> Estimate:
            keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, number)
            return oracle(objective, keys, point, origin, where=where)

        each = jax.lax.map(draw, jnp.arange(draws))
        value, grad = each.value.mean(0), each.grad.mean(0)
        mask = None if each.mask is None else each.mask.max(0)
        curvature = None if each.curvature is None else each.curvature.mean(0)
        return Estimate(
            value, 2 * each.success.sum(0) > draws, grad, each.queries.sum(0, dtype=jnp.int32), mask, curvature
        )

    return Estimator(oracle.queries * draws, estimate, oracle.forward_only)


def seen_through(oracle: Oracle, change: Callable[[Array, Array], Array]) -> Oracle:
    """An oracle of the objective at `change(key, image)`, one key per example: DI, or any input transformation."""

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        split = jax.vmap(jax.random.split)(key)
        return oracle(Changed(objective, split[:, 0], change), split[:, 1], point, origin, where=where)

    return Estimator(oracle.queries, estimate, oracle.forward_only)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Changed:
    """An objective at `change(key, image)`, each example with its own key."""

    objective: Any
    keys: Any
    change: Callable[[Array, Array], Array] = dataclasses.field(metadata={"static": True})

    def __call__(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> tuple[Array, Array]:
        return self.objective(self._of(image), key=key, where=where)

    def logits(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array:
        """The victim's answer to the changed image."""
        return self.objective.logits(self._of(image), key=key, where=where)

    @property
    def data(self) -> Mapping[str, Array]:
        """What answers are scored by."""
        return self.objective.data

    @property
    def white_box(self) -> bool:
        """Whether gradients may be taken."""
        return self.objective.white_box

    def _of(self, image: Array) -> Array:
        # A change works on batches.
        return jax.vmap(lambda key, x: self.change(key, x[None])[0])(self.keys, image)


def resize_and_pad(probability: Number = 0.5, smallest: Number = 0.9) -> Callable[[Array, Array], Array]:
    """DI's change: with some probability shrink the image to a random size and put it at a random place on zeros.

    Reference:
        Xie, Zhang, Zhou, Bai, Wang, Ren, Yuille, Improving Transferability of Adversarial Examples with Input
        Diversity, CVPR 2019, section 3.3.
    """
    require_share("probability", probability, zero=True)
    require_share("smallest", smallest)

    def change(key: Array, image: Array) -> Array:
        use, size_key, place_key = jax.random.split(key, 3)
        scale = jax.random.uniform(size_key, (), image.dtype, minval=smallest, maxval=1.0)
        sides = jnp.array(image.shape[1:3], image.dtype)
        room = sides * (1 - scale) * jax.random.uniform(place_key, (2,), image.dtype)
        shrunk = jax.image.scale_and_translate(
            image, image.shape, (1, 2), jnp.stack([scale, scale]), room, "linear", antialias=False
        )
        return jnp.where(jax.random.bernoulli(use, jnp.asarray(probability, jnp.float32)), shrunk, image)

    return change


def _directions(draw: Callable[..., Array], samples: int, distance: Number, chunk: int | None) -> Oracle:
    if samples < 2 or samples % 2:
        raise BadInput(f"samples={samples}: accepted are even counts, 2 or more: directions come with their opposites.")
    _require_chunk(chunk)
    pairs = samples // 2

    def estimate(objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate:
        def direction(number: Array) -> Array:
            one = lambda k: draw(jax.random.fold_in(k, number), point.shape[1:], point.dtype)  # noqa: E731
            return jax.vmap(one)(key)

        # Drawn again for the sum below: that costs less than keeping them all. The last probe is the point itself.
        number = jnp.concatenate([jnp.arange(pairs), jnp.arange(pairs), jnp.zeros(1, int)])
        step = jnp.concatenate([jnp.full(pairs, distance), jnp.full(pairs, -distance), jnp.zeros(1)], dtype=point.dtype)

        def probe(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
            which, by = arguments
            return objective(point + by * direction(which), key=key[0], where=where)

        values, successes = _precise_map(probe, (number, step), chunk)
        slope = ((values[:pairs] - values[pairs:-1]) / (2 * distance)).astype(point.dtype)

        def add(pair: Array, total: Array) -> Array:
            return total + slope[pair].reshape((-1,) + (1,) * (point.ndim - 1)) * direction(pair)

        grad = jax.lax.fori_loop(0, pairs, add, jnp.zeros_like(point)) / pairs
        return Estimate(values[-1], successes[-1], grad, where.astype(jnp.int32) * (samples + 1))

    return Estimator(samples + 1, estimate, forward_only=True)


def _precise_map(probe: Any, arguments: Any, chunk: int | None) -> Any:
    # A difference over 1e-4 is noise in TF32 or bfloat16.
    with jax.default_matmul_precision("highest"):
        if chunk is None:
            return jax.vmap(probe)(arguments)
        return jax.lax.map(probe, arguments, batch_size=chunk)


def _require_chunk(chunk: int | None) -> None:
    if chunk is not None:
        require_count("chunk", chunk)

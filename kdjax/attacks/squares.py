"""What Square proposes: one square of plus or minus epsilon in L-inf, two windows that trade their length in L2."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks._settings import Number, Radius, require_radius, require_share
from kdjax.attacks.search import Propose
from kdjax.attacks.starts import Start

# Square's share of changed pixels is halved as the search goes on, at these parts of it.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def squares(epsilon: Radius, *, share: Number = 0.8) -> Propose:
    """One square, at a random place, of plus or minus epsilon channel by channel, around the clean image.

    The side is round(sqrt(p H W)); p is `share` at first, halved at 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the
    search. A square may lie at the image's last row and column, as in algorithm 2.

    Reference:
        Andriushchenko, Croce, Flammarion, Hein, Square Attack: a Query-efficient Black-box Adversarial Attack via
        Random Search, ECCV 2020, algorithms 1 and 2.
    """
    require_radius("epsilon", epsilon, "linf")
    require_share("share", share)

    def propose(key: Array, best: Array, origin: Array, progress: Array) -> Array:
        height, width, channels = origin.shape
        side = _side(share, progress, height, width)
        place, sign = jax.random.split(key)
        inside = _window(_place(place, side, height, width), side, height, width)
        signs = jax.random.rademacher(sign, (1, 1, channels), origin.dtype)
        return jnp.where(inside[..., None], origin + epsilon * signs, best)

    return propose


def trades(epsilon: Radius, *, share: Number = 0.1) -> Propose:
    """Square's L2 step: one window gives up its length, another takes it over and grows a pair of bumps.

    With the change delta, windows W1 and W2 of odd side round(sqrt(p H W)), at least 3, and bumps eta of unit length,

    delta_W2 = 0, and delta_W1 along s eta + delta_W1 / ||delta_W1||, channel by channel, s a random sign, its length
    sqrt(||delta_{W1 u W2}||^2 + (epsilon^2 - ||delta||^2)_+ / channels); then ||delta|| = epsilon.

    p is halved as for `squares`.

    Reference:
        Andriushchenko et al., Square Attack, ECCV 2020, algorithm 3 and its supplement.
    """
    require_radius("epsilon", epsilon)
    require_share("share", share)

    def propose(key: Array, best: Array, origin: Array, progress: Array) -> Array:
        height, width, channels = origin.shape
        side = _odd(_side(share, progress, height, width), min(height, width))
        first, second, sign, turn = jax.random.split(key, 4)
        delta = best - origin
        taken, given = (_window(_place(k, side, height, width), side, height, width) for k in (first, second))
        bumps = _bumps(_place(first, side, height, width), side, height, width, jax.random.bernoulli(turn))
        signs = jax.random.rademacher(sign, (1, 1, channels), origin.dtype)
        new = signs * bumps[..., None] + delta * taken[..., None] / (_length(delta * taken[..., None]) + 1e-10)
        room = jnp.maximum(epsilon**2 - jnp.sum(delta**2), 0) / channels
        both = (taken | given)[..., None]
        new = new / (_length(new) + 1e-10) * jnp.sqrt(room + _length(delta * both) ** 2)
        moved = jnp.where(taken[..., None], new, jnp.where(given[..., None], 0, delta))
        return origin + epsilon * moved / (jnp.sqrt(jnp.sum(moved**2)) + 1e-10)

    return propose


def tiles(epsilon: Radius) -> Start:
    """Square's L2 start: a grid of 5 x 5 bumps with random signs, of length epsilon together."""
    require_radius("epsilon", epsilon)

    def start(key: Array, image: Array) -> Array:
        height, width, channels = image.shape
        side = max(min(height, width) // 5, 1)
        margin = (jnp.array([height, width]) - 5 * side) // 2
        grid = jnp.stack(jnp.meshgrid(jnp.arange(5), jnp.arange(5), indexing="ij"), -1).reshape(25, 2)
        places = margin[None] + side * grid
        sign, turn = jax.random.split(key)
        turned = jax.random.bernoulli(turn, shape=(25,))
        bumps = jax.vmap(lambda at, t: _bumps(at, jnp.asarray(float(side)), height, width, t))(places, turned)
        signs = jax.random.rademacher(sign, (25, 1, 1, channels), image.dtype)
        delta = jnp.sum(signs * bumps[..., None], 0)
        return image + epsilon * delta / jnp.sqrt(jnp.sum(delta**2))

    return start


def _side(share: Number, progress: Array, height: int, width: int) -> Array:
    p = share / 2.0 ** jnp.sum(progress > jnp.array(_HALVINGS))
    return jnp.clip(jnp.round(jnp.sqrt(p * height * width)), 1, min(height, width))


def _odd(side: Array, most: int) -> Array:
    side = jnp.maximum(side, 3)
    side = side + (side % 2 == 0)
    return jnp.minimum(side, most - (most % 2 == 0))


def _place(key: Array, side: Array, height: int, width: int) -> Array:
    return jnp.floor(jax.random.uniform(key, (2,), jnp.float32) * (jnp.array([height, width]) - side + 1))


def _window(place: Array, side: Array, height: int, width: int) -> Array:
    rows, columns = jnp.arange(height)[:, None] - place[0], jnp.arange(width)[None] - place[1]
    return (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)


def _bumps(place: Array, side: Array, height: int, width: int, turned: Array) -> Array:
    """Two opposite bumps in a window, one in each half, each a pile of squares of heights 1 / k^2; unit length."""
    i, j = jnp.arange(height)[:, None] - place[0], jnp.arange(width)[None] - place[1]
    inside = _window(place, side, height, width)
    i, j = jnp.where(turned, j, i), jnp.where(turned, i, j)
    half, layers = jnp.floor(side / 2), jnp.floor(side / 2) + 1
    size = max(height, width)
    piled = jnp.concatenate([jnp.zeros(1), jnp.cumsum(1.0 / jnp.arange(1, size + 1) ** 2)])

    def bump(rows: Array, first: Array, count: Array) -> Array:
        away = jnp.maximum(jnp.abs(i - first - jnp.floor(count / 2)), jnp.abs(j - jnp.floor(side / 2)))
        at = jnp.clip(away, 0, size).astype(int)
        pile = jnp.where(inside & rows, jnp.maximum(piled[layers.astype(int)] - piled[at], 0), 0)
        return pile / jnp.maximum(jnp.sqrt(jnp.sum(pile**2)), 1e-10)

    found = bump(i < half, jnp.zeros(()), half) - bump(i >= half, half, side - half)
    return found / jnp.maximum(jnp.sqrt(jnp.sum(found**2)), 1e-10)


def _length(x: Array) -> Array:
    """Per channel, `[1, 1, C]`."""
    return jnp.sqrt(jnp.sum(x**2, (0, 1), keepdims=True))

"""Dropout that spends a few random bits on each number instead of a random float."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float


def keep_mask(key: Array, shape: tuple[int, ...], rate: float) -> tuple[Bool[Array, "..."], float]:
    """Independent booleans that are False with probability `rate`, and the exact probability of True.

    A number costs as few random bits as write its rate exactly: 1 for 0.5, 2 for 0.25, 8 for any multiple of 1/256. A
    rate that 16 bits cannot write, such as 0.1, is rounded to a multiple of 1/65536; the probability returned is that
    of the rounded rate, so that dividing by it keeps the mean.

    Args:
        key: PRNG key.
        shape: shape of the mask, batch first.
        rate: probability of False, in [0, 1).

    >>> mask, keep = keep_mask(jax.random.key(0), (4, 3), 0.25)
    >>> mask.shape, keep
    ((4, 3), 0.75)
    """
    bits = next((b for b in (1, 2, 4, 8) if float(rate * 2**b).is_integer()), 16)
    threshold = min(round(rate * 2**bits), 2**bits - 1)
    batch, rest, per_word = shape[0], math.prod(shape[1:]), 32 // bits
    # `jax.random.bits(key, shape, uint8)` computes a whole 32-bit word for each number and throws 24 bits away.
    words = jax.random.bits(key, (batch, -(-rest // per_word), 1), jnp.uint32)
    shifts = jnp.arange(0, 32, bits, dtype=jnp.uint32).reshape(1, 1, -1)
    drawn = (words >> shifts) & (2**bits - 1)
    return (drawn >= threshold).reshape(batch, -1)[:, :rest].reshape(shape), 1 - threshold / 2**bits


class Dropout(nn.Module):
    """`y = x m / (1 - rate)` with m = 0 with probability `rate` and else 1; `y = x` unless training.

    Takes its key from the stream `dropout`.
    """

    # Measured against flax.linen.Dropout, jitted, on two CPU cores at [64, 1200]: 6 to 8 times faster at 0.5 and 0.25,
    # 1.3 to 1.8 times at rates that need 16 bits; a gradient of 784-1200-1200-10 at 0.5, batch 64, takes 10 % less.
    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool) -> Float[Array, "*shape"]:
        if not train or self.rate == 0:
            return x
        mask, keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
        return jnp.where(mask, x / keep, 0)

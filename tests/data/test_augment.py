"""A random shift moves whole images by whole pixels, uniformly, and can be replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data.augment import random_shift
from kdjax.types import BadInput


def offsets(key, batch, pixels, size=9):
    """How far each of many images with one bright pixel in the middle was moved, as (dy, dx)."""
    image = jnp.zeros((batch, size, size, 1)).at[:, size // 2, size // 2].set(1.0)
    moved = random_shift(key, image, pixels=pixels)
    assert (moved.sum((1, 2, 3)) == 1).all()
    return np.argwhere(np.asarray(moved[..., 0]))[:, 1:] - size // 2


@pytest.mark.parametrize("pixels", [0, 1, 2, 4])
def test_shifts_are_uniform_and_independent(key, pixels):
    found = offsets(key, 4000, pixels)
    cells = (2 * pixels + 1) ** 2
    counts = np.zeros((2 * pixels + 1,) * 2)
    np.add.at(counts, tuple((found + pixels).T), 1)
    expected = 4000 / cells
    # Chi-squared with cells - 1 degrees of freedom, five standard deviations above its mean.
    assert ((counts - expected) ** 2 / expected).sum() <= cells - 1 + 5 * np.sqrt(2 * cells)


def test_each_image_is_moved_as_a_whole_with_zeros_behind(key):
    image = jax.random.uniform(key, (32, 7, 6, 3))
    moved = np.asarray(random_shift(key, image, pixels=3))
    padded = np.pad(np.asarray(image), ((0, 0), (3, 3), (3, 3), (0, 0)))
    for before, after in zip(padded, moved, strict=True):
        places = [(y, x) for y in range(7) for x in range(7) if np.array_equal(before[y : y + 7, x : x + 6], after)]
        assert len(places) == 1


def test_a_key_replays_and_another_does_not(key):
    image = jax.random.uniform(key, (16, 8, 8, 1))
    np.testing.assert_array_equal(random_shift(key, image), jax.jit(random_shift)(key, image))
    assert not np.array_equal(random_shift(key, image), random_shift(jax.random.key(1), image))
    np.testing.assert_array_equal(random_shift(key, image, pixels=0), image)


@pytest.mark.parametrize("pixels", [-1, 8])
def test_shifts_that_cannot_be(key, pixels):
    with pytest.raises(BadInput, match=rf"pixels={pixels}; accepted: 0 to 7"):
        random_shift(key, jnp.zeros((2, 8, 9, 1)), pixels=pixels)

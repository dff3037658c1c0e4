"""Views of images: exact, as often as they should be, and a function of each example's key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data.augment import crop_and_flip, in_turn, mixup, random_flip, random_shift
from kdjax.recipes._batch import augmented
from kdjax.types import BadInput


def per_example(key, index):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(index))


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


def test_half_of_the_images_are_mirrored(key):
    image = jax.random.uniform(key, (2000, 2, 3, 1))
    view = np.asarray(random_flip(key, image))
    mirrored = (view == np.asarray(image)[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (view == np.asarray(image)).all((1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 5 * np.sqrt(0.25 / 2000)


def test_crop_and_flip_is_numpys_and_every_crop_comes_in_both_hands(key):
    image = jnp.tile(jax.random.uniform(key, (1, 5, 5, 2)), (600, 1, 1, 1))
    padded = np.pad(np.asarray(image[0]), ((1, 1), (1, 1), (0, 0)))
    crops = [padded[y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    accepted = np.stack(crops + [crop[:, ::-1] for crop in crops])
    found = (np.asarray(crop_and_flip(key, image, pixels=1))[:, None] == accepted[None]).all((2, 3, 4))
    assert (found.sum(1) == 1).all()
    expected = 600 / 18
    assert ((found.sum(0) - expected) ** 2 / expected).sum() <= 17 + 5 * np.sqrt(2 * 17)


def test_crop_and_flip_pads_by_four(key):
    black = np.asarray(crop_and_flip(key, jnp.ones((300, 9, 9, 1))) == 0)[..., 0]
    assert black.all(2).sum(1).max() == black.all(1).sum(1).max() == 4


def test_mixup_mixes_with_the_next_row_by_a_uniform_share(key):
    image = jax.random.uniform(key, (2000, 2, 2, 1))
    view, x = (np.asarray(a, np.float64).reshape(2000, 4) for a in (mixup(key, image), image))
    step = x - np.roll(x, -1, 0)
    share = ((view - np.roll(x, -1, 0)) * step).sum(1) / (step**2).sum(1)
    np.testing.assert_allclose(view, np.roll(x, -1, 0) + share[:, None] * step, atol=1e-6)
    assert view.min() >= 0
    assert view.max() <= 1
    counts = np.histogram(share, 10, (0, 1))[0]
    assert counts.sum() >= 1999  # one may be rounded past an end
    assert ((counts - 200) ** 2 / 200).sum() <= 9 + 5 * np.sqrt(2 * 9)


@pytest.mark.parametrize("augment", [random_shift, random_flip, crop_and_flip], ids=lambda f: f.__name__)
def test_a_view_depends_on_the_examples_key_alone(key, augment):
    image = jax.random.uniform(key, (16, 9, 8, 2))
    keys = per_example(key, np.arange(16))
    every = jax.jit(augment)(keys, image)
    np.testing.assert_array_equal(every, augment(key, image))  # one key stands for one per row
    order = np.array([7, 3, 11, 3])
    np.testing.assert_array_equal(augment(keys[order], image[order]), every[order])
    two = jax.vmap(augment)(keys.reshape(2, 8), image.reshape(2, 8, 9, 8, 2))
    np.testing.assert_array_equal(two.reshape(every.shape), every)
    assert not np.array_equal(augment(jax.random.key(1), image), every)


def test_in_turn_applies_each_with_keys_of_its_own(key):
    image = jax.random.uniform(key, (16, 9, 9, 1))
    keys = [
        jax.vmap(lambda k, place=place: jax.random.fold_in(k, place))(per_example(key, np.arange(16)))
        for place in (0, 1)
    ]
    expected = random_shift(keys[1], random_shift(keys[0], image))
    np.testing.assert_array_equal(in_turn(random_shift, random_shift)(key, image), expected)
    assert not np.array_equal(keys[0], keys[1])


def test_a_recipes_views_follow_the_index(key):
    image = np.random.default_rng(0).random((12, 9, 9, 1), np.float32)

    @jax.jit
    def views(index, k):
        rows = {"inputs": jnp.asarray(image)[index], "index": index, "mask": jnp.ones(len(index))}
        batch, model_key = augmented(rows, k, crop_and_flip, run_key=key)
        return batch["inputs"], jax.random.key_data(model_key)

    index = np.array([5, 2, 9, 5], np.int32)
    (first, model_key), (turned, same), (other, _) = (
        views(index, key),
        views(index[::-1], key),
        views(index, jax.random.key(1)),
    )
    np.testing.assert_array_equal(first[0], first[3])
    np.testing.assert_array_equal(turned, first[::-1])
    np.testing.assert_array_equal(model_key, same)
    assert not np.array_equal(first, other)
    rows = {"inputs": image, "mask": np.ones(12, np.float32)}
    alone, left = augmented(rows, key, crop_and_flip, run_key=key)
    numbered, _ = augmented({**rows, "index": np.arange(12)}, key, crop_and_flip, run_key=key)
    np.testing.assert_array_equal(alone["inputs"], numbered["inputs"])
    assert augmented(rows, key, None, run_key=key)[1] is key
    np.testing.assert_array_equal(jax.random.key_data(left), model_key)


@pytest.mark.parametrize("pixels", [-1, 8])
def test_shifts_that_cannot_be(key, pixels):
    with pytest.raises(BadInput, match=rf"pixels={pixels}; accepted: 0 to 7"):
        random_shift(key, jnp.zeros((2, 8, 9, 1)), pixels=pixels)


def test_keys_that_do_not_fit(key):
    with pytest.raises(BadInput, match=r"key has shape \(3,\) and image \(2, 8, 9, 1\)"):
        random_flip(jax.random.split(key, 3), jnp.zeros((2, 8, 9, 1)))

"""Dropout drops at its rate, independently, keeps the mean, and is nothing in evaluation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models.dropout import Dropout, keep_mask

RATES = [0.5, 0.25, 0.75, 0.0625, 0.2, 0.1, 1 / 3, 0.9, 5 / 256, 0.999]
SHAPE = (500, 401)


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_the_rate(key, rate):
    mask, keep = keep_mask(key, SHAPE, rate)
    assert abs(keep - (1 - rate)) <= 2**-17
    assert abs(mask.mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / mask.size)


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.75, 3 / 16, 0.9375, 7 / 256])
def test_rates_of_few_bits_are_exact(key, rate):
    assert keep_mask(key, (2, 3), rate)[1] == 1 - rate


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.0625, 5 / 256, 0.2])
def test_numbers_are_independent_also_where_they_share_a_random_word(key, rate):
    mask = np.asarray(keep_mask(key, SHAPE, rate)[0], np.float64)
    centred = (mask - mask.mean()) / mask.std()
    for lag in (1, 2, 3, 4, 8, 16, 31, 32):
        assert abs((centred[:, lag:] * centred[:, :-lag]).mean()) < 5 / np.sqrt(mask.size)
    assert abs((centred[1:] * centred[:-1]).mean()) < 5 / np.sqrt(mask.size)
    # Every column and every row drops at the rate: none is stuck.
    for axis in (0, 1):
        length = mask.shape[axis]
        assert np.abs(mask.mean(axis) - mask.mean()).max() < 6 * mask.std() / np.sqrt(length) + 2 / length


@pytest.mark.parametrize("shape", [(3,), (4, 1), (2, 33), (5, 3, 3, 1), (2, 8, 8, 3), (1, 7)])
@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_any_shape(key, shape, rate):
    draw = jax.jit(lambda key: keep_mask(key, shape, rate)[0])
    masks = np.stack([np.asarray(draw(k)) for k in jax.random.split(key, 200)])
    assert masks.shape == (200, *shape)
    assert np.abs(masks.mean(0) - (1 - rate)).max() < 6 * 0.5 / np.sqrt(200)


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_is_kept_and_values_are_scaled_or_zero(key, rate):
    x = jnp.full(SHAPE, 2.0)
    y = np.asarray(Dropout(rate).apply({}, x, train=True, rngs={"dropout": key}))
    assert set(np.unique(y)) == {0.0, np.float32(2 / keep_mask(key, (1, 1), rate)[1])}
    assert abs(y.mean() - 2) < 5 * 2 * np.sqrt(rate / (1 - rate) / y.size)


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True), (0.0, False)])
def test_nothing_happens_in_evaluation_or_at_rate_zero(rate, train):
    x = jax.random.normal(jax.random.key(1), (4, 5))
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=train), x)


def test_before_relu_is_after_relu(key):
    x = jax.random.normal(key, (64, 100))
    before = jax.nn.relu(Dropout(0.5).apply({}, x, train=True, rngs={"dropout": key}))
    after = Dropout(0.5).apply({}, jax.nn.relu(x), train=True, rngs={"dropout": key})
    np.testing.assert_array_equal(before, after)


def test_the_gradient_flows_where_the_value_did(key):
    x = jax.random.normal(key, (16, 16))

    def total(x):
        return Dropout(0.25).apply({}, x, train=True, rngs={"dropout": key}).sum()

    mask, keep = keep_mask(key, (1, 1), 0.25)[0], 0.75
    y = Dropout(0.25).apply({}, x, train=True, rngs={"dropout": key})
    np.testing.assert_allclose(jax.grad(total)(x), jnp.where(y == 0, 0, 1 / keep), rtol=1e-6)
    assert mask.shape == (1, 1)


def test_vmap_over_keys_is_a_loop_over_keys():
    keys = jax.random.split(jax.random.key(3), 4)
    together = jax.vmap(lambda key: keep_mask(key, (8, 9), 0.5)[0])(keys)
    for key, mask in zip(keys, together, strict=True):
        np.testing.assert_array_equal(mask, keep_mask(key, (8, 9), 0.5)[0])
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(np.asarray(together), 2))

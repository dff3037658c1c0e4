"""Numbers of the losses on features: by hand, by float64 numpy written apart, and by what they must not depend on."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import _maps, feature
from kdjax.types import BadInput

RNG = np.random.default_rng(7)
STUDENT, TEACHER = RNG.normal(size=(2, 3, 4, 4, 5))


def arrays(*values):
    return [jnp.asarray(x, jnp.float32) for x in values]


def cells_by_hand(x, height, width):
    """Adaptive pooling pixel by pixel, by its definition."""
    found = np.zeros((len(x), height, width, x.shape[-1]))
    for i in range(height):
        for j in range(width):
            rows = slice(math.floor(i * x.shape[1] / height), math.ceil((i + 1) * x.shape[1] / height))
            columns = slice(math.floor(j * x.shape[2] / width), math.ceil((j + 1) * x.shape[2] / width))
            found[:, i, j] = x[:, rows, columns].mean((1, 2))
    return found


@pytest.mark.parametrize(("size", "cells"), [((6, 4), (3, 2)), ((5, 7), (3, 2)), ((7, 5), (7, 4)), ((3, 3), (1, 1))])
def test_average_pooling_of_any_size(size, cells):
    x = RNG.normal(size=(2, *size, 3))
    np.testing.assert_allclose(_maps.average_pool(*arrays(x), *cells), cells_by_hand(x, *cells), rtol=1e-5, atol=1e-6)


def test_unit_of_numbers_whose_squares_float32_does_not_hold():
    unit = jax.jit(_maps.unit)
    for size in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(unit(jnp.array([3.0, -4.0]) * size), [0.6, -0.8], rtol=1e-6)
    assert (jax.jit(jax.jacobian(unit))(jnp.zeros(2)) == 0).all()


def test_hint_is_a_mean_over_all_elements():
    for shape in [(1, 2), (3, 7), (2, 4, 4, 5)]:
        np.testing.assert_array_equal(feature.hint(jnp.ones(shape), jnp.zeros(shape)), np.ones(shape[0]))
    expected = [np.mean((s - t) ** 2) for s, t in zip(STUDENT, TEACHER, strict=True)]
    np.testing.assert_allclose(feature.hint(*arrays(STUDENT, TEACHER)), expected, rtol=1e-5)


def attention_by_hand(x, p):
    flat = (np.abs(x) ** p).mean(-1).reshape(len(x), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_attention_by_hand(p):
    difference = attention_by_hand(STUDENT, p) - attention_by_hand(TEACHER[..., :2], p)
    student, teacher = arrays(STUDENT, TEACHER[..., :2])
    np.testing.assert_allclose(feature.attention(student, teacher, p=p), (difference**2).mean(1), rtol=1e-4)
    expected = np.linalg.norm(difference, axis=1)
    np.testing.assert_allclose(feature.attention_paper(student, teacher, p=p), expected, rtol=1e-4)


def test_attention_of_maps_of_other_sizes_is_that_of_the_averaged_larger_one():
    larger = RNG.normal(size=(3, 7, 9, 2))
    expected = ((attention_by_hand(STUDENT, 2) - attention_by_hand(cells_by_hand(larger, 4, 4), 2)) ** 2).mean(1)
    for sides in [(STUDENT, larger), (larger, STUDENT)]:
        np.testing.assert_allclose(jax.jit(feature.attention)(*arrays(*sides)), expected, rtol=1e-4)


@pytest.mark.parametrize("loss", [feature.attention, feature.attention_paper, feature.nst, feature.pkd, feature.ft])
def test_the_scale_of_either_side_is_not_seen(loss):
    student, teacher = arrays(STUDENT, TEACHER)
    loss = jax.jit(loss)
    expected = loss(student, teacher)
    np.testing.assert_allclose(loss(3 * student, teacher), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss(student, 1e-6 * teacher), expected, rtol=1e-5, atol=1e-6)


def test_two_hot_positions():
    left, right = jnp.array([[[[5.0, 0.0], [0.0, 0.0]]]]), jnp.array([[[[0.0, 0.0], [0.0, 0.1]]]])
    np.testing.assert_allclose(feature.attention(left, right), 1.0, rtol=1e-6)
    np.testing.assert_allclose(feature.attention_paper(left, right), math.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("p", [0.5, 0, -1.0])
def test_a_power_below_one_is_refused(p):
    with pytest.raises(BadInput, match=rf"p={p}; accepted: a number from 1 up"):
        feature.attention(*arrays(STUDENT, TEACHER), p=p)


def nst_by_hand(student, teacher):
    """One example `[positions, channels]`, pair by pair."""
    s, t = (x / np.linalg.norm(x, axis=0) for x in (student, teacher))
    kernel = lambda a, b: np.mean([(x @ y) ** 2 for x in a.T for y in b.T])  # noqa: E731
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


@pytest.mark.parametrize("channels", [(6, 7), (2, 7), (3, 2)])
def test_nst_pair_by_pair(channels):
    """More channels than positions, and fewer: two orders of the same sums."""
    s, t = (RNG.normal(size=(2, 5, c)) for c in channels)
    expected = [nst_by_hand(*pair) for pair in zip(s, t, strict=True)]
    np.testing.assert_allclose(jax.jit(feature.nst)(*arrays(s, t)), expected, rtol=1e-4, atol=1e-6)


def test_nst_sees_channels_as_a_set():
    shuffled = jnp.asarray(STUDENT[..., [3, 0, 4, 1, 2]] * [1, -2, 3, 4, 5], jnp.float32)
    np.testing.assert_allclose(feature.nst(shuffled, *arrays(STUDENT)), 0, atol=1e-6)


def test_fsp_pools_the_larger_map_and_multiplies_channels():
    lower, upper = RNG.normal(size=(2, 5, 6, 3)), RNG.normal(size=(2, 2, 3, 4))
    expected = np.einsum("bhwc,bhwd->bcd", cells_by_hand(lower, 2, 3), upper) / 6
    np.testing.assert_allclose(feature.fsp_matrix(*arrays(lower, upper)), expected, rtol=1e-4, atol=1e-6)
    other = RNG.normal(size=expected.shape)
    difference = ((expected - other) ** 2).mean((1, 2))
    np.testing.assert_allclose(feature.fsp(*arrays(expected, other)), difference, rtol=1e-5)
    with pytest.raises(ValueError, match=r"lower has shape \(2, 5, 6, 3\) and upper \(3, 2, 2, 4\)"):
        inspect.unwrap(feature.fsp_matrix)(jnp.zeros((2, 5, 6, 3)), jnp.zeros((3, 2, 2, 4)))


def test_vid_knows_its_variance():
    zeros, variance = jnp.zeros((2, 3, 3, 2)), jnp.array([5.0, 5.0])
    np.testing.assert_allclose(feature.vid(zeros, zeros, variance=variance), 0.8047190, rtol=1e-6)
    # One apart, with a variance that differs per channel: mean of ½(1/σ² + ln σ²).
    variance = jnp.array([0.5, 4.0])
    expected = 0.5 * np.mean([1 / 0.5 + math.log(0.5), 1 / 4 + math.log(4)])
    np.testing.assert_allclose(feature.vid(zeros + 1, zeros, variance=variance), expected, rtol=1e-6)
    # The variance that costs least is the squared error itself.
    slope = jax.grad(lambda v: feature.vid(zeros + 2, zeros, variance=v).sum())(jnp.array([4.0, 3.0]))
    np.testing.assert_allclose(slope[0], 0, atol=1e-6)
    assert slope[1] < -1e-3


@pytest.mark.parametrize("name", ["vid", "ofd"])
def test_a_number_per_channel_must_have_one_per_channel(name):
    loss, keyword = inspect.unwrap(getattr(feature, name)), {"vid": "variance", "ofd": "margin"}[name]
    with pytest.raises(BadInput, match=rf"student has shape \(3, 4, 4, 5\) and {keyword} \(4,\); accepted: \(5,\)"):
        loss(*arrays(STUDENT, TEACHER), **{keyword: jnp.ones(4)})


def test_ofd_margin():
    shift, scale = jnp.array([0.0, 1.0, -1.0, 4.0, 0.0]), jnp.array([1.0, 1.0, 1.0, 1.0, -2.0])
    expected = [-0.7978846, -0.5251353, -1.2876000, -3.0, -2 * 0.7978846]
    margin = jax.jit(feature.ofd_margin)
    np.testing.assert_allclose(margin(scale, shift), expected, rtol=1e-5)
    # Without spread a channel is its shift where that is below 0, and never below 0 elsewhere.
    np.testing.assert_array_equal(margin(jnp.zeros(3), jnp.array([-2.0, 0.0, 2.0])), [-2, 0, 0])


def ofd_by_hand(y, x, m):
    if y > m and x <= m:
        return (y - m) ** 2
    if m < x <= 0 and y > x:
        return (y - x) ** 2
    return (y - x) ** 2 if x > 0 else 0.0


def test_ofd_case_by_case():
    grid = np.array([-3.0, -1.0, -0.6, -0.3, 0.0, 0.4, 2.0])
    y, x = (side.ravel() for side in np.meshgrid(grid, grid + 0.05))
    got = feature.ofd(*arrays(y[:, None], x[:, None]), margin=jnp.array([-0.6]))
    np.testing.assert_allclose(got, [ofd_by_hand(*pair, -0.6) for pair in zip(y, x, strict=True)], rtol=1e-4, atol=1e-6)
    # A sum over elements.
    total = feature.ofd(*arrays(y[None], x[None]), margin=jnp.full(len(y), -0.6))
    np.testing.assert_allclose(total, [got.sum()], rtol=1e-5)


def test_ab_case_by_case():
    s = jnp.array([[-2.0], [-1.0], [0.5], [-2.0], [0.5], [1.0], [3.0]])
    t = jnp.array([[-1.0], [0.0], [-1.0], [1.0], [2.0], [0.1], [0.1]])
    np.testing.assert_allclose(feature.ab(s, t), [0, 0, 2.25, 9, 0.25, 0, 0])
    np.testing.assert_allclose(feature.ab(s.T, t.T, margin=2.0), [0 + 1 + 6.25 + 16 + 2.25 + 1 + 0])
    np.testing.assert_array_equal(feature.ab(s, 100 * t), feature.ab(s, t))
    with pytest.raises(BadInput, match=r"margin=0; accepted: a number above 0"):
        feature.ab(s, t, margin=0)


def test_review_weighs_coarser_averages_half_as_much_each():
    board = jnp.asarray(np.indices((8, 8)).sum(0) % 2 * 2 - 1, jnp.float32)
    weight = np.array([1, 1 / 2, 1 / 4, 1 / 8]) / 1.875
    np.testing.assert_allclose(weight, [0.5333, 0.2667, 0.1333, 0.0667], atol=1e-4)
    review = jax.jit(feature.review)
    for side, seen in [(1, 1), (2, 2), (4, 3), (8, 4)]:  # squares of this side vanish from so many levels on
        squares = jnp.kron(board[: 8 // side, : 8 // side], jnp.ones((side, side)))[None, :, :, None]
        np.testing.assert_allclose(review(squares, 0 * squares), weight[:seen].sum(), rtol=1e-5)
    # A map of 4 x 4 has no 4 x 4 level, so its weights are others.
    small = board[:4, :4][None, :, :, None]
    np.testing.assert_allclose(review(small, 0 * small), 1 / 1.75, rtol=1e-5)
    with pytest.raises(BadInput, match=r"\(2, 3\); accepted: \[batch, height, width, channels\]"):
        feature.review(jnp.zeros((2, 3)), jnp.zeros((2, 3)))


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_review_of_a_constant_difference_is_its_square(size):
    x = jnp.asarray(RNG.normal(size=(2, size, size, 3)), jnp.float32)
    np.testing.assert_allclose(jax.jit(feature.review)(x + 3, x), 9, rtol=1e-5)


def test_directions():
    s, t = RNG.normal(size=(2, 3, 4, 5))
    cosine = (s * t).sum(-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)
    np.testing.assert_allclose(feature.cosine(*arrays(s, t)), (1 - cosine).mean(1), rtol=1e-5)
    np.testing.assert_allclose(feature.pkd(*arrays(s, t)), 2 / 5 * (1 - cosine).mean(1), rtol=1e-5)
    np.testing.assert_allclose(feature.ft(jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 4.0]])), [0.6], rtol=1e-6)


def test_cosine_near_equality_keeps_its_digits():
    s, t = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1e-4]])
    np.testing.assert_allclose(feature.cosine(s, t), [0.5e-8], rtol=1e-3)


@pytest.mark.parametrize("shape", [(256, 8, 8, 64), (16, 16, 16, 64), (16, 4, 4, 256)])
def test_memory_of_nst(shape):
    """Every pair of channels at every position would take as many times the features as there are channels."""
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda s, t: feature.nst(s, t).mean()))
    floats = step.lower(features, features).compile().memory_analysis().temp_size_in_bytes / 4
    assert floats < 6 * (shape[0] ** 2 + math.prod(shape))


def test_both_factor_transfers_are_their_codes():
    """PyTorch 2.13, float64: L1Loss of the authors' FT, and FactorTransfer of the CIFAR-100 code."""
    s, t = np.random.default_rng(7).normal(size=(2, 3, 2, 2, 5))
    for loss, each, slopes in (
        (
            feature.ft,
            [0.2003050097537157, 0.2637759060421893, 0.2650227936836511],
            [-0.004522735503752661, 0.001398867103737779, -0.00187819249162047],
        ),
        (
            feature.ft_crd,
            [0.33948679112298324, 0.4749700205526198, 0.31606644611606904],
            [-2.4389714931529864e-05, -0.028083275352059504, -0.002732435723454141],
        ),
    ):
        np.testing.assert_allclose(loss(*arrays(s, t)), each, rtol=1e-5)
        slope = jax.jit(jax.grad(lambda s, t, loss=loss: loss(s, t).mean()))(*arrays(s, t))
        np.testing.assert_allclose(slope.flatten()[np.array([0, 7, 33])], slopes, rtol=1e-4)
    with pytest.raises(BadInput, match=r"student has shape \(2, 3\); accepted: \[batch, ..., channels\]"):
        feature.ft_crd(jnp.zeros((2, 3)), jnp.zeros((2, 3)))

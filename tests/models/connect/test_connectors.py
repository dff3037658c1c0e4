"""What stands between two layers: numbers against numpy in float64, written apart from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import feature
from kdjax.models.connect import sizes
from kdjax.models.connect.connectors import Normalised
from kdjax.models.connect.factors import LEARNED, Factors
from kdjax.models.connect.review import Fusion
from kdjax.types import BadInput

RNG = np.random.default_rng(3)


def maps(*shapes):
    return tuple(RNG.normal(size=shape) for shape in shapes)


def f32(arrays):
    return tuple(jnp.asarray(np.asarray(x, np.float32)) for x in arrays)


def begun(module, student, teacher, key=0):
    """A connector's variables, drawn in one program."""
    return jax.jit(functools.partial(module.init, train=False))(jax.random.key(key), student, teacher)


@pytest.mark.parametrize(("size", "wanted"), [((2, 3), (4, 9)), ((4, 4), (2, 2)), ((3, 5), (7, 4)), ((1, 1), (3, 2))])
def test_nearest_shows_one_pixel_each(size, wanted):
    (x,) = maps((2, *size, 3))
    expected = np.zeros((2, *wanted, 3))
    for i, j in np.ndindex(*wanted):
        expected[:, i, j] = x[:, i * size[0] // wanted[0], j * size[1] // wanted[1]]
    np.testing.assert_array_equal(jax.jit(sizes.nearest, static_argnums=1)(*f32([x]), wanted), f32([expected])[0])


def test_layers_meet_at_the_smaller_size_and_as_vectors_where_only_one_has_pixels():
    large, small, vector, tokens = maps((2, 4, 6, 3), (2, 2, 3, 5), (2, 7), (2, 9, 4))
    for a, b in (f32([large, small]), f32([small, large])[::1]):
        met = {x.shape[-1]: x for x in sizes.same_size(a, b)}
        np.testing.assert_allclose(met[3], large.reshape(2, 2, 2, 3, 2, 3).mean((2, 4)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(met[5], small, rtol=1e-6)
    for x in (large, tokens):
        mean, same = sizes.same_size(*f32([x, vector]))
        np.testing.assert_allclose(mean, x.mean(tuple(range(1, x.ndim - 1))), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(same, vector, rtol=1e-6)
    mean, other = sizes.same_size(*f32([large, tokens]))
    assert (mean.shape, other.shape) == ((2, 3), (2, 4))


def normalised(x):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)


def convolved(x, kernel):
    """3 x 3 with zeros around, or 1 x 1, pixel by pixel."""
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    found = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i, j in np.ndindex(*x.shape[1:3]):
        found[:, i, j] = np.tensordot(padded[:, i : i + side, j : j + side], kernel, 3)
    return found


def resized(x, height, width):
    return x[:, np.arange(height) * x.shape[1] // height][:, :, np.arange(width) * x.shape[2] // width]


def fused_by_hand(params, student, teacher):
    """Stages from the deepest up, as the paper's figure 3 has it."""
    above, found, weights = None, [], []
    for level in range(len(student), 0, -1):
        x = normalised(student[level - 1] @ params[f"in{level}"]["kernel"])
        if above is not None:
            above = resized(above, *x.shape[1:3])
            attention = params[f"attention{level}"]
            raw = np.concatenate([x, above], -1) @ attention["kernel"] + attention["bias"]
            weight = 1 / (1 + np.exp(-raw))
            weights.append(weight)
            x = weight[..., [0]] * x + weight[..., [1]] * above
        above = x = resized(x, *teacher[level - 1].shape[1:3])
        found.insert(0, normalised(convolved(x, params[f"out{level}"]["kernel"])))
    return found, weights


def test_attention_based_fusion_by_hand():
    student = maps((3, 4, 4, 4), (3, 2, 2, 6), (3, 5))
    teacher = maps((3, 8, 8, 7), (3, 2, 2, 8), (3, 9))
    fusion = Fusion()
    variables = begun(fusion, f32(student), f32(teacher))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64) + 0.3 * RNG.normal(size=x.shape), variables["params"])
    # Normalisation keeps its own numbers, 1 and 0.
    params |= {name: variables["params"][name] for name in params if "norm" in name}
    assert params["in1"]["kernel"].shape == (4, 5)  # to the deepest stage's width
    assert "attention3" not in params
    run = jax.jit(functools.partial(fusion.apply, train=True, mutable=["batch_stats"]))
    whole = {**variables, "params": jax.tree.map(lambda x: np.asarray(x, np.float32), params)}
    (ours, theirs, keywords), state = run(whole, f32(student), f32(teacher))
    pixels = [(*side[:2], side[2][:, None, None]) for side in (student, teacher)]
    expected, weights = fused_by_hand(params, *pixels)
    assert keywords == {}
    for got, want, target, level in zip(ours, expected, theirs, pixels[1], strict=True):
        # Three examples of one pixel: a small variance under a root.
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(target, level, rtol=1e-6)
    # Two numbers per pixel, each between 0 and 1, not a share of 1.
    assert all(((w > 0) & (w < 1)).all() and not np.allclose(w.sum(-1), 1) for w in weights)
    before = variables["batch_stats"]
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state["batch_stats"], before)
    assert all(jax.tree.leaves(moved))
    review = jax.jit(feature.review)
    loss = sum(np.asarray(review(*f32(pair))) for pair in zip(ours, theirs, strict=True))
    by_hand = sum(review_by_hand(*pair) for pair in zip(expected, pixels[1], strict=True))
    np.testing.assert_allclose(loss, by_hand, rtol=1e-3)
    # The deepest stage reaches all above it, the shallowest no other.
    for changed, reached in ((2, [True, True, True]), (0, [True, False, False])):
        other = [x + (level == changed) * RNG.normal(size=x.shape) for level, x in enumerate(student)]
        (now, _, _), _ = run(whole, f32(other), f32(teacher))
        assert [not np.array_equal(a, b) for a, b in zip(now, ours, strict=True)] == reached


def review_by_hand(student, teacher):
    """The released code's order: a level is left out where it is no smaller than the map."""
    side = student.shape[1]
    total, weight, weights = ((student - teacher) ** 2).mean((1, 2, 3)), 1.0, 1.0
    for cells in (4, 2, 1):
        if cells < side:
            weight /= 2
            size = side // cells
            pooled = [x.reshape(len(x), cells, size, cells, size, -1).mean((2, 4)) for x in (student, teacher)]
            total = total + weight * ((pooled[0] - pooled[1]) ** 2).mean((1, 2, 3))
            weights += weight
    return total / weights


def test_fusion_of_an_mlps_layers_and_what_it_refuses():
    student, teacher = f32(maps((4, 5), (4, 6))), f32(maps((4, 8), (4, 7)))
    fuse = jax.jit(functools.partial(Fusion().init_with_output, train=False))
    (ours, theirs, _), _ = fuse(jax.random.key(0), student, teacher)
    assert [x.shape for x in ours] == [x.shape for x in theirs] == [(4, 1, 1, 8), (4, 1, 1, 7)]
    with pytest.raises(BadInput, match=r"2 layers of the student against 1"):
        Fusion().init(jax.random.key(0), student, teacher[0], train=False)
    with pytest.raises(BadInput, match=r"a layer of the teacher has shape \(2, 9, 4\)"):
        Fusion().init(jax.random.key(0), student[0], jnp.zeros((2, 9, 4)), train=False)


def test_ofds_margin_is_the_mean_of_all_negative_values_seen():
    student, *normal = maps((2000, 1, 2, 2), *[(2000, 1, 2, 4)] * 3)
    scale, shift = np.array([1, 2, 0.1, 1]), np.array([0, 1, -3, 9])  # the last channel is never negative
    batches = [x * scale + shift for x in normal]
    connector = Normalised(margin=True)
    variables = begun(connector, *f32([student, batches[0]]))
    step = jax.jit(functools.partial(connector.apply, mutable=["margins", "batch_stats"]), static_argnames="train")
    for number, batch in enumerate(batches, start=1):
        (_, _, keywords), state = step(variables, *f32([student, batch]), train=True)
        variables = {**variables, **state}
        seen = np.stack(batches[:number])
        expected = [channel[channel < 0].mean() for channel in seen.reshape(-1, 4).T[:3]]
        np.testing.assert_allclose(keywords["margin"], [*expected, 0], rtol=1e-4, atol=1e-6)
    # What a BatchNorm gives out is normal with mean `shift`, if its input is: the paper's closed form.
    closed = feature.ofd_margin(*f32([scale, shift]))
    np.testing.assert_allclose(keywords["margin"][:3], closed[:3], rtol=0.03)
    (_, _, still), state = step(variables, *f32([student, 9 * batches[0]]), train=False)
    np.testing.assert_array_equal(still["margin"], keywords["margin"])


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def test_factors_by_hand():
    student, teacher = maps((3, 2, 2, 3), (3, 4, 4, 6))
    module = Factors(rate=0.5)
    variables = begun(module, *f32([student, teacher]))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def through(name, x):
        for number in (1, 2, 3):
            layer = params[name][f"layer{number}"]
            x = leaky(convolved(x, layer["kernel"]) + layer["bias"])
        return x

    run = jax.jit(functools.partial(module.apply, train=True))
    ours, theirs, keywords = run(variables, *f32([student, teacher]))
    factor = through("paraphraser", teacher)
    error = ((through("decoder", factor) - teacher) ** 2).mean((1, 2, 3))
    assert factor.shape[-1] == 3
    np.testing.assert_allclose(keywords["reconstruction"], error, rtol=1e-4)
    np.testing.assert_allclose(ours, through("translator", student), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(theirs, factor.reshape(3, 2, 2, 2, 2, 3).mean((2, 4)), rtol=1e-4, atol=1e-5)

    held = Factors(rate=0.5, learned=True)
    there = begun(held, *f32([student, teacher]), key=1)
    assert set(there["params"]) == {"translator"}
    given = {**there, LEARNED: {"paraphraser": variables["params"]["paraphraser"]}}
    _, same, none = jax.jit(functools.partial(held.apply, train=True))(given, *f32([student, teacher]))
    np.testing.assert_array_equal(same, theirs)
    assert none == {}

"""Laws of every loss on features or relations that can be named; a new loss is tested as soon as it exists."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.recipes.comparisons import LOSSES, names

NAMES = names("feature") + names("relation")
BATCH, CHANNELS = 6, 3
SIZES = {"batch": (BATCH,), "...": (4, 5, CHANNELS), "*rest": (4, 5), "channels": (CHANNELS,), "lower": (4,)}
# Arguments that a loss cannot do without. What else a new loss needs is added here.
NEEDED = {"variance": jnp.array([0.5, 1.0, 3.0]), "margin": jnp.array([-0.2, -0.5, 0.0])}
# What a loss is at student = teacher; losses not named: 0, and a minimum.
NOT_ZERO_AT_EQUALITY = {"feature.vid": float(np.log(1.5) / 6), "feature.ab": None}
ORDERED = {"relation.cc_neighbours"}


def function(name):
    """The loss with what it needs in place, so that only student, teacher and `where` are left."""
    parameters = inspect.signature(LOSSES.functions[name]).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return functools.partial(LOSSES.functions[name], **{n: NEEDED[n] for n in needed})


def unwrapped(name):
    """Without the shape checker of these tests, which would refuse first: a user has none."""
    loss = function(name)
    return functools.partial(inspect.unwrap(loss.func), **loss.keywords)


def shape(name):
    """Maps for features, vectors for relations, unless the loss's annotation asks for other axes."""
    words = inspect.signature(LOSSES.functions[name]).parameters["student"].annotation.dim_str.split()
    if name.startswith("relation."):
        return (BATCH, 5)
    return sum((SIZES.get(word, (CHANNELS,)) for word in words), ())


@functools.cache
def examples(name):
    """A student and a teacher, as numpy so that each test makes its own arrays."""
    return np.random.default_rng(0).normal(size=(2, *shape(name))).astype(np.float32)


@functools.cache
def compiled(name):
    """`(student, teacher, where) -> [batch], (slope by student, slope by teacher)`, compiled once for all laws."""

    def both(student, teacher, where):
        value, pull = jax.vjp(lambda s, t: function(name)(s, t, where=where), student, teacher)
        return value, pull(jnp.ones_like(value))

    return jax.jit(both)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def run(name):
    everyone = jnp.ones(BATCH, bool)
    return lambda student, teacher, where=everyone: compiled(name)(jnp.asarray(student), jnp.asarray(teacher), where)


def test_there_is_something_to_test():
    assert len(NAMES) >= 17
    assert {name.partition(".")[0] for name in NAMES} == {"feature", "relation"}


def test_jit_and_a_mask_of_ones_change_nothing(name, run):
    student, teacher = map(jnp.asarray, examples(name))
    value = function(name)(student, teacher)
    assert value.shape == (BATCH,)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(run(student, teacher)[0], value, rtol=2e-5, atol=1e-6)


def test_finite_where_features_are_huge_or_in_one_place(name, run):
    student, teacher = examples(name)
    one = np.broadcast_to(student[:1], student.shape)
    twice = student.copy()
    twice[1] = twice[0]
    for s, t in [
        (1e4 * student, -1e4 * teacher),
        (1e4 * one, 1e4 * teacher),
        (one, -one),
        (twice, teacher),
        (0 * student, teacher),
        (student, 0 * teacher),
        (0 * student, 0 * teacher),
    ]:
        value, slopes = run(s, t)
        assert np.isfinite(value).all()
        assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("side", [0, 1])
def test_nan_is_not_hidden(name, run, side):
    sides = examples(name).copy()
    sides[side][1].flat[2] = np.nan
    value, _ = run(*sides)
    assert np.isnan(value[1])
    if name.startswith("feature."):
        assert np.isfinite(np.delete(value, 1)).all()


def test_permuting_the_batch_permutes_the_result(name, run):
    student, teacher = examples(name)
    if name in ORDERED:  # only which row comes next to which counts
        total = run(student[::-1], teacher[::-1])[0].sum()
        np.testing.assert_allclose(total, run(student, teacher)[0].sum(), rtol=1e-5)
        return
    order = np.array([3, 1, 5, 0, 4, 2])
    value, slopes = run(student[order], teacher[order])
    expected, expected_slopes = run(student, teacher)
    np.testing.assert_allclose(value, expected[order], rtol=1e-5, atol=1e-6)
    for got, want in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(got, want[order], rtol=1e-4, atol=1e-5)


def test_rows_left_out_change_nothing(name, run):
    sides = examples(name)
    kept, out = np.array([0, 2, 3, 5]), np.array([1, 4])
    alone, alone_slopes = compiled(name)(*[jnp.asarray(x[kept]) for x in sides], jnp.ones(4, bool))
    where = jnp.ones(BATCH, bool).at[out].set(False)
    for garbage in (np.nan, np.inf, 1e30):
        dirty = sides.copy()
        dirty[:, out] = garbage
        value, slopes = run(*dirty, where)
        assert (value[out] == 0).all()
        np.testing.assert_allclose(value[kept], alone, rtol=1e-5, atol=1e-6)
        for got, want in zip(slopes, alone_slopes, strict=True):
            assert (got[out] == 0).all()
            np.testing.assert_allclose(got[kept], want, rtol=2e-4, atol=1e-5)


def test_a_mask_of_numbers_selects_and_does_not_weigh(name, run):
    student, teacher = map(jnp.asarray, examples(name))
    value = function(name)(student, teacher, where=jnp.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0]))
    np.testing.assert_allclose(value, run(student, teacher, jnp.array([1, 0, 1, 1, 0, 1]) > 0)[0], rtol=1e-5, atol=1e-6)


def test_nothing_kept_is_zero(name, run):
    value, slopes = run(*examples(name), jnp.zeros(BATCH, bool))
    assert (value == 0).all()
    assert all((slope == 0).all() for slope in slopes)


def test_student_equal_to_teacher(name, run):
    _, teacher = examples(name)
    value, slopes = run(teacher, teacher)
    stated = NOT_ZERO_AT_EQUALITY.get(name, 0.0)
    if stated is None:
        return
    np.testing.assert_allclose(value, stated, atol=1e-6)
    np.testing.assert_allclose(slopes[0], 0, atol=1e-5)
    for size in (-1.0, -0.1, 0.1, 1.0):
        moved = teacher + size * np.random.default_rng(1).normal(size=teacher.shape).astype(np.float32)
        assert run(moved, teacher)[0].mean() > stated + 1e-6


def test_no_push_where_sides_agree_exactly(name):
    """At a tie the slope is the mean of those on its two sides, 0 at a kink: autodiff gives a central difference.

    Layers behind a ReLU are tied wherever both sides are zeros. A vector of zeros alone has no direction: none is here.
    """
    student, teacher = (x.astype(np.float64) for x in examples(name))
    for side in (student, teacher):
        side[..., 0] = np.maximum(side[..., 0], 0)
    student[0], student[2, ..., 1] = teacher[0], teacher[2, ..., 1]
    for at, loss in (
        (student, function(name)),
        *([(student, functools.partial(function(name), p=1.0))] if name.startswith("feature.attention") else []),
    ):
        with jax.enable_x64(True):
            total = jax.jit(lambda s, loss=loss: loss(s, jnp.asarray(teacher)).sum())
            slope = np.asarray(jax.grad(total)(jnp.asarray(at)))
            step = 1e-6 * np.eye(at.size).reshape(at.size, *at.shape)
            both = [jax.lax.map(total, jnp.asarray(at + way * step)) for way in (1, -1)]
            expected = np.asarray(both[0] - both[1]).reshape(at.shape) / 2e-6
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=2e-5)


def test_float32_agrees_with_float64(name, run):
    value, slopes = run(*examples(name))
    with jax.enable_x64(True):
        sides = [jnp.asarray(x, jnp.float64) for x in examples(name)]
        double, double_slopes = compiled(name)(*sides, jnp.ones(BATCH, bool))
        assert double.dtype == jnp.float64
        expected, expected_slopes = np.asarray(double), [np.asarray(x) for x in double_slopes]
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
    for got, want in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


def test_halves_are_computed_in_float32(name):
    halves = [jnp.asarray(x, jnp.bfloat16) for x in examples(name)]
    value = function(name)(*halves)
    assert value.dtype == jnp.float32
    # Equal and not just close: the rounding of the inputs is the only one that halves may cost.
    np.testing.assert_array_equal(value, function(name)(*[x.astype(jnp.float32) for x in halves]))


def test_a_batch_of_one(name, run):
    student, teacher = map(jnp.asarray, examples(name))
    value, slopes = compiled(name)(student[:1], teacher[:1], jnp.ones(1, bool))
    expected = run(student, teacher)[0][:1] if name.startswith("feature.") else [0.0]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_vmap_over_own_hyper_parameters_is_a_loop(name):
    student, teacher = map(jnp.asarray, examples(name))
    for parameter in inspect.signature(function(name)).parameters.values():
        if type(parameter.default) is not float:
            continue
        loss, values = functools.partial(function(name), student, teacher), jnp.array([1.0, 2.5])
        together = jax.vmap(lambda x, key=parameter.name, loss=loss: loss(**{key: x}))(values)
        one_by_one = [loss(**{parameter.name: float(x)}) for x in values]
        np.testing.assert_allclose(together, jnp.stack(one_by_one), rtol=1e-5, atol=1e-6)
        assert not np.allclose(together[0], together[1]), f"{name} does not use {parameter.name}"


def test_a_message_names_both_shapes(name):
    student, teacher = map(jnp.asarray, examples(name))
    for other in (teacher[:4], teacher[0, ..., 0], jnp.zeros((1, *teacher.shape[1:]))):
        with pytest.raises(ValueError, match="student has shape") as info:
            unwrapped(name)(student, other)
        assert str(student.shape) in str(info.value)
        assert str(other.shape) in str(info.value)


def test_a_mask_of_another_length_is_refused(name):
    student, teacher = map(jnp.asarray, examples(name))
    with pytest.raises(ValueError, match=r"student has shape \(6.*where \(3,\); accepted: \(6,\)"):
        unwrapped(name)(student, teacher, where=jnp.ones(3, bool))

"""Slopes from queries against slopes from autodiff, and the price of each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import objectives, oracles, sampling, transforms, victims
from kdjax.types import BadInput, Outputs


def cosine(a, b):
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)


@pytest.fixture
def smooth():
    """A smooth network: one layer of tanh."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(64, 32)) / 8, "b": rng.normal(size=(32, 10))}

    def apply(variables, image, *, train, key, mask=None):
        return Outputs(jnp.tanh(image.reshape(len(image), -1) @ variables["a"]) @ variables["b"], {}), {}

    return victims.white_box(apply, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights))


@functools.partial(jax.jit, static_argnums=0)
def _asked(oracle, objective, keys, image, where):
    return oracle(objective, keys, image, image, where=where)


def ask(oracle, objective, keys, image, where=None):
    where = np.ones(len(image), bool) if where is None else where
    return _asked(oracle, objective, keys[: len(image)], image, where)


def test_all_coordinates_are_the_gradient_of_a_smooth_model(smooth, image, label, keys):
    objective = objectives.cross_entropy(smooth, jnp.asarray(label[:6]))
    point = jnp.asarray(image[:6])
    exact = ask(oracles.autodiff(), objective, keys, point)
    found = ask(oracles.coordinates(sampling.everything(), 64, h=1e-2), objective, keys, point)
    assert (cosine(exact.grad, found.grad) >= 0.9999).all()
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-5)
    np.testing.assert_array_equal(found.mask, jnp.ones_like(point))


def test_all_coordinates_are_the_gradient_of_a_cnn_away_from_its_kinks(cnn):
    apply, weights, image, label = cnn
    # The derivative of a piecewise linear network jumps where a unit is at 0, as flat backgrounds make it: break ties.
    point = jnp.asarray(image[:6]) + 0.01 * jax.random.uniform(jax.random.key(5), (6, 8, 8, 1))
    objective = objectives.margin(victims.white_box(apply, weights), jnp.asarray(label[:6]), kappa=1e3)
    keys = jax.random.split(jax.random.key(0), 6)
    exact = ask(oracles.autodiff(), objective, keys, point)
    found = ask(oracles.coordinates(sampling.everything(), 64, h=1e-4), objective, keys, point)
    assert np.median(cosine(exact.grad, found.grad)) >= 0.999


def test_curvature_is_the_diagonal_of_the_hessian(smooth, image, label, keys):
    objective = objectives.cross_entropy(smooth, jnp.asarray(label[:2]))
    point = jnp.asarray(image[:2])
    oracle = oracles.coordinates(sampling.everything(), 64, h=3e-2, curvature=True)
    found = ask(oracle, objective, keys, point).curvature
    hessian = jax.jit(jax.hessian(lambda x: objective(x.reshape(2, 8, 8, 1))[0].sum()))(point.reshape(-1))
    np.testing.assert_allclose(found.reshape(-1), jnp.diag(hessian), atol=2e-2)


@pytest.mark.parametrize("make", [oracles.nes, oracles.spsa])
def test_random_directions_point_along_the_gradient(make, smooth, image, label, keys):
    objective = objectives.margin(smooth, jnp.asarray(label[:4]), kappa=1e3)
    point = jnp.asarray(image[:4])
    exact = ask(oracles.autodiff(), objective, keys, point).grad
    found = ask(make(4000), objective, keys, point).grad
    # With n random directions in d dimensions the cosine is about sqrt(n / (n + d)), and the length is right too.
    assert (cosine(exact, found) > 0.95).all()
    ratio = jnp.linalg.norm(found.reshape(4, -1), axis=1) / jnp.linalg.norm(exact.reshape(4, -1), axis=1)
    np.testing.assert_allclose(ratio, 1, atol=0.08)


@pytest.mark.parametrize(
    "make",
    [
        lambda chunk: oracles.coordinates(sampling.uniform(20), 20, curvature=True, chunk=chunk),
        lambda chunk: oracles.nes(20, chunk=chunk),
        lambda chunk: oracles.spsa(20, chunk=chunk),
    ],
    ids=["coordinates", "nes", "spsa"],
)
def test_the_chunk_changes_no_result(make, victim, image, label, keys):
    objective, point = objectives.margin(victim, jnp.asarray(label[:3])), jnp.asarray(image[:3])
    whole = ask(make(None), objective, keys, point)
    # Programs of other shapes round the objective otherwise, by a few units of its last place over 2h.
    rounding = 8 * np.spacing(np.abs(objective(point)[0]).max().astype(np.float32)) / 2e-4
    assert rounding < 0.05
    for chunk in (1, 7):
        parts = ask(make(chunk), objective, keys, point)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=rounding), whole, parts)


def test_chunked_memory_is_smaller(victim, image, label, keys):
    objective, point = objectives.margin(victim, jnp.asarray(label)), jnp.asarray(image)

    def memory(chunk):
        oracle = oracles.coordinates(sampling.everything(), 64, chunk=chunk)
        call = jax.jit(lambda o, k, x: ask(oracle, o, k, x)).lower(objective, keys, point).compile()
        return call.memory_analysis().temp_size_in_bytes

    assert memory(4) < memory(None) / 4


@pytest.mark.parametrize(
    ("oracle", "price"),
    [
        (oracles.autodiff(), 1),
        (oracles.coordinates(sampling.uniform(5), 5), 11),
        (oracles.nes(6), 7),
        (oracles.spsa(6), 7),
        (oracles.eot(oracles.nes(6), 3), 21),
    ],
)
def test_the_price_is_what_is_paid(oracle, price, victim, image, label, keys):
    found = ask(oracle, objectives.margin(victim, jnp.asarray(label[:4])), keys, image[:4], np.arange(4) != 2)
    assert oracle.queries == price
    assert found.queries.tolist() == [price, price, 0, price]


def test_sampled_coordinates_are_distinct_and_the_rest_is_left_alone(victim, image, label, keys):
    objective, point = objectives.margin(victim, jnp.asarray(label[:5]), kappa=1e3), jnp.asarray(image[:5])
    every = ask(oracles.coordinates(sampling.everything(), 64), objective, keys, point)
    some = ask(oracles.coordinates(sampling.uniform(10), 10), objective, keys, point)
    assert some.mask.sum(axis=(1, 2, 3)).tolist() == [10.0] * 5
    np.testing.assert_allclose(some.grad, jnp.where(some.mask > 0, every.grad, 0), atol=1e-5)
    assert not np.array_equal(some.mask[0], some.mask[1])  # each example draws its own


def test_importance_prefers_what_moved():
    moved = np.zeros((8, 8, 1), np.float32)
    moved[2, 2, 0] = 1
    keys = jax.random.split(jax.random.key(0), 200)
    pick = jax.jit(jax.vmap(sampling.important(4, (8, 8, 1)), (0, None)))
    hits = moved.reshape(-1)[np.asarray(pick(keys, moved.reshape(-1)))].any(1)
    assert hits.mean() > 0.95
    flat = np.asarray(pick(keys, np.zeros(64, np.float32)))[:, 0]
    assert len(set(flat.tolist())) > 40  # nothing moved yet: everywhere


def test_eot_of_a_fixed_oracle_is_the_oracle(victim, image, label, keys):
    objective, point = objectives.margin(victim, jnp.asarray(label[:3])), jnp.asarray(image[:3])
    one, many = (ask(o, objective, keys, point) for o in (oracles.autodiff(), oracles.eot(oracles.autodiff(), 4)))
    np.testing.assert_allclose(one.grad, many.grad, atol=1e-6)


def test_eot_averages_a_random_victim(image, label, keys):
    def apply(variables, image, *, train, key, mask=None):
        noise = 0.0 if key is None else jax.random.normal(key, ())
        return Outputs((image.reshape(len(image), -1) @ variables)[:, :10] * (1 + 0.2 * noise), {}), {}

    weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)
    objective = objectives.margin(victims.white_box(apply, weights), jnp.asarray(label[:2]), kappa=1e3)
    point = jnp.asarray(image[:2])
    # The noise multiplies every logit: over draws the factor has mean 1 and sd 0.2 / sqrt(draws).
    sure = objective(point)[0]
    found = ask(oracles.eot(oracles.autodiff(), 400), objective, keys, point).value
    np.testing.assert_allclose(found, sure, rtol=0.05)


def test_a_random_change_is_seen_through(victim, image, label, keys):
    objective, point = objectives.margin(victim, jnp.asarray(label[:3])), jnp.asarray(image[:3])
    same = ask(oracles.seen_through(oracles.autodiff(), oracles.resize_and_pad(0.0)), objective, keys, point)
    changed = ask(oracles.seen_through(oracles.autodiff(), oracles.resize_and_pad(1.0)), objective, keys, point)
    np.testing.assert_allclose(same.grad, ask(oracles.autodiff(), objective, keys, point).grad, atol=1e-6)
    assert not np.allclose(changed.value, same.value)


def test_gradients_of_a_black_box_are_refused(victim, image, label, keys):
    objective = objectives.margin(victims.queries_only(victim), jnp.asarray(label[:3]))
    with pytest.raises(BadInput, match="needs gradients and the victim is a black box"):
        ask(oracles.autodiff(), objective, keys, jnp.asarray(image[:3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: oracles.nes(7), "samples=7: accepted are even counts"),
        (lambda: oracles.coordinates(sampling.uniform(3), 0), "count=0"),
        (lambda: oracles.coordinates(sampling.uniform(3), 3, h=0.0), r"h=0\.0"),
        (lambda: oracles.eot(oracles.autodiff(), 0), "draws=0"),
        (lambda: transforms.normalize(3), "order=3: accepted are 1 and 2"),
        (lambda: transforms.smooth(4), "size=4: accepted are odd sizes"),
    ],
)
def test_what_cannot_be_asked(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_coordinate_adam_is_adam_where_every_coordinate_is_seen_and_counts_its_own_steps():
    import optax

    g = jnp.array([0.3, -2.0, 0.01])
    ours, adam = transforms.coordinate_adam(), optax.scale_by_adam()
    a, b = ours.init(g), adam.init(g)
    for _ in range(3):
        step, a = ours.update(g, a, g)
        other, b = adam.update(g, b)
        np.testing.assert_allclose(step, other, rtol=1e-3)  # the paper adds epsilon at another place
    # A coordinate seen for the first time moves by a full step, however old the others are.
    fresh = ours.init(g)
    for _ in range(5):
        _, fresh = ours.update(g, fresh, g, mask=jnp.array([1.0, 1.0, 0.0]))
    step, fresh = ours.update(g, fresh, g, mask=jnp.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(step, [0, 0, 1], atol=1e-4)
    assert fresh.times.tolist() == [5, 5, 1]


def test_newton_and_the_hybrid_by_hand():
    g, h = jnp.array([1.0, 1.0, 1.0]), jnp.array([4.0, 0.01, -3.0])
    newton, hybrid = transforms.coordinate_newton(), transforms.newton_or_adam()
    np.testing.assert_allclose(newton.update(g, newton.init(g), g, curvature=h)[0], [0.25, 10.0, 1.0])
    step, _ = hybrid.update(g, hybrid.init(g), g, mask=jnp.ones(3), curvature=h)
    np.testing.assert_allclose(step, [0.25, 10.0, 1.0], atol=1e-3)  # Adam's first step is 1, too
    with pytest.raises(BadInput, match="needs second derivatives"):
        newton.update(g, newton.init(g), g)


def test_normalize_survives_tiny_and_no_slopes():
    unit = transforms.normalize(2)
    for scale in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(
            unit.update(jnp.array([3.0, 4.0]) * scale, unit.init(None))[0], [0.6, 0.8], rtol=1e-5
        )
    np.testing.assert_array_equal(unit.update(jnp.zeros(2), unit.init(None))[0], [0, 0])


def test_smoothing_keeps_a_flat_slope_and_spreads_a_point():
    blur = transforms.smooth(3, 1.0)
    spread = blur.update(jnp.zeros((5, 5, 2)).at[2, 2, 0].set(1.0), blur.init(None))[0]
    np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
    assert spread[..., 1].sum() == 0
    assert spread[2, 2, 0] == spread.max()

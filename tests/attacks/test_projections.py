"""Laws of the threat sets and of the spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import projections, spaces, starts
from kdjax.types import BadInput

BALLS = {"linf": projections.linf, "l2": projections.l2, "l1": projections.l1}
RADII = {"linf": 0.1, "l2": 0.7, "l1": 2.0}


@pytest.fixture
def origin():
    return jax.random.uniform(jax.random.key(0), (7, 5, 4, 2))


@pytest.fixture
def far(origin):
    return origin + jax.random.normal(jax.random.key(1), origin.shape)


def size(norm, image, origin):
    return np.asarray(projections.lengths(image - origin)[norm])


@pytest.mark.parametrize("norm", BALLS)
def test_feasible_and_idempotent(norm, origin, far):
    project = projections.ball(norm, RADII[norm])
    once = project(far, origin)
    assert (size(norm, once, origin) <= RADII[norm] * (1 + 1e-5)).all()
    assert once.min() >= 0
    assert once.max() <= 1
    np.testing.assert_allclose(project(once, origin), once, atol=1e-6)


@pytest.mark.parametrize("norm", BALLS)
def test_a_feasible_point_is_fixed(norm, origin):
    inside = jnp.clip(origin + 1e-3, 0, 1)
    np.testing.assert_array_equal(projections.ball(norm, RADII[norm])(inside, origin), inside)


@pytest.mark.parametrize("norm", BALLS)
def test_a_radius_for_each_example(norm, origin, far):
    radii = jnp.linspace(0, 2, len(origin)) * RADII[norm]
    each = BALLS[norm](radii)(far, origin)
    for i, radius in enumerate(radii):
        alone = BALLS[norm](float(radius))(far[i : i + 1], origin[i : i + 1])
        np.testing.assert_allclose(each[i : i + 1], alone, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_it_is_the_nearest_point(norm, origin, far):
    """No point of the ball is nearer: the variational inequality <far - p, q - p> <= 0 for points q of the ball."""
    p = BALLS[norm](RADII[norm])(far, origin)
    for seed in range(20):
        draw = jax.vmap(starts.uniform(norm, RADII[norm]))(jax.random.split(jax.random.key(seed), len(origin)), origin)
        inner = jnp.sum((far - p) * (draw - p), axis=(1, 2, 3))
        assert (inner <= 1e-4).all()


@pytest.mark.parametrize("norm", BALLS)
def test_uniform_starts_fill_the_ball(norm, origin):
    keys = jax.random.split(jax.random.key(3), len(origin))
    lengths = size(norm, jax.vmap(starts.uniform(norm, RADII[norm]))(keys, origin), origin)
    assert (lengths <= RADII[norm] * (1 + 1e-6)).all()
    # In 40 dimensions the middle of the ball holds next to nothing.
    assert (lengths >= 0.7 * RADII[norm]).all()


def test_lengths_by_hand():
    delta = jnp.array([[[[3.0], [-4.0]]], [[[0.0], [0.5]]]])
    found = {name: np.asarray(x).tolist() for name, x in projections.lengths(delta).items()}
    assert found == {"linf": [4.0, 0.5], "l2": [5.0, 0.5], "l1": [7.0, 0.5], "l0": [2.0, 1.0]}


@pytest.mark.parametrize("norm", BALLS)
def test_a_negative_radius_is_refused(norm):
    with pytest.raises(BadInput, match=r"epsilon=-0\.1: accepted are pixel units, 0 or more"):
        BALLS[norm](-0.1)
    with pytest.raises(BadInput, match="epsilon=nan"):
        BALLS[norm](float("nan"))


def test_an_unknown_norm_is_refused():
    with pytest.raises(BadInput, match=r"norm='l7': accepted are linf, l2, l1"):
        projections.ball("l7", 0.1)


@pytest.mark.parametrize("space", [spaces.pixels, spaces.clipped, spaces.tanh_box], ids=["pixels", "clipped", "tanh"])
def test_decode_undoes_encode(space, origin):
    edges = origin.at[0, 0, 0, 0].set(0.0).at[0, 0, 0, 1].set(1.0)
    np.testing.assert_allclose(space.decode(space.encode(edges, origin), origin), edges, atol=2e-6)


def test_a_coarse_modifier_is_enlarged_within_the_box(origin):
    space = spaces.coarse(2, 2)
    np.testing.assert_array_equal(space.decode(space.encode(origin, origin), origin), origin)
    moved = space.decode(jnp.full((7, 2, 2, 2), 0.25), origin)
    np.testing.assert_allclose(moved, jnp.clip(origin + 0.25, 0, 1), atol=1e-6)

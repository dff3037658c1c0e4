"""Every attack and every oracle in float64 mode, and on victims that answer in half precision."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import objectives, oracles, sampling, victims
from kdjax.attacks.deepfool import nearest_boundary
from kdjax.attacks.run import run
from kdjax.types import Outputs
from tests.attacks.test_attacks import FLOORS, NAMES, make, objective

ROWS = slice(0, 6)
ORACLES = {
    "autodiff": oracles.autodiff(),
    "coordinates": oracles.coordinates(sampling.uniform(4), 4, curvature=True, chunk=3),
    "eot": oracles.eot(oracles.nes(4), 2),
    "important": oracles.coordinates(sampling.important(4, (8, 8, 1)), 4),
    "nearest_boundary": nearest_boundary(),
    "nes": oracles.nes(4),
    "seen_through": oracles.seen_through(oracles.autodiff(), oracles.resize_and_pad(1)),
    "spsa": oracles.spsa(4, chunk=2),
}


def in_dtype(mlp, dtype):
    """The network with its weights, its arithmetic and its answers in a type."""
    apply, weights, *_ = mlp

    def cast(variables, image, *, train, key):
        found, state = apply(variables, image.astype(dtype), train=train, key=key)
        return found._replace(logits=found.logits.astype(dtype)), state

    with jax.enable_x64(dtype == jnp.float64):
        return victims.white_box(cast, jax.tree.map(lambda w: jnp.asarray(w, dtype), weights))


def test_every_oracle_is_here():
    own = {n for n, f in vars(oracles).items() if inspect.isfunction(f) and f.__module__ == oracles.__name__}
    assert {n for n in own if not n.startswith("_")} - {"resize_and_pad"} <= ORACLES.keys()


@pytest.mark.parametrize("name", NAMES)
class TestFloat64:
    @pytest.mark.parametrize(
        ("dtype", "weights", "on_device"),
        [(np.float32, jnp.float64, False), (np.float64, jnp.float32, True)],
    )
    def test_runs(self, name, dtype, weights, on_device, mlp, image, label):
        victim = in_dtype(mlp, weights)
        with jax.enable_x64(True):
            given = image[ROWS].astype(dtype), label[ROWS]
            found = run(make(name), victim, *given, objective=objective(name), on_device=on_device)
            answer = np.asarray(victim(jnp.asarray(found.image)).argmax(-1))
        assert found.image.dtype == dtype
        assert found.queries.dtype == np.int32
        assert found.image.min() >= 0
        assert found.image.max() <= 1
        np.testing.assert_array_equal(answer != label[ROWS], found.success)

    def test_float32_images_meet_the_same_attack_as_without(self, name, victim, image, label):
        given = victim, image[ROWS], label[ROWS]
        plain = run(make(name), *given, objective=objective(name))
        with jax.enable_x64(True):
            wide = run(make(name), *given, objective=objective(name))
        assert wide.value.dtype == np.float32
        # Differences over 1e-4, and decisions, enlarge the last bit; JAX draws other signs in float64 mode.
        if name not in ("hop_skip_jump", "spsa", "square", "zoo"):
            np.testing.assert_array_equal(wide.success, plain.success)
            np.testing.assert_allclose(wide.image, plain.image, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "dtype"), list(zip(NAMES, itertools.cycle((jnp.bfloat16, jnp.float16)), strict=False))
)
def test_a_victim_in_half_precision(name, dtype, mlp, image, label):
    victim = in_dtype(mlp, dtype)
    found = run(make(name), victim, image, label, objective=objective(name))
    assert found.image.dtype == np.float32
    assert found.value.dtype == np.float32
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    # The network's inside is rounded as XLA likes, so that images on the boundary may fall on either side.
    answer = np.asarray(victim(jnp.asarray(found.image)).argmax(-1))
    assert np.mean((answer != label) == found.success) >= 0.7
    # Differences over 1e-4 are lost in the rounding of half precision; slopes and large steps are not.
    if name not in ("nes", "zoo"):
        assert found.success.mean() >= FLOORS[name] - 0.1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["cw", "deepfool", "pgd", "square"])
def test_success_is_what_a_victim_says_that_rounds_its_answers(name, dtype, mlp, image, label):
    apply, weights, *_ = mlp

    def rounded(variables, image, *, train, key):
        found, state = apply(variables, image, train=train, key=key)
        return found._replace(logits=found.logits.astype(dtype)), state

    victim = victims.white_box(rounded, weights)
    found = run(make(name), victim, image, label, objective=objective(name))
    answer = np.asarray(victim(jnp.asarray(found.image)).argmax(-1))
    np.testing.assert_array_equal(answer != label, found.success)
    assert found.success.mean() >= FLOORS[name] - 0.1


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(
    ("weights", "images"),
    [(jnp.bfloat16, np.float32), (jnp.float16, np.float32), (jnp.float32, np.float64), (jnp.float64, np.float32)],
)
def test_an_oracle_answers_in_the_type_of_the_point(name, weights, images, mlp, image, label, keys):
    victim = in_dtype(mlp, weights)
    with jax.enable_x64(np.float64 in (images, weights)):
        point, where = jnp.asarray(image[:3].astype(images)), jnp.ones(3, bool)
        goal = objectives.margin(victim, jnp.asarray(label[:3]))
        found = ORACLES[name](goal, jax.random.split(jax.random.key(0), 3), point, point, where=where)
    assert found.grad.dtype == point.dtype
    assert found.queries.dtype == jnp.int32
    assert found.value.dtype in (jnp.float32, jnp.float64)
    assert jnp.isfinite(found.grad).all()
    if found.mask is not None:
        assert found.mask.dtype == point.dtype


def test_the_same_number_in_half_precision_is_compared_in_float32(label):
    """Margins of bfloat16 logits differ by steps of 2^-8; cross-entropy of them is not rounded to those again."""

    def apply(variables, image, *, train, key):
        return Outputs(jnp.broadcast_to(variables, (len(image), 3))), {}

    logits = jnp.array([3.0, 1.0, 0.5], jnp.bfloat16)
    value, _ = objectives.cross_entropy(victims.white_box(apply, logits), jnp.array([0]))(jnp.zeros((1, 2, 2, 1)))
    assert value.dtype == jnp.float32
    right = 3 - np.log(np.exp([3.0, 1.0, 0.5]).sum())
    np.testing.assert_allclose(value, [right], rtol=1e-6)
    ratio, _ = objectives.dlr(victims.white_box(apply, logits), jnp.array([0]))(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_allclose(ratio, [0.8], rtol=1e-6)

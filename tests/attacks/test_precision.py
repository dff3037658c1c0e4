"""Every attack and every oracle in float64 mode, and on victims that answer in half precision."""

import functools
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
from tests.attacks.test_attacks import DRAWN_BY_MODE, FLOORS, NAMES, answers, make, objective

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


@pytest.fixture(scope="module")
def in_dtype(mlp):
    """The network with its weights, its arithmetic and its answers in a type; one victim a type."""
    apply, weights, *_ = mlp

    @functools.cache
    def made(dtype):
        def cast(variables, image, *, train, key):
            found, state = apply(variables, image.astype(dtype), train=train, key=key)
            return found._replace(logits=found.logits.astype(dtype)), state

        with jax.enable_x64(dtype == jnp.float64):
            return victims.white_box(cast, jax.tree.map(lambda w: jnp.asarray(w, dtype), weights))

    return made


def test_every_oracle_is_here():
    own = {n for n, f in vars(oracles).items() if inspect.isfunction(f) and f.__module__ == oracles.__name__}
    assert {n for n in own if not n.startswith("_")} - {"resize_and_pad"} <= ORACLES.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "weights", "on_device"),
    [(np.float32, jnp.float64, False), (np.float64, jnp.float32, True)],
)
def test_runs_in_float64_mode(name, dtype, weights, on_device, in_dtype, image, label):
    victim = in_dtype(weights)
    with jax.enable_x64(True):
        given = image[ROWS].astype(dtype), label[ROWS]
        found = run(make(name), victim, *given, objective=objective(name), on_device=on_device)
        answer = answers(victim, found.image)
    assert found.image.dtype == dtype
    assert found.queries.dtype == np.int32
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    np.testing.assert_array_equal(answer != label[ROWS], found.success)


@pytest.mark.parametrize("name", DRAWN_BY_MODE)
def test_float64_mode_leaves_float32_as_it_is(name, victim, image, label):
    """Where other draws keep `test_attacks` from comparing the images themselves."""
    with jax.enable_x64(True):
        found = run(make(name), victim, image[ROWS], label[ROWS], objective=objective(name))
    assert found.image.dtype == found.value.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "dtype"), list(zip(NAMES, itertools.cycle((jnp.bfloat16, jnp.float16)), strict=False))
)
def test_a_victim_in_half_precision(name, dtype, in_dtype, image, label):
    victim = in_dtype(dtype)
    found = run(make(name), victim, image, label, objective=objective(name))
    assert found.image.dtype == np.float32
    assert found.value.dtype == np.float32
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    # The network's inside is rounded as XLA likes, so that images on the boundary may fall on either side.
    answer = answers(victim, found.image)
    assert np.mean((answer != label) == found.success) >= 0.7
    # Differences over 1e-4 are lost in the rounding of half precision; slopes and large steps are not.
    if name not in ("nes", "zoo"):
        assert found.success.mean() >= FLOORS[name] - 0.1


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cw", jnp.bfloat16), ("deepfool", jnp.bfloat16), ("pgd", jnp.bfloat16), ("square", jnp.bfloat16),
        ("cw", jnp.float16), ("square", jnp.float16),
    ],
)  # fmt: skip
def test_success_is_what_a_victim_says_that_rounds_its_answers(name, dtype, mlp, image, label):
    apply, weights, *_ = mlp

    def rounded(variables, image, *, train, key):
        found, state = apply(variables, image, train=train, key=key)
        return found._replace(logits=found.logits.astype(dtype)), state

    victim = victims.white_box(rounded, weights)
    found = run(make(name), victim, image, label, objective=objective(name))
    answer = answers(victim, found.image)
    np.testing.assert_array_equal(answer != label, found.success)
    assert found.success.mean() >= FLOORS[name] - 0.1


@pytest.fixture(
    scope="module",
    params=[
        (jnp.bfloat16, np.float32),
        (jnp.float16, np.float32),
        (jnp.float32, np.float64),
        (jnp.float64, np.float32),
    ],
    ids=lambda pair: f"{np.dtype(pair[0])}-{np.dtype(pair[1])}",
)
def estimates(request, in_dtype, image, label):
    """The images, and what every oracle says of them, as one program."""
    weights, images = request.param

    def ask(victim, label, keys, point):
        goal, where = objectives.margin(victim, label), jnp.ones(len(point), bool)
        return {name: oracle(goal, keys, point, point, where=where) for name, oracle in ORACLES.items()}

    with jax.enable_x64(np.float64 in (images, weights)):
        point = jnp.asarray(image[:3].astype(images))
        given = in_dtype(weights), jnp.asarray(label[:3]), jax.random.split(jax.random.key(0), 3), point
        return point, jax.device_get(jax.jit(ask)(*given))


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_answers_in_the_type_of_the_point(name, estimates):
    point, found = estimates[0], estimates[1][name]
    assert found.grad.dtype == point.dtype
    assert found.queries.dtype == jnp.int32
    assert found.value.dtype in (jnp.float32, jnp.float64)
    assert np.isfinite(found.grad).all()
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

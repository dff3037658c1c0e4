"""DeepFool's step against its formula, at any scale of the slopes and any number of classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import named, objectives, victims
from kdjax.attacks.deepfool import nearest_boundary
from kdjax.attacks.run import run
from kdjax.types import BadInput, Outputs


def _affine(variables, image, *, train, key):
    weight, bias = variables
    return Outputs(image.reshape(len(image), -1) @ weight + bias[None]), {}


def linear(weight, bias):
    """Z = x W + b."""
    return victims.white_box(_affine, (np.asarray(weight, np.float32), np.asarray(bias, np.float32)))


def by_the_book(weight, bias, image, label, norm):
    """Algorithm 2 of the paper for one image of a linear classifier: every class, in float64."""
    x = image.reshape(-1).astype(np.float64)
    z = x @ weight + bias
    best = None
    for k in range(weight.shape[1]):
        if k != label:
            w, f = weight[:, k] - weight[:, label], z[k] - z[label]
            length = np.linalg.norm(w) if norm == "l2" else np.abs(w).sum()
            if best is None or abs(f) / length < best[0]:
                direction = w / length if norm == "l2" else np.sign(w)
                best = abs(f) / length, abs(f) / length * direction
    return best[1].reshape(image.shape)


@functools.cache
def oracle(**settings):
    found = nearest_boundary(**settings)
    return jax.jit(lambda *given, where: found(*given, where=where))


def ask(victim, image, label, **settings):
    goal = objectives.margin(victim, jnp.asarray(label))
    keys, where = jax.random.split(jax.random.key(0), len(image)), jnp.ones(len(image), bool)
    return oracle(**settings)(goal, keys, image, image, where=where)


DEEPFOOL = named.deepfool()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_step_is_the_papers(norm, scale, classes):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(16, classes)), rng.normal(size=classes)
    image = rng.uniform(0.2, 0.8, (5, 4, 4, 1)).astype(np.float32)
    label = (image.reshape(5, -1) @ weight + bias).argmax(-1)
    found = ask(linear(scale * weight, scale * bias), jnp.asarray(image), label, norm=norm)
    right = [by_the_book(weight, bias, x, y, norm) for x, y in zip(image, label, strict=True)]
    np.testing.assert_allclose(-found.grad, right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e30])
def test_slopes_whose_squares_are_no_numbers_do_not_pass_for_robustness(scale):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(16, 10))
    image = rng.uniform(0.2, 0.8, (20, 4, 4, 1)).astype(np.float32)
    label = (image.reshape(20, -1) @ weight).argmax(-1)
    found = run(DEEPFOOL, linear(scale * weight, np.zeros(10)), image, label, objective=objectives.margin)
    assert found.success.all()
    assert found.distance["l2"].max() < 0.5


def test_candidates_are_the_classes_of_the_largest_logits():
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(16, 1000)), rng.normal(size=1000)
    image = rng.uniform(0.2, 0.8, (4, 4, 4, 1)).astype(np.float32)
    z = image.reshape(4, -1) @ weight + bias
    order = np.argsort(-z, axis=-1)
    victim = linear(weight, bias)
    for count in (2, 10, 1000):
        found = ask(victim, jnp.asarray(image), order[:, 0], candidates=count)
        for row in range(4):
            kept = np.sort(order[row, :count])
            label = int(np.flatnonzero(kept == order[row, 0])[0])
            right = by_the_book(weight[:, kept], bias[kept], image[row], label, "l2")
            np.testing.assert_allclose(-found.grad[row], right, rtol=1e-3, atol=1e-5)
    default = ask(victim, jnp.asarray(image), order[:, 0])
    np.testing.assert_array_equal(default.grad, ask(victim, jnp.asarray(image), order[:, 0], candidates=10).grad)


def test_memory_grows_with_the_candidates_and_not_with_the_classes():
    victim = linear(np.zeros((16 * 16, 1000)), np.zeros(1000))
    image, label = jnp.zeros((8, 16, 16, 1)), np.zeros(8, int)

    def memory(count):
        call = jax.jit(lambda v, x: ask(v, x, label, candidates=count).grad).lower(victim, image).compile()
        return call.memory_analysis().temp_size_in_bytes

    assert memory(10) < memory(1000) / 20


def test_a_class_that_is_masked_away_is_no_neighbour():
    bias = np.array([0.0, -0.5, -np.inf, -1.0])
    weight = np.random.default_rng(3).normal(size=(16, 4)) * 0.01
    found = ask(linear(weight, bias), jnp.full((1, 4, 4, 1), 0.5), np.zeros(1, int))
    right = by_the_book(weight[:, [0, 1, 3]], bias[[0, 1, 3]], np.full((4, 4, 1), 0.5), 0, "l2")
    np.testing.assert_allclose(-found.grad[0], right, rtol=1e-3)


def test_what_it_cannot_do(victim, image, label):
    with pytest.raises(BadInput, match="candidates=1: accepted are 2 or more"):
        named.deepfool(candidates=1)
    with pytest.raises(BadInput, match="untargeted"):
        run(named.deepfool(), victim, image[:2], label[:2], objective=objectives.margin, target=(label[:2] + 1) % 10)

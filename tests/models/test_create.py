"""Every network that can be named: its size, its features, its laws under training and evaluation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax.models.create import create, from_linen, names, parameter_count
from kdjax.types import BadInput, Outputs

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]
HIDDEN = {"mlp": (20, 12), "cnn": (4, 6), "fast_cnn": (4, 6, 12)}


def make(name="mlp", image_shape=(8, 8, 1), **given):
    return create(name, **({"num_classes": 10, "image_shape": image_shape, "hidden": HIDDEN.get(name, (20,))} | given))


def start(model, key):
    params, state = jax.jit(model.init)(key)
    return {"params": params, **state}


@functools.cache
def ready(name, image_shape):
    """A network for many tests: its variables, an image, and what it says of it in evaluation, compiled once."""
    model = make(name, image_shape, num_classes=7)
    variables = jax.jit(functools.partial(start, model))(jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (5, *image_shape))
    apply = jax.jit(functools.partial(model.apply, train=False, key=None))
    return variables, image, apply


def test_there_is_a_width_here_for_every_name():
    assert set(names()) == set(HIDDEN)


@pytest.mark.parametrize(
    ("hidden", "count"), [((1200, 1200), 2_395_210), ((20,), 15_910), ((800, 800), 1_276_810), ((30,), 23_860)]
)
def test_parameter_counts_of_the_literature(hidden, count):
    model = make(image_shape=(28, 28, 1), hidden=hidden)
    widths = (784, *hidden, 10)
    assert count == sum((a + 1) * b for a, b in itertools.pairwise(widths))
    assert parameter_count(jax.eval_shape(model.init, jax.random.key(0))[0]) == count


def test_parameter_count_of_the_fast_cnn(key):
    params, _ = jax.eval_shape(make("fast_cnn", (28, 28, 1), hidden=(16, 32, 100)).init, key)
    assert parameter_count(params) == 166_406  # Wong, Rice, Kolter (2020): "166k"


def test_parameter_count_of_a_cnn(key):
    params, _ = jax.eval_shape(make("cnn", (28, 28, 1), hidden=(16, 32)).init, key)
    assert parameter_count(params) == (9 * 1 + 1) * 16 + (9 * 16 + 1) * 32 + (7 * 7 * 32 + 1) * 10


@pytest.mark.parametrize("image_shape", SHAPES)
@pytest.mark.parametrize("name", names())
class TestEveryModel:
    def test_shapes_and_features(self, name, image_shape):
        variables, image, apply = ready(name, image_shape)
        outputs, state = apply(variables, image)
        assert outputs.logits.shape == (5, 7)
        assert outputs.logits.dtype == jnp.float32
        assert state == {}
        stem = {"mlp": "hidden", "cnn": "block", "fast_cnn": "block"}[name]
        assert set(outputs.features) == {"embedding", *(f"{stem}{n}{end}" for n in (1, 2) for end in ("", "_pre"))}
        for number, width in enumerate(HIDDEN[name][:2], start=1):
            feature = np.asarray(outputs.features[f"{stem}{number}"])
            assert (feature.shape[0], feature.shape[-1]) == (5, width)
            assert (feature >= 0).all()
            assert feature.max() > 0
        last = np.asarray(outputs.features[f"{stem}2"]).reshape(5, -1)
        if name == "fast_cnn":  # a dense layer stands between the two
            assert outputs.features["embedding"].shape == (5, HIDDEN[name][-1])
        else:
            np.testing.assert_array_equal(outputs.features["embedding"], last)

    def test_logits_are_the_last_layer_of_the_embedding(self, name, image_shape):
        variables, image, apply = ready(name, image_shape)
        outputs, _ = apply(variables, image)
        last = jax.tree.map(np.asarray, variables["params"]["logits"])
        expected = np.asarray(outputs.features["embedding"]) @ last["kernel"] + last["bias"]
        np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-5)

    def test_one_image_does_not_see_the_others(self, name, image_shape):
        variables, image, apply = ready(name, image_shape)
        changed = image.at[1:].set(0.5)
        alone, together = (apply(variables, each)[0].logits for each in (changed, image))
        np.testing.assert_allclose(alone[0], together[0], rtol=1e-5, atol=1e-6)
        assert not np.allclose(alone[1], together[1])


@pytest.mark.parametrize("name", names())
def test_gradient_reaches_every_parameter_under_jit(name, key):
    model = make(name, dropout=0.25, input_dropout=0.1)
    image = jax.random.uniform(key, (16, 8, 8, 1))

    @jax.jit
    def gradient(key):
        def loss(params):
            return (model.apply({"params": params}, image, train=True, key=key)[0].logits ** 2).mean()

        return jax.grad(loss)(model.init(key)[0])

    for leaf in map(np.asarray, jax.tree.leaves(gradient(key))):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"input_dropout": 0.3}])
@pytest.mark.parametrize("name", names())
def test_dropout_follows_the_key_and_is_off_in_evaluation(name, rates, key):
    model = make(name, **rates)
    variables = start(model, key)
    image = jax.random.uniform(key, (16, 8, 8, 1))

    apply, without = (jax.jit(each.apply, static_argnames="train") for each in (model, make(name)))

    def logits(train, seed):
        at = None if seed is None else jax.random.key(seed)
        return np.asarray(apply(variables, image, train=train, key=at)[0].logits)

    np.testing.assert_array_equal(logits(True, 1), logits(True, 1))
    assert not np.array_equal(logits(True, 1), logits(True, 2))
    np.testing.assert_array_equal(logits(False, 1), logits(False, None))
    plain = without(variables, image, train=True, key=None)[0].logits
    np.testing.assert_array_equal(logits(False, None), plain)


def test_layers_of_one_width_do_not_share_a_mask(key):
    model = make(hidden=(400, 400), dropout=0.5)
    apply = jax.jit(model.apply, static_argnames="train")
    outputs, _ = apply(start(model, key), jnp.ones((1, 8, 8, 1)), train=True, key=key)
    first, second = (np.asarray(outputs.features[f"hidden{n}"][0] > 0) for n in (1, 2))
    # A unit is on with probability 1/4; with a shared mask both would be on together twice as often.
    assert np.mean(first & second) < 0.1


def test_keys_of_init_differ_and_repeat():
    model = make()
    trees = [jax.tree.leaves(start(model, jax.random.key(seed))) for seed in (0, 0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(trees[0], trees[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(trees[0], trees[2], strict=True))


class Normed(nn.Module):
    """Any Linen module with a second collection."""

    @nn.compact
    def __call__(self, image, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(image.reshape(image.shape[0], -1))
        return Outputs(nn.Dense(3)(x))


def test_other_collections_are_state_that_training_alone_moves(key):
    model = from_linen(Normed(), (8, 8, 1))
    params, state = model.init(key)
    image = jax.random.uniform(key, (16, 8, 8, 1))
    assert set(state) == {"batch_stats"}
    apply = jax.jit(model.apply, static_argnames="train")
    _, trained = apply({"params": params, **state}, image, train=True, key=key)
    _, evaluated = apply({"params": params, **state}, image, train=False, key=None)
    mean = trained["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * image.reshape(16, -1).mean(0), rtol=1e-5)
    assert jax.tree.structure(trained) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(evaluated), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "mpl"}, "name='mpl' is no model; accepted: cnn, .*, fast_cnn, .*, mlp, .*; did you mean mlp?"),
        ({"name": "transformer"}, "name='transformer' is no model; accepted: cnn, .*, wrn_70_16$"),
        ({"num_classes": 1}, "num_classes=1; accepted: at least 2"),
        ({"hidden": ()}, r"hidden=\(\); accepted: one or more positive widths"),
        ({"hidden": (20, 0)}, r"hidden=\(20, 0\)"),
        ({"name": "cnn", "hidden": (-3,)}, r"hidden=\(-3,\)"),
        ({"dropout": 1.0}, r"dropout=1.0; accepted: a rate in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": float("nan")}, "dropout=nan"),
        ({"input_dropout": 1.5}, "input_dropout=1.5"),
        ({"image_shape": (8, 0, 1)}, r"image_shape=\(8, 0, 1\); accepted: \(height, width, channels\)"),
    ],
)
def test_what_cannot_be_created(given, words):
    with pytest.raises(BadInput, match=words):
        make(**given)


def test_what_cannot_be_applied(key):
    model = make(dropout=0.5)
    variables, image = start(model, key), jnp.zeros((2, 8, 8, 1))
    with pytest.raises(BadInput, match="key=None while training with dropout"):
        model.apply(variables, image, train=True, key=None)
    with pytest.raises(BadInput, match=r"inputs are uint8 .*; accepted: floats"):
        model.apply(variables, image.astype(jnp.uint8), train=False, key=None)
    with pytest.raises(BadInput, match=r"shape \(2, 64\); accepted"):
        model.apply(variables, image.reshape(2, 64), train=False, key=None)

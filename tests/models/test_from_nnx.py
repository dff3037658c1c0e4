"""An NNX module behind the border is a pure function like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models.from_nnx import from_nnx
from kdjax.types import BadInput, Outputs

IMAGE = jax.random.uniform(jax.random.key(9), (6, 8, 8, 1))


class Net(nnx.Module):
    """Dense, BatchNorm, twelve layers in a list, two dropouts of one shape."""

    def __init__(self, rngs):
        self.first = nnx.Linear(64, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(16, 16, rngs=rngs) for _ in range(12)])
        self.drop1, self.drop2 = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, image):
        x = self.norm(self.first(image.reshape(image.shape[0], -1)))
        ones = jnp.ones_like(x)
        masks = {"mask1": self.drop1(ones), "mask2": self.drop2(ones)}
        for layer in self.layers:
            x = x + 0.1 * layer(x)
        return Outputs(self.last(self.drop1(x)), masks)


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, image):
        return self.dense(image.reshape(image.shape[0], -1))


@pytest.fixture
def net(key):
    model = from_nnx(Net)
    params, state = model.init(key)
    return model, {"params": params, **state}


def test_eval_equals_the_module_itself(key):
    module = Net(nnx.Rngs(key))
    model = from_nnx(Net)
    params, state = model.init(key)
    module.eval()
    ours, _ = model.apply({"params": params, **state}, IMAGE, train=False, key=None)
    np.testing.assert_array_equal(ours.logits, module(IMAGE).logits)


def test_every_key_of_the_trees_is_text(net):
    for path, _ in jax.tree_util.tree_leaves_with_path(net[1]):
        assert all(isinstance(part.key, str) for part in path)
    assert {"0", "11"} <= net[1]["params"]["layers"].keys()


def test_gradient_under_jit_reaches_every_parameter(net, key):
    model, variables = net

    @jax.jit
    def gradient(params, state):
        def loss(params):
            outputs, _ = model.apply({"params": params, **state}, IMAGE, train=True, key=key)
            return jnp.sum(outputs.logits**2)

        return jax.grad(loss)(params)

    state = {name: tree for name, tree in variables.items() if name != "params"}
    grads = gradient(variables["params"], state)
    assert jax.tree.structure(grads) == jax.tree.structure(variables["params"])
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(grads)}
    # A bias before BatchNorm has no gradient but rounding; every other parameter has one.
    assert min(float(np.abs(leaf).max()) for name, leaf in flat.items() if name != "['first']['bias']") > 1e-3


def test_batch_statistics_move_when_training_only(net, key):
    model, variables = net
    _, trained = model.apply(variables, IMAGE, train=True, key=key)
    _, evaluated = model.apply(variables, IMAGE, train=False, key=key)
    before = variables["norm"]["mean"]
    batch_mean = (
        IMAGE.reshape(6, -1) @ variables["params"]["first"]["kernel"] + variables["params"]["first"]["bias"][None]
    ).mean(0)
    np.testing.assert_allclose(trained["norm"]["mean"], 0.99 * before + 0.01 * batch_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(evaluated["norm"]["mean"], before)
    assert jax.tree.structure(trained) == jax.tree.structure(evaluated)


def test_dropout_follows_the_key_and_is_off_in_evaluation(net):
    model, variables = net

    def run(seed, train):
        return model.apply(variables, IMAGE, train=train, key=jax.random.key(seed))[0]

    np.testing.assert_array_equal(run(1, True).logits, run(1, True).logits)
    assert not np.array_equal(run(1, True).logits, run(2, True).logits)
    np.testing.assert_array_equal(run(1, False).logits, run(2, False).logits)
    assert not np.array_equal(run(1, True).features["mask1"], run(1, True).features["mask2"])


def test_logits_alone_and_a_function_that_reads_other_results(key):
    for model in (from_nnx(Plain), from_nnx(Plain, outputs=lambda logits: Outputs(logits, {"logits": logits}))):
        params, state = model.init(key)
        outputs, _ = model.apply({"params": params}, IMAGE, train=True, key=None)
        assert outputs.logits.shape == (6, 10)
        assert state == {}
    assert outputs.features.keys() == {"logits"}


def test_training_without_a_key_is_refused(net):
    with pytest.raises(BadInput, match="key=None"):
        net[0].apply(net[1], IMAGE, train=True, key=None)

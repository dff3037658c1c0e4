"""Networks under attack: small, on real digits, trained here in a second from fixed seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.attacks import victims
from kdjax.data.load import load
from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import train_step
from kdjax.types import Outputs


def trained(name, hidden, *, steps=200):
    """A digits classifier, and 48 test images that it gets right."""
    source, test = load("digits", "train"), load("digits", "test")
    image, label = (jnp.asarray(source.arrays[c]) for c in ("inputs", "label"))
    image = image / 255.0 if image.dtype == jnp.uint8 else image
    model = create(name, num_classes=10, image_shape=(8, 8, 1), hidden=hidden)
    tx = unit_rate(optax.adam(1.0))
    state = create_state(model, tx, jax.random.key(0), hparams={"learning_rate": 5e-3})
    step = jax.jit(train_step(supervised(model), tx))
    batch = {"inputs": image, "label": label.astype(jnp.int32), "mask": jnp.ones(len(label))}
    for _ in range(steps):
        state, _ = step(state, batch)
    clean = np.asarray(test.arrays["inputs"])
    clean = clean / np.float32(255) if clean.dtype == np.uint8 else clean
    wanted = np.asarray(test.arrays["label"]).astype(np.int32)
    weights = jax.tree.map(np.asarray, variables(state))
    right = model.apply(weights, jnp.asarray(clean), train=False, key=None)[0].logits.argmax(-1) == wanted
    chosen = np.flatnonzero(np.asarray(right))[:48]
    return model.apply, weights, clean[chosen], wanted[chosen]


@pytest.fixture(scope="session")
def mlp():
    return trained("mlp", (64,))


@pytest.fixture(scope="session")
def cnn():
    return trained("fast_cnn", (8, 16, 32), steps=60)


@pytest.fixture(scope="session")
def victim(mlp):
    apply, weights, *_ = mlp
    return victims.white_box(apply, weights)


@pytest.fixture(scope="session")
def steady(mlp):
    """The same network row by row, so that the last bit of an answer does not depend on the batch's size."""
    inner, weights, *_ = mlp

    def apply(variables, image, *, train, key, mask=None):
        one = lambda row: inner(variables, row[None], train=False, key=None)[0].logits[0]  # noqa: E731
        return Outputs(jax.lax.map(one, image)), {}

    return victims.white_box(apply, weights)


@pytest.fixture(scope="session")
def image(mlp):
    return mlp[2]


@pytest.fixture(scope="session")
def label(mlp):
    return mlp[3]


@pytest.fixture
def keys():
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(1), jnp.arange(48))


class Counter:
    """A victim on the host, in numpy alone, that counts the images it is shown."""

    def __init__(self, weights):
        self.layers = [(np.asarray(p["kernel"]), np.asarray(p["bias"])) for _, p in sorted(weights["params"].items())]
        self.count = 0

    def __call__(self, image):
        self.count += len(image)
        x = image.reshape(len(image), -1)
        for kernel, bias in self.layers[:-1]:
            x = np.maximum(x @ kernel + bias, 0)
        kernel, bias = self.layers[-1]
        return x @ kernel + bias


@pytest.fixture
def counter(mlp):
    return Counter(mlp[1])

"""Optimizers by name equal Optax's own at every learning rate, though the rate is applied outside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import spec
from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.training import optimizers
from kdjax.training.state import create_state
from kdjax.training.step import train_step
from kdjax.types import BadInput

PARAMS = {"w": jnp.array([[0.3, -0.2], [0.1, 0.4]]), "b": jnp.array([0.1, -0.1])}
GRADS = [jax.tree.map(lambda x, i=i: jnp.sin(7 * x + i), PARAMS) for i in range(4)]


def train(tx: optax.GradientTransformation, rate: float):
    params, state = PARAMS, tx.init(PARAMS)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates))
    return params


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_unit_rate_times_lr_is_optax_at_lr(name):
    ours, theirs = train(optimizers.optimizer(name), 0.03), train(optimizers.optimizer(name, learning_rate=0.03), 1.0)
    plain = train(getattr(optax, name)(0.03, **({"weight_decay": 0.0} if name in optimizers.DECOUPLED else {})), 1.0)
    for a, b, c in zip(*map(jax.tree.leaves, (ours, theirs, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
        np.testing.assert_allclose(b, c, rtol=1e-6)


def test_sgd_with_momentum_and_coupled_decay_is_the_cifar_recipe():
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    tx = optimizers.optimizer("sgd", momentum=0.9, weight_decay=0.1)
    params, state = jnp.asarray(w, jnp.float32), tx.init(jnp.asarray(w, jnp.float32))
    for g in (np.array([0.5, 0.1]), np.array([-0.2, 0.3])):
        v = 0.9 * v + g + 0.1 * w
        w = w - 0.05 * v
        updates, state = tx.update(jnp.asarray(g, jnp.float32), state, params)
        params = params + 0.05 * updates
    np.testing.assert_allclose(params, w, rtol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (spec.constant(1), optax.constant_schedule(1.0)),
        (spec.linear(1, 0), optax.linear_schedule(1.0, 0.0, 100)),
        (spec.cosine(1, 0.1), optax.cosine_decay_schedule(1.0, 100, 0.1)),
        (spec.steps((1, 0.1, 0.01), (0.5, 0.75)), optax.piecewise_constant_schedule(1.0, {50: 0.1, 75: 0.1})),
        (spec.warmup(0.1, spec.cosine(1, 0)), optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100)),
    ],
)
def test_schedules_are_those_of_optax(ours, theirs):
    rate = optimizers.following(ours, steps=100)
    for count in range(101):
        # Optax drops behind the milestone, as PyTorch does on it.
        if not (isinstance(ours, spec.steps) and count in (50, 75)):
            np.testing.assert_allclose(rate(jnp.int32(count)), theirs(count), atol=1e-6)


def test_clipping_bounds_the_global_norm():
    tx = optimizers.optimizer("sgd", grad_clip=0.1)
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.1, rel=1e-5)


def test_a_bound_on_weights_holds_after_every_update_at_the_rate_that_is_traced(key):
    model = create("cnn", num_classes=3, image_shape=(8, 8, 1), hidden=(8,))
    batch = {"inputs": jax.random.uniform(key, (6, 8, 8, 1)), "label": jnp.arange(6) % 3, "mask": jnp.ones(6)}
    made = {}
    for bound in (0.0, 1.0):
        tx = optimizers.optimizer("sgd", max_norm=bound)
        state = create_state(model, tx, key, hparams={"learning_rate": 0.7})
        made[bound], _ = jax.jit(train_step(supervised(model), tx))(state, batch)
    free, held = (jax.tree.leaves(made[bound].params) for bound in (0.0, 1.0))
    scaled = 0
    for w, got in zip(map(np.asarray, free), map(np.asarray, held), strict=True):
        if w.ndim > 1:
            norms = np.linalg.norm(w.reshape(-1, w.shape[-1]), axis=0)
            scaled += int((norms > 1).sum())
            w = w * np.minimum(1, 1 / norms)
        np.testing.assert_allclose(got, w, atol=1e-6)
    assert 0 < scaled < sum(w.shape[-1] for w in free if w.ndim > 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.optimizer("adm"), r"optimizer='adm'.*did you mean adam"),
        (lambda: optimizers.optimizer("adam", momentum=0.9), r"momentum=0.9 with optimizer='adam'"),
        (lambda: optimizers.optimizer("sgd", momentum=1.0), r"momentum=1.0"),
        (lambda: optimizers.optimizer("sgd", weight_decay=-1.0), r"weight_decay=-1.0"),
        (lambda: optimizers.optimizer("sgd", max_norm=float("nan")), r"max_norm=nan: accepted are numbers from 0"),
        (lambda: optimizers.following(spec.linear(1, -1), steps=9), r"linear\(1, -1\) runs from -1 to 1"),
        (lambda: optimizers.following(spec.constant(0), steps=9), r"runs from 0 to 0; accepted: a factor"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(BadInput, match=message):
        call()

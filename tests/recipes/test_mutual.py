"""Peers that learn together: what each learns from, that nothing else leaks, and that any step runs them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes.mutual import alike, mixed, mutual
from kdjax.recipes.supervised import supervised
from kdjax.training import parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import one_step, train_step
from kdjax.types import BadInput, Model, Outputs

SHAPE = {"num_classes": 4, "image_shape": (4, 4, 1)}
SMALL, LARGE = create("mlp", **SHAPE, hidden=(5,)), create("mlp", **SHAPE, hidden=(7,))
COHORTS = {"alike": alike(SMALL, 3), "mixed": mixed({"a": SMALL, "b": LARGE, "c": SMALL})}
PEERS = {"alike": [SMALL] * 3, "mixed": [SMALL, LARGE, SMALL]}


@pytest.fixture(params=COHORTS)
def kind(request):
    return request.param


@pytest.fixture
def rows(key):
    return {
        "inputs": jax.random.uniform(key, (6, 4, 4, 1)),
        "label": jnp.array([0, 1, 2, 3, -1, 2]),
        "mask": jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
    }


def make(kind, key, *, weight=0.7, temperature=2.0, tx=None):
    hparams = {"learning_rate": 0.1, "weight": weight, "temperature": temperature}
    return create_state(COHORTS[kind].model, tx or unit_rate(optax.sgd(1.0)), key, hparams=hparams)


def said(kind, weights, image):
    """What each peer says on its own."""
    return [
        model.apply(COHORTS[kind].peer(weights, p), image, train=False, key=None)[0].logits
        for p, model in enumerate(PEERS[kind])
    ]


def test_the_loss_is_the_papers(kind, key, rows):
    state = make(kind, key)
    losses, (_, metrics, _) = jax.jit(mutual(COHORTS[kind].model))(state.params, state, rows, key)
    z = said(kind, variables(state), rows["inputs"])
    expected = 0
    for p in range(3):
        hard = [-jax.nn.log_softmax(z[p])[i, y] if y >= 0 else 0.0 for i, y in enumerate(rows["label"].tolist())]
        expected += jnp.array(hard)
        for r in {0, 1, 2} - {p}:
            a, b = jax.nn.softmax(z[r] / 2), jax.nn.softmax(z[p] / 2)
            expected += 0.7 * 4 * jnp.sum(a * jnp.log(a / b), -1) / 2
    real = rows["mask"] > 0
    np.testing.assert_allclose(losses[real], expected[real], rtol=1e-4)
    assert set(metrics) == {"cross_entropy", "mimicry", "accuracy", "agreement"}


def test_a_peer_sends_no_gradient_to_those_that_it_follows(kind, key, rows):
    """Peer 0's slope is that of its own terms, the others' answers being constants."""
    state, cohort = make(kind, key), COHORTS[kind]
    loss = jax.jit(lambda p: mutual(cohort.model)(p, state, rows, key)[0].sum())
    grads = jax.grad(loss)(state.params)
    z = said(kind, variables(state), rows["inputs"])
    keep = rows["mask"] > 0

    @jax.jit
    def alone(params):
        mine = PEERS[kind][0].apply({"params": params}, rows["inputs"], train=False, key=None)[0].logits
        follow = sum(response.kl(mine, z[r], temperature=2.0, where=keep) for r in (1, 2)) / 2
        return (response.cross_entropy(mine, rows["label"]) + 0.7 * follow).sum()

    expected = jax.grad(alone)(cohort.peer(variables(state), 0)["params"])
    got = cohort.peer({"params": grads["student"]}, 0)["params"]
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_peers_that_follow_nobody_train_as_they_would_alone(kind, key, rows):
    tx = unit_rate(optax.adam(1.0))
    state = make(kind, key, weight=0.0, tx=tx)
    step = jax.jit(train_step(mutual(COHORTS[kind].model), tx))
    params = COHORTS[kind].peer(variables(state), 1)["params"]
    lone = Model(lambda key: (params, {}), PEERS[kind][1].apply)
    apart = create_state(lone, tx, key, hparams={"learning_rate": 0.1})
    lone_step = jax.jit(train_step(supervised(lone), tx))
    for _ in range(3):
        (state, _), (apart, _) = step(state, rows), lone_step(apart, rows)
    together = COHORTS[kind].peer(variables(state), 1)["params"]
    for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(apart.params["student"]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_a_cohort_answers_with_the_mean_probability(kind, key, rows):
    weights = variables(make(kind, key))
    outputs, _ = COHORTS[kind].model.apply(weights, rows["inputs"], train=False, key=None)
    z = jnp.stack(said(kind, weights, rows["inputs"]))
    np.testing.assert_allclose(outputs.features["peers"], jnp.moveaxis(z, 0, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(outputs.logits), jax.nn.softmax(z).mean(0), rtol=1e-5)


def test_peers_begin_apart_and_mimicry_brings_their_answers_together(key, rows):
    gaps = []
    for weight in (0.0, 20.0):
        state, step = make("alike", key, weight=weight), jax.jit(train_step(mutual(COHORTS["alike"].model), SGD))
        first = jnp.ptp(jnp.stack(said("alike", variables(state), rows["inputs"])), axis=0).mean()
        for _ in range(20):
            state, _ = step(state, rows)
        gaps.append(jnp.ptp(jnp.stack(said("alike", variables(state), rows["inputs"])), axis=0).mean() / first)
    assert first > 0.1
    assert gaps[1] < 0.5 * gaps[0]


SGD = unit_rate(optax.sgd(1.0))


def test_jit_and_pmap_agree(kind, key, rows):
    results = []
    for wrapper in ("jit", "pmap"):
        run = parallel.wrap(
            wrapper,
            lambda axis: one_step(train_step(mutual(COHORTS[kind].model), SGD, axis_name=axis)),
            parallel.data_mesh(),
        )
        state, metrics = run(make(kind, key), {}, {name: np.asarray(x) for name, x in rows.items()})
        results.append((state.params, metrics["mimicry"]))
    for x, y in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def counting(width):
    """A model with state: how often it was trained, and dropout that needs a key."""

    def init(key):
        return {"w": jax.random.normal(key, (16, width))}, {"counts": {"steps": jnp.zeros(())}}

    def apply(variables, image, *, train, key, mask=None):
        x = image.reshape(len(image), -1)
        x = x * jax.random.bernoulli(key, 0.5, x.shape) if train else x
        steps = variables["counts"]["steps"] + (1 if train else 0)
        return Outputs((x @ variables["params"]["w"])[:, :4]), {"counts": {"steps": steps}}

    return Model(init, apply)


@pytest.mark.parametrize("cohort", [alike(counting(4), 2), mixed({"a": counting(4), "b": counting(6)})])
def test_state_is_kept_by_peer_and_every_peer_draws_its_own(key, rows, cohort):
    hparams = {"learning_rate": 0.0, "weight": 1.0, "temperature": 1.0}
    state = create_state(cohort.model, SGD, key, hparams=hparams)
    step = jax.jit(train_step(mutual(cohort.model), SGD))
    for _ in range(2):
        state, _ = step(state, rows)
    for p in range(2):
        assert float(cohort.peer(variables(state), p)["counts"]["steps"]) == 2
    same = jax.tree.map(jnp.ones_like, variables(state)["params"])
    outputs, _ = cohort.model.apply({**variables(state), "params": same}, rows["inputs"], train=True, key=key)
    peers = outputs.features["peers"]
    assert (peers[:, 0] != peers[:, 1]).any()


def test_one_peer_is_refused():
    with pytest.raises(BadInput, match="peers=1"):
        alike(SMALL, 1)
    with pytest.raises(BadInput, match=r"models=\['a'\]"):
        mixed({"a": SMALL})

"""A step of several updates, and whose rate moves weights: each network by its own optimizer and by no other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.training import optimizers, parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import one_step, step_of, train_step
from kdjax.training.update import Update
from kdjax.types import Aux, BadInput, Networks
from tests.training.conftest import same

MODEL = create("mlp", num_classes=3, image_shape=(2, 2, 1), hidden=(4,))
NETWORKS = Networks(
    {
        "generator": lambda key: ({"w": jax.random.normal(key, (3,))}, {"seen": {"passes": jnp.zeros(())}}),
        "critic": lambda key: ({"v": jax.random.normal(key, (3,))}, {}),
    },
    {"last": lambda key: jnp.zeros(3)},
)
RATES = {"generator": 0.5, "critic": 0.25}


def rows(real=4):
    rng = np.random.default_rng(0)
    return {
        "inputs": rng.random((4, 2, 2, 1), np.float32), "label": rng.integers(0, 3, 4).astype(np.int32),
        "mask": (np.arange(4) < real).astype(np.float32),
    }  # fmt: skip


def generate(params, state, batch, key):
    """v . w for every row; its slope by w is v, and by v is w."""
    seen = {"generator": {"seen": {"passes": state.model_state["generator"]["seen"]["passes"] + 1}}}
    score = jnp.full(len(batch["mask"]), params["critic"]["v"] @ params["generator"]["w"])
    return score, Aux(seen, {"score": score})


def judge(params, state, batch, key):
    """The same, and noise of its own; it remembers the critic that it saw."""
    noise = jnp.full(len(batch["mask"]), jax.random.normal(jax.random.fold_in(key, 0)))
    score = jnp.full(len(batch["mask"]), params["critic"]["v"] @ (1 + params["generator"]["w"]))
    return score, Aux({}, {"noise": noise}, {"last": state.params["critic"]["v"]})


def updates(times=5):
    return (
        Update(judge, optax.sgd(RATES["critic"]), ("critic",), times=times, name="critic"),
        Update(generate, optax.adam(RATES["generator"]), ("generator",), name="generator"),
    )


def state_of(key, given=None):
    return create_state(NETWORKS, given or updates(), key)


def test_each_update_moves_its_own_network_as_often_as_it_says(key):
    state = state_of(key)
    new, metrics = jax.jit(step_of(updates()))(state, rows())
    w, v = state.params["generator"]["w"], state.params["critic"]["v"]
    moved = v - 5 * RATES["critic"] * (1 + w)
    np.testing.assert_allclose(new.params["critic"]["v"], moved, rtol=1e-5)
    # Adam's first move is the rate times the sign; the generator sees the critic that has moved already.
    np.testing.assert_allclose(new.params["generator"]["w"], w - RATES["generator"] * jnp.sign(moved), rtol=1e-4)
    np.testing.assert_allclose(metrics["generator/score"][0] / 4, moved @ w, rtol=1e-5)
    assert int(new.step) == 1
    assert float(new.model_state["generator"]["seen"]["passes"]) == 1
    # The last time that the critic was made it saw four moves.
    np.testing.assert_allclose(new.memory["last"], v - 4 * RATES["critic"] * (1 + w), rtol=1e-5)


def test_metrics_are_named_after_their_update_and_optimizers_know_their_network_alone(key):
    state = state_of(key)
    new, metrics = jax.jit(step_of(updates()))(state, rows(3))
    of_each = {"critic": {"loss", "noise", "grad_norm"}, "generator": {"loss", "score", "grad_norm"}}
    assert set(metrics) == {f"{name}/{metric}" for name, own in of_each.items() for metric in own}
    assert float(metrics["critic/loss"][1]) == 3
    assert len(new.opt_state) == 2
    adam = new.opt_state[1][0]
    assert set(adam.mu) == {"generator"}
    assert int(adam.count) == 1
    assert not jax.tree.leaves(new.opt_state[0])


def test_every_time_draws_its_own_and_the_first_as_if_it_were_alone(key):
    noises = []

    def watched(params, state, batch, key):
        noises.append(np.asarray(jax.random.key_data(key)).tolist())
        return judge(params, state, batch, key)

    several = (Update(watched, optax.sgd(0.1), times=3), Update(watched, optax.sgd(0.1), times=2, name="more"))
    state = state_of(key, several)
    step_of(several)(state, rows())
    assert len({tuple(noise) for noise in noises}) == 5
    first = noises[0]
    train_step(watched, optax.sgd(0.1))(state.replace(opt_state=state.opt_state[:1]), rows())
    assert noises[-1] == first
    step_of(several)(state.replace(step=state.step + 1), rows())
    assert len({tuple(noise) for noise in noises}) == 10


def test_jit_and_pmap_agree(key):
    mesh, ends = parallel.data_mesh(), []
    for wrapper in ("jit", "pmap"):
        run = parallel.wrap(wrapper, lambda axis: one_step(step_of(updates(2), axis_name=axis)), mesh)
        state = parallel.place(state_of(key, updates(2)), mesh, wrapper)
        for _ in range(2):
            state, metrics = run(state, {}, rows(3))
        metrics.pop("critic/noise")  # drawn by each device
        ends.append((state.params, state.model_state, state.opt_state, state.memory, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *ends)


def test_one_network_more_changes_no_others_first_values(key):
    alone = create_state(Networks({"critic": NETWORKS.init["critic"]}), optax.sgd(0.1), key)
    assert same(alone.params["critic"], state_of(key).params["critic"])
    lone = create_state(MODEL, optax.sgd(0.1), key)
    beside = create_state(Networks({"critic": NETWORKS.init["critic"], "student": MODEL.init}), optax.sgd(0.1), key)
    assert same(lone.params["student"], beside.params["student"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([], r"updates=\[\]: accepted are one or more"),
        ([Update(judge, optax.sgd(0.1), times=0)], "made once or more"),
        ([Update(judge, optax.sgd(0.1)), Update(generate, optax.sgd(0.1))], "each with a name of its own"),
        ([Update(judge, optax.sgd(0.1), ("critik",))], r"networks=\('critik',\): accepted are .*critic"),
    ],
)
def test_updates_that_cannot_be_made_are_refused(key, changed, said):
    with pytest.raises(BadInput, match=said):
        create_state(NETWORKS, changed, key)


def by_hand(tx, key, steps):
    """A loop as Optax's manual writes it, of the model's parameters alone."""
    params = variables(create_state(MODEL, optax.sgd(1.0), key))["params"]
    batch, opt_state = jax.tree.map(jnp.asarray, rows()), tx.init(params)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            logits = MODEL.apply({"params": params}, batch["inputs"], train=True, key=None)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        changes, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, changes), opt_state

    for _ in range(steps):
        params, opt_state = step(params, opt_state)
    return params


@pytest.mark.parametrize(
    "tx", [optax.adam(1e-3), optax.sgd(0.1, momentum=0.9), optax.adamw(optax.linear_schedule(0.1, 0.0, 3))]
)
def test_an_optimizer_of_optax_moves_weights_as_a_loop_of_its_manual_does(key, tx):
    state, step = create_state(MODEL, tx, key), jax.jit(train_step(supervised(MODEL), tx))
    for _ in range(3):
        state, _ = step(state, rows())
    for ours, theirs in zip(*map(jax.tree.leaves, (state.params["student"], by_hand(tx, key, 3))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_one_of_unit_rate_moves_them_by_the_traced_rate(key):
    tx = optimizers.optimizer("adam")
    state = create_state(MODEL, tx, key, hparams={"learning_rate": 1e-3})
    step = jax.jit(train_step(supervised(MODEL), tx))
    for _ in range(3):
        state, _ = step(state, rows())
    for ours, theirs in zip(
        *map(jax.tree.leaves, (state.params["student"], by_hand(optax.adam(1e-3), key, 3))), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_both_rates_and_neither_are_refused(key):
    with pytest.raises(BadInput, match=r"=0\.1 and the optimizer its own rate.*accepted: no learning_rate"):
        create_state(MODEL, optax.adam(1e-3), key, hparams={"learning_rate": 0.1})
    with pytest.raises(BadInput, match=r"hparams has \['alpha'\]: accepted is one with learning_rate"):
        create_state(MODEL, unit_rate(optax.adam(1.0)), key, hparams={"alpha": 0.1})
    # A chain is no longer of unit rate, so its rate would be 1 unseen.
    with pytest.raises(BadInput, match="the optimizer its own rate"):
        create_state(MODEL, optax.chain(unit_rate(optax.sgd(1.0))), key, hparams={"learning_rate": 0.1})
    state = create_state(MODEL, optax.sgd(0.1), key)
    with pytest.raises(BadInput, match=r"hparams has \[\]: accepted is one with learning_rate"):
        train_step(supervised(MODEL), unit_rate(optax.sgd(1.0)))(state, rows())


def test_a_batch_without_a_column_is_refused_by_its_name(key):
    state = create_state(MODEL, optax.sgd(0.1), key)
    for name, said in {"mask": r"mask \[B\]", "inputs": "inputs for this loss", "label": "label for this loss"}.items():
        batch = rows()
        del batch[name]
        with pytest.raises(
            BadInput, match=rf"the batch has \[{str(sorted(batch))[1:-1]}\]: accepted is one with {said}"
        ):
            train_step(supervised(MODEL), optax.sgd(0.1))(state, batch)
    own = lambda params, state, batch, key: {}["label"]  # noqa: E731
    with pytest.raises(KeyError, match="label"):  # a loss function's own mistake stays its own
        train_step(own, optax.sgd(0.1))(state, rows())

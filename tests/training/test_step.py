"""The step: masks, devices, randomness, retracing, and one update checked against a by-hand one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.data import pipeline
from kdjax.data.augment import random_shift
from kdjax.recipes.supervised import supervised
from kdjax.training import parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state
from kdjax.training.step import train_step
from kdjax.types import BadInput, Model, Outputs
from tests.training.conftest import Task, same


def linear_model() -> Model:
    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (4, 3))}, {}

    def apply(variables, image, *, train, key, mask=None):
        return Outputs(image.reshape(len(image), -1) @ variables["params"]["w"]), {}

    return Model(init, apply)


def batch(n: int, real: int):
    rng = np.random.default_rng(0)
    rows = {
        "inputs": rng.random((n, 2, 2, 1), np.float32),
        "label": rng.integers(0, 3, n).astype(np.int32),
        "mask": (np.arange(n) < real).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, rows)


def test_one_update_equals_the_one_done_by_hand(key):
    model, rows = linear_model(), batch(8, 5)
    state = create_state(model, unit_rate(optax.sgd(1.0)), key, hparams={"learning_rate": 0.5})
    new, metrics = jax.jit(train_step(supervised(model), unit_rate(optax.sgd(1.0))))(state, rows)
    w = np.asarray(state.params["student"]["w"], np.float64)
    x, y = rows["inputs"][:5].reshape(5, 4), np.eye(3)[rows["label"][:5]]
    q = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
    np.testing.assert_allclose(new.params["student"]["w"], w - 0.5 * x.T @ (q - y) / 5, atol=1e-6)
    loss = -np.log(q[np.arange(5), rows["label"][:5]])
    np.testing.assert_allclose(metrics["loss"], (loss.sum(), 5), rtol=1e-5)
    assert int(new.step) == 1


def test_what_padding_holds_changes_nothing(key):
    model, clean = linear_model(), batch(8, 5)
    dirty = {**clean, "inputs": clean["inputs"].at[5:].set(1e6), "label": clean["label"].at[5:].set(2)}
    state = create_state(model, unit_rate(optax.sgd(1.0)), key, hparams={"learning_rate": 0.5})
    step = jax.jit(train_step(supervised(model), unit_rate(optax.sgd(1.0))))
    (a, m), (b, n) = step(state, clean), step(state, dirty)
    assert same(a.params, b.params)
    assert same(m, n)


def test_one_batch_padded_equals_the_batch_unpadded(key):
    model, padded = linear_model(), batch(8, 5)
    short = {name: x[:5] for name, x in padded.items()}
    state = create_state(model, unit_rate(optax.adam(1.0)), key, hparams={"learning_rate": 0.01})
    step = jax.jit(train_step(supervised(model), unit_rate(optax.adam(1.0))))
    for x, y in zip(jax.tree.leaves(step(state, padded)), jax.tree.leaves(step(state, short)), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scan", [True, False])
def test_jit_and_pmap_on_two_devices_agree_with_an_uneven_mask(scan):
    assert jax.device_count() == 2
    ends = {w: Task(w, scan=scan, dropout=0.0).fit(epochs=2) for w in ("jit", "pmap")}
    a, b = ends["jit"], ends["pmap"]
    assert int(a.step) == int(b.step) == 36
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_views_are_the_same_under_jit_and_pmap_scanned_and_streamed():
    ends = [
        Task(wrapper, scan=scan, dropout=0.0, augment=crop).fit(epochs=1)
        for wrapper, scan, crop in (
            ("jit", True, shifted), ("pmap", True, shifted), ("pmap", False, shifted), ("jit", False, None),
        )
    ]  # fmt: skip
    first, *others, plain = ([np.asarray(x) for x in jax.tree.leaves(end.params)] for end in ends)
    for other in others:
        for x, y in zip(first, other, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert max(np.abs(x - y).max() for x, y in zip(first, plain, strict=True)) > 1e-2


def shifted(key, image, mask=None):
    return random_shift(key, image, pixels=1)


def test_two_devices_agree_with_one():
    two = Task(dropout=0.0)
    one = Task(dropout=0.0)
    one.mesh = parallel.data_mesh(jax.devices()[:1])
    one.run = parallel.jit_step(lambda s, d, r: train_once(one)(s, d, r), one.mesh, batch_axis=1)
    one.data = parallel.replicate(one.source.arrays, one.mesh)
    a, b = one.fit(epochs=1), two.fit(epochs=1)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def train_once(task):
    from kdjax.training.step import many_steps

    return many_steps(train_step(task.loss_fn, task.tx))


def test_metrics_of_every_step_count_each_example_once(task):
    _, metrics = task.run(task.state(), task.data, next(task.chunks(0, 9))[1])
    assert metrics["loss"][1].tolist() == [64.0] * 8 + [1150 - 17 * 64]


def test_dropout_depends_on_the_step_and_the_key_only(task):
    rows = next(task.chunks(0, 0))[1]
    ends = [task.run(task.state(seed), task.data, rows)[0] for seed in (0, 0, 1)]
    assert same(ends[0].params, ends[1].params)
    assert not same(ends[0].params, ends[2].params)


@pytest.mark.parametrize("wrapper", ["jit", "pmap"])
@pytest.mark.parametrize("scan", [True, False])
def test_a_second_call_does_not_trace_again(wrapper, scan):
    traces = 0
    task = Task(wrapper, scan=scan)
    inner = task.loss_fn

    def counting(*args):
        nonlocal traces
        traces += 1
        return inner(*args)

    def make(axis_name):
        from kdjax.training.step import many_steps

        step = train_step(counting, task.tx, axis_name=axis_name)
        return many_steps(step) if scan else lambda state, data, rows: step(state, rows)

    task.run = parallel.wrap(wrapper, make, task.mesh, batch_axis=1 if scan else 0)
    task.fit(epochs=1)
    first = traces
    task.fit(epochs=2)
    assert traces == first > 0


def test_changing_a_hyper_parameter_does_not_compile_again(key):
    model, rows = linear_model(), batch(8, 8)
    step = jax.jit(train_step(supervised(model), unit_rate(optax.sgd(1.0))))
    for rate in (0.1, 0.2, 0.4):
        state = create_state(model, unit_rate(optax.sgd(1.0)), key, hparams={"learning_rate": rate})
        step(state, rows)
    assert step._cache_size() == 1


def test_the_caller_keeps_the_arrays_of_a_donated_state(task):
    own = task.state()
    kept = jax.tree.map(np.asarray, own.params)
    copy = parallel.replicate(own, task.mesh)
    task.run(copy, task.data, next(task.chunks(0, 0))[1])
    assert same(own.params, kept)


def test_streamed_steps_equal_scanned_ones_on_the_device(task):
    # The same data order and keys; only the grouping of the arithmetic may differ, in the last bits.
    scanned, streamed = task.fit(epochs=1), Task(scan=False).fit(epochs=1)
    for x, y in zip(jax.tree.leaves(scanned.params), jax.tree.leaves(streamed.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_a_batch_the_devices_cannot_share_is_refused():
    with pytest.raises(BadInput, match="batch_size=3"):
        pipeline.batches(np.arange(10, dtype=np.int32), 3, 2)


def test_an_unknown_wrapper_lists_the_known_ones(task):
    with pytest.raises(BadInput, match=r"parallel='xmap'.*jit and pmap"):
        parallel.wrap("xmap", lambda axis: task.run, task.mesh)


def test_a_state_is_strongly_typed_so_that_its_second_step_does_not_compile_again():
    model = Model(lambda key: ({"w": jnp.zeros(2), "v": jnp.full((2,), 5.0)}, {}), None)  # pyright: ignore
    assert jax.jit(model.init)(jax.random.key(0))[0]["v"].weak_type
    state = create_state(model, unit_rate(optax.sgd(1.0)), jax.random.key(0), hparams={"learning_rate": 0.1})
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state.params))


def test_each_device_draws_from_a_key_of_its_own_under_pmap(key):
    model, tx, mesh = linear_model(), unit_rate(optax.sgd(1.0)), parallel.data_mesh(jax.devices()[:2])
    plain = supervised(model)

    def drawing(params, state, rows, key):
        loss, aux = plain(params, state, rows, key)
        return loss, aux._replace(metrics={"drawn": jnp.full(len(loss), jax.random.uniform(key))})

    state = create_state(model, tx, key, hparams={"learning_rate": 0.1})
    run = parallel.wrap(
        "pmap", lambda axis: lambda s, d, r: train_step(drawing, tx, axis_name=axis)(s, r), mesh, batch_axis=0
    )
    rows = {name: np.asarray(x) for name, x in batch(8, 8).items()}
    total, count = run(parallel.place(state, mesh, "pmap"), {}, rows)[1]["drawn"]
    step_key = jax.random.fold_in(state.key, 0)
    own = [float(jax.random.uniform(jax.random.fold_in(step_key, device))) for device in range(2)]
    assert float(np.asarray(total).ravel()[0] / np.asarray(count).ravel()[0]) == pytest.approx(np.mean(own), rel=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_what_is_placed_may_be_donated_and_the_callers_arrays_live(key, devices):
    state = create_state(linear_model(), unit_rate(optax.sgd(1.0)), key, hparams={"learning_rate": 0.1})
    state = state.replace(memory={"bank": jnp.ones((4, 2))})
    mesh, take = parallel.data_mesh(jax.devices()[:devices]), jax.jit(lambda tree: tree, donate_argnums=0)
    for wrapper in ("jit", "pmap"):
        take(parallel.place(state, mesh, wrapper))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))

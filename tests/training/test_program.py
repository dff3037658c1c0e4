"""A program is a value: traced once for all seeds, lowered without training, for the platform of its mesh."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.training import parallel
from kdjax.training.feed import Feed
from kdjax.training.optimizers import unit_rate
from kdjax.training.program import Program, chooses_scan
from kdjax.training.state import create_state, initializer
from kdjax.training.update import updates_of

ROOT = Path(__file__).parents[2]
MODEL = create("mlp", num_classes=3, image_shape=(2, 2, 1), hidden=(4,))
SGD = unit_rate(optax.sgd(1.0))
DATA = {"inputs": np.ones((8, 2, 2, 1), np.float32), "label": np.arange(8, dtype=np.int32) % 3}


def order(seed, epoch):
    rows = np.random.default_rng([seed, epoch]).permutation(8).astype(np.int32).reshape(2, 4)
    return {"index": rows, "mask": np.ones((2, 4), np.float32), "epoch": np.full((2, 4), epoch, np.int32)}


@pytest.mark.parametrize("wrapper", ["jit", "pmap"])
@pytest.mark.parametrize("scan", [True, False])
def test_a_program_is_traced_once_for_all_seeds(wrapper, scan):
    traced, mesh, recipe = [], parallel.data_mesh(), supervised(MODEL)

    def counted(*given):
        traced.append(1)
        return recipe(*given)

    program = Program(updates_of(SGD, counted), mesh, wrapper=wrapper, scan=scan)
    feed = Feed(order, 2, mesh, DATA, scan=scan)
    init, data, states = initializer(MODEL), feed.data(), []
    for seed in range(3):
        state = create_state(MODEL, SGD, jax.random.key(seed), hparams={"learning_rate": 0.1}, init=init)
        state = parallel.place(state, mesh, wrapper)
        for _, rows in feed.chunks(seed)(0, 0):
            state, _ = program.run(state, data, rows)
        states.append(state)
    assert len(traced) == 1
    assert [int(state.step) for state in states] == [2, 2, 2]


LOWERS = """
import jax
from tests.training import test_program as t
for wrapper in ("jit", "pmap"):
    program = t.Program(t.updates_of(t.SGD, t.supervised(t.MODEL)), t.parallel.data_mesh(), wrapper=wrapper)
    make = lambda key: t.create_state(t.MODEL, t.SGD, key, hparams={"learning_rate": 0.1})
    state, data, rows = jax.eval_shape(lambda key: (make(key), t.DATA, t.order(0, 0)), jax.random.key(0))
    print(len(program.lower(state, data, rows).as_text()) > 1000)
"""


def test_a_program_is_lowered_on_shapes_alone():
    """In a process that does not check types: JAX fills a state with descriptions, which are no arrays."""
    done = subprocess.run([sys.executable, "-c", LOWERS], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_rows_of_a_resumed_epoch_are_cut_at_the_same_places():
    feed = Feed(order, 2, parallel.data_mesh(), DATA, steps_per_call=1)
    whole = [rows["index"] for _, rows in feed.chunks(1)(4, 0)]
    (rest,) = [rows["index"] for _, rows in feed.chunks(1)(4, 1)]
    np.testing.assert_array_equal(rest, whole[1])
    streamed = Feed(order, 2, parallel.data_mesh(), {}, stream=lambda each: iter(each), scan=False)
    for (_, rows), index in zip(streamed.chunks(1)(4, 0), whole, strict=True):
        np.testing.assert_array_equal(rows["index"], index[0])


def test_the_form_of_the_loop_follows_the_meshs_platform_and_not_this_processes(monkeypatch):
    kernel, mesh = {"w": jnp.zeros((3, 3, 1, 2))}, parallel.data_mesh()
    assert not chooses_scan("auto", kernel, mesh)
    monkeypatch.setattr(parallel, "platform", lambda mesh: "tpu")
    assert chooses_scan("auto", kernel, mesh)

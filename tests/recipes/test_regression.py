"""Recipes for numbers: what is weighed against what, and that a target which is not known is never read."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.regression import LOSSES, network
from kdjax.recipes import regression
from kdjax.teachers.live import live
from kdjax.teachers.stored import cached
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import train_step
from kdjax.types import BadInput

STUDENT, TEACHER = network((3,)), network((4,), dropout=0.5)


@pytest.fixture
def rows(key):
    """Six rows: two targets known, three not (NaN, as a table has them), and a row of padding that repeats one."""
    numbers = np.random.default_rng(0).normal(size=(2, 6, 1)).astype(np.float32)
    return {
        "inputs": jax.random.normal(key, (6, 10)),
        "target": jnp.asarray(numbers[0]).at[2:].set(jnp.nan),
        "teacher_logits": jnp.asarray(numbers[1]),
        "label": jnp.array([0, 0, -1, -1, -1, -1]),
        "mask": jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
    }


@pytest.fixture
def state(key):
    params, _ = jax.jit(TEACHER.init)(jax.random.key(9))
    hparams = {"learning_rate": 0.1, "alpha": 0.3}
    return create_state(STUDENT, unit_rate(optax.sgd(1.0)), key, hparams=hparams, frozen={"params": params})


def recipe(name):
    return regression.distill(STUDENT, cached(), LOSSES[name], needs_targets=name == "teacher_bounded")


def said(state, rows):
    """The student's numbers, in float64."""
    answers = STUDENT.apply(variables(state), rows["inputs"], train=False, key=None)[0].logits
    return np.asarray(answers, np.float64)[:, 0]


def test_from_targets_alone(key, rows, state):
    losses, (_, metrics, _) = regression.supervised(STUDENT)(state.params, state, rows, key)
    square = (said(state, rows)[:2] - np.asarray(rows["target"])[:2, 0]) ** 2
    np.testing.assert_allclose(losses, [*square, 0, 0, 0, 0], rtol=1e-5)
    assert isinstance(metrics["mse"], tuple)
    np.testing.assert_array_equal(metrics["mse"][1], [1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_alpha_of_the_teacher_and_the_rest_of_the_known_targets(key, rows, state, name):
    losses, (_, metrics, _) = recipe(name)(state.params, state, rows, key)
    z, v, y = said(state, rows), *(np.asarray(rows[name], np.float64)[:, 0] for name in ("teacher_logits", "target"))
    off, size = np.nan_to_num(z - y), np.abs(z - v)
    soft = {
        "mse": size**2,
        "huber": np.where(size <= 1, size**2 / 2, size - 0.5),
        "teacher_bounded": np.where(np.abs(off) > np.abs(np.nan_to_num(v - y, nan=np.inf)), off**2, 0),
    }[name]
    np.testing.assert_allclose(losses, 0.3 * soft + 0.7 * off**2, rtol=1e-4, atol=1e-7)
    assert isinstance(metrics["distillation"], tuple)
    assert metrics["distillation"][1].sum() == (2 if name == "teacher_bounded" else 6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_stands_in_place_of_an_unknown_target_changes_nothing(rows, state, name):
    step = jax.jit(train_step(recipe(name), unit_rate(optax.sgd(1.0))))
    hidden, sums = step(state, rows)
    filled, _ = step(state, {**rows, "target": rows["target"].at[2:].set(1e6)})
    for a, b, before in zip(*map(jax.tree.leaves, (hidden.params, filled.params, state.params)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
        assert (a != before).any()
    assert float(sums["mse"][1]) == 2


def test_a_known_target_that_is_nan_shows(key, rows, state):
    """It becomes the loss, which the loop refuses, and not a silent zero."""
    for loss_fn in (regression.supervised(STUDENT), *map(recipe, sorted(LOSSES))):
        losses, _ = loss_fn(state.params, state, {**rows, "target": rows["target"].at[0].set(jnp.nan)}, key)
        np.testing.assert_array_equal(np.isnan(losses), [True] + [False] * 5)


def test_a_live_teacher_is_the_cached_one_and_gets_no_gradient(key, rows, state):
    numbers = TEACHER.apply(state.frozen, rows["inputs"], train=False, key=None)[0].logits
    alive = regression.distill(STUDENT, live(TEACHER.apply), LOSSES["mse"])
    losses, _ = alive(state.params, state, rows, key)
    again, _ = recipe("mse")(state.params, state, {**rows, "teacher_logits": numbers}, key)
    np.testing.assert_allclose(losses, again, rtol=1e-6)
    slope = jax.grad(lambda frozen: alive(state.params, state.replace(frozen=frozen), rows, key)[0].sum())(state.frozen)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope))


def test_a_batch_that_does_not_fit_is_refused(key, rows, state):
    loss_fn = recipe("mse")
    with pytest.raises(BadInput, match=r"\['inputs', 'label'.*accepted is one with target"):
        loss_fn(state.params, state, {k: v for k, v in rows.items() if k != "target"}, key)
    with pytest.raises(BadInput, match=r"student has shape \(6, 1\) and target \(6, 2\)"):
        loss_fn(state.params, state, {**rows, "target": jnp.zeros((6, 2))}, key)


def test_every_loss_on_numbers_can_be_typed():
    assert sorted(LOSSES) == ["huber", "mse", "teacher_bounded"]

"""Losses on numbers."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import regression
from kdjax.types import BadInput

LOSSES = [regression.mse, regression.huber, regression.teacher_bounded]
STUDENT, TEACHER, TARGETS = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(3, 4, 3)) * 2)


def gradient(loss, student, **kwargs):
    return jax.grad(lambda s: loss(s, TEACHER, targets=TARGETS, **kwargs).sum())(student)


@pytest.mark.parametrize("loss", LOSSES)
def test_student_equal_to_teacher_pays_nothing(loss):
    np.testing.assert_array_equal(loss(TEACHER, TEACHER, targets=TARGETS), jnp.zeros(4))
    assert (loss(TEACHER + 3 * jnp.sign(TEACHER - TARGETS), TEACHER, targets=TARGETS) > 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_left_out_change_nothing(loss):
    where, dirty = jnp.array([1.0, 0.0, 1.0, 1.0]), STUDENT.at[1].set(jnp.nan)
    everywhere, masked = loss(STUDENT, TEACHER, targets=TARGETS), loss(dirty, TEACHER, targets=TARGETS, where=where)
    assert jnp.isnan(loss(dirty, TEACHER, targets=TARGETS)[1]), "without a mask NaN must be seen"
    np.testing.assert_array_equal(masked, everywhere.at[1].set(0))
    expected = gradient(loss, STUDENT).at[1].set(0)
    np.testing.assert_array_equal(gradient(loss, dirty, where=where), expected)
    assert expected.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_jit_and_halves_and_float64(loss):
    call = functools.partial(loss, targets=TARGETS)
    value = call(STUDENT, TEACHER)
    np.testing.assert_allclose(jax.jit(call)(STUDENT, TEACHER), value, rtol=1e-6)
    halves = STUDENT.astype(jnp.bfloat16)
    np.testing.assert_array_equal(call(halves, TEACHER), call(halves.astype(jnp.float32), TEACHER))
    with jax.enable_x64(True):
        double = loss(*(jnp.asarray(np.asarray(x), jnp.float64) for x in (STUDENT, TEACHER)), targets=TARGETS)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(value, np.asarray(double), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_message_names_both_shapes(loss):
    with pytest.raises(BadInput, match=r"student has shape \(4, 3\) and teacher \(4, 1\)"):
        inspect.unwrap(loss)(STUDENT, TEACHER[:, :1], targets=TARGETS)


@pytest.mark.parametrize("repeats", [1, 7])
@pytest.mark.parametrize(("loss", "expected"), [(LOSSES[0], 5.0), (LOSSES[1], 1.5), (LOSSES[2], 5.0)])
def test_value_by_hand_whatever_the_number_of_dims(loss, expected, repeats):
    """Differences (3, -1): (9 + 1)/2; (1·(3 - ½) + ½)/2; a perfect teacher bounds at 0, so the whole error is due."""
    student = jnp.tile(jnp.array([[3.0, -1.0]]), (1, repeats))
    teacher = jnp.zeros_like(student)
    np.testing.assert_allclose(loss(student, teacher, targets=teacher), [expected], rtol=1e-6)


def test_huber_is_half_the_square_inside_and_straight_outside():
    student = jnp.array([[0.5], [2.0], [-5.0]])
    teacher = jnp.zeros_like(student)
    value, slope = jax.vmap(jax.value_and_grad(lambda s: regression.huber(s[None], teacher[:1], delta=2.0)[0]))(student)
    np.testing.assert_allclose(value, [0.125, 2.0, 8.0])  # ½·¼; ½·4; 2(5 - 1)
    np.testing.assert_allclose(slope[:, 0], [0.5, 2.0, -2.0])


def test_teacher_bound_and_margin():
    """Errors of the student 1 and of the teacher 4: free until the margin is above 3."""
    student, teacher, targets = jnp.array([[1.0]]), jnp.array([[2.0]]), jnp.array([[0.0]])
    for margin, expected in [(0.0, 0.0), (3.0, 0.0), (3.1, 1.0)]:
        value = regression.teacher_bounded(student, teacher, targets=targets, margin=margin)
        np.testing.assert_array_equal(value, [expected])


def test_teacher_bound_draws_to_the_target_and_not_to_the_teacher():
    slope = jax.grad(lambda s: regression.teacher_bounded(s, jnp.array([[2.0]]), targets=jnp.array([[0.0]]))[0])
    assert slope(jnp.array([[3.0]])) == 6.0  # 2·(3 - 0), not 2·(3 - 2)


def test_bad_input_is_named():
    with pytest.raises(BadInput, match=r"targets=None.*\[batch, dims\]"):
        regression.teacher_bounded(STUDENT, TEACHER)
    with pytest.raises(BadInput, match=r"student has shape \(4, 3\) and targets \(4, 2\)"):
        inspect.unwrap(regression.teacher_bounded)(STUDENT, TEACHER, targets=TARGETS[:, :2])
    with pytest.raises(BadInput, match=r"delta=0\.0; accepted: a number above 0"):
        regression.huber(STUDENT, TEACHER, delta=0.0)

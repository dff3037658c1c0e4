"""What cutting logits short keeps, and what it does to the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes.distill import distill
from kdjax.teachers import top_k
from kdjax.teachers.stored import cached, cached_top_k
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state
from kdjax.types import BadInput

ROWS, CLASSES = 7, 6
LOGITS = (np.random.default_rng(0).normal(size=(ROWS, CLASSES)) * 3).astype(np.float32)


def again(logits, k):
    return np.asarray(top_k.expand(*top_k.shorten(jnp.asarray(logits), k), logits.shape[-1]))


def by_hand(v, k):
    """One row, float64."""
    kept = set(np.argsort(-v)[:k].tolist())
    even = np.log(sum(np.exp(x) for c, x in enumerate(v) if c not in kept) / (len(v) - k))
    return np.array([x if c in kept else even for c, x in enumerate(v)])


def softmax(v, temperature=1.0):
    p = np.exp(np.asarray(v, np.float64) / temperature)
    return p / p.sum(-1, keepdims=True)


def test_all_classes_give_the_logits_back_bit_for_bit():
    for logits in (LOGITS, np.array([[1e4, -1e4, -1e9, 0, 3, 3]], np.float32)):
        assert again(logits, CLASSES).tobytes() == logits.tobytes()
    np.testing.assert_allclose(again(LOGITS, CLASSES - 1), LOGITS, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_what_the_formula_says(k):
    np.testing.assert_allclose(again(LOGITS, k), [by_hand(v.astype(np.float64), k) for v in LOGITS], rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_what_is_exact_and_which_way_the_rest_errs(k):
    kept = np.argsort(-LOGITS, axis=1)[:, :k]

    def heads(temperature):
        full, short = softmax(LOGITS, temperature), softmax(again(LOGITS, k), temperature)
        return [np.take_along_axis(p, kept, axis=1) for p in (full, short)]

    full, short = heads(1.0)
    np.testing.assert_allclose(short, full, rtol=1e-5)
    np.testing.assert_allclose(1 - short.sum(1), 1 - full.sum(1), rtol=1e-4)
    full, short = heads(4.0)
    assert (short < full).all()
    full, short = heads(0.5)
    assert (short > full).all()
    assert (again(LOGITS, k).argmax(1) == LOGITS.argmax(1)).all()


def test_extreme_logits_stay_finite():
    extreme = np.array([[1e4, -1e4, -1e4, -1e4], [-1e9, 2, -1e9, -1e9], [0, 0, 0, 0]], np.float32)
    for k in (1, 2, 3):
        assert np.isfinite(again(extreme, k)).all()
    assert (again(extreme, 2)[2] == 0).all()


def test_axes_in_front_are_free_and_jit_changes_nothing():
    both = np.stack([LOGITS, -LOGITS], axis=1)  # [N, T, K]
    np.testing.assert_array_equal(again(both, 2), np.stack([again(LOGITS, 2), again(-LOGITS, 2)], axis=1))
    jitted = jax.jit(lambda v: top_k.expand(*top_k.shorten(v, 2), CLASSES))
    np.testing.assert_allclose(jitted(LOGITS), again(LOGITS, 2), rtol=1e-6)


@pytest.mark.parametrize("k", [0, CLASSES + 1])
def test_a_number_out_of_range_is_refused(k):
    with pytest.raises(BadInput, match=rf"k={k}; accepted: 1 to 6"):
        top_k.shorten(jnp.asarray(LOGITS), k)
    with pytest.raises(BadInput, match="num_classes=2 for 3 classes kept"):
        top_k.expand(*top_k.shorten(jnp.asarray(LOGITS), 3), 2)


def test_a_student_learns_the_same_from_all_k_as_from_the_logits(key):
    student = create("mlp", num_classes=CLASSES, image_shape=(2, 2, 1), hidden=(3,))
    hparams = {"learning_rate": 0.1, "alpha": 0.9, "temperature": 4.0}
    state = create_state(student, unit_rate(optax.sgd(1.0)), key, hparams=hparams)
    rows = {
        "inputs": jax.random.uniform(key, (ROWS, 2, 2, 1)),
        "label": jnp.arange(ROWS) % CLASSES,
        "mask": jnp.ones(ROWS),
        "teacher_logits": LOGITS,
    }

    def learn(teacher, k):
        names = ("teacher_values", "teacher_classes", "teacher_rest")
        short = dict(zip(names, top_k.shorten(jnp.asarray(LOGITS), k), strict=True))
        loss_fn = distill(student, teacher, response.kl)
        losses, (_, metrics, _) = loss_fn(state.params, state, {**rows, **short}, key)
        return losses, metrics["agreement"]

    losses, agreement = learn(cached(), CLASSES)
    np.testing.assert_array_equal(learn(cached_top_k(CLASSES), CLASSES)[0], losses)
    shorter, agreement_of_shorter = learn(cached_top_k(CLASSES), 1)
    assert (shorter != losses).all()
    np.testing.assert_array_equal(agreement_of_shorter, agreement)
    several = {
        f"teacher_{n}": jnp.stack([x, x], axis=1)
        for n, x in zip(("values", "classes", "rest"), top_k.shorten(jnp.asarray(LOGITS), 2), strict=True)
    }
    assert cached_top_k(CLASSES)(None, several).logits.shape == (2, ROWS, CLASSES)

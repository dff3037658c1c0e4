"""Every recipe in float64 mode: a step from float32 weights ends in float32, where it ends without that mode."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import models
from kdjax.attacks import named
from kdjax.losses import response
from kdjax.recipes import distill, mutual, regression, supervised
from kdjax.recipes.lesson import lesson
from kdjax.teachers.live import live
from kdjax.training.state import create_state
from kdjax.training.step import train_step

SHAPE = {"num_classes": 3, "image_shape": (4, 4, 1)}
STUDENT, TEACHER = (models.create("mlp", **SHAPE, hidden=(width,)) for width in (4, 5))
RNG = np.random.default_rng(0)
BATCH = {
    "inputs": RNG.random((6, 4, 4, 1), np.float32),
    "label": np.array([0, 1, 2, 2, 1, -1], np.int32),
    "mask": np.array([1, 1, 1, 1, 1, 0], np.float32),
    "index": np.arange(6, dtype=np.int32),
    "target": RNG.normal(size=(6, 3)).astype(np.float32),
}
TX = optax.sgd(0.1)


def taught():
    params, state = jax.jit(TEACHER.init)(jax.random.key(7))
    return {"params": params, **state}


def expression(text):
    made = lesson(text, STUDENT, TEACHER, examples=12, batch_size=6, steps=10)
    return made.model, made.loss_fn, made.hparams, made.frozen(taught(), lambda: np.arange(12) % 3)


def cohort():
    both = mutual.alike(STUDENT, 2).model
    return both, mutual.mutual(both), {"weight": 1.0, "temperature": 2.0}, None


RECIPES = {
    "supervised": lambda: (STUDENT, supervised(STUDENT), {}, None),
    "attacked": lambda: (STUDENT, supervised(STUDENT, attack=named.pgd(0.1, steps=2)), {}, None),
    "distill": lambda: (
        STUDENT, distill(STUDENT, live(TEACHER.apply), response.kl), {"temperature": 4.0, "alpha": 0.9}, taught(),
    ),
    "answers, layers, relations": lambda: expression(
        "0.1*labels + linear(1, 0.5)*response.kl(temperature=cosine(4, 1)) + feature.hint(hidden1)"
        " + relation.rkd_distance"
    ),
    "memory": lambda: expression("labels + contrastive.crd(negatives=4) + contrastive.queue"),
    "mutual": cohort,
    "regression": lambda: (STUDENT, regression.supervised(STUDENT), {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_in_float64_mode_is_the_step(name):
    model, loss_fn, hparams, frozen = RECIPES[name]()
    state = create_state(model, TX, jax.random.key(0), hparams=hparams, frozen=frozen)
    plain, metrics = jax.jit(train_step(loss_fn, TX))(state, BATCH)
    with jax.enable_x64(True):
        wide, wide_metrics = jax.jit(train_step(loss_fn, TX))(state, BATCH)
    kept = lambda s: (s.params, s.model_state, s.memory, s.opt_state)  # noqa: E731
    for a, b in zip(jax.tree.leaves(kept(plain)), jax.tree.leaves(kept(wide)), strict=True):
        assert a.dtype == b.dtype
    # A random start draws other numbers in float64 mode.
    if name not in ("attacked", "memory"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), kept(plain), kept(wide))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), metrics, wide_metrics)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(wide.params))

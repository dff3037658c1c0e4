"""Recipes: what is weighed against what, where gradients stop, and that a teacher is never in training mode."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes._batch import agreement, correct
from kdjax.recipes.comparisons import LOSSES, names
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.teachers.live import live
from kdjax.teachers.stored import cached
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, initializer, variables
from kdjax.training.step import train_step
from kdjax.types import Outputs

SHAPE = {"num_classes": 4, "image_shape": (4, 4, 1)}
STUDENT = create("mlp", **SHAPE, hidden=(5,))
TEACHER = create("mlp", **SHAPE, hidden=(7,), dropout=0.5)
BEGIN, TAUGHT = initializer(STUDENT), jax.jit(TEACHER.init)


@pytest.fixture
def rows(key):
    return {
        "inputs": jax.random.uniform(key, (6, 4, 4, 1)),
        "label": jnp.array([0, 1, 2, 3, -1, -1]),
        "mask": jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
    }


def make(key, alpha=0.3, temperature=2.0, tx=None):
    params, model_state = TAUGHT(jax.random.key(9))
    hparams = {"learning_rate": 0.1, "alpha": alpha, "temperature": temperature}
    return create_state(
        STUDENT, tx or unit_rate(optax.sgd(1.0)), key, hparams=hparams, frozen={"params": params, **model_state},
        init=BEGIN,
    )  # fmt: skip


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_is_alpha_of_the_teacher_and_the_rest_of_the_labels(key, rows, alpha):
    state = make(key, alpha)
    losses, (_, metrics, _) = distill(STUDENT, live(TEACHER.apply), response.kl)(state.params, state, rows, key)
    z = STUDENT.apply(variables(state), rows["inputs"], train=True, key=key)[0].logits
    v = TEACHER.apply(state.frozen, rows["inputs"], train=False, key=None)[0].logits
    p, q = jax.nn.softmax(v / 2), jax.nn.softmax(z / 2)
    soft = 4 * jnp.sum(p * jnp.log(p / q), -1)
    hard = jnp.where(
        rows["label"] >= 0, -jnp.take_along_axis(jax.nn.log_softmax(z), rows["label"][:, None], 1)[:, 0], 0
    )
    real = rows["mask"] > 0
    np.testing.assert_allclose(losses[real], (alpha * soft + (1 - alpha) * hard)[real], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["distillation"][real], soft[real], rtol=1e-4, atol=1e-6)


def test_a_live_and_a_cached_teacher_are_the_same(key, rows):
    state = make(key)
    said = TEACHER.apply(state.frozen, rows["inputs"], train=False, key=None)[0].logits
    sides = (live(TEACHER.apply), rows), (cached(), {**rows, "teacher_logits": said})
    a, b = (
        jax.jit(train_step(distill(STUDENT, teacher, response.kl), unit_rate(optax.sgd(1.0))))(state, batch)[0]
        for teacher, batch in sides
    )
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_the_teacher_is_in_evaluation_mode_and_gets_no_gradient(key, rows):
    modes = []

    def watched(variables, image, *, train, key):
        modes.append((train, key))
        return TEACHER.apply(variables, image, train=train, key=key)

    state = make(key)
    recipe = distill(STUDENT, live(watched), response.kl)
    grads = jax.grad(lambda frozen: recipe(state.params, state.replace(frozen=frozen), rows, key)[0].sum())(
        state.frozen
    )
    assert modes == [(False, None)]
    assert all(not np.any(g) for g in jax.tree.leaves(grads))


def test_the_student_does_get_a_gradient_and_the_teacher_stays_as_it_was(key, rows):
    state = make(key)
    new, _ = train_step(distill(STUDENT, live(TEACHER.apply), response.kl), unit_rate(optax.sgd(1.0)))(state, rows)
    assert not np.array_equal(new.params["student"]["dense1"]["kernel"], state.params["student"]["dense1"]["kernel"])
    assert all(x is y for x, y in zip(jax.tree.leaves(new.frozen), jax.tree.leaves(state.frozen), strict=True))


def test_a_teacher_is_an_argument_and_not_a_constant_of_the_program(key, rows):
    state = make(key)
    step = train_step(distill(STUDENT, live(TEACHER.apply), response.kl), unit_rate(optax.sgd(1.0)))
    assert not jax.make_jaxpr(step)(state, rows).consts


def test_unlabelled_examples_teach_nothing_without_a_teacher(key, rows):
    state = make(key)
    nobody = {**rows, "label": jnp.full(6, -1)}
    grads = jax.jit(jax.grad(lambda p: supervised(STUDENT)(p, state, nobody, key)[0].sum()))
    assert all(not np.any(g) for g in jax.tree.leaves(grads(state.params)))


@pytest.mark.parametrize("name", names("response"))
def test_every_loss_that_can_be_named_trains(key, rows, name):
    state = make(key, alpha=1.0, tx=unit_rate(optax.adam(1.0)))
    step = jax.jit(
        train_step(distill(STUDENT, live(TEACHER.apply), LOSSES.functions[name]), unit_rate(optax.adam(1.0)))
    )
    first = None
    for _ in range(60):
        state, metrics = step(state.replace(hparams={**state.hparams, "learning_rate": jnp.float32(0.02)}), rows)
        first = metrics["distillation"][0] if first is None else first
    assert np.isfinite(metrics["distillation"][0])
    assert metrics["distillation"][0] < first


def test_augmentation_uses_a_key_of_its_own_and_only_in_training(key, rows):
    seen = []

    def augment(k, image, mask):
        seen.append(k)
        return 1 - image

    def apply(variables, image, *, train, key, mask=None):
        seen.append(key)
        return Outputs(image.reshape(len(image), -1)[:, :4] * variables["params"][None]), {}

    state = make(key)
    losses, _ = supervised(STUDENT._replace(apply=apply), augment=augment)({"student": jnp.ones(4)}, state, rows, key)
    expected = response.cross_entropy(1 - rows["inputs"].reshape(6, -1)[:, :4], rows["label"])
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert not np.array_equal(jax.random.key_data(seen[0]), jax.random.key_data(seen[1]))


def test_traced_hyper_parameters_vmap_as_a_loop_does(key, rows):
    state, step = make(key), train_step(distill(STUDENT, live(TEACHER.apply), response.kl), unit_rate(optax.sgd(1.0)))
    temperatures = jnp.array([1.0, 4.0, 20.0])

    def run(temperature):
        return step(state.replace(hparams={**state.hparams, "temperature": temperature}), rows)[0].params

    together, alone = jax.jit(jax.vmap(run))(temperatures), jax.jit(run)
    for i, t in enumerate(temperatures):
        for x, y in zip(jax.tree.leaves(alone(t)), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-5, atol=1e-6)


def test_agreement_is_a_number_only_between_answers():
    said = jnp.array([[1.0, 2.0], [3.0, 1.0], [jnp.nan, 1.0], [-jnp.inf, -jnp.inf]])
    np.testing.assert_array_equal(correct(said, jnp.array([1, 1, 0, 0])), [1, 0, np.nan, np.nan])
    good = jnp.array([[0.0, 5.0]] * 4)
    for a, b in ((said, good), (good, said)):
        np.testing.assert_array_equal(agreement(a, b), [1, 0, np.nan, np.nan])

"""Several teachers: however they are run they say the same, and one student loss follows one of them or twenty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.ensembles import pools
from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes.distill import distill
from kdjax.spec import Names
from kdjax.teachers.live import Teacher, live
from kdjax.teachers.several import stack, stacked, together
from kdjax.teachers.stored import cached
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state
from kdjax.types import BadInput, Outputs

SHAPE = {"num_classes": 4, "image_shape": (4, 4, 1)}
STUDENT = create("mlp", **SHAPE, hidden=(5,))
TEACHER = create("mlp", **SHAPE, hidden=(7,))
WIDE = create("mlp", **SHAPE, hidden=(9, 6))
NAMES = ("a", "c", "b")  # not in the order of the alphabet, which a dict's leaves have


def made(model, seed):
    params, model_state = model.init(jax.random.key(seed))
    return {"params": params, **model_state}


WEIGHTS = [made(TEACHER, seed) for seed in (1, 2, 3)]


@pytest.fixture
def rows(key):
    return {
        "inputs": jax.random.uniform(key, (6, 4, 4, 1)),
        "label": jnp.array([0, 1, 2, 3, -1, -1]),
        "mask": jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
        "domain": jnp.array([0, 1, 2, 0, 1, -1]),
    }


def state_of(key, frozen=None):
    hparams = {"learning_rate": 0.1, "alpha": 0.7, "temperature": 2.0}
    return create_state(STUDENT, unit_rate(optax.sgd(1.0)), key, hparams=hparams, frozen=frozen)


def loop(rows):
    return jnp.stack([live(TEACHER.apply)(w, rows).logits for w in WEIGHTS])


def test_stacked_looped_together_and_cached_say_the_same(rows):
    want = loop(rows)
    ways = {
        "stacked": stacked(TEACHER.apply)(stack(WEIGHTS), rows),
        "together": together(dict.fromkeys(NAMES, TEACHER.apply))(dict(zip(NAMES, WEIGHTS, strict=True)), rows),
        "cached": cached()(None, {**rows, "teacher_logits": jnp.moveaxis(want, 0, 1)}),
    }
    for way, outputs in ways.items():
        np.testing.assert_allclose(outputs.logits, want, rtol=1e-6, atol=1e-6, err_msg=way)
    features = ways["stacked"].features
    for name, value in ways["together"].features.items():
        teacher, _, feature = name.partition("/")
        np.testing.assert_allclose(value, features[feature][NAMES.index(teacher)], rtol=1e-6, atol=1e-6)
    assert len(ways["together"].features) == 3 * len(features) > 0


def test_the_three_ways_cost_the_student_alike(key, rows):
    follow = pools.resolve("mean_probability + confidence_aware")
    ways = [
        (stacked(TEACHER.apply), stack(WEIGHTS), rows),
        (together(dict.fromkeys(NAMES, TEACHER.apply)), dict(zip(NAMES, WEIGHTS, strict=True)), rows),
        (cached(), None, {**rows, "teacher_logits": jnp.moveaxis(loop(rows), 0, 1)}),
    ]
    recipes = [distill(STUDENT, teacher, response.kl, ensemble=follow) for teacher, _, _ in ways]

    @jax.jit
    def losses(given):
        state = state_of(key)
        return [
            recipe(state.params, state.replace(frozen=frozen), batch, key)[0]
            for recipe, (frozen, batch) in zip(recipes, given, strict=True)
        ]

    first, *others = losses([(frozen, batch) for _, frozen, batch in ways])
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-6)


def test_architectures_mix(rows):
    teacher = together({"wide": WIDE.apply, "narrow": TEACHER.apply})
    said = teacher({"narrow": WEIGHTS[0], "wide": made(WIDE, 5)}, rows).logits
    np.testing.assert_allclose(said[0], live(WIDE.apply)(made(WIDE, 5), rows).logits, rtol=1e-6)
    np.testing.assert_allclose(said[1], live(TEACHER.apply)(WEIGHTS[0], rows).logits, rtol=1e-6)


@pytest.mark.parametrize("teachers", [1, 20])
def test_copies_of_one_teacher_teach_as_it_does_alone(key, rows, teachers):
    alone = distill(STUDENT, live(TEACHER.apply), response.kl)
    crowd = distill(STUDENT, stacked(TEACHER.apply), response.kl, ensemble=pools.resolve("mean_probability + ebkd"))
    state, many = state_of(key, WEIGHTS[0]), state_of(key, stack([WEIGHTS[0]] * teachers))
    want, (_, one, _) = jax.jit(alone)(state.params, state, rows, key)
    got, (_, several, _) = jax.jit(crowd)(many.params, many, rows, key)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert one.keys() == several.keys()


def test_gradients_stop_at_the_teachers_and_at_what_weighs_them(key, rows):
    """The student's slope is that of a fixed target, though the gate looks at the student."""
    follow = pools.resolve("mean_probability + gradient_space")
    recipe = distill(STUDENT, stacked(TEACHER.apply), response.kl, ensemble=follow)
    state, real = state_of(key, stack(WEIGHTS)), rows["mask"] > 0

    def total(recipe, params, frozen):
        return jnp.where(real, recipe(params, state.replace(frozen=frozen), rows, key)[0], 0).sum()

    @jax.jit
    def slopes(params, frozen):
        z = STUDENT.apply({"params": params["student"]}, rows["inputs"], train=True, key=key)[0].logits
        target = follow(stacked(TEACHER.apply)(frozen, rows).logits, student=z, temperature=2.0)
        plain = distill(STUDENT, Teacher(lambda *_: Outputs(target)), response.kl)
        found = jax.grad(total, argnums=(1, 2))(recipe, params, frozen)
        return *found, jax.grad(total, argnums=1)(plain, params, frozen)

    found, to_frozen, want = slopes(state.params, state.frozen)
    assert not any(np.any(g) for g in jax.tree.leaves(to_frozen))
    for x, y in zip(*map(jax.tree.leaves, (found, want)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_an_example_without_a_vote_keeps_its_label_and_its_place(key, rows):
    sure = jnp.array([9.0, 0, 0, 0])
    said = jnp.zeros((3, 6, 4)).at[:, :2].set(sure[None, None])
    state, answer = state_of(key), Teacher(lambda *_: Outputs(said))

    def run(threshold):
        follow = pools.resolve(Names().vote(threshold=threshold))  # a traced number
        return distill(STUDENT, answer, response.kl, ensemble=follow)(state.params, state, rows, key)

    losses, (_, metrics, _) = jax.jit(run)(0.9)
    soft, weight = metrics["distillation"]
    hard, _ = metrics["cross_entropy"]
    p = float(jax.nn.softmax(sure)[0])
    np.testing.assert_allclose(weight, [3 * p, 3 * p, 0, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(losses, 0.7 * weight * soft + 0.3 * hard, rtol=1e-6)
    np.testing.assert_allclose(losses[2], 0.3 * hard[2], rtol=1e-6)
    assert hard[2] > 0


def test_one_and_several_teachers_are_told_apart(key, rows):
    state = state_of(key, stack(WEIGHTS))
    with pytest.raises(BadInput, match=r"shape \(3, 6, 4\): accepted are one teacher's"):
        distill(STUDENT, stacked(TEACHER.apply), response.kl)(state.params, state, rows, key)
    one = distill(STUDENT, live(TEACHER.apply), response.kl, ensemble=pools.resolve("mean_logit"))
    with pytest.raises(BadInput, match=r"shape \(6, 4\): accepted are one teacher's"):
        one(state.params, state.replace(frozen=WEIGHTS[0]), rows, key)


def test_what_cannot_stand_together_is_refused(rows):
    with pytest.raises(BadInput, match="accepted are those of one or more teachers of one architecture"):
        stack([WEIGHTS[0], made(WIDE, 1)])
    with pytest.raises(BadInput, match="one or more teachers"):
        stack([])
    with pytest.raises(BadInput, match="applies="):
        together({})
    with pytest.raises(BadInput, match=r"frozen has \['a'\]: accepted are the variables of \['a', 'b'\]"):
        together({"a": TEACHER.apply, "b": TEACHER.apply})({"a": WEIGHTS[0]}, rows)
    few = create("mlp", num_classes=3, image_shape=(4, 4, 1), hidden=(5,))
    with pytest.raises(BadInput, match=r"teachers answer .*\(6, 3\)"):
        together({"a": TEACHER.apply, "b": few.apply})({"a": WEIGHTS[0], "b": made(few, 0)}, rows)

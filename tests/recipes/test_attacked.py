"""Adversarial training: what is attacked, against which model, and what no gradient may pass through."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.attacks import named, objectives, starts, victims
from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes._batch import spread_rows
from kdjax.recipes.supervised import supervised
from kdjax.training import parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, initializer, variables
from kdjax.training.step import many_steps, train_step
from kdjax.types import BadInput

SHAPE = {"num_classes": 4, "image_shape": (4, 4, 1)}
MODEL = create("mlp", **SHAPE, hidden=(8,))
DROPPED = create("mlp", **SHAPE, hidden=(8,), dropout=0.5)
BEGIN = {model: initializer(model) for model in (MODEL, DROPPED)}
FGSM = named.fgsm(0.1)
RANDOM = named.fgsm_rs(0.2)


@pytest.fixture
def rows(key):
    return {
        "inputs": jax.random.uniform(key, (8, 4, 4, 1)),
        "label": jnp.array([0, 1, 2, 3, 0, 1, 2, -1]),
        "mask": jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
    }


def make(key, model=MODEL):
    return create_state(model, unit_rate(optax.sgd(1.0)), key, hparams={"learning_rate": 0.1}, init=BEGIN[model])


def by_hand(model, state, rows, epsilon, direction=jnp.sign):
    def loss(image):
        logits = model.apply(variables(state), image, train=False, key=None)[0].logits
        return jnp.sum(-jax.nn.log_softmax(logits)[jnp.arange(8), rows["label"]])

    return jnp.clip(rows["inputs"] + epsilon * direction(jax.jit(jax.grad(loss))(rows["inputs"])), 0, 1)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_it_is_fgsm_and_then_the_loss(key, rows, share):
    state = make(key)
    losses, (_, metrics, _) = jax.jit(supervised(MODEL, attack=FGSM, attacked=share))(state.params, state, rows, key)
    at = np.array([0, 1, 0, 1, 0, 1, 0, 0]) if share < 1 else np.array([1, 1, 1, 1, 1, 1, 0, 0])
    image = jnp.where(at[:, None, None, None] > 0, by_hand(MODEL, state, rows, 0.1), rows["inputs"])
    logits = MODEL.apply(variables(state), image, train=True, key=key)[0].logits
    np.testing.assert_allclose(losses, response.cross_entropy(logits, rows["label"]), rtol=1e-5)
    right = logits.argmax(-1) == rows["label"]
    np.testing.assert_array_equal(metrics["attacked_accuracy"][0] * at, right * at)
    np.testing.assert_array_equal(metrics["attacked_accuracy"][1], at)


def test_the_attacked_model_is_in_evaluation_mode_and_the_trained_one_is_not(key, rows):
    seen = []

    def watched(variables, image, *, train, key, mask=None):
        seen.append((train, image))
        return DROPPED.apply(variables, image, train=train, key=key, mask=mask)

    state = make(key, DROPPED)
    supervised(MODEL._replace(apply=watched), attack=FGSM)(state.params, state, rows, key)
    assert [train for train, _ in seen][-1] is True
    assert not any(train for train, _ in seen[:-1])
    expected = by_hand(DROPPED, state, rows, 0.1)[:6]
    np.testing.assert_allclose(seen[-1][1][:6], expected, atol=1e-6)


def to_length_one(slope):
    return slope / jnp.sqrt(jnp.sum(slope**2, axis=(1, 2, 3), keepdims=True))


# The sign of a slope has no slope of its own, and would hide what passes through it; the length has one.
@pytest.mark.parametrize(
    ("attack", "epsilon", "direction"),
    [(FGSM, 0.1, jnp.sign), (named.pgd(0.5, steps=1, norm="l2"), 0.5, to_length_one)],
    ids=["sign", "length"],
)
def test_no_gradient_passes_through_the_attack(attack, epsilon, direction, key, rows):
    state, recipe = make(key), supervised(MODEL, attack=attack)
    found = jax.jit(jax.grad(lambda p: recipe(p, state, rows, key)[0].sum()))(state.params)
    attacked = by_hand(MODEL, state, rows, epsilon, direction)
    image = jnp.where(jnp.arange(8)[:, None, None, None] < 6, attacked, rows["inputs"])
    clean = supervised(MODEL)
    expected = jax.jit(jax.grad(lambda p: clean(p, state, {**rows, "inputs": image}, key)[0].sum()))(state.params)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_a_loop_of_many_steps_trains_as_well_although_no_gradient_exists_through_it(key, rows):
    state = make(key)
    step = jax.jit(train_step(supervised(MODEL, attack=named.pgd(0.1, steps=3)), unit_rate(optax.sgd(1.0))))
    new, metrics = step(state, rows)
    assert not same(new.params, state.params)
    assert metrics["attacked_accuracy"][1] == 6


def test_nobody_attacked_is_clean_training_bit_for_bit(key, rows):
    state = make(key, DROPPED)
    a, _ = jax.jit(train_step(supervised(DROPPED), unit_rate(optax.sgd(1.0))))(state, rows)
    b, metrics = jax.jit(train_step(supervised(DROPPED, attack=RANDOM, attacked=0.0), unit_rate(optax.sgd(1.0))))(
        state, rows
    )
    assert same(a.params, b.params)
    assert metrics["attacked_accuracy"][1] == 0


def test_every_example_draws_its_own_start_and_every_step_another(key, rows):
    seen = []

    def watched(variables, image, *, train, key, mask=None):
        if train:
            seen.append(image)
        return MODEL.apply(variables, image, train=train, key=key, mask=mask)

    state, alike = make(key), {**rows, "inputs": jnp.full((8, 4, 4, 1), 0.5), "label": jnp.zeros(8, int)}
    recipe = supervised(
        MODEL._replace(apply=watched), attack=named.pgd(0.2, steps=1, step_size=1e-9, random_start=True)
    )
    recipe(state.params, state, alike, key)
    recipe(state.params, state, alike, jax.random.key(5))
    assert len({np.asarray(x).tobytes() for x in seen[0][:6]}) == 6
    assert not np.array_equal(seen[0][0], seen[1][0])


def test_jit_and_pmap_attack_the_same_rows(key, rows):
    state, data = make(key), {}
    recipe = supervised(MODEL, attack=FGSM, attacked=0.5)

    def build(axis_name):
        return many_steps(train_step(recipe, unit_rate(optax.sgd(1.0)), axis_name=axis_name))

    results = []
    for kind in ("jit", "pmap"):
        mesh = parallel.data_mesh()
        run = parallel.wrap(kind, build, mesh, batch_axis=1)
        own = parallel.replicate(state, mesh)
        results.append(run(own, data, {name: np.stack([np.asarray(v)] * 2) for name, v in rows.items()}))
    for x, y in zip(jax.tree.leaves(results[0][0].params), jax.tree.leaves(results[1][0].params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert float(np.sum(results[0][1]["attacked_accuracy"][1])) == 6


def test_a_share_is_spread_evenly_and_exact():
    assert [int(spread_rows(s, 100).sum()) for s in (0.0, 0.29, 0.3, 0.5, 1.0)] == [0, 29, 30, 50, 100]
    halves = spread_rows(0.5, 100)
    assert halves[:50].sum() == halves[50:].sum()


def test_another_objective_and_a_bad_share(key, rows):
    state = make(key)
    recipe = supervised(MODEL, attack=FGSM, objective=objectives.margin)
    assert np.isfinite(recipe(state.params, state, rows, key)[0]).all()
    with pytest.raises(BadInput, match=r"attacked=1\.5: accepted"):
        supervised(MODEL, attack=FGSM, attacked=1.5)


def test_fgsm_rs_looks_at_its_start_where_it_was_drawn_and_returns_an_image(key, rows):
    """Wong et al.: delta uniform in the ball and not clipped to the box; clipped to both after the step."""
    state, epsilon = make(key), 0.3
    victim = victims.white_box(MODEL.apply, variables(state))
    image, keys = jnp.round(rows["inputs"]), jax.random.split(key, 8)
    found = named.fgsm_rs(epsilon)(objectives.cross_entropy(victim, rows["label"]), keys, image).image
    # The loop draws its start from the key folded with its number of steps.
    draw = starts.uniform("linf", epsilon)
    begun = jax.jit(jax.vmap(lambda key, one: draw(jax.random.fold_in(key, 1), one)))(keys, image)
    assert float(begun.min()) < -0.2
    assert float(begun.max()) > 1.2
    slope = jax.jit(jax.grad(lambda x: response.cross_entropy(victim(x), rows["label"]).sum()))(begun)
    delta = jnp.clip(begun + 1.25 * epsilon * jnp.sign(slope) - image, -epsilon, epsilon)
    np.testing.assert_allclose(found, jnp.clip(image + delta, 0, 1), atol=1e-6)
    between = np.abs(np.asarray(found - image)[np.asarray(slope) != 0])
    assert np.mean((between > 0.01) & (between < epsilon - 0.01)) > 0.1  # not only the ends

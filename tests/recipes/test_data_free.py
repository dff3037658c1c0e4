"""A generator climbs where only values are known, each network moves its own numbers, and a budget is cut exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.models.create import create
from kdjax.models.generator import generator, pixels
from kdjax.recipes.data_free import GENERATOR, centred, dfme, forward_differences, rounds
from kdjax.training.state import create_state, variables
from kdjax.training.step import step_of
from kdjax.types import STUDENT, BadInput
from tests.training.conftest import same

SHAPE, SIZE, CLASSES = (4, 4, 1), 16, 3
STUDIED = create("mlp", num_classes=CLASSES, image_shape=SHAPE, hidden=(5,))
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(SIZE, CLASSES)).astype(np.float32)


def victim(images):
    """Logarithmic probabilities of a linear network."""
    flat = images.reshape(*images.shape[: images.ndim - 3], SIZE)
    return jax.nn.log_softmax(flat @ WEIGHTS)


@pytest.fixture(scope="module")
def game():
    return dfme(STUDIED, directions=SIZE, step=1e-3, student_steps=2, generator_steps=2, noise=4, width=2)


@pytest.fixture(scope="module")
def played(game):
    """The updates of a game, a state, and how to make a round that the victim has answered."""
    updates, make = game.updates(optax.sgd(0.1), lambda count: 1.0), jax.jit(game.make)
    state = create_state(game.networks, updates, jax.random.key(3), hparams=game.hparams)

    def answered(real):
        asked = np.ones((6, game.questions), np.float32)
        asked[real:] = 0
        batch = make(state, asked)
        return {**batch, "answers": victim(batch["inputs"])}

    return updates, state, answered


def test_an_estimate_along_every_axis_is_the_slope_of_a_linear_function_and_of_random_directions_the_mean_is():
    slope = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    axes = np.broadcast_to(np.eye(SIZE, dtype=np.float32).reshape(1, SIZE, *SHAPE), (2, SIZE, *SHAPE))

    def value(directions, step):
        rise = (slope[:, None] * directions).sum((2, 3, 4)) * step
        return jnp.concatenate([jnp.full((2, 1), 0.5), 0.5 + rise], 1)

    np.testing.assert_allclose(forward_differences(value(axes, 0.25), axes, 0.25), slope, atol=1e-5)
    drawn = RNG.normal(size=(2, 20000, *SHAPE)).astype(np.float32)
    drawn /= np.sqrt((drawn**2).sum((2, 3, 4), keepdims=True))
    np.testing.assert_allclose(forward_differences(value(drawn, 0.25), drawn, 0.25), slope, atol=0.15)


def test_the_generator_climbs_along_the_slope_of_its_disagreement_with_a_linear_victim(played):
    """With a direction along every axis the estimate is the slope, which differentiation finds: of images masked out,
    of nothing but the generator, of the outputs before they are squashed."""
    updates, state, answered = played
    batch = answered(4)
    model = generator(SHAPE, noise=4, width=2)
    noise, mask, at = batch["noise"][:, 1], batch["mask"], 2 + 1 + SIZE  # of its second turn

    def loss(params):
        said, _ = model.apply({"params": params, **state.model_state[GENERATOR]}, noise, train=True, key=None,
                              mask=mask)  # fmt: skip
        images = pixels(said.logits)
        own = STUDIED.apply(variables(state), images, train=False, key=None)[0].logits
        apart = jnp.abs(own - centred(jax.nn.log_softmax(images.reshape(-1, SIZE) @ WEIGHTS))).mean(-1)
        return -(apart * mask).sum() / mask.sum(), images

    (value, images), wanted = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params[GENERATOR])
    axes = jnp.broadcast_to(jnp.eye(SIZE).reshape(1, 1, SIZE, *SHAPE), (6, 2, SIZE, *SHAPE))
    raw = jnp.arctanh(2 * images.astype(jnp.float32) - 1)
    near = pixels(jnp.concatenate([raw[:, None], raw[:, None] + 1e-3 * axes[:, 0]], 1))
    np.testing.assert_allclose(batch["inputs"][:, at], images, atol=1e-5)  # the round shows what it asks about
    length = jnp.sqrt((batch["directions"] ** 2).sum((3, 4, 5)))
    np.testing.assert_allclose(length, 1, atol=1e-5)
    questions = jnp.concatenate([batch["inputs"][:, :at], near], 1)
    batch = {**batch, "inputs": questions, "directions": axes, "answers": victim(questions)}
    climbing = updates[1]
    shown = climbing.sees(batch, 1)

    def mean(params):
        losses, aux = climbing.loss_fn({**state.params, GENERATOR: params}, state, shown, jax.random.key(0))
        return (losses * shown["mask"]).sum() / shown["mask"].sum(), aux

    (found, _), slope = jax.jit(jax.value_and_grad(mean, has_aux=True))(state.params[GENERATOR])
    assert found == pytest.approx(float(value), rel=1e-4)
    for layer in ("dense", "conv1", "conv2", "conv3"):
        kernel, right = np.asarray(slope[layer]["kernel"]), np.asarray(wanted[layer]["kernel"])
        assert np.abs(right).max() > 1e-3
        np.testing.assert_allclose(kernel, right, atol=0.03 * np.abs(right).max())


def test_each_network_moves_its_own_numbers_alone_as_often_as_it_is_said_and_learns_of_its_own_turn(game, played):
    updates, begun, answered = played
    batch = answered(6)
    assert game.questions == 2 + 2 * (1 + SIZE)
    for number, (mine, other) in enumerate([(STUDENT, GENERATOR), (GENERATOR, STUDENT)]):
        state = begun.replace(opt_state=begun.opt_state[number : number + 1])
        moved, metrics = jax.jit(step_of(updates[number : number + 1]))(state, batch)
        assert same(moved.params[other], state.params[other])
        assert not same(moved.params[mine], state.params[mine])
        assert same(moved.model_state[GENERATOR], state.model_state[GENERATOR]) == (mine == STUDENT)
        if mine == STUDENT:
            assert "student/distillation" in metrics
            learned = moved.params[STUDENT]
    assert int(moved.opt_state[0][0].count) == 2
    assert metrics["generator/disagreement"][0] > 0
    # Its two updates are plain descent on the first two questions, one after another.
    hand = begun.params[STUDENT]
    for turn in range(2):

        def loss(params, turn=turn):
            own = STUDIED.apply({"params": params}, batch["inputs"][:, turn], train=True, key=None)[0].logits
            return jnp.abs(own - centred(batch["answers"][:, turn])).mean()

        hand = jax.tree.map(lambda p, g: p - 0.1 * g, hand, jax.grad(loss)(hand))
    for one, other in zip(jax.tree.leaves(learned), jax.tree.leaves(hand), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"directions": 3, "student_steps": 2, "generator_steps": 2}])
def test_rounds_ask_a_budget_to_the_last_question(settings):
    game = dfme(STUDIED, **settings)
    for budget in (game.questions, game.questions + 5, 500, 7 * 64 - 1, 7 * 64, 10001):
        cut = rounds(budget, 64, game, multiple_of=4)
        asked = [cut.asked(number) for number in range(cut.count)]
        assert sum(one.sum() for one in asked) == budget
        assert [cut.before(n) for n in range(cut.count)] == [sum(o.sum() for o in asked[:n]) for n in range(cut.count)]
        assert {one.shape for one in asked} == {(cut.height, game.questions)}
        assert cut.height % 4 == 0
        for one in asked:
            turns = one[:, : game.turns]
            points = one[:, game.turns :].reshape(len(one), settings.get("generator_steps", 1), -1)
            assert (turns.sum(0) > 0).all()
            assert (points == points[:, :1, :1]).all()  # an image without all its neighbours has no slope
            assert points.sum() / game.questions <= 64
    with pytest.raises(BadInput, match=f"accepted: {game.questions} or more"):
        rounds(game.questions - 1, 64, game)


@pytest.mark.parametrize("wrong", [{"directions": 0}, {"step": 0.0}, {"student_steps": 0}, {"noise": 0}])
def test_settings_that_disarm_it_are_refused(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))}="):
        dfme(STUDIED, **wrong)


def test_images_of_any_shape_are_in_the_unit_interval():
    model = generator((6, 9, 3), noise=5, width=3)
    params, state = jax.jit(model.init)(jax.random.key(0))
    noise = 10 * jax.random.normal(jax.random.key(1), (4, 5))
    said, moved = jax.jit(lambda given: model.apply(given, noise, train=True, key=None))({"params": params, **state})
    images = pixels(said.logits)
    assert images.shape == (4, 6, 9, 3)
    assert images.min() >= 0
    assert images.max() <= 1
    assert float(images.std()) > 0.1
    assert not same(moved, state)

"""Views by name, and the keys that make them again outside of training."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.data import augment, views
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.teachers.live import live
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state
from kdjax.training.step import train_step
from kdjax.types import BadInput, Model, Outputs


@pytest.mark.parametrize("name", views.AUGMENTATIONS.names())
def test_every_name_is_a_function_that_gives_views(key, name):
    pixels = inspect.signature(getattr(augment, name)).parameters.get("pixels")
    image = jax.random.uniform(key, (6, 9, 9, 2))
    expected = getattr(augment, name)(key, image)
    assert expected.shape == image.shape
    for text in {name, f"{name}({pixels.default})" if pixels else name, f"{name}()"}:
        np.testing.assert_array_equal(views.resolve(text)(key, image), expected)


def test_names_are_all_functions_of_key_and_image():
    public = {n for n, f in inspect.getmembers(augment, inspect.isfunction) if f.__module__ == augment.__name__}
    assert set(views.AUGMENTATIONS.names()) == {n for n in public if n[0] != "_"} - {"in_turn"}


def test_a_list_is_applied_in_turn_and_mixing_can_be_left_out(key):
    image = jax.random.uniform(key, (6, 9, 9, 2))
    both = views.resolve("random_shift(1), mixup")
    expected = augment.in_turn(lambda k, x, mask: augment.random_shift(k, x, pixels=1), augment.mixup)(key, image)
    np.testing.assert_array_equal(both(key, image), expected)
    alone = views.resolve("random_shift(pixels=1), mixup", mixing=False)
    np.testing.assert_array_equal(alone(key, image), augment.random_shift(key, image, pixels=1))
    assert views.resolve("") is None
    assert views.resolve("mixup", mixing=False) is None
    assert not views.mixes("")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crop_and_flop", "read the name crop_and_flop; accepted: crop_and_flip, .*did you mean crop_and_flip"),
        ("in_turn", "read the name in_turn; accepted: crop_and_flip, mixup"),
        ("random_flip, ,", "augment, column 14: read ','"),
        ("random_flip + mixup", "accepted: NAME or NAME.*commas between several"),
        ("random_shift:2", "column 13: read ':2'"),
        ("random_shift(two)", "pixels=two of random_shift; accepted: a whole number"),
        ("random_shift(1.5)", "pixels=1.5 of random_shift; accepted: a whole number"),
        ("random_shift(grid(1, 2))", "pixels=grid.* of random_shift; accepted: one value"),
        ("random_shift(mask=2)", "mask=2, which is given with each call; accepted: random_shift takes pixels"),
        ("random_flip, random_flip(2)", "column 14: read 1 arguments of random_flip; accepted: .*takes no arguments"),
    ],
)
def test_texts_that_name_no_views(text, words):
    with pytest.raises(BadInput, match=words):
        views.resolve(text)


def test_pixels_that_no_image_has_are_refused(key):
    with pytest.raises(BadInput, match="pixels=-1; accepted: 0 to 8"):
        views.resolve("random_shift(-1)")(key, jnp.ones((2, 9, 9, 1)))


def test_keys_depend_on_run_example_and_visit_alone(key):
    index, epoch = jnp.array([4, 9, 4, 0]), jnp.array([0, 0, 1, 4])
    found = jax.random.key_data(views.keys(key, index, epoch))
    assert len({tuple(row) for row in found.tolist()}) == 4
    np.testing.assert_array_equal(jax.random.key_data(views.keys(key, index[::-1], epoch[::-1])), found[::-1])
    assert not np.any(jax.random.key_data(views.keys(jax.random.key(1), index, epoch)) == found)
    # Apart from the keys that steps make of the same run's: a dropout mask must not repeat a shift.
    steps = [jax.random.fold_in(jax.random.fold_in(key, step), i) for step in range(5) for i in range(10)]
    assert not {tuple(np.asarray(jax.random.key_data(k))) for k in steps} & {tuple(row) for row in found.tolist()}


class Watched:
    """A linear model that keeps every image that it is shown."""

    def __init__(self):
        self.seen: list[np.ndarray] = []
        self.model = Model(lambda key: ({"w": 0.1 * jax.random.normal(key, (81, 3))}, {}), self.apply)

    def apply(self, variables, image, *, train, key, mask=None):
        self.seen.append(np.asarray(image))
        return Outputs(image.reshape(len(image), -1) @ variables["params"]["w"]), {}


def test_student_and_teacher_see_one_view_which_can_be_made_again(key):
    image = jax.random.uniform(key, (8, 9, 9, 1))
    student, teacher = Watched(), Watched()
    frozen = {"params": teacher.model.init(key)[0]}
    hparams = {"learning_rate": 0.1, "temperature": 4.0, "alpha": 0.9}
    tx = unit_rate(optax.sgd(1.0))
    state = create_state(student.model, tx, key, hparams=hparams, frozen=frozen)
    recipe = distill(student.model, live(teacher.model.apply), response.kl, augment=augment.crop_and_flip)

    def step(state, index, epoch):
        rows = {"inputs": image[index], "label": jnp.zeros(len(index), jnp.int32)}
        given = {"mask": jnp.ones(len(index)), "index": jnp.asarray(index), "epoch": jnp.asarray(epoch)}
        state = train_step(recipe, tx)(state, {**rows, **given})[0]  # not compiled, so that images are numbers
        again = augment.crop_and_flip(views.keys(state.key, jnp.asarray(index), jnp.asarray(epoch)), image[index])
        np.testing.assert_array_equal(student.seen[-1], teacher.seen[-1])
        np.testing.assert_array_equal(student.seen[-1], again)
        return state, student.seen[-1]

    first = np.array([5, 2, 7, 0], np.int32)
    state, before = step(state, first, np.zeros(4, np.int32))
    state, later = step(state, first[::-1], np.array([1, 0, 1, 1], np.int32))
    # In another step and row: the same view for the same visit, another for another.
    np.testing.assert_array_equal(later[1], before[2])
    assert not np.array_equal(later[0], before[3])
    assert not np.array_equal(before, image[first])


def test_views_do_not_take_the_models_randomness(key):
    batch = {"inputs": jnp.ones((2, 9, 9, 1)), "label": jnp.zeros(2, jnp.int32), "mask": jnp.ones(2)}
    numbers = {"index": jnp.arange(2), "epoch": jnp.zeros(2, jnp.int32)}
    drawn = []

    def apply(variables, image, *, train, key, mask=None):
        drawn.append(jax.random.key_data(key))
        return Outputs(jnp.zeros((2, 3)) + variables["params"]), {}

    model = Model(lambda key: (jnp.zeros(()), {}), apply)
    state = create_state(model, optax.sgd(1.0), key)
    for view in (None, augment.random_flip):
        supervised(model, augment=view)(state.params, state, {**batch, **numbers}, key)
    np.testing.assert_array_equal(*drawn)

"""Padding does not exist: n real rows padded to m are the n rows, for networks, losses, wrappers and attacks."""

import importlib
import inspect
import pkgutil
import typing
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from kdjax import models, recipes
from kdjax.attacks import named
from kdjax.data import augment
from kdjax.ensembles import pools
from kdjax.losses import response
from kdjax.losses.regression import mse
from kdjax.models.connect import connectors
from kdjax.models.from_nnx import from_nnx
from kdjax.models.generator import generator
from kdjax.models.resnet import ResNet
from kdjax.models.zoo import FIXED, MODELS
from kdjax.recipes import comparisons, confidence, data_free, distill, learn, mutual, peer, regression
from kdjax.recipes.lesson import lesson
from kdjax.recipes.supervised import supervised
from kdjax.teachers.live import Teacher, live
from kdjax.teachers.several import together as stacked
from kdjax.teachers.stored import cached
from kdjax.training import parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.stacked import Member, create_states, together
from kdjax.training.state import create_state, initializer, separate
from kdjax.training.step import many_steps, one_step, train_step
from kdjax.types import STUDENT, BadInput, LossFn, Model, Networks, Outputs, Recipe

REAL, PADDED = 5, 8
SHAPE = {"num_classes": 3, "image_shape": (8, 8, 1)}


class Users(nn.Module):
    """A network that knows nothing of masks."""

    @nn.compact
    def __call__(self, image, *, train):
        x = nn.Dense(4)(image.reshape(len(image), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return Outputs(nn.Dense(3)(x), {"embedding": x})


SMALL = models.from_linen(Users(), SHAPE["image_shape"])
TINY = models.from_linen(ResNet(num_classes=3, blocks=(1,), widths=(8,), stem=4), SHAPE["image_shape"])
"""A block of every kind of its layers: what networks make of masks, for what is learned by them `SMALL` is enough."""


def batch(side: int = 8, channels: int = 1) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    rows = {
        "inputs": rng.uniform(size=(REAL, side, side, channels)).astype(np.float32),
        "label": rng.integers(0, 3, REAL).astype(np.int32),
        "mask": np.ones(REAL, np.float32),
        "index": np.arange(REAL, dtype=np.int32),
        "epoch": np.zeros(REAL, np.int32),
    }
    return {name: jnp.asarray(column) for name, column in rows.items()}


def padded(rows, to: int = PADDED):
    """What the pipeline makes of a last batch: copies of an example, masked."""
    more = {name: jnp.concatenate([x, jnp.repeat(x[:1], to - len(x), axis=0)]) for name, x in rows.items()}
    return {**more, "mask": (jnp.arange(to) < len(rows["mask"])).astype(jnp.float32)}


def close(a, b, rtol=2e-4, atol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


TX = unit_rate(optax.sgd(1.0))
HPARAMS = {"learning_rate": 0.5, "temperature": 4.0, "alpha": 0.9, "weight": 1.0, confidence.WEIGHT: 0.5}


@cache
def program(loss_fn, wrapper):
    """A step, compiled once for all tests that take it."""
    if wrapper is None:
        step = jax.jit(train_step(loss_fn, TX))
        return lambda state, rows: step(state, rows)
    mesh = parallel.data_mesh()
    run = parallel.wrap(wrapper, lambda axis: one_step(train_step(loss_fn, TX, axis_name=axis)), mesh)
    return lambda state, rows: run(
        parallel.place(state, mesh, wrapper), {}, {n: np.asarray(x) for n, x in rows.items()}
    )


BEGIN = {}
"""How the networks begin that a loss function trains, compiled once."""


def stepped(model, loss_fn, rows, wrapper=None, frozen=None):
    """Parameters, state and metrics after one step of SGD."""
    hparams = {**getattr(loss_fn, "hparams", {}), **HPARAMS}
    init = BEGIN.setdefault(loss_fn, initializer(model))
    state = create_state(model, TX, jax.random.key(0), hparams=hparams, frozen=frozen or {}, init=init)
    new, metrics = program(loss_fn, wrapper)(state, rows)
    return new.params, new.model_state, metrics


SMALLEST = {
    "mlp": 8, "cnn": 8, "fast_cnn": 8, "resnet8": 8, "wrn_16_1": 8, "vgg8": 16, "lenet": 28,
    "mobilenet_v2_half": 32, "shufflenet_v1": 8, "shufflenet_v2": 8, "fitnet_student": 28, "vit_tiny": 8,
}  # fmt: skip
"""A network of every kind, and the side of images that it takes."""


def kind(name):
    return getattr(MODELS[name], "func", MODELS[name])


def test_every_kind_of_network_is_tried():
    assert {kind(name) for name in MODELS} == {kind(name) for name in SMALLEST}


@pytest.mark.parametrize(("name", "side"), SMALLEST.items())
def test_every_networks_answers_and_running_statistics(name, side):
    """Forward alone: the slopes of padding are those of what it enters, and it enters nothing.

    Two rows twice over have the means and variances of the two, so that one program tells what two rows are alone.
    """
    hidden = {} if name in FIXED else {"hidden": (4, 4)}
    model = models.create(name, num_classes=3, image_shape=(side, side, 1), **hidden)
    image = np.random.default_rng(0).uniform(size=(3, side, side, 1)).astype(np.float32)
    rng = np.random.default_rng(2)
    numbers = lambda leaf: np.abs(rng.normal(0.1, 0.1, leaf.shape)).astype(leaf.dtype)  # noqa: E731
    params, state = jax.tree.map(numbers, jax.eval_shape(model.init, jax.random.key(0)))

    @jax.jit
    def answers(image, mask):
        said, new = model.apply({"params": params, **state}, image, train=True, key=jax.random.key(1), mask=mask)
        return said.logits[:2], new

    alone, own = answers(image[[0, 1, 0, 1]], np.ones(4, np.float32))
    among, theirs = answers(image[[0, 1, 2, 2]], np.array([1, 1, 0, 0], np.float32))
    close(alone, among, rtol=1e-3, atol=1e-3 * float(np.abs(alone).max()))
    close(own, theirs, rtol=1e-3, atol=1e-4)


plain = cache(supervised)


@pytest.mark.parametrize("wrapper", ["jit", "pmap"])
@pytest.mark.parametrize("real", [1, 4, 5])
def test_an_update_through_batch_norm_on_any_number_of_devices(wrapper, real):
    """With 1 to 4 real rows of 8, the second of two devices holds padding alone."""
    rows = {name: x[:real] for name, x in batch().items()}
    loss_fn = plain(TINY)
    close(stepped(TINY, loss_fn, rows), stepped(TINY, loss_fn, padded(rows), wrapper=wrapper))


def test_every_losses_update():
    """Loss, gradient and running statistics of the student and of the connectors, each loss with weight 1 in turn."""
    teacher = models.create("cnn", **SHAPE, hidden=(4, 8))
    weights = jax.jit(teacher.init)(jax.random.key(7))
    at = {"feature.fsp": "(block1, block2)", "feature.review": "(block1, block2)"}
    names = [name for name in comparisons.names() if not comparisons.remembers(name)]
    calls = [f"{name}({at.get(name, 'block2' if name.startswith('feature.') else '')})" for name in names]
    student = models.from_linen(ResNet(num_classes=3, blocks=(1, 1), widths=(4, 8), stem=4), SHAPE["image_shape"])
    made = lesson(" + ".join(["0*labels", *(f"0*{call}" for call in calls)]), student, teacher)
    tx = unit_rate(optax.sgd(1.0))
    start = {"learning_rate": 0.5, **made.hparams}
    state = create_state(made.model, tx, jax.random.key(0), hparams=start, frozen={"params": weights[0], **weights[1]})
    mesh = parallel.data_mesh()
    alone = jax.jit(train_step(made.loss_fn, tx))
    by_device = parallel.wrap("pmap", lambda axis: one_step(train_step(made.loss_fn, tx, axis_name=axis)), mesh)
    places = [name for name in made.hparams if name.endswith(".weight")]
    assert len(places) == len(names) + 1
    rows, host = batch(), {name: np.asarray(x) for name, x in padded(batch()).items()}
    for weight in places:
        one = state.replace(hparams={**state.hparams, weight: jnp.float32(1)})
        copy = parallel.place(one, mesh, "pmap")
        found = alone(one, rows), by_device(copy, {}, host)
        before, after = (jax.device_get((new.params, new.model_state, metrics)) for new, metrics in found)
        close(before, after, rtol=2e-3, atol=2e-4)


@cache
def regressor(model):
    rows = {**batch(), "target": jnp.asarray(np.random.default_rng(1).normal(size=(REAL, 3)), jnp.float32)}
    return model, regression.supervised(model), rows


@cache
def regressed(model):
    rows = {
        **regressor(model)[2],
        "teacher_logits": jnp.asarray(np.random.default_rng(2).normal(size=(REAL, 3)), jnp.float32),
    }
    return model, regression.distill(model, cached(), mse), rows


@cache
def featured(model):
    names = ("one", "two")
    teachers = {name: models.create("mlp", **SHAPE, hidden=(4,)) for name in names}
    weights = {}
    for seed, (name, teacher) in enumerate(teachers.items()):
        params, state = jax.jit(teacher.init)(jax.random.key(seed))
        weights[name] = {"params": params, **state}
    said = stacked({name: teacher.apply for name, teacher in teachers.items()})
    whole = Model(model.init, lambda v, x, *, train, key: (said(v, {"inputs": x}), {}))
    links = {n: connectors.Link(("embedding",), (f"{n}/embedding",), connectors.Project()) for n in names}
    connected = connectors.connect(model, links, image_shape=(8, 8, 1), teacher=(whole, weights))
    recipe = confidence.distill_with_features(
        model, connected.pairs, said, response.kl, names=names,
        ensemble=pools.resolve("mean_probability + confidence_aware"),
    )  # fmt: skip
    return Networks({STUDENT: model.init, "connectors": connected.init}), recipe, batch(), weights


@cache
def climbing(model):
    maker = generator((8, 8, 1), noise=4, width=4)
    rng = np.random.default_rng(4)
    columns = {"noise": (4,), "directions": (1, 8, 8, 1), "inputs": (2, 8, 8, 1), "answers": (2, 3)}
    drawn = {name: jnp.asarray(rng.normal(size=(REAL, *sides)), jnp.float32) for name, sides in columns.items()}
    recipe = data_free.climb(model, maker, response.logit_l1, 10.0)  # far apart: rounding is not divided by a step
    return Networks({STUDENT: model.init, data_free.GENERATOR: maker.init}), recipe, {**batch(), **drawn}


@cache
def peers(model):
    cohort = mutual.alike(model, 2).model
    return cohort, mutual.mutual(cohort), batch()


@cache
def tutored(model):
    attack = "pgd(0.1, steps=1, objective=response.kl(student=attacked, teacher=peer(clean)))"
    return peer.peers(model, model), peer.peer_aid(model, model, attack=attack), batch()


@cache
def attacked(model):
    return model, supervised(model, attack=named.pgd(0.1, steps=2, random_start=False), attacked=0.5), batch()


@cache
def mixed(model):
    params, statistics = jax.jit(model.init)(jax.random.key(3))
    frozen = {"params": params, **statistics}
    recipe = distill(
        model, Teacher(lambda _, rows: live(model.apply)(frozen, rows)), response.kl,
        augment=augment.in_turn(augment.random_flip, augment.mixup),
    )  # fmt: skip
    return model, recipe, batch()


RECIPES = {
    regression.supervised: regressor, regression.distill: regressed, mutual.mutual: peers, peer.peer_aid: tutored,
    supervised: attacked, distill: mixed, confidence.distill_with_features: featured, data_free.climb: climbing,
}  # fmt: skip


def test_no_recipe_is_left_out():
    """Whatever returns a loss function; `learn` is what the losses are learned by."""
    found = set()
    for module in pkgutil.iter_modules(recipes.__path__, f"{recipes.__name__}."):
        for one in vars(importlib.import_module(module.name)).values():
            own = inspect.isfunction(one) and one.__module__ == module.name
            if own and typing.get_type_hints(one).get("return") in (LossFn, Recipe):
                found.add(one)
    assert found == {*RECIPES, learn}


@pytest.mark.parametrize("recipe", RECIPES.values())
@pytest.mark.parametrize("wrapper", ["jit", "pmap"])
def test_every_recipes_update(recipe, wrapper):
    model, loss_fn, rows, *frozen = recipe(SMALL)
    found = stepped(model, loss_fn, padded(rows), wrapper, *frozen)
    close(stepped(model, loss_fn, rows, None, *frozen), found, rtol=2e-3, atol=2e-4)


def test_members_of_a_population():
    model, tx = SMALL, unit_rate(optax.sgd(1.0))
    states = create_states(model, tx, [Member(seed, {"learning_rate": 0.5}) for seed in range(2)])
    run = together(many_steps(train_step(supervised(model), tx)), own_order=False)
    new = [
        run(*separate(states), jnp.array([True, True]), {}, {name: x[None] for name, x in rows.items()})[0]
        for rows in (batch(), padded(batch()))
    ]
    close(new[0]["params"], new[1]["params"])
    close(new[0]["model_state"], new[1]["model_state"])


class UsersNNX(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.norm = nnx.Linear(64, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, image):
        return self.norm(self.dense(image.reshape(len(image), -1)))


@pytest.mark.parametrize("model", [SMALL, from_nnx(UsersNNX)], ids=["linen", "nnx"])
@pytest.mark.parametrize("wrapper", ["jit", "pmap"])
def test_a_users_own_network(model, wrapper):
    loss_fn = plain(model)
    close(stepped(model, loss_fn, batch()), stepped(model, loss_fn, padded(batch()), wrapper=wrapper))


class Turned(nn.Module):
    @nn.compact
    def __call__(self, image, *, train):
        x = image.reshape(len(image) * 8, -1)
        return Outputs(nn.BatchNorm(use_running_average=not train)(x).reshape(len(image), -1))


def test_statistics_of_other_rows_than_the_batchs_are_refused():
    model = models.from_linen(Turned(), (8, 8, 1))
    with pytest.raises(BadInput, match="batch's axis first"):
        stepped(model, supervised(model), padded(batch()))


def test_mixup_mixes_real_images():
    rows = batch()
    keys = jax.random.split(jax.random.key(0), PADDED)
    alone = augment.mixup(keys[:REAL], rows["inputs"])
    among = augment.mixup(keys, padded(rows)["inputs"], padded(rows)["mask"])
    np.testing.assert_array_equal(alone, among[:REAL])

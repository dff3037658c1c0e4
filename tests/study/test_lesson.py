"""Losses on layers and relations inside a distillation: connectors, weights, schedules, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.losses import combine
from kdjax.models import create
from kdjax.models.connect import connectors
from kdjax.study import lesson, stages
from kdjax.teachers.live import live
from kdjax.training import parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import one_step, train_step
from kdjax.types import BadInput

SHAPE = {"num_classes": 3, "image_shape": (8, 8, 1)}
TEACHER = create.create("cnn", **SHAPE, hidden=(6, 6, 6))
STUDENT = create.create("cnn", **SHAPE, hidden=(6, 4, 6))
WEIGHTS = dict(zip(("params", "rest"), TEACHER.init(jax.random.key(7)), strict=True))
WEIGHTS = {"params": WEIGHTS["params"], **WEIGHTS["rest"]}
IMAGE = np.random.default_rng(0).uniform(size=(8, 8, 8, 1)).astype(np.float32)
BATCH = {
    "image": IMAGE,
    "label": np.array([0, 1, 2, 0, 1, -1, -1, 0], np.int32),
    "mask": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
}


def plan(loss, **flags):
    return lesson.plan(STUDENT, TEACHER, SHAPE, loss=loss, steps=10, **flags)


def stepped(made, axis_name=None, key=0):
    """The state before and after one step of SGD."""
    tx = unit_rate(optax.sgd(1.0))
    state = create_state(made.model, tx, jax.random.key(key), hparams={"learning_rate": 0.1, **made.hparams})
    state = state.replace(frozen=WEIGHTS)
    step = train_step(made.recipe(live(TEACHER.apply)), tx, axis_name=axis_name)
    return state, step


def test_every_loss_finds_its_layers_and_teaches_the_student():
    """One program of all losses, whose weights are 1 for one loss at a time."""
    names = combine.names("feature") + combine.names("relation")  # those with a memory: test_memories
    layers = {"feature": "@block1=block2", "relation": ""}
    texts = [n + ("@block1-block2" if n == "feature.fsp" else layers[n.partition(".")[0]]) for n in names]
    # As many channels as the teacher's, since FSP's matrices must.
    student = create.create("cnn", **SHAPE, hidden=(6, 6))
    made = lesson.plan(student, TEACHER, SHAPE, loss=",".join(["labels:0", *texts]), steps=10)
    state, step = stepped(made)
    step = jax.jit(step)
    weights = [name for name in made.hparams if name.startswith("weight/")]
    assert len(weights) == len(names) + 1
    for weight in weights:
        only = {**state.hparams, **{name: jnp.float32(name == weight) for name in weights}}
        new, metrics = step(state.replace(hparams=only), BATCH)
        assert np.isfinite(metrics[weight.removeprefix("weight/")][0]), weight
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params["student"], new.params["student"])
        # What the paraphraser learns it learns of the teacher alone.
        assert (max(jax.tree.leaves(moved)) > 0) == (weight != "weight/paraphraser@block1=block2"), weight


def test_the_student_of_a_connected_model_begins_and_answers_as_it_would_alone():
    made = plan("response.kl:1,feature.hint:1@block2=block3,feature.ab:1@block1")
    state, _ = stepped(made)
    params, _ = STUDENT.init(jax.random.split(jax.random.key(0))[0])
    own = made.own(variables(state))
    jax.tree.map(np.testing.assert_array_equal, own["params"], params)
    here = made.model.apply(variables(state), jnp.asarray(IMAGE), train=False, key=None)[0].logits
    there = STUDENT.apply(own, jnp.asarray(IMAGE), train=False, key=None)[0].logits
    np.testing.assert_array_equal(here, there)


def test_weights_and_schedules_are_those_of_the_flags():
    made = plan(
        "labels:0.5,response.kl:2,feature.hint:100@block2=block3",
        schedules="feature.hint=linear:0,temperature=linear:0.25",
        temperature=8.0,
    )
    assert made.hparams == {
        "temperature": 8.0,
        "alpha": 2.0,
        "label_weight": 0.5,
        "weight/feature.hint@block2=block3": 100.0,
    }
    state, step = stepped(made)
    for at, temperature, weight in ((0, 8.0, 100.0), (5, 5.0, 50.0), (10, 2.0, 0.0)):
        _, metrics = jax.jit(step)(state.replace(step=jnp.asarray(at, jnp.int32)), BATCH)
        mean = {name: float(s / c) for name, (s, c) in metrics.items()}
        known = float(metrics["cross_entropy"][1]) / float(metrics["loss"][1])
        whole = 2 * mean["distillation"] + 0.5 * known * mean["cross_entropy"]
        np.testing.assert_allclose(
            mean["loss"], whole + weight * mean["feature.hint@block2=block3"], rtol=1e-5, atol=1e-6
        )
        plain, same = stepped(plan("labels:0,response.kl:1", temperature=temperature))
        there = jax.jit(same)(plain, BATCH)[1]["distillation"]
        np.testing.assert_allclose(mean["distillation"], float(there[0] / there[1]), rtol=1e-3, atol=1e-6)


def test_relations_see_the_global_batch_on_any_number_of_devices():
    text = "labels:1,response.dist:1,relation.rkd_distance:5,relation.sp:3@block2=block3"
    mesh = parallel.data_mesh()
    results = []
    for wrapper in ("jit", "pmap"):
        made = plan(text)

        def make(axis_name, made=made):
            return one_step(stepped(made, axis_name)[1])

        state, _ = stepped(made)
        run = parallel.wrap(wrapper, make, mesh)
        new, metrics = run(parallel.replicate(state, mesh), {}, BATCH)
        results.append((new.params, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *results)


def test_no_gradient_reaches_the_teacher():
    made = plan("labels:1,response.kl:1,feature.hint:1@block2=block3")
    state, _ = stepped(made)

    def loss(frozen):
        recipe = made.recipe(live(TEACHER.apply))
        batch = {name: jnp.asarray(value) for name, value in BATCH.items()}
        return jnp.sum(recipe(state.params, state.replace(frozen=frozen), batch, jax.random.key(0))[0])

    assert not any(jnp.any(g != 0) for g in jax.tree.leaves(jax.grad(loss)(WEIGHTS)))


def test_copied_layers_are_the_teachers():
    made = plan("response.kl:1,feature.hint:1", layers="1=1,3=3")
    begin, names = stages.copies(made, WEIGHTS)
    assert names == ["conv1"]  # the third layers read from other widths
    state, _ = stepped(made)
    own = made.own(variables(begin(state)))
    np.testing.assert_array_equal(own["params"]["conv1"]["kernel"], WEIGHTS["params"]["conv1"]["kernel"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"loss": "feature.hint:1"}, "names no layer"),
        ({"loss": "feature.hint:1@block9"}, "no layer 'block9'; accepted: block1"),
        ({"loss": "feature.hint:1", "layers": "every:2"}, "layers='every:2'"),
        ({"loss": "response.kl:9"}, "labels:WEIGHT"),
        ({"loss": "response.kl", "schedules": "kl=linear:0"}, "nothing is called 'kl'"),
        ({"loss": "response.kl", "schedules": "temperature=warmup:0.1"}, "cannot be 0"),
        ({"loss": "response.kl", "schedules": "alpha=sometimes:1"}, "accepted is NAME"),
        ({"loss": "response.kl", "schedules": "alpha=linear:2"}, "ends above 1"),
        ({"loss": "response.kl", "schedules": "alpha=linear:0.5,response.kl=linear:0"}, "has a schedule already"),
        ({"loss": "labels:1,relation.sp:1", "schedules": "temperature=linear:0.5"}, "nothing is called 'temperature'"),
        ({"loss": "feature.hint:1,feature.hint:5@block1=block2", "layers": "1=2"}, "from the layer map as well"),
        ({"loss": "feature.fsp:1", "layers": "1=2"}, "feature.fsp stands between two layers"),
        ({"loss": "feature.fsp:1@block1-embedding=block2-embedding"}, "feature.fsp@block1-embedding.*lower has shape"),
        ({"loss": "contrastive.crd:1", "loss_args": "temperature=0", "examples": 9}, "contrastive.crd@.*temperature=0"),
        ({"loss": "feature.ofd:1@block1", "loss_args": "margin=-1"}, "feature.ofd.margin is found channel by channel"),
        ({"loss": "feature.vid:1@block1", "loss_args": "variance=2"}, "feature.vid.variance is found"),
        ({"loss": "relation.sp:1", "batch_size": 1}, "--batch_size=1: relation.sp compares.*accepted: from 2"),
        ({"loss": "relation.rkd_angle:1", "batch_size": 2}, "--batch_size=2: relation.rkd_angle.*accepted: from 3"),
    ],
)
def test_refused_before_training(flags, said):
    with pytest.raises(BadInput, match=said):
        plan(**flags)


def test_numbered_layers():
    assert connectors.numbered(["stem", "block10", "block2", "embedding"]) == ["block2", "block10"]
    assert connectors.numbered(["hidden1", "embedding"]) == ["hidden1"]

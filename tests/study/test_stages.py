"""Layer maps and two stages inside a distillation: what learns when, what is held, what is joined to one term."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.losses import feature
from kdjax.models import create
from kdjax.models.connect.factors import LEARNED
from kdjax.study import lesson, stages
from kdjax.teachers.live import live
from kdjax.training.state import create_state, variables
from kdjax.training.step import train_step
from kdjax.types import BadInput

SHAPE = {"num_classes": 3, "image_shape": (6, 6, 1)}
TEACHER = create.create("mlp", **SHAPE, hidden=(10, 9, 8, 8))
STUDENT = create.create("mlp", **SHAPE, hidden=(7, 6))
WEIGHTS = {"params": TEACHER.init(jax.random.key(7))[0]}
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.uniform(size=(8, 6, 6, 1)).astype(np.float32),
    "label": np.array([0, 1, 2, 0, 1, -1, -1, 0], np.int32),
    "mask": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
}
# Decay reaches every parameter, gradient or none.
TX = optax.chain(optax.add_decayed_weights(0.1), optax.scale(-1.0))


def plan(loss, **flags):
    return lesson.plan(STUDENT, TEACHER, SHAPE, loss=loss, steps=10, **flags)


def started(made, hparams):
    return create_state(made.model, TX, jax.random.key(0), hparams={"learning_rate": 0.1, **hparams})


def trained(made, state, steps=2):
    step = jax.jit(train_step(made.recipe(live(TEACHER.apply)), TX))
    for _ in range(steps):
        state, metrics = step(state.replace(frozen=WEIGHTS), BATCH)
    return state, metrics


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))


def test_a_paraphraser_learns_first_and_alone_and_then_stays():
    text, name = "labels:1,feature.ft:5@hidden1=hidden2", "feature.ft@hidden1=hidden2"
    first, second = plan(text), plan(text, second=True)
    hints = stages.hints_alone(first)
    assert hints[f"weight/{name}"] == hints["label_weight"] == hints["alpha"] == 0
    begun = started(first, hints)
    taught, metrics = trained(first, begun, 20)
    # One that was not taught but began so: the error must have come down.
    _, before = trained(first, begun, 1)
    error = "paraphraser@hidden1=hidden2"
    assert metrics[error][0] < before[error][0]
    paraphraser = taught.params["adapter"][name]["paraphraser"]
    assert not same(paraphraser, begun.params["adapter"][name]["paraphraser"])

    answers = stages.answers_alone(second)
    assert answers[f"weight/{name}"] == 5
    assert not any(weight.startswith("weight/paraphraser") for weight in answers)
    state = stages.after(taught)(started(second, answers))
    # Decay moved the student in the first stage; it begins anew all the same.
    assert not same(taught.params["student"], begun.params["student"])
    assert same(state.params["student"], begun.params["student"])
    assert same(state.model_state[LEARNED]["adapter"][name]["paraphraser"], paraphraser)
    end, metrics = trained(second, state)
    assert same(end.model_state[LEARNED]["adapter"][name]["paraphraser"], paraphraser)
    assert set(end.params["adapter"][name]) == {"translator"}
    assert not same(end.params["adapter"][name], state.params["adapter"][name])
    assert not same(end.params["student"], state.params["student"])
    assert np.isfinite(metrics[name][0])
    assert second.own(variables(end)).keys() == {"params"}


def test_a_first_stage_of_signs_then_labels_alone():
    """AB: the connector and the student learn in the first stage, and the second does not see layers."""
    text, weight = "labels:1,feature.ab:1@hidden1_pre=hidden2_pre", "weight/feature.ab@hidden1_pre=hidden2_pre"
    first, second = plan(text), plan(text, second=True)
    begun = started(first, stages.hints_alone(first))
    taught, _ = trained(first, begun)
    assert not same(taught.params["student"], begun.params["student"])
    answers = stages.answers_alone(second)
    assert (answers[weight], answers["label_weight"]) == (0, 1)
    state = stages.after(taught)(started(second, answers))
    assert same(state.params, taught.params)
    assert int(state.step) == 0
    # In the second stage it moves as if there were no such loss.
    alone = plan("labels:1,feature.hint:0@hidden1=hidden2")
    plain = started(alone, alone.hparams)
    plain = plain.replace(params={**plain.params, "student": taught.params["student"]})
    ours, theirs = trained(second, state)[0], trained(alone, plain)[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        ours.params["student"],
        theirs.params["student"],
    )


def test_hints_teach_in_the_first_stage_beside_a_paraphraser():
    text = "response.kl:1,feature.hint:1@hidden2=hidden4,feature.ft:5@hidden1=hidden2"
    first, second = plan(text), plan(text, second=True)
    begun = started(first, stages.hints_alone(first))
    taught = begun.replace(params=jax.tree.map(lambda x: x + 1, begun.params))
    state = stages.after(taught)(started(second, stages.answers_alone(second)))
    assert same(state.params["student"], taught.params["student"])
    hint = "feature.hint@hidden2=hidden4"
    assert same(state.params["adapter"][hint], taught.params["adapter"][hint])
    held = stages.answers_alone(second)
    assert (held[f"weight/{hint}"], held["weight/feature.ft@hidden1=hidden2"]) == (0, 5)


def test_knowledge_review_is_one_term_over_all_pairs_of_a_map_by_flag():
    made = plan("response.kl:1,feature.review:3", layers="every:2+embedding", layer_weights=(2.0,))
    name = "feature.review@hidden1_pre-hidden2_pre-embedding=hidden2_pre-hidden4_pre-embedding"
    assert {n: v for n, v in made.hparams.items() if n.startswith("weight/")} == {f"weight/{name}": 6.0}
    state = started(made, made.hparams)
    end, metrics = trained(made, state, 1)
    assert not same(end.params["adapter"][name], state.params["adapter"][name])
    assert not same(end.model_state["batch_stats"]["adapter"], state.model_state["batch_stats"]["adapter"])
    total = float(metrics[name][0] / metrics[name][1])
    pairs = recipe_pairs(made, state)[name]
    by_level = [np.mean(((s - t) ** 2)[:7]) for s, t in zip(*pairs, strict=True)]
    assert len(by_level) == 3
    np.testing.assert_allclose(total, sum(by_level), rtol=1e-4)
    with pytest.raises(BadInput, match=r"layer_weights=\(1.0, 2.0, 3.0\): feature.review fuses all pairs"):
        plan("feature.review:1", layers="every:2+embedding", layer_weights=(1.0, 2.0, 3.0))


def recipe_pairs(made, state):
    """What the losses of a plan compare, from the connectors that it holds."""
    said = TEACHER.apply(WEIGHTS, jnp.asarray(BATCH["image"]), train=False, key=None)[0]
    mask = jnp.asarray(BATCH["mask"])
    own = made.model.apply(variables(state), jnp.asarray(BATCH["image"]), train=True, key=None, mask=mask)[0]
    found, _ = made.recipe.keywords["pairs"](variables(state), own, said, train=True, mask=mask)
    return {name: tuple([np.asarray(x) for x in side] for side in pair[:2]) for name, pair in found.items()}


def test_stages_by_name_and_weights_of_each():
    made = plan("labels:1,feature.hint:10", layers="last+embedding+logits", layer_weights=(1.0, 0.5, 2.0, 0.1))
    weights = {name.removeprefix("weight/feature.hint@"): v for name, v in made.hparams.items() if "hint" in name}
    assert weights == {
        "hidden1=hidden3": 10.0,
        "hidden2=hidden4": 5.0,
        "embedding=embedding": 20.0,
        "logits=logits": 1.0,
    }
    state = started(made, made.hparams)
    _, metrics = trained(made, state, 1)
    image = jnp.asarray(BATCH["image"])
    ours, theirs = (
        model.apply(own, image, train=False, key=None)[0].logits
        for model, own in ((STUDENT, made.own(variables(state))), (TEACHER, WEIGHTS))
    )
    got = metrics["feature.hint@logits=logits"]
    np.testing.assert_allclose(got[0] / got[1], feature.hint(ours, theirs)[:7].mean(), rtol=1e-5)
    with pytest.raises(BadInput, match="layer_weights"):
        plan("feature.hint:10", layers="last+embedding", layer_weights=(1.0, 0.5))


def test_copied_blocks_come_with_their_averages():
    build = functools.partial(create.create, num_classes=3, image_shape=(32, 32, 3))
    student, teacher = build("vgg8"), build("vgg11")
    variables_of = lambda model: jax.eval_shape(model.init, jax.random.key(0))  # noqa: E731
    number = iter(range(10_000))
    fill = functools.partial(jax.tree.map, lambda x: jnp.full(x.shape, next(number), x.dtype))
    params, state = (fill(tree) for tree in variables_of(teacher))
    shape = {"num_classes": 3, "image_shape": (32, 32, 3)}
    # From 128 channels to 256 is the third convolution of both.
    made = lesson.plan(student, teacher, shape, loss="response.kl:1", steps=1, layers="1=1,3=3,5=8")
    begin, names = stages.copies(made, {"params": params, **state})
    assert sorted(names) == ["conv1", "conv3", "conv5", "norm1", "norm3", "norm5"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables_of(student))
    before = create_state(STUDENT, TX, jax.random.key(0), hparams={}).replace(params=zeros[0], model_state=zeros[1])
    after = begin(before)
    for m, g in ((1, 1), (3, 3), (5, 8)):
        assert same(after.params[f"conv{m}"], params[f"conv{g}"])
        assert same(after.model_state["batch_stats"][f"norm{m}"], state["batch_stats"][f"norm{g}"])
    assert same(after.model_state["batch_stats"]["norm2"], zeros[1]["batch_stats"]["norm2"])

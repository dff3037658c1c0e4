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
from kdjax.recipes.lesson import lesson
from kdjax.study import stages
from kdjax.training.optimizers import unit_rate
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
TX = unit_rate(optax.chain(optax.add_decayed_weights(0.1), optax.scale(-1.0)))


HINT, FACTORS = "feature.hint(hidden2, hidden4)", "feature.ft(hidden1, hidden2)"


def plan(loss, **flags):
    return lesson(loss, STUDENT, TEACHER, steps=10, **flags)


def started(made, hparams):
    return create_state(made.model, TX, jax.random.key(0), hparams={"learning_rate": 0.1, **hparams})


def trained(made, state, steps=2):
    step = jax.jit(train_step(made.loss_fn, TX))
    for _ in range(steps):
        state, metrics = step(state.replace(frozen=WEIGHTS), BATCH)
    return state, metrics


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))


def test_a_paraphraser_learns_first_and_alone_and_then_stays():
    text, name = f"labels + 5*{FACTORS}", FACTORS
    first, second = plan(text), plan(text, taught=True)
    hints = stages.hints_alone(first)
    assert hints == {"labels.weight": 0, f"{FACTORS}.weight": 0}
    begun = started(first, hints)
    taught, metrics = trained(first, begun, 20)
    # One that was not taught but began so: the error must have come down.
    _, before = trained(first, begun, 1)
    error = "paraphraser(hidden1, hidden2)"
    assert metrics[error][0] < before[error][0]
    paraphraser = taught.params["connectors"][name]["paraphraser"]
    assert not same(paraphraser, begun.params["connectors"][name]["paraphraser"])

    answers = stages.answers_alone(second)
    assert answers == {"labels.weight": 1, f"{FACTORS}.weight": 5}
    state = stages.after(first, taught)(started(second, answers))
    # Decay moved the student in the first stage; it begins anew all the same.
    assert not same(taught.params["student"], begun.params["student"])
    assert same(state.params["student"], begun.params["student"])
    assert same(state.model_state["connectors"][LEARNED][name]["paraphraser"], paraphraser)
    end, metrics = trained(second, state)
    assert error not in metrics
    assert same(end.model_state["connectors"][LEARNED][name]["paraphraser"], paraphraser)
    assert set(end.params["connectors"][name]) == {"translator"}
    assert not same(end.params["connectors"][name], state.params["connectors"][name])
    assert not same(end.params["student"], state.params["student"])
    assert np.isfinite(metrics[name][0])
    assert variables(end).keys() == {"params"}


def test_a_first_stage_of_signs_then_labels_alone():
    """AB: the connector and the student learn in the first stage, and the second does not see layers."""
    signs = "feature.ab(hidden1_pre, hidden2_pre)"
    first, second = plan(f"labels + {signs}"), plan(f"labels + {signs}", taught=True)
    hints = stages.hints_alone(first)
    assert (hints[f"{signs}.weight"], hints["labels.weight"]) == (1, 0)
    begun = started(first, hints)
    taught, _ = trained(first, begun)
    assert not same(taught.params["student"], begun.params["student"])
    answers = stages.answers_alone(second)
    assert (answers[f"{signs}.weight"], answers["labels.weight"]) == (0, 1)
    state = stages.after(first, taught)(started(second, answers))
    assert same(state.params, taught.params)
    assert int(state.step) == 0
    # In the second stage it moves as if there were no such loss.
    alone = plan("labels + 0*feature.hint(hidden1, hidden2)")
    plain = started(alone, alone.hparams)
    plain = plain.replace(params={**plain.params, "student": taught.params["student"]})
    ours, theirs = trained(second, state)[0], trained(alone, plain)[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        ours.params["student"],
        theirs.params["student"],
    )


def test_hints_teach_in_the_first_stage_beside_a_paraphraser():
    text = f"response.kl + {HINT} + 5*{FACTORS}"
    first, second = plan(text), plan(text, taught=True)
    begun = started(first, stages.hints_alone(first))
    taught = begun.replace(params=jax.tree.map(lambda x: x + 1, begun.params))
    state = stages.after(first, taught)(started(second, stages.answers_alone(second)))
    assert same(state.params["student"], taught.params["student"])
    assert same(state.params["connectors"][HINT], taught.params["connectors"][HINT])
    held = stages.answers_alone(second)
    assert (held[f"{HINT}.weight"], held[f"{FACTORS}.weight"], held["response.kl.weight"]) == (0, 5, 1)


def test_a_first_stage_without_layers_is_refused():
    with pytest.raises(BadInput, match="--hint_epochs: no loss compares layers; accepted with one such as"):
        stages.hints_alone(plan("response.kl + labels"))


def test_a_schedule_is_nought_in_the_stage_that_does_not_teach_it():
    made = plan(f"warmup(0.5, 3)*{HINT} + linear(1, 0)*labels")
    hints, rest = stages.hints_alone(made), stages.answers_alone(made)
    assert (hints[f"{HINT}.weight.value"], hints["labels.weight.start"]) == (3, 0)
    assert (rest[f"{HINT}.weight.value"], rest["labels.weight.start"]) == (0, 1)


def test_knowledge_review_is_one_term_over_all_pairs_of_a_map():
    made = plan("response.kl + 6*feature.review(every(2) + embedding)")
    name = "feature.review(hidden1_pre-hidden2_pre-embedding, hidden2_pre-hidden4_pre-embedding)"
    assert made.layers == ((1, 2), (2, 4))
    assert made.scaled({"layers": 2.0}) == {**made.hparams, **dict.fromkeys(of_layers(made), 12.0)}
    assert {made.hparams[place] for place in of_layers(made)} == {6.0}
    state = started(made, made.hparams)
    end, metrics = trained(made, state, 1)
    assert not same(end.params["connectors"][name], state.params["connectors"][name])
    averages = [one.model_state["connectors"]["batch_stats"] for one in (end, state)]
    assert not same(*averages)
    mean = {n: float(s / c) for n, (s, c) in metrics.items()}
    np.testing.assert_allclose(mean["loss"], mean["response.kl"] + 6 * mean[name], rtol=1e-5)


def of_layers(made):
    return [place for place, kind in made.kinds.items() if kind == "layers"]


def test_stages_by_name_and_weights_of_each():
    made = plan(
        "labels + 10*feature.hint(pairs((1, 3))) + 5*feature.hint(pairs((2, 4))) + 20*feature.hint(embedding)"
        " + feature.hint(logits)"
    )
    assert made.named == (
        ("hidden1", "hidden3"),
        ("hidden2", "hidden4"),
        ("embedding", "embedding"),
        ("logits", "logits"),
    )
    state = started(made, made.hparams)
    _, metrics = trained(made, state, 1)
    mean = {name: float(s / c) for name, (s, c) in metrics.items()}
    known = float(metrics["labels"][1]) / float(metrics["loss"][1])
    weights = {"hidden1, hidden3": 10, "hidden2, hidden4": 5, "embedding": 20, "logits": 1}
    hints = sum(weight * mean[f"feature.hint({place})"] for place, weight in weights.items())
    np.testing.assert_allclose(mean["loss"], known * mean["labels"] + hints, rtol=1e-5)
    image = jnp.asarray(BATCH["image"])
    ours, theirs = (
        model.apply(own, image, train=False, key=None)[0].logits
        for model, own in ((STUDENT, variables(state)), (TEACHER, WEIGHTS))
    )
    np.testing.assert_allclose(mean["feature.hint(logits)"], feature.hint(ours, theirs)[:7].mean(), rtol=1e-5)


def test_no_gradient_reaches_the_teacher():
    made = plan(f"labels + response.kl + {HINT}")
    state = started(made, made.hparams)

    def loss(frozen):
        batch = {name: jnp.asarray(value) for name, value in BATCH.items()}
        return jnp.sum(made.loss_fn(state.params, state.replace(frozen=frozen), batch, jax.random.key(0))[0])

    assert not any(jnp.any(g != 0) for g in jax.tree.leaves(jax.grad(loss)(WEIGHTS)))


def test_copied_layers_are_the_teachers():
    build = functools.partial(create.create, "cnn", **SHAPE)
    student, teacher = build(hidden=(6, 4, 6)), build(hidden=(6, 6, 6))
    params, states = teacher.init(jax.random.key(7))
    weights = {"params": params, **states}
    begin, names = stages.copies("pairs((1, 1), (3, 3))", student, teacher, weights)
    assert names == ["conv1"]  # the third layers read from other widths
    state = create_state(student, TX, jax.random.key(0), hparams={"learning_rate": 0.1})
    copied = begin(state).params["student"]
    np.testing.assert_array_equal(copied["conv1"]["kernel"], params["conv1"]["kernel"])
    np.testing.assert_array_equal(copied["conv3"]["kernel"], state.params["student"]["conv3"]["kernel"])
    for text, said in (
        ("pairs((2, 2))", r"--copy_layers=pairs\(\(2, 2\)\): no pair of layers has the same shapes"),
        ("evry(2)", "copy_layers, column 1: .*evry"),
        ("every(9)", "copy_layers, column 1: .*every pairs layer 1 of the student with 9"),
    ):
        with pytest.raises(BadInput, match=said):
            stages.copies(text, student, teacher, weights)


def test_copied_blocks_come_with_their_averages():
    build = functools.partial(create.create, num_classes=3, image_shape=(32, 32, 3))
    student, teacher = build("vgg8"), build("vgg11")
    variables_of = lambda model: jax.eval_shape(model.init, jax.random.key(0))  # noqa: E731
    number = iter(range(10_000))
    fill = functools.partial(jax.tree.map, lambda x: jnp.full(x.shape, next(number), x.dtype))
    params, state = (fill(tree) for tree in variables_of(teacher))
    # From 128 channels to 256 is the third convolution of both.
    begin, names = stages.copies("pairs((1, 1), (3, 3), (5, 8))", student, teacher, {"params": params, **state})
    assert sorted(names) == ["conv1", "conv3", "conv5", "norm1", "norm3", "norm5"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables_of(student))
    before = create_state(STUDENT, TX, jax.random.key(0), hparams={"learning_rate": 0.1})
    before = before.replace(params={"student": zeros[0]}, model_state={"student": zeros[1]})
    after = begin(before)
    own, averages = after.params["student"], after.model_state["student"]["batch_stats"]
    for m, g in ((1, 1), (3, 3), (5, 8)):
        assert same(own[f"conv{m}"], params[f"conv{g}"])
        assert same(averages[f"norm{m}"], state["batch_stats"][f"norm{g}"])
    assert same(averages["norm2"], zeros[1]["batch_stats"]["norm2"])

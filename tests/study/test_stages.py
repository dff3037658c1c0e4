"""Layer maps and two stages inside a distillation: what learns when, what is held, what is joined to one term."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import models
from kdjax.losses import feature
from kdjax.models.connect.factors import LEARNED
from kdjax.recipes.lesson import lesson
from kdjax.study import stages
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import train_step
from kdjax.types import BadInput

SHAPE = {"num_classes": 3, "image_shape": (6, 6, 1)}
TEACHER = models.create("mlp", **SHAPE, hidden=(10, 9, 8, 8))
STUDENT = models.create("mlp", **SHAPE, hidden=(7, 6))
RNG = np.random.default_rng(0)
WEIGHTS = {
    "params": jax.tree.map(
        lambda x: np.float32(RNG.normal(size=x.shape) / 3), jax.eval_shape(TEACHER.init, jax.random.key(7))[0]
    )
}
BATCH = {
    "inputs": RNG.uniform(size=(8, 6, 6, 1)).astype(np.float32),
    "label": np.array([0, 1, 2, 0, 1, -1, -1, 0], np.int32),
    "mask": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
}
# Decay reaches every parameter, gradient or none.
TX = unit_rate(optax.chain(optax.add_decayed_weights(0.1), optax.scale(-1.0)))


def plan(text, **given):
    return lesson(text, STUDENT, TEACHER, **given)


def started(made, hparams):
    return create_state(made.model, TX, jax.random.key(0), hparams={"learning_rate": 0.1, **hparams})


def trained(made, state, steps=2):
    """The last state, and every step's metrics."""
    step, history = jax.jit(train_step(made.loss_fn, TX)), []
    for _ in range(steps):
        state, metrics = step(state.replace(frozen=WEIGHTS), BATCH)
        history.append(metrics)
    return state, history


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def test_a_paraphraser_learns_first_and_alone_and_then_stays():
    name = "feature.ft(hidden1, hidden2)"
    text = f"labels + 5*{name}"
    first, second = plan(text), plan(text, taught=True)
    hints = stages.hints_alone(first)
    assert hints[f"{name}.weight"] == hints["labels.weight"] == 0
    begun = started(first, hints)
    taught, metrics = trained(first, begun, 20)
    error = "feature.ft.paraphraser(hidden1, hidden2)"
    assert metrics[-1][error][0] < metrics[0][error][0]
    paraphraser = taught.params["connectors"][name]["paraphraser"]
    assert not same(paraphraser, begun.params["connectors"][name]["paraphraser"])

    answers = stages.answers_alone(second)
    assert answers == {f"{name}.weight": 5, "labels.weight": 1}
    state = stages.after(first, taught)(started(second, answers))
    # Decay moved the student in the first stage; it begins anew all the same.
    assert not same(taught.params["student"], begun.params["student"])
    assert same(state.params["student"], begun.params["student"])
    assert same(state.model_state["connectors"][LEARNED][name]["paraphraser"], paraphraser)
    end, [*_, metrics] = trained(second, state)
    assert same(end.model_state["connectors"][LEARNED][name]["paraphraser"], paraphraser)
    assert set(end.params["connectors"][name]) == {"translator"}
    assert not same(end.params["connectors"][name], state.params["connectors"][name])
    assert not same(end.params["student"], state.params["student"])
    assert np.isfinite(metrics[name][0])
    assert error not in metrics
    assert variables(end).keys() == {"params"}


def test_a_first_stage_of_signs_then_labels_alone():
    """AB: the connector and the student learn in the first stage, and the second does not see layers."""
    name = "feature.ab(hidden1_pre, hidden2_pre)"
    first, second = plan(f"labels + {name}"), plan(f"labels + {name}", taught=True)
    begun = started(first, stages.hints_alone(first))
    taught, _ = trained(first, begun)
    assert not same(taught.params["student"], begun.params["student"])
    answers = stages.answers_alone(second)
    assert answers == {f"{name}.weight": 0, "labels.weight": 1}
    state = stages.after(first, taught)(started(second, answers))
    assert same(state.params, taught.params)
    assert int(state.step) == 0
    # In the second stage it moves as if there were no such loss.
    alone = plan("labels")
    plain = started(alone, alone.hparams).replace(params={"student": taught.params["student"]})
    ours, theirs = trained(second, state)[0], trained(alone, plain)[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        ours.params["student"],
        theirs.params["student"],
    )


def test_hints_teach_in_the_first_stage_beside_a_paraphraser():
    hint, factors = "feature.hint(hidden2, hidden4)", "feature.ft(hidden1, hidden2)"
    text = f"response.kl + {hint} + 5*{factors}"
    first, second = plan(text), plan(text, taught=True)
    begun = started(first, stages.hints_alone(first))
    assert float(begun.hparams[f"{hint}.weight"]) == 1
    taught = begun.replace(params=jax.tree.map(lambda x: x + 1, begun.params))
    held = stages.answers_alone(second)
    state = stages.after(first, taught)(started(second, held))
    assert same(state.params["student"], taught.params["student"])
    assert same(state.params["connectors"][hint], taught.params["connectors"][hint])
    assert (held[f"{hint}.weight"], held[f"{factors}.weight"], held["response.kl.weight"]) == (0, 5, 1)


def test_a_first_stage_needs_a_loss_on_layers():
    with pytest.raises(BadInput, match="no loss compares layers"):
        stages.hints_alone(plan("labels + response.kl"))


def test_knowledge_review_is_one_term_over_all_pairs_of_a_map():
    made = plan("response.kl + 6*feature.review(every(2) + embedding)")
    name = "feature.review(hidden1_pre-hidden2_pre-embedding, hidden2_pre-hidden4_pre-embedding)"
    state = started(made, made.hparams)
    end, [metrics] = trained(made, state, 1)
    assert not same(end.params["connectors"][name], state.params["connectors"][name])
    own = state.model_state["connectors"]["batch_stats"]
    assert not same(end.model_state["connectors"]["batch_stats"], own)
    mean = {n: float(total / count) for n, (total, count) in metrics.items()}
    np.testing.assert_allclose(mean["loss"], mean["response.kl"] + 6 * mean[name], rtol=1e-5)


def test_stages_by_name_are_terms_of_their_own():
    made = plan("labels + 10*feature.hint(last + embedding + logits)")
    state = started(made, made.hparams)
    _, [metrics] = trained(made, state, 1)
    image = jnp.asarray(BATCH["inputs"])
    ours, theirs = (
        model.apply(own, image, train=False, key=None)[0].logits
        for model, own in ((STUDENT, variables(state)), (TEACHER, WEIGHTS))
    )
    mean = {n: float(total / count) for n, (total, count) in metrics.items()}
    hints = [f"feature.hint({n})" for n in ("hidden1, hidden3", "hidden2, hidden4", "embedding", "logits")]
    np.testing.assert_allclose(mean["feature.hint(logits)"], feature.hint(ours, theirs)[:7].mean(), rtol=1e-5)
    known = float(metrics["labels"][1] / metrics["loss"][1])
    np.testing.assert_allclose(mean["loss"], known * mean["labels"] + 10 * sum(mean[n] for n in hints), rtol=1e-5)


def test_copied_blocks_come_with_their_averages():
    build = functools.partial(models.create, num_classes=3, image_shape=(32, 32, 3))
    student, teacher = build("vgg8"), build("vgg11")
    shapes_of = lambda model: jax.eval_shape(model.init, jax.random.key(0))  # noqa: E731
    number = iter(range(10_000))
    fill = functools.partial(jax.tree.map, lambda x: np.full(x.shape, next(number), x.dtype))
    params, state = (fill(tree) for tree in shapes_of(teacher))
    # From 128 channels to 256 is the third convolution of both.
    begin, names = stages.copies("pairs((1, 1), (3, 3), (5, 8))", student, teacher, {"params": params, **state})
    assert sorted(names) == ["conv1", "conv3", "conv5", "norm1", "norm3", "norm5"]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes_of(student))
    before = create_state(STUDENT, optax.sgd(0.1), jax.random.key(0)).replace(
        params={"student": zeros[0]}, model_state={"student": zeros[1]}
    )
    after = begin(before)
    norms = after.model_state["student"]["batch_stats"]
    for m, g in ((1, 1), (3, 3), (5, 8)):
        assert same(after.params["student"][f"conv{m}"], params[f"conv{g}"])
        assert same(norms[f"norm{m}"], state["batch_stats"][f"norm{g}"])
    assert same(norms["norm2"], zeros[1]["batch_stats"]["norm2"])


def test_layers_of_other_shapes_are_not_copied():
    with pytest.raises(BadInput, match=r"copy_layers=pairs\(\(1, 2\)\): no pair of layers has the same shapes"):
        stages.copies("pairs((1, 2))", STUDENT, TEACHER, WEIGHTS)

"""Populations: equal to plain runs, deaf to their neighbours, whole after an interruption."""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.data import pipeline
from kdjax.data.augment import random_shift
from kdjax.data.load import load
from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.teachers.stored import cached
from kdjax.training import memory, parallel, population, stacked
from kdjax.training.optimizers import unit_rate
from kdjax.training.population import Member, Plan
from kdjax.training.state import create_state, initializer, variables
from kdjax.training.step import many_steps, train_step
from kdjax.training.stop import Interrupted
from kdjax.types import BadInput
from tests.training.conftest import same

STEPS, BATCH, EPOCHS = 4, 16, 3
MODEL = create("mlp", num_classes=10, image_shape=(8, 8, 1), hidden=(6,), dropout=0.1)
TX = unit_rate(optax.adam(1.0))
INIT = initializer(MODEL)
RECIPE = distill(MODEL, cached(), response.kl)
AUGMENTED = distill(MODEL, cached(), response.kl, augment=random_shift)
TOGETHER = Plan(members_per_call=9, group=9)
MEMBERS = [
    Member(seed, {"learning_rate": rate, "temperature": t, "alpha": 0.5})
    for seed, rate, t in ((0, 0.01, 1.0), (1, 0.02, 4.0), (2, 0.01, 9.0), (0, 0.03, 2.0))
]


@pytest.fixture(scope="module")
def data():
    """Sixty digits, so that the last batch is uneven, and a teacher's answers for them."""
    source = load("digits", "train[:60]")
    said = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    return {**source.arrays, "teacher_logits": said}


def order(seed, epoch):
    return pipeline.epoch_rows(60, BATCH, seed=seed, epoch=epoch)


@functools.cache
def program(loss_fn, mesh, plan):
    """A population's program, one for all tests that train by it."""
    return population.Population(MODEL, TX, loss_fn, mesh, plan)


def fit(data, members=MEMBERS, *, devices=1, loss_fn=RECIPE, **changes):
    """Train and gather all parts: the states by member, on the host, and how each ended."""
    mesh = parallel.data_mesh(jax.devices()[:devices])
    settings = {"data": data, "order": order, "epochs": EPOCHS, "mesh": mesh, "plan": TOGETHER, **changes}
    states, outcomes = [], []
    for part in program(loss_fn, settings.pop("mesh"), settings.pop("plan")).train(members, **settings):
        states += [jax.device_get(stacked.member_state(part.states, i).params) for i in range(len(part.members))]
        outcomes += part.outcomes
    return states, outcomes


@pytest.fixture(scope="module")
def together(data):
    """The four members in one go."""
    return fit(data)[0]


@functools.cache
def compiled(loss_fn):
    """The program of plain runs."""
    return parallel.jit_step(many_steps(train_step(loss_fn, TX)), parallel.data_mesh(jax.devices()[:1]), batch_axis=1)


def plain(data, member, order_seed=None, loss_fn=RECIPE):
    """A run of one member by the engine of plain runs."""
    mesh = parallel.data_mesh(jax.devices()[:1])
    run = compiled(loss_fn)
    state = create_state(MODEL, TX, jax.random.key(member.seed), hparams=member.hparams, init=INIT)
    state = parallel.replicate(state, mesh)
    for epoch in range(EPOCHS):
        rows = order(member.seed if order_seed is None else order_seed, epoch)
        state, _ = run(state, parallel.replicate(data, mesh), rows)
    return jax.device_get(state.params)


def near(a, b):
    """Equal to float tolerance."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_population_of_one_is_a_plain_run_bit_for_bit(data, devices):
    (alone,), (outcome,) = fit(data, MEMBERS[1:2], devices=devices)
    assert same(alone, plain(data, MEMBERS[1]))
    assert (outcome.status, outcome.epochs) == ("finished", EPOCHS)


def test_each_member_is_its_own_plain_run(data, together):
    for member, state in zip(MEMBERS, together, strict=True):
        near(state, plain(data, member))
    assert not same(together[0], together[3])


@pytest.mark.parametrize("own_order", [True, False])
def test_each_member_sees_the_views_of_its_own_plain_run(data, together, own_order):
    plan = Plan(own_order=own_order, members_per_call=9, group=9)
    states, _ = fit(data, MEMBERS[:2], loss_fn=AUGMENTED, plan=plan)
    near(states[1], plain(data, MEMBERS[1], order_seed=None if own_order else 0, loss_fn=AUGMENTED))
    assert not same(states[1], together[1])


def test_with_a_shared_order_each_member_is_the_plain_run_in_that_order(data):
    states, _ = fit(data, plan=Plan(own_order=False, members_per_call=9, group=9))
    for member, state in zip(MEMBERS[1:3], states[1:3], strict=True):
        near(state, plain(data, member, order_seed=0))


def test_permuting_members_permutes_results(data, together):
    states, _ = fit(data, MEMBERS[::-1])
    for a, b in zip(states[::-1], together, strict=True):
        near(a, b)


@pytest.mark.parametrize(
    ("plan", "devices"),
    [
        (Plan(members_per_call=2, group=9), 1),
        (Plan(members_per_call=3, group=2), 1),
        (Plan(members_per_call=9, group=1), 1),
        (TOGETHER, 2),
        (Plan(members_per_call=2, group=1), 2),
    ],
)
def test_neither_parts_nor_groups_nor_devices_change_results(data, together, plan, devices):
    members = MEMBERS[:3]  # parts of two, and two devices, do not divide three: the padding is dropped
    states, outcomes = fit(data, members, plan=plan, devices=devices)
    assert len(states) == len(outcomes) == 3
    for a, b in zip(states, together[:3], strict=True):
        near(a, b)


def test_a_study_compiles_once(data):
    traces = 0

    def counting(*args):
        nonlocal traces
        traces += 1
        return RECIPE(*args)

    seen = []
    fit(data, loss_fn=counting, on_epoch=lambda *_: seen.append(traces), plan=Plan(members_per_call=2, group=9))
    assert len(seen) == 2 * EPOCHS  # two parts
    assert len(set(seen)) == 1


def test_other_values_do_not_compile_again(data):
    traces, mesh = 0, parallel.data_mesh(jax.devices()[:1])

    def counting(*args):
        nonlocal traces
        traces += 1
        return RECIPE(*args)

    lifted = stacked.together(many_steps(train_step(counting, TX)), own_order=False)
    run, seen = parallel.jit_members(lifted, mesh, own_order=False), []
    for shift in (0, 5):
        members = [Member(m.seed + shift, {name: x + 0.1 * shift for name, x in m.hparams.items()}) for m in MEMBERS]
        states = parallel.place_members(stacked.create_states(MODEL, TX, members), mesh)
        states, *_ = run(states, np.ones(4, bool), data, order(shift, 0))
        assert int(states.step) == STEPS
        seen.append(traces)
    assert seen[0] == seen[1] > 0


@pytest.mark.parametrize("group", [1, 9])
def test_a_member_that_diverges_says_so_and_poisons_nobody(data, together, group):
    wild = Member(1, {**MEMBERS[1].hparams, "learning_rate": 1e38})
    rows = []
    states, outcomes = fit(
        data,
        [MEMBERS[0], wild, MEMBERS[2]],
        plan=Plan(members_per_call=9, group=group),
        on_epoch=lambda _, e, m: rows.append(m),
    )
    assert [(o.status, o.epochs) for o in outcomes] == [("finished", 3), ("diverged", 0), ("finished", 3)]
    assert [bool(m) for m in rows[0]] == [True, False, True]
    for i in (0, 2):
        near(states[i], together[i])
    # It stands where it last was well: at its beginning.
    assert same(states[1], create_state(MODEL, TX, jax.random.key(1), hparams=wild.hparams).params)


@pytest.mark.parametrize("group", [1, 9])
def test_a_member_out_of_patience_keeps_its_state_and_the_others_go_on(data, together, group):
    kept = []

    def evaluate(states):
        kept.append(jax.device_get(stacked.member_state(states, 1).params))
        epoch = int(states.step) // STEPS
        return {"validation_accuracy": np.array([0.1 * epoch, 0.5, 0.2 * epoch])}

    states, outcomes = fit(data, MEMBERS[:3], evaluate=evaluate, patience=1, plan=Plan(members_per_call=9, group=group))
    assert [(o.status, o.epochs) for o in outcomes] == [("finished", 3), ("stopped", 2), ("finished", 3)]
    assert not same(kept[0], kept[1])
    assert same(kept[1], kept[2])
    assert same(states[1], kept[1])
    near(states[0], together[0])
    near(states[2], together[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_member_whose_answers_are_not_finite_has_diverged_and_the_others_go_on(data, together, bad):
    seen = []

    def evaluate(states):
        nll = bad if int(states.step) == 2 * STEPS else 1.0
        return {"validation_accuracy": np.full(3, 0.5), "validation_nll": np.array([1.0, nll, 1.0])}

    states, outcomes = fit(data, MEMBERS[:3], evaluate=evaluate, on_epoch=lambda _, e, m: seen.append(m))
    assert [(o.status, o.epochs) for o in outcomes] == [("finished", 3), ("diverged", 1), ("finished", 3)]
    assert [bool(m[1]) for m in seen] == [True, False, False]
    near(states[0], together[0])
    near(states[2], together[2])


def test_statistics_of_a_member_that_overflow_are_not_taken():
    def run(state, data, rows):
        mean = state.model_state["mean"] + rows["add"]
        return state.replace(step=state.step + 1, model_state={"mean": mean}), {"loss": (jnp.zeros(1), jnp.ones(1))}

    own = stacked.separate(stacked.create_states(MODEL, TX, MEMBERS[:2]))[0] | {"model_state": {"mean": jnp.ones(2)}}
    rows = {"add": jnp.array([1.0, jnp.inf])}
    new, _, finite = stacked.together(run)(own, (jnp.int32(0), None), jnp.array([True, True]), {}, rows)
    assert finite.tolist() == [True, False]
    assert new["model_state"]["mean"].tolist() == [2.0, 1.0]


def test_a_study_ends_early_when_nobody_is_left(data):
    def evaluate(states):
        return {"validation_accuracy": np.zeros(4)}

    seen = []
    _, outcomes = fit(data, evaluate=evaluate, patience=1, epochs=9, on_epoch=lambda _, e, m: seen.append(e))
    assert [o.status for o in outcomes] == ["stopped"] * 4
    assert seen == [1, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_study_ends_as_one_that_was_not(data, tmp_path, number, code):
    plan = Plan(members_per_call=2, group=9)
    rows, seen = [], []

    def evaluate(states):
        return {"validation_accuracy": np.arange(2.0)}

    whole = fit(data, plan=plan, evaluate=evaluate, patience=2, on_epoch=lambda _, e, m: rows.append((e, m)))

    def stop(members, epoch, metrics):
        seen.append((epoch, metrics))
        if members[0] is MEMBERS[2] and epoch == 2:
            os.kill(os.getpid(), number)

    cut = {"plan": plan, "evaluate": evaluate, "patience": 2, "directory": tmp_path}
    with pytest.raises(Interrupted) as stopped:
        fit(data, on_epoch=stop, **cut)
    assert "saved after epoch 2" in stopped.value.message
    assert stopped.value.code == code
    # The memory may look different by now: the parts stay as they are.
    again = fit(data, **(cut | {"plan": TOGETHER}), on_epoch=lambda _, e, m: seen.append((e, m)))
    assert same(again[0], whole[0])
    assert again[1] == whole[1]
    assert seen == rows


def test_teachers_train_together_from_labels(data):
    recipe = supervised(MODEL)
    teachers = [Member(seed, {"learning_rate": 0.02}) for seed in (3, 4)]
    states, _ = fit(data, teachers, loss_fn=recipe)
    for member, state in zip(teachers, states, strict=True):
        near(state, plain(data, member, loss_fn=recipe))


@pytest.mark.parametrize("devices", [1, 2])
def test_answers_of_all_members_are_each_ones_own(data, devices):
    mesh = parallel.data_mesh(jax.devices()[:devices])
    states = stacked.create_states(MODEL, TX, MEMBERS[:3])
    logits = stacked.Asked(MODEL.apply, mesh, group=2)(states, data["inputs"], batch_size=32)
    assert logits.shape == (3, 60, 10)
    image = jnp.asarray(data["inputs"], jnp.float32) / (255 if data["inputs"].dtype == np.uint8 else 1)
    for i in range(3):
        own = stacked.member_state(states, i)
        near(logits[i], MODEL.apply(variables(own), image, train=False, key=None)[0].logits)


def test_what_cannot_be_trained_is_refused(data, tmp_path):
    with pytest.raises(BadInput, match="2 members: accepted are one or more, all with the same"):
        fit(data, [MEMBERS[0], Member(1, {"learning_rate": 0.1})])
    with pytest.raises(BadInput, match="patience=2 without evaluate"):
        fit(data, patience=2)
    (tmp_path / "plan.json").write_text('{"members_per_call": 3}')
    with pytest.raises(BadInput, match="3 members at a time on 2 devices"):
        fit(data, directory=tmp_path, devices=2)


def test_memory_decides_how_many_train_at_a_time(data, monkeypatch):
    state = stacked.create_states(MODEL, TX, MEMBERS[:1])
    assert memory.tree_bytes(state.params) == 4 * (64 * 6 + 6 + 6 * 10 + 10)
    sizes = []
    for free in (1, 2**40):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        fit(data, MEMBERS[:3], epochs=1, plan=Plan(), on_epoch=lambda members, *_: sizes.append(len(members)))
    assert sizes == [1, 1, 1, 3]


def test_free_memory_is_what_is_there():
    assert 2**20 < memory.free_bytes(jax.devices()[0]) < 2**50

"""Losses with a memory inside a distillation: split over devices, saved and resumed, and gone when the student is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kdjax.recipes.knowledge import Frozen

from kdjax.data.source import Source
from kdjax.losses.contrastive import Memory
from kdjax.models import create
from kdjax.study import lesson
from kdjax.teachers.live import live
from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import fit
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import MEMORY, create_state, variables
from kdjax.training.step import one_step, train_step
from kdjax.types import BadInput
from tests.training.conftest import same

SHAPE = {"num_classes": 3, "image_shape": (4, 4, 1)}
TEACHER, STUDENT = (create.create("mlp", **SHAPE, hidden=(width,)) for width in (7, 5))
WEIGHTS = dict(params=TEACHER.init(jax.random.key(7))[0])
EXAMPLES, BATCH, STEPS = 24, 8, 3
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, EXAMPLES).astype(np.int32)
DATA = {"image": RNG.random((EXAMPLES, 4, 4, 1)).astype(np.float32), "label": LABELS}
CRD, QUEUE = "contrastive.crd@embedding=embedding", "contrastive.queue@embedding=embedding"
TEXT = "labels:0,contrastive.crd:1,contrastive.queue:2"
OWN = "contrastive.crd.dims=6,contrastive.crd.negatives=10,contrastive.queue.dims=4,contrastive.queue.slots=10"


def plan(loss=TEXT, **flags):
    flags = {"loss_args": OWN, "examples": EXAMPLES, "batch_size": BATCH, **flags}
    return lesson.plan(STUDENT, TEACHER, SHAPE, loss=loss, steps=10, **flags)


class Task:
    """Three steps an epoch, the last one uneven."""

    def __init__(self, wrapper="jit", devices=2):
        self.mesh, self.wrapper, self.made = parallel.data_mesh(jax.devices()[:devices]), wrapper, plan()
        self.tx, self.data, self.traces = unit_rate(optax.adam(1.0)), parallel.replicate(DATA, self.mesh), 0
        self.run = parallel.wrap(wrapper, self.body, self.mesh)

    def body(self, axis_name):
        loss_fn = self.made.recipe(live(TEACHER.apply))

        def counting(*args):
            self.traces += 1
            return loss_fn(*args)

        return one_step(train_step(counting, self.tx, axis_name=axis_name))

    def state(self, labels=LABELS):
        hparams = {"learning_rate": 0.01, **self.made.hparams}
        state = create_state(self.made.model, self.tx, jax.random.key(0), hparams=hparams)
        frozen = self.made.frozen(WEIGHTS, Source({**DATA, "label": labels}, 3, "rows"))
        return parallel.place(state.replace(frozen=frozen), self.mesh, self.wrapper)

    def chunks(self, epoch, first):
        order = np.random.default_rng(epoch).permutation(EXAMPLES).astype(np.int32).reshape(STEPS, BATCH)
        for step in range(first, STEPS):
            mask = np.arange(BATCH) < (3 if step == STEPS - 1 else BATCH)
            yield 1, {"index": order[step], "mask": mask.astype(np.float32)}

    def fit(self, epochs=1, **changes):
        changes = {"data": self.data, "chunks": self.chunks, "steps_per_epoch": STEPS, **changes}
        return fit(self.state(), self.run, epochs=epochs, **changes)


@pytest.fixture(scope="module")
def task():
    return Task()


@pytest.fixture(scope="module")
def finished(task):
    return task.fit(epochs=2)


def test_each_device_holds_its_rows_and_the_values_are_those_of_one_device(task, finished):
    bank, queue = (finished.model_state[MEMORY][name] for name in (CRD, QUEUE))
    for held in (task.state().model_state[MEMORY][CRD].student, bank.student, bank.teacher):
        assert [part.data.shape for part in held.addressable_shards] == [(EXAMPLES // 2, 6)] * 2
    assert [part.data.shape for part in queue.keys.addressable_shards] == [(5, 4)] * 2
    assert (int(queue.head), int(queue.filled)) == (2 * (EXAMPLES - BATCH + 3) % 10, 10)
    assert queue.head.dtype == jnp.int32
    alone = Task(devices=1).fit(epochs=2)
    for a, b in zip(jax.tree.leaves(finished.model_state), jax.tree.leaves(alone.model_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(finished.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_device_is_ever_sent_the_bank(task):
    """What crosses between devices is as large as the embeddings of a batch, never as the rows of all examples."""
    examples, batch = 4096, 64
    made = plan("contrastive.crd", loss_args="negatives=600", examples=examples)
    run = parallel.jit_step(one_step(train_step(made.recipe(live(TEACHER.apply)), task.tx)), task.mesh)
    state = create_state(made.model, task.tx, jax.random.key(0), hparams={"learning_rate": 0.01, **made.hparams})
    frozen = Frozen(WEIGHTS, {CRD: made.remembers[CRD].about(np.arange(examples) % 3)})
    leaves, tree = jax.tree.flatten(parallel.place(state.replace(frozen=frozen), task.mesh))
    rows = {"index": np.arange(batch, dtype=np.int32) % EXAMPLES, "mask": np.ones(batch, np.float32)}
    step = jax.jit(lambda leaves: jax.tree.leaves(run(jax.tree.unflatten(tree, leaves), task.data, rows)))
    program = step.lower(leaves).compile().as_text().splitlines()
    sent = [found[1] for line in program if (found := re.match(r"(.*) all-(gather|to-all|reduce)(-start)?\(", line))]
    sizes = {int(number) for line in sent for axes in re.findall(r"\[([\d,]+)\]", line) for number in axes.split(",")}
    assert batch in sizes
    assert max(sizes) < examples // 2


def test_pmap_agrees_and_every_device_has_the_same_memory(finished):
    other = Task("pmap").fit(epochs=2)
    for x in jax.tree.leaves(other.model_state[MEMORY]):
        first, second = (np.asarray(part.data) for part in x.addressable_shards)
        np.testing.assert_array_equal(first, second)
    for name in ("params", "model_state"):
        pairs = zip(jax.tree.leaves(getattr(finished, name)), jax.tree.leaves(getattr(other, name)), strict=True)
        for a, b in pairs:
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_bit_for_bit_the_one_that_was_never_killed(task, finished, tmp_path):
    def part(epochs):
        with Checkpointer(tmp_path) as checkpointer:
            return task.fit(epochs, checkpointer=checkpointer)

    half = part(1)
    assert not same(half.model_state, finished.model_state)
    whole = part(2)
    assert same(
        (whole.params, whole.model_state, whole.opt_state), (finished.params, finished.model_state, finished.opt_state)
    )
    assert whole.model_state[MEMORY][CRD].student.sharding == finished.model_state[MEMORY][CRD].student.sharding


def test_classes_are_data_and_no_constants_of_the_program(task):
    rows = next(task.chunks(0, 0))[1]
    task.run(task.state(), task.data, rows)
    before = task.traces
    # Examples 0 and 1 alone in their classes: all others have these two as their only negatives.
    two = np.zeros(EXAMPLES, np.int32)
    two[:2] = 1, 2
    values = [task.run(task.state(labels), task.data, rows)[1][CRD][0] for labels in (LABELS, LABELS, two)]
    assert values[0] == values[1] != values[2]
    assert task.traces == before


def test_a_student_learns_from_memories_alone_and_leaves_them_behind(task, finished):
    own = task.made.own(variables(finished))
    begun = STUDENT.init(jax.random.split(jax.random.key(0))[0])
    assert jax.tree.structure(own) == jax.tree.structure({"params": begun[0], **begun[1]})
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), own["params"]["dense1"], begun[0]["dense1"])
    assert min(jax.tree.leaves(moved)) > 1e-3
    assert MEMORY not in variables(finished)


def test_a_queue_needs_neither_the_size_nor_the_labels_of_the_data():
    made = plan(loss="contrastive.queue:0.8", loss_args="slots=8,dims=3", examples=None)

    class Endless(Source):
        def labels(self):
            raise AssertionError("the labels of a stream were read")

    assert made.frozen(WEIGHTS, Endless(DATA, 3, "endless")) == Frozen(WEIGHTS, {})
    held = jax.eval_shape(made.model.init, jax.random.key(0))[1][MEMORY][QUEUE]
    assert held.keys.shape == (8, 3)
    assert made.hparams["weight/" + QUEUE] == 0.8


def test_defaults_are_the_papers_where_the_data_are_enough():
    for examples, slots in ((50_000, 16384), (1000, 500)):
        made = plan(loss="contrastive.crd,contrastive.queue", loss_args="", examples=examples)
        held = jax.eval_shape(made.model.init, jax.random.key(0))[1][MEMORY]
        assert held[CRD].teacher.shape == (examples, 128)
        assert held[QUEUE].keys.shape == (slots, 128)
    # What chance costs tells how many negatives there are: all 999 others.
    one, blind, row = made.remembers[CRD], jnp.zeros((1000, 128)), jnp.ones((1, 128))
    step = jax.jit(lambda memory, facts: one.step(row, row, memory=memory, facts=facts, key=key, index=jnp.array([3])))
    key, zero = jax.random.key(0), jnp.zeros(())
    loss, _ = step(Memory(blind, blind, zero, zero), one.about(np.arange(1000)))
    np.testing.assert_allclose(loss, 2 * (1000 * np.log(1000) - 999 * np.log(999) + 1000e-7), rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"examples": None}, "examples=None: contrastive.crd has a bank"),
        ({"loss_args": "contrastive.crd.negatives=24"}, "negatives=24: expected a whole number from 1 to 23"),
        ({"loss_args": "contrastive.crd.negatives=2.5"}, "negatives=2.5: expected a whole"),
        ({"loss_args": "contrastive.crd.dims=0"}, "dims=0: expected a whole"),
        ({"loss_args": "contrastive.crd.temperature=0"}, "temperature=0"),
        ({"loss_args": "contrastive.crd.momentum=2"}, "momentum=2"),
        ({"loss_args": "contrastive.crd.slots=2"}, "slots=2.0: not a keyword of contrastive.crd; .*negatives"),
        ({"loss_args": "contrastive.queue.slots=7"}, "8 rows for a queue of 7 slots"),
        ({"loss": "contrastive.crd:1@block9"}, "no layer 'block9'"),
        ({"loss": "contrastive.crb:1"}, "did you mean contrastive.crd"),
    ],
)
def test_refused_before_training(flags, said):
    with pytest.raises(BadInput, match=said):
        plan(**{"loss_args": "", **flags})

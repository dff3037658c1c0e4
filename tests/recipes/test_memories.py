"""Losses with a memory inside a distillation: split over devices, saved and resumed, and gone when the student is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import models
from kdjax.losses.contrastive import Memory
from kdjax.recipes.learn import Frozen
from kdjax.recipes.lesson import lesson
from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import fit
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import one_step, train_step
from kdjax.types import BadInput
from tests.training.conftest import same

SHAPE = {"num_classes": 3, "image_shape": (4, 4, 1)}
TEACHER, STUDENT = (models.create("mlp", **SHAPE, hidden=(width,)) for width in (7, 5))
WEIGHTS = dict(params=jax.jit(TEACHER.init)(jax.random.key(7))[0])
EXAMPLES, BATCH, STEPS = 24, 8, 3
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, EXAMPLES).astype(np.int32)
DATA = {"inputs": RNG.random((EXAMPLES, 4, 4, 1)).astype(np.float32), "label": LABELS}
CRD, QUEUE = "contrastive.crd(embedding)", "contrastive.queue(embedding)"
TEXT = "0*labels + contrastive.crd(dims=6, negatives=10) + 2*contrastive.queue(dims=4, slots=10)"


def taught(text=TEXT, **given):
    return lesson(text, STUDENT, TEACHER, **{"examples": EXAMPLES, "batch_size": BATCH, **given})


class Task:
    """Three steps an epoch, the last one uneven."""

    def __init__(self, wrapper="jit", devices=2):
        self.mesh, self.wrapper, self.made = parallel.data_mesh(jax.devices()[:devices]), wrapper, taught()
        self.tx, self.data, self.traces = (
            unit_rate(optax.sgd(1.0, momentum=0.9)),
            parallel.replicate(DATA, self.mesh),
            0,
        )
        self.run = parallel.wrap(wrapper, self.body, self.mesh)

    def body(self, axis_name):
        loss_fn = self.made.loss_fn

        def counting(*args):
            self.traces += 1
            return loss_fn(*args)

        return one_step(train_step(counting, self.tx, axis_name=axis_name))

    def state(self, labels=LABELS):
        hparams = {"learning_rate": 0.01, **self.made.hparams}
        state = create_state(self.made.model, self.tx, jax.random.key(0), hparams=hparams)
        frozen = self.made.frozen(WEIGHTS, lambda: labels)
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
    bank, queue = (finished.memory[name] for name in (CRD, QUEUE))
    for held in (task.state().memory[CRD].student, bank.student, bank.teacher):
        assert [part.data.shape for part in held.addressable_shards] == [(EXAMPLES // 2, 6)] * 2
    assert [part.data.shape for part in queue.keys.addressable_shards] == [(5, 4)] * 2
    assert (int(queue.head), int(queue.filled)) == (2 * (EXAMPLES - BATCH + 3) % 10, 10)
    assert queue.head.dtype == jnp.int32
    alone = Task(devices=1).fit(epochs=2)
    for a, b in zip(jax.tree.leaves(finished.memory), jax.tree.leaves(alone.memory), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(finished.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_device_is_ever_sent_the_bank(task):
    """What crosses between devices is as large as the embeddings of a batch, never as the rows of all examples."""
    examples, batch = 4096, 64
    made = taught("contrastive.crd(negatives=600)", examples=examples)
    run = parallel.jit_step(one_step(train_step(made.loss_fn, task.tx)), task.mesh)
    state = create_state(made.model, task.tx, jax.random.key(0), hparams={"learning_rate": 0.01, **made.hparams})
    frozen = Frozen(WEIGHTS, {CRD: made.memories[CRD].about(np.arange(examples) % 3)})
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
    for x in jax.tree.leaves(other.memory):
        first, second = (np.asarray(part.data) for part in x.addressable_shards)
        np.testing.assert_array_equal(first, second)
    for name in ("params", "memory"):
        pairs = zip(jax.tree.leaves(getattr(finished, name)), jax.tree.leaves(getattr(other, name)), strict=True)
        for a, b in pairs:
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_bit_for_bit_the_one_that_was_never_killed(task, finished, tmp_path):
    def part(epochs):
        with Checkpointer(tmp_path) as checkpointer:
            return task.fit(epochs, checkpointer=checkpointer)

    half = part(1)
    assert not same(half.memory, finished.memory)
    whole = part(2)
    assert same((whole.params, whole.memory, whole.opt_state), (finished.params, finished.memory, finished.opt_state))
    assert whole.memory[CRD].student.sharding == finished.memory[CRD].student.sharding


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
    own = variables(finished)
    begun = jax.jit(STUDENT.init)(jax.random.split(jax.random.key(0))[0])
    assert jax.tree.structure(own) == jax.tree.structure({"params": begun[0], **begun[1]})
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), own["params"]["dense1"], begun[0]["dense1"])
    assert min(jax.tree.leaves(moved)) > 1e-3
    assert finished.memory.keys() == {CRD, QUEUE}


def test_a_queue_needs_neither_the_size_nor_the_labels_of_the_data():
    made = taught("0.8*contrastive.queue(slots=8, dims=3)", examples=None)

    def endless():
        raise AssertionError("the labels of a stream were read")

    assert made.frozen(WEIGHTS, endless) == Frozen(WEIGHTS, {})
    held = jax.eval_shape(made.model.memory[QUEUE], jax.random.key(0))
    assert held.keys.shape == (8, 3)
    assert made.hparams == {"contrastive.queue.weight": 0.8}


def test_defaults_are_the_papers_where_the_data_are_enough():
    for examples, slots in ((50_000, 16384), (1000, 500)):
        made = taught("contrastive.crd + contrastive.queue", examples=examples)
        held = {name: jax.eval_shape(begin, jax.random.key(0)) for name, begin in made.model.memory.items()}
        assert held[CRD].teacher.shape == (examples, 128)
        assert held[QUEUE].keys.shape == (slots, 128)
    # What chance costs tells how many negatives there are: all 999 others.
    one, blind, row = made.memories[CRD], jnp.zeros((1000, 128)), jnp.ones((1, 128))
    step = jax.jit(lambda memory, facts: one.step(row, row, memory=memory, facts=facts, key=key, index=jnp.array([3])))
    key, zero = jax.random.key(0), jnp.zeros(())
    loss, _ = step(Memory(blind, blind, zero, zero), one.about(np.arange(1000)))
    np.testing.assert_allclose(loss, 2 * (1000 * np.log(1000) - 999 * np.log(999) + 1000e-7), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("contrastive.crd(negatives=24)", "negatives=24; accepted: a whole number from 1 to 23"),
        ("contrastive.crd(negatives=2.5)", "negatives=2.5; accepted: a whole"),
        ("contrastive.crd(dims=0)", "dims=0; accepted: a whole"),
        ("contrastive.crd(temperature=0)", "temperature=0"),
        ("contrastive.crd(momentum=2)", "momentum=2"),
        ("contrastive.crd(slots=2)", "read slots=2; accepted: .*negatives"),
        ("contrastive.queue(slots=7)", "8 rows for a queue of 7 slots"),
        ("contrastive.crd(block9)", "no layer 'block9'"),
        ("contrastive.crb", "did you mean contrastive.crd"),
    ],
)
def test_refused_before_training(text, said):
    with pytest.raises(BadInput, match=said):
        taught(text)


def test_a_bank_of_unknown_size_is_refused():
    with pytest.raises(BadInput, match=r"examples=None: contrastive\.crd has a bank"):
        taught(examples=None)

"""Contrastive losses against numpy in float64, and memories that padding, gradients and repetition cannot spoil."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import _scores, contrastive
from kdjax.recipes.comparisons import memory_of, names
from kdjax.spec import Call
from kdjax.types import BadInput

BATCH, DIMS, EXAMPLES, COUNT, SLOTS = 6, 4, 10, 3, 8
# Rows 1 and 5 are padding: one before, one after a real row of the same example.
INDEX = jnp.array([3, 0, 9, 3, 0, 9], jnp.int32)
WHERE = np.array([1, 0, 1, 1, 1, 0], bool)
PADDING = np.flatnonzero(~WHERE)
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, BATCH, DIMS)).astype(np.float32) * 3
NEGATIVES = RNG.integers(0, EXAMPLES, (BATCH, COUNT)).astype(np.int32)


@pytest.fixture
def embeddings():
    return jnp.asarray(STUDENT), jnp.asarray(TEACHER)


@pytest.fixture
def memory(key):
    return contrastive.init_memory(key, EXAMPLES, DIMS)


@pytest.fixture
def rows():
    return {"index": INDEX, "negatives": jnp.asarray(NEGATIVES)}


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def crd_by_hand(memory, keep, temperature=0.07):
    """Both sides' losses `[B]` and Z, one example and one negative at a time."""
    total, constants = np.zeros(BATCH), []
    for x, bank in ((STUDENT, memory.teacher), (TEACHER, memory.student)):
        bank = np.asarray(bank, np.float64)
        places = np.concatenate([np.asarray(INDEX)[:, None], NEGATIVES], 1)
        scores = np.array([[np.exp(unit(x)[b] @ bank[j] / temperature) for j in places[b]] for b in range(BATCH)])
        z = EXAMPLES * scores[keep].mean()
        p, noise = scores / z, COUNT / EXAMPLES
        total -= np.log(p[:, 0] / (p[:, 0] + noise + 1e-7)) + np.log(noise / (p[:, 1:] + noise + 1e-7)).sum(1)
        constants.append(z)
    return np.where(keep, total, 0), constants


@pytest.mark.parametrize(("count", "expected"), [(1, 1.3862944), (4096, 9.3178882), (16384, 10.7040910)])
def test_a_blind_memory_costs_what_chance_does(count, expected):
    blind = contrastive.Memory(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros(()), jnp.zeros(()))
    one, negatives = jnp.ones((1, 3)), jnp.ones((1, count), jnp.int32)
    loss = jax.jit(contrastive.crd)(one, 2 * one, memory=blind, index=jnp.array([0]), negatives=negatives)
    np.testing.assert_allclose(loss, 2 * expected, rtol=2e-6)


@pytest.mark.parametrize("product_up_to", [0, 8])  # by gathering, by a product
def test_crd_is_the_formula(embeddings, memory, rows, monkeypatch, product_up_to):
    monkeypatch.setattr(_scores, "_PRODUCT_UP_TO", product_up_to)
    where = jnp.asarray(WHERE)
    expected, constants = crd_by_hand(memory, WHERE)
    frozen = jax.jit(contrastive.set_normalisers)(memory, *embeddings, **rows, where=where)
    np.testing.assert_allclose([frozen.z_student, frozen.z_teacher], constants, rtol=1e-5)
    loss = jax.jit(contrastive.crd)
    for state in (memory, frozen):
        np.testing.assert_allclose(loss(*embeddings, memory=state, **rows, where=where), expected, rtol=1e-5, atol=1e-6)


def test_both_ways_to_the_scores_have_one_gradient(embeddings, memory, rows, monkeypatch):
    def slopes(up_to):
        monkeypatch.setattr(_scores, "_PRODUCT_UP_TO", up_to)
        loss = lambda s, t: contrastive.crd(s, t, memory=memory, **rows).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(*embeddings)

    for gathered, product in zip(slopes(0), slopes(8), strict=True):
        assert np.abs(product).max() > 0.1
        np.testing.assert_allclose(gathered, product, rtol=1e-4, atol=1e-5)


def test_the_first_batch_sets_z_for_good(embeddings, memory, rows):
    freeze = jax.jit(lambda m, s, t, where: contrastive.set_normalisers(m, s, t, **rows, where=where))
    nobody, all_of_them = jnp.zeros(BATCH, bool), jnp.ones(BATCH, bool)
    assert freeze(memory, *embeddings, nobody).z_student == 0
    first = freeze(memory, *embeddings, all_of_them)
    second = freeze(first, *(x[::-1] for x in embeddings), jnp.asarray(WHERE))
    assert first.z_student > 0
    assert (second.z_student, second.z_teacher) == (first.z_student, first.z_teacher)
    grown = first._replace(z_student=first.z_student * 2)
    assert not np.allclose(*(contrastive.crd(*embeddings, memory=m, **rows) for m in (first, grown)))


def test_a_better_student_pays_less(key):
    bank = jax.random.normal(key, (EXAMPLES, 16))
    bank /= jnp.linalg.norm(bank, axis=1, keepdims=True)
    memory = contrastive.Memory(bank, bank, jnp.float32(500), jnp.float32(500))
    rows = {"index": INDEX, "negatives": (INDEX[:, None] + jnp.array([[1, 2, 3]])) % EXAMPLES}
    loss = jax.jit(contrastive.crd)
    good, bad = (loss(sign * bank[INDEX], bank[INDEX], memory=memory, **rows) for sign in (1, -1))
    assert (good < bad - 1).all()


def loss_of(name, memory, rows):
    """Either loss as `(student, teacher, where, memory) -> [B]`, and its memory."""
    if name == "crd":
        return lambda s, t, where, m: contrastive.crd(s, t, memory=m, where=where, **rows), memory
    filled = contrastive.push(contrastive.init_queue(SLOTS, DIMS), jnp.asarray(TEACHER[::-1]))
    return lambda s, t, where, m: contrastive.queue(s, t, queue=m, where=where), filled


@pytest.fixture(params=["crd", "queue"])
def loss(request, memory, rows):
    frozen = memory._replace(z_student=jnp.float32(20), z_teacher=jnp.float32(30))
    return loss_of(request.param, frozen, rows)


def test_rows_left_out_change_nothing(loss, embeddings):
    function, state = loss
    where = jnp.asarray(WHERE)
    call = jax.jit(
        jax.value_and_grad(lambda s, t: (v := function(s, t, where, state)).sum() + 0 * v[0], argnums=(0, 1))
    )
    for garbage in (jnp.nan, 1e30):
        dirty = [x.at[PADDING].set(garbage) for x in embeddings]
        (value, slopes), (expected, clean) = call(*dirty), call(*embeddings)
        np.testing.assert_array_equal(value, expected)
        for got, want in zip(slopes, clean, strict=True):
            assert (got[PADDING] == 0).all()
            np.testing.assert_array_equal(got, want)
    each = function(*embeddings, where, state)
    assert each.shape == (BATCH,)
    assert (each[PADDING] == 0).all()
    np.testing.assert_allclose(each[WHERE], function(*embeddings, None, state)[WHERE], rtol=1e-6)


def test_eager_and_compiled_are_one_and_halves_are_widened(loss, embeddings):
    function, state = loss
    np.testing.assert_allclose(
        jax.jit(function)(*embeddings, None, state), function(*embeddings, None, state), rtol=1e-5, atol=1e-6
    )
    halves = [x.astype(jnp.bfloat16) for x in embeddings]
    assert function(*halves, None, state).dtype == jnp.float32


def test_gradients_are_finite_at_any_length_and_none_enters_the_memory(loss, embeddings):
    function, state = loss
    held = {name: x for name, x in state._asdict().items() if jnp.issubdtype(x.dtype, jnp.floating)}

    @jax.jit
    def total(size):
        into = lambda s, t, m: function(s, t, None, state._replace(**m)).sum()  # noqa: E731
        return jax.value_and_grad(into, argnums=(0, 1, 2))(*(x * size for x in embeddings), held)

    values, slopes = zip(*map(total, (1.0, 1e-30, 1e25, 0.0)), strict=True)
    np.testing.assert_allclose(values[1:3], values[0], rtol=1e-5)  # a direction has no length
    assert np.isfinite(values[3])
    for *into_embeddings, into_memory in slopes:
        assert all(np.isfinite(g).all() for g in into_embeddings)
        assert not any(np.any(g) for g in into_memory.values())
    assert all(np.any(g) for g in slopes[0][:2])
    assert not any(np.any(g) for g in slopes[3][:2])


def test_the_memory_is_updated_as_a_loop_over_rows_would(embeddings, memory):
    update = jax.jit(lambda m, s, t, where: contrastive.update_memory(m, s, t, INDEX, momentum=0.3, where=where))
    dirty = [x.at[PADDING].set(jnp.nan) for x in embeddings]
    new = update(memory, *dirty, jnp.asarray(WHERE))
    for side, x in (("student", STUDENT), ("teacher", TEACHER)):
        old = np.asarray(getattr(memory, side), np.float64)
        expected = old.copy()
        for b in np.flatnonzero(WHERE):
            expected[INDEX[b]] = unit(0.3 * old[INDEX[b]] + 0.7 * unit(x)[b])
        np.testing.assert_allclose(getattr(new, side), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(new.student, update(memory, *embeddings, jnp.asarray(WHERE)).student)
    through = jax.grad(lambda s: update(memory, s, embeddings[1], jnp.asarray(WHERE)).student.sum())(embeddings[0])
    assert not np.any(through)


def test_a_new_memory_is_uniform_and_of_length_about_one(key):
    memory = contrastive.init_memory(key, 2000, 12)
    for bank in memory[:2]:
        assert 0.499 < np.abs(bank).max() <= 0.5
        np.testing.assert_allclose(np.mean(np.sum(np.square(bank), 1)), 1, rtol=0.02)
    assert not np.array_equal(memory.student, memory.teacher)


def test_negatives_are_of_other_classes_each_as_often(key):
    labels = np.array([2, 0, 2, -1, 0, 2, 7, -1])
    blocks, index = contrastive.class_blocks(labels), jnp.arange(8, dtype=jnp.int32)
    drawn = np.asarray(contrastive.draw_negatives(key, index, blocks=blocks, count=7000))
    for i, found in enumerate(drawn):
        others = [j for j in range(8) if j != i and (labels[j] != labels[i] or labels[i] < 0)]
        places, times = np.unique(found, return_counts=True)
        assert places.tolist() == others
        np.testing.assert_allclose(times, 7000 / len(others), rtol=0.15)


def test_the_queue_is_the_formula(embeddings):
    held = contrastive.push(contrastive.init_queue(SLOTS, DIMS), embeddings[1][:3])
    keys = held.keys.at[3:].set(jnp.nan)  # what lies in an empty slot does not matter
    got = contrastive.queue(*embeddings, queue=held._replace(keys=keys), temperature=0.2)
    s, t = unit(STUDENT), unit(TEACHER)
    own = np.exp((s * t).sum(1) / 0.2)
    expected = -np.log(own / (own + np.exp(s @ t[:3].T / 0.2).sum(1)))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert (contrastive.queue(*embeddings, queue=contrastive.init_queue(SLOTS, DIMS)) == 0).all()


def test_the_queue_holds_the_last_real_rows_in_their_order():
    push = jax.jit(lambda q, x, where: contrastive.push(q, x, where=where))
    held, expected = contrastive.init_queue(SLOTS, DIMS), []
    for step in range(5):
        rows = np.random.default_rng(step).normal(size=(4, DIMS)).astype(np.float32)
        where = np.random.default_rng(step + 9).random(4) < 0.7
        rows[~where] = np.nan
        held = push(held, jnp.asarray(rows), jnp.asarray(where))
        expected = (expected + list(unit(rows[where])))[-SLOTS:]
        assert held.filled == len(expected)
    assert held.filled == SLOTS
    np.testing.assert_allclose(np.roll(held.keys, -int(held.head), axis=0), expected, rtol=1e-5, atol=1e-6)


def test_every_loss_with_a_memory_has_a_name():
    assert names("contrastive") == ["contrastive.crd", "contrastive.queue"]


@pytest.mark.parametrize("name", names("contrastive"))
def test_what_a_train_step_remembers(name, key, embeddings):
    """Laws of every loss with a memory: rows left out leave no trace, no gradient enters, and its shape stays."""
    one = memory_of(Call(name)(dims=DIMS), 2 * EXAMPLES)
    facts = one.about(np.arange(2 * EXAMPLES) % 3) if one.about else None
    rows = {"facts": facts, "key": key, "index": INDEX, "where": jnp.asarray(WHERE)}

    @jax.jit
    def call(student, teacher, memory):
        def loss(student, teacher, memory):
            values, new = one.step(student, teacher, memory=memory, **rows)
            return values.sum(), (values, new)

        slopes, (values, new) = jax.grad(loss, argnums=(0, 1, 2), has_aux=True, allow_int=True)(
            student, teacher, memory
        )
        return values, new, slopes

    memory = one.init(key)
    _, new, _ = call(*embeddings, memory)
    alike = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), memory, new)
    assert all(jax.tree.leaves(alike))
    assert not all(np.array_equal(a, b) for a, b in zip(memory, new, strict=True))
    values, newer, (*slopes, into_memory) = call(*embeddings, new)
    dirty, same, _ = call(*(x.at[PADDING].set(jnp.nan) for x in embeddings), new)
    jax.tree.map(np.testing.assert_array_equal, (dirty, same), (values, newer))
    assert (values[PADDING] == 0).all()
    assert (values[WHERE] > 0).all()
    assert all(np.any(slope) and not np.any(slope[PADDING]) for slope in slopes)
    assert not any(np.any(x) for x in into_memory if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crd", {"teacher": jnp.zeros((6, 5))}, r"\(6, 4\) and teacher \(6, 5\)"),
        ("crd", {"index": INDEX[:5]}, r"\(6, 4\), index \(5,\)"),
        ("crd", {"negatives": jnp.zeros((5, 3), jnp.int32)}, r"\(6, 4\) and negatives \(5, 3\)"),
        (
            "crd",
            {"memory": contrastive.Memory(*jnp.zeros((2, 7, 3)), jnp.zeros(()), jnp.zeros(()))},
            r"memory \(7, 3\)",
        ),
        ("crd", {"temperature": 0.0}, "temperature=0.0"),
        ("queue", {"where": jnp.ones(5)}, r"\(6, 4\) and where \(5,\)"),
        ("queue", {"queue": contrastive.init_queue(8, 3)}, r"keys \(8, 3\)"),
        ("queue", {"temperature": -1.0}, "temperature=-1.0"),
        ("update_memory", {"momentum": 1.5}, "momentum=1.5"),
        ("push", {"queue": contrastive.init_queue(5, 4)}, "6 rows .* 5 slots"),
        ("init_memory", {"dims": 0}, "dims=0"),
        ("init_queue", {"slots": 0}, "slots=0"),
        ("class_blocks", {"labels": np.zeros(4, int)}, "labels of 4 examples in 1 class"),
        ("draw_negatives", {"count": 0}, "count=0"),
    ],
)
def test_what_is_refused(key, embeddings, memory, rows, name, change, message):
    """Unwrapped: in these tests jaxtyping refuses shapes first, but a user has no checker."""
    student, teacher = embeddings
    given = {"student": student, "teacher": teacher, "memory": memory, **rows, "embeddings": student, "key": key}
    given |= {"queue": contrastive.init_queue(SLOTS, DIMS), "examples": 5, "dims": 4, "slots": 4, "count": 2}
    given |= {"blocks": contrastive.class_blocks(np.arange(EXAMPLES)), **change}
    function = inspect.unwrap(getattr(contrastive, name))
    accepted = {n: v for n, v in given.items() if n in inspect.signature(function).parameters}
    with pytest.raises(BadInput, match=message):
        function(**accepted)

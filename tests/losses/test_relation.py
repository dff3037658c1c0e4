"""Numbers of the losses on relations: by hand, by float64 numpy written apart, and by what they must not depend on."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import relation
from kdjax.recipes.comparisons import LOSSES, names
from kdjax.types import BadInput

RNG = np.random.default_rng(3)
BATCH = 5
STUDENT, TEACHER = RNG.normal(size=(BATCH, 4)), RNG.normal(size=(BATCH, 6))
TWO = (jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]]))


def arrays(*values):
    return [jnp.asarray(x, jnp.float32) for x in values]


@functools.cache
def jitted(loss):
    """One compilation for all tests that use the same shapes."""
    return jax.jit(loss)


def unit(x):
    length = np.linalg.norm(x)
    return x / length if length else x


def huber(d):
    return 0.5 * d**2 if abs(d) <= 1 else abs(d) - 0.5


def pairs(function, x):
    return np.array([[function(a, b) for b in x] for a in x])


def distance_by_hand(s, t):
    def relative(x):
        apart = pairs(lambda a, b: np.linalg.norm(a - b), x)
        return apart / apart[~np.eye(len(x), dtype=bool)].mean()

    return np.vectorize(huber)(relative(s) - relative(t)).mean(1)


def angle_by_hand(s, t):
    def cosine(x, i, j, k):
        return unit(x[j] - x[i]) @ unit(x[k] - x[i])

    n = range(len(s))
    return [np.mean([huber(cosine(s, i, j, k) - cosine(t, i, j, k)) for j in n for k in n]) for i in n]


def sp_by_hand(s, t):
    s, t = (np.array([unit(row) for row in x @ x.T]) for x in (s, t))
    return ((s - t) ** 2).mean(1)


def pkt_by_hand(s, t):
    s, t = (pairs(lambda a, b: (unit(a) @ unit(b) + 1) / 2, x) for x in (s, t))
    s, t = (x / x.sum(1, keepdims=True) for x in (s, t))
    return (t * np.log((t + 1e-7) / (s + 1e-7))).mean(1)


def kernel_by_hand(s, t, gamma=0.4):
    def series(a, b):
        c = unit(a) @ unit(b)
        return math.exp(-2 * gamma) * (1 + 2 * gamma * c + (2 * gamma * c) ** 2 / 2)

    return ((pairs(series, s) - pairs(series, t)) ** 2).mean(1)


BY_HAND = {
    relation.rkd_distance: distance_by_hand,
    relation.rkd_angle: angle_by_hand,
    relation.sp: sp_by_hand,
    relation.pkt: pkt_by_hand,
    relation.cc_kernel: kernel_by_hand,
}
GOLDEN = {
    "distance": (relation.rkd_distance, [[0], [1], [2]], [[0], [1], [3]], 1 / 72),
    "angle": (relation.rkd_angle, [[0, 0], [1, 0], [2, 0]], [[0, 0], [1, 0], [0, 1]], 3.5 / 27),
    "similarity": (relation.sp, *TWO, 1 - 1 / math.sqrt(2)),
    "probability": (relation.pkt, *TWO, 0.0294457),
    "kernel": (relation.cc_kernel, *TWO, 0.5 * (math.exp(-0.8) * (0.8 + 0.8**2 / 2)) ** 2),
    "neighbours": (relation.cc_neighbours, np.zeros((4, 7)), np.ones((4, 7)), 7.0),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_mean_over_the_batch_by_hand(case):
    loss, student, teacher, expected = GOLDEN[case]
    np.testing.assert_allclose(jitted(loss)(*arrays(student, teacher)).mean(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", BY_HAND)
def test_every_anchor_by_hand(loss):
    """With an example that is twice in the batch, for the relations of what lies in one place."""
    student, teacher = STUDENT.copy(), TEACHER.copy()
    for _ in range(2):
        expected = BY_HAND[loss](student, teacher)
        np.testing.assert_allclose(jitted(loss)(*arrays(student, teacher)), expected, rtol=1e-4, atol=1e-6)
        student[3] = student[1]


@pytest.mark.parametrize("size", [7, 8, 9])
def test_anchors_taken_a_few_at_a_time_are_all_taken(size):
    assert relation._ANCHORS_AT_ONCE == 8
    s, t = RNG.normal(size=(2, size, 2))
    np.testing.assert_allclose(jitted(relation.rkd_angle)(*arrays(s, t)), angle_by_hand(s, t), rtol=1e-4, atol=1e-6)


def turned(x):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(x.shape[1], x.shape[1])))
    return x @ rotation


CHANGES = {
    "turned": turned,
    "scaled": lambda x: 30 * x,
    "moved": lambda x: x + np.arange(x.shape[1]),
    "rows scaled": lambda x: x * np.arange(1, len(x) + 1)[:, None],
}
UNSEEN = {
    relation.rkd_distance: {"turned", "scaled", "moved"},
    relation.rkd_angle: {"turned", "scaled", "moved"},
    relation.sp: {"turned", "scaled"},
    relation.pkt: {"turned", "scaled", "rows scaled"},
    relation.cc_kernel: {"turned", "scaled", "rows scaled"},
}


@pytest.mark.parametrize("loss", UNSEEN)
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_seen_and_what_is_not(loss, side):
    sides = [STUDENT, TEACHER]
    expected = jitted(loss)(*arrays(*sides))
    for name, change in CHANGES.items():
        changed = list(sides)
        changed[side] = change(sides[side])
        same = np.allclose(jitted(loss)(*arrays(*changed)), expected, rtol=1e-4, atol=1e-6)
        assert same == (name in UNSEEN[loss]), name


def test_distances_far_from_the_origin_keep_their_digits():
    s, t = arrays(STUDENT, TEACHER)
    far = jnp.round(s * 64) / 64  # so that adding 4096 rounds nothing
    for loss in (jitted(relation.rkd_distance), jitted(relation.rkd_angle)):
        np.testing.assert_allclose(loss(far + 4096, t), loss(far, t), rtol=1e-5)


def test_the_mean_distance_of_the_student_is_differentiated():
    """A number that does not know of scale has no slope along the scale."""
    student, teacher = arrays(STUDENT, TEACHER)
    slope = jax.jit(jax.grad(lambda s: relation.rkd_distance(s, teacher).sum()))(student)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose((slope * student).sum(), 0, atol=1e-6)


@pytest.mark.parametrize("loss", [relation.rkd_distance, relation.rkd_angle])
def test_slopes_by_finite_differences(loss):
    """With two examples in one place, whose own distance has no slope, and every one of which has others."""
    with jax.enable_x64(True):
        student, teacher = jnp.asarray(STUDENT, jnp.float64), jnp.asarray(TEACHER, jnp.float64)
        student = student.at[3].set(student[1])
        value = jax.jit(lambda s: loss(s, teacher).sum())
        direction = jnp.zeros_like(student).at[jnp.array([0, 2])].set(RNG.normal(size=(2, 4)))
        slope = (jax.jit(jax.grad(value))(student) * direction).sum()
        measured = (value(student + 1e-5 * direction) - value(student - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(slope, measured, rtol=1e-6)


@pytest.mark.parametrize("name", names("relation"))
def test_a_padded_batch_means_what_it_would_without(name):
    """Padding at the end, at the start and between, of zeros and of copies of real rows."""
    loss = jax.jit(LOSSES.functions[name])
    expected = loss(*arrays(STUDENT, TEACHER[:, :4])).mean()
    for rows in ([0, 1, 2, 3, 4, -1, -1], [-1, 0, 1, 2, -1, 3, 4], [-1, -1, 0, 1, 2, 3, 4]):
        taken = np.array(rows)
        where = taken >= 0
        for fill in (0.0, 1.0):
            padded = [np.where(where[:, None], x[taken], fill * x[:1]) for x in (STUDENT, TEACHER[:, :4])]
            value = loss(*arrays(*padded), where=jnp.asarray(where))
            np.testing.assert_allclose(value.sum() / BATCH, expected, rtol=1e-5, atol=1e-7)


def test_neighbours_are_the_next_kept_rows():
    s, t = jnp.zeros((4, 2)), jnp.array([[1.0, 2.0], [9.0, 9.0], [3.0, 1.0], [1.0, 5.0]])
    # 1·3 + 2·1 and 3·1 + 1·5; three rows have two pairs.
    value = relation.cc_neighbours(s, t, where=jnp.array([True, False, True, True]))
    np.testing.assert_allclose(value, [5 * 1.5, 0, 8 * 1.5, 0])


def test_maps_are_flattened():
    s, t = RNG.normal(size=(2, BATCH, 2, 2, 3))
    np.testing.assert_allclose(
        jitted(relation.sp)(*arrays(s, t)), sp_by_hand(*s.reshape(1, BATCH, -1), *t.reshape(1, BATCH, -1)), rtol=1e-4
    )


def test_neighbours_compare_dims_one_by_one():
    with pytest.raises(BadInput, match=r"student has shape \(5, 4\) and teacher \(5, 6\)"):
        inspect.unwrap(relation.cc_neighbours)(*arrays(STUDENT, TEACHER))


def test_the_series_tends_to_the_gaussian():
    s, t = (np.array([unit(row) for row in x]) for x in (STUDENT, TEACHER))
    s_kernel, t_kernel = (pairs(lambda a, b: math.exp(-0.7 * ((a - b) ** 2).sum()), x) for x in (s, t))
    expected = ((s_kernel - t_kernel) ** 2).mean(1)
    np.testing.assert_allclose(relation.cc_kernel(*arrays(s, t), gamma=0.7, order=12), expected, rtol=1e-4, atol=1e-7)
    assert not np.allclose(relation.cc_kernel(*arrays(s, t), gamma=0.7, order=1), expected, rtol=1e-2)


def test_pkt_of_opposite_examples_whose_cosine_is_rounded_below_minus_one():
    x = jnp.asarray(RNG.normal(size=(64, 64)), jnp.float32)
    opposite = jnp.stack([x, -x], 1)
    directions = jnp.stack([jnp.eye(2, 64)] * 64)
    assert np.isfinite(jax.jit(jax.vmap(relation.pkt))(opposite, directions)).all()


@pytest.mark.parametrize(("keyword", "value"), [("order", 0), ("order", 1.5), ("gamma", 0.0)])
def test_a_series_that_is_none_is_refused(keyword, value):
    with pytest.raises(BadInput, match=rf"{keyword}={value}; accepted"):
        relation.cc_kernel(*TWO, **{keyword: value})


def test_memory_of_angles():
    """All triplets at once would take 256 times the pairs, for each thing kept about them."""
    vectors = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda s, t: relation.rkd_angle(s, t).mean()))
    floats = step.lower(vectors, vectors).compile().memory_analysis().temp_size_in_bytes / 4
    assert floats < 4 * relation._ANCHORS_AT_ONCE * 256**2


@pytest.mark.parametrize("loss", [relation.rkd_distance, relation.sp, relation.pkt, relation.cc_kernel])
def test_memory_of_pairs(loss):
    vectors = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    step = jax.jit(jax.value_and_grad(functools.partial(lambda s, t, loss: loss(s, t).mean(), loss=loss)))
    floats = step.lower(vectors, vectors).compile().memory_analysis().temp_size_in_bytes / 4
    assert floats < 12 * 256**2


def test_every_loss_of_the_family_has_a_name():
    losses = ["cc_kernel", "cc_neighbours", "pkt", "rkd_angle", "rkd_distance", "sp"]
    assert names("relation") == [f"relation.{loss}" for loss in losses]

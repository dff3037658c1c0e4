"""Classes of several teachers in one union: maps, masks, what is refused, and the gated union."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.ensembles import pools
from kdjax.ensembles.label_spaces import ABSENT, LabelSpaces, components, embed, embed_all, gated_union, refuse_unlinked
from kdjax.losses import response
from kdjax.types import BadInput

OVERLAP = LabelSpaces(maps=((0, 1, 2, 3), (5, 3, 4)), union=6)
DISJOINT = LabelSpaces(maps=((0, 1), (4, 2), (3, 5)), union=6)
RNG = np.random.default_rng(0)


def answers(spaces, batch=4):
    return tuple(jnp.asarray(RNG.normal(size=(batch, len(own))) * 3, jnp.float32) for own in spaces.maps)


@pytest.mark.parametrize(
    ("maps", "union", "message"),
    [
        ((), 2, "one map or more"),
        (((0, 1), ()), 2, r"maps\[1\]=\(\)"),
        (((0, 1), (1, 2)), 2, r"maps\[1\]=\(1, 2\): \[2\] out of range; accepted: 0 to 1"),
        (((0, -1),), 1, r"\[-1\] out of range"),
        (((0, 1), (1, 0, 1)), 2, r"maps\[1\]=\(1, 0, 1\): \[1\] more than once"),
        (((0, 1), (1, 3)), 5, r"no teacher knows \[2, 4\]"),
    ],
)
def test_maps_that_cannot_be_meant_are_refused(maps, union, message):
    with pytest.raises(BadInput, match=message):
        LabelSpaces(maps, union)


def test_the_mask_follows_the_maps_and_not_their_order():
    assert OVERLAP.mask.tolist() == [[True] * 4 + [False] * 2, [False] * 3 + [True] * 3]


def test_components_follow_chains_of_shared_classes():
    chain = LabelSpaces(maps=((0, 1), (4, 5), (1, 2), (2, 3)), union=6)
    assert components(chain) == ((0, 2, 3), (1,))
    assert components(OVERLAP) == ((0, 1),)


def test_unlinked_teachers_are_refused_with_the_blocks_and_the_reason():
    refuse_unlinked(OVERLAP)
    with pytest.raises(BadInput) as refused:
        refuse_unlinked(LabelSpaces(maps=((0, 1), (2, 3), (1, 4)), union=5))
    message = str(refused.value)
    assert "teachers [0, 2] with classes [0, 1, 4]; teachers [1] with classes [2, 3]" in message
    assert "not identifiable" in message
    assert "rescaling a block changes no answer" in message
    assert "gate" in message


def test_the_reason_given_for_refusing_is_true():
    """Mass moved between unlinked blocks changes no teacher's answer; between linked ones it changes some."""
    q = RNG.dirichlet(np.ones(6))

    def told(spaces, q):
        return np.concatenate([q[list(own)] / q[list(own)].sum() for own in spaces.maps])

    for block in ([0, 1], [2, 4], [3, 5]):
        moved = np.where(np.isin(np.arange(6), block), 7 * q, q)
        np.testing.assert_allclose(told(DISJOINT, moved / moved.sum()), told(DISJOINT, q), rtol=1e-12)
        assert not np.allclose(told(OVERLAP, moved / moved.sum()), told(OVERLAP, q))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_embedding_keeps_the_answer_and_gives_the_rest_exactly_nothing(temperature):
    for t, own in enumerate(OVERLAP.maps):
        logits = answers(OVERLAP)[t]
        p = jax.nn.softmax(embed(logits, OVERLAP, t) / temperature)
        np.testing.assert_allclose(p[:, np.array(own)], jax.nn.softmax(logits / temperature), rtol=1e-6)
        assert (p[:, ~OVERLAP.mask[t]] == 0).all()


@pytest.mark.parametrize("loss", [response.kl, response.reverse_kl, response.soft_cross_entropy])
def test_losses_of_an_embedded_teacher_have_finite_gradients_on_both_sides(loss):
    student = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
    logits = answers(OVERLAP)[1]

    def value(student, logits):
        return loss(student, embed(logits, OVERLAP, 1)).sum()

    number, slopes = jax.value_and_grad(value, argnums=(0, 1))(student, logits)
    assert jnp.isfinite(number)
    assert all(jnp.isfinite(s).all() for s in slopes)
    assert all(np.any(s) for s in slopes)


def test_halves_do_not_overflow():
    half = embed(jnp.ones((2, 3), jnp.float16), OVERLAP, 1)
    assert half.dtype == jnp.float32
    assert float(half.min()) == ABSENT


def test_the_gated_union_is_the_weighted_sum_of_answers():
    temperature = 2.5
    for spaces in (OVERLAP, DISJOINT):
        said = answers(spaces)
        gate = jnp.asarray(RNG.dirichlet(np.ones(len(said)), size=4), jnp.float32)
        expected = np.zeros((4, 6))
        for t, own in enumerate(spaces.maps):
            for place, c in enumerate(own):
                p = jax.nn.softmax(said[t] / temperature)[:, place]
                expected[:, c] += np.asarray(gate)[:, t] * np.asarray(p)
        together = jax.jit(lambda a, w, s=spaces: gated_union(a, w, s, temperature=temperature))(said, gate)
        np.testing.assert_allclose(jax.nn.softmax(together / temperature), expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(jnp.exp(together / temperature).sum(1), 1, rtol=1e-5)


def test_a_gate_that_is_sure_passes_one_teacher_on_and_stays_finite():
    said = answers(DISJOINT)
    together = gated_union(said, jnp.tile(jnp.array([[0.0, 1.0, 0.0]]), (4, 1)), DISJOINT)
    np.testing.assert_allclose(jax.nn.softmax(together), jax.nn.softmax(embed(said[1], DISJOINT, 1)), rtol=1e-6)
    assert jnp.isfinite(together).all()
    assert jnp.isfinite(response.kl(jnp.zeros((4, 6)), together)).all()


def test_any_pool_takes_embedded_answers():
    said = embed_all(answers(OVERLAP), OVERLAP)
    assert said.shape == (2, 4, 6)
    entropy_gated = pools.resolve("mean_probability + entropy")(said)
    np.testing.assert_allclose(jax.nn.softmax(entropy_gated).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 4),), r"accepted: 2 of \[batch, classes\]"),
        (((4, 4), (3, 3)), "one batch"),
        (((4, 4), (4, 4)), r"teacher 1 have shape \(4, 4\); accepted: \[batch, 3\]"),
    ],
)
def test_answers_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(BadInput, match=message):
        embed_all([jnp.zeros(s) for s in shapes], OVERLAP)

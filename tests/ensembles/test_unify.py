"""Unified classifiers: the truth is found again, order does not matter, and an independent solver agrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from kdjax.ensembles import unify
from kdjax.ensembles.label_spaces import LabelSpaces
from kdjax.types import BadInput

SPACES = LabelSpaces(maps=((0, 1, 2, 3), (5, 3, 4), (4, 0, 6)), union=7)
RNG = np.random.default_rng(0)


def compiled(function):
    """Solvers are loops, which run as slowly as they compile when called from Python one by one."""
    return jax.jit(function, static_argnames=("spaces", "temperature", "steps"))


def factorise_logits(answers, spaces, **hyper):
    return unify.Unified(unify.factorise_logits(answers, spaces, **hyper), jnp.zeros(()))


FORMS = {
    "cross_entropy": compiled(unify.cross_entropy),
    "factorise_logits": compiled(factorise_logits),
    "factorise_probabilities": compiled(unify.factorise_probabilities),
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def consistent(spaces, log_q, temperature=1.0):
    """What teachers say that all believe q, each with a constant of its own on its logits."""
    return tuple(
        jnp.asarray(temperature * log_q[:, list(own)] + 3 * i, jnp.float32) for i, own in enumerate(spaces.maps)
    )


def inconsistent(spaces, scale=2.0, batch=5):
    return tuple(jnp.asarray(RNG.normal(size=(batch, len(own))) * scale, jnp.float32) for own in spaces.maps)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_truth_is_found_again(form, temperature):
    log_q = special.log_softmax(RNG.normal(size=(5, 7)) * 3, axis=1)
    found = form(consistent(SPACES, log_q, temperature), SPACES, temperature=temperature)
    np.testing.assert_allclose(found.logits / temperature, log_q, atol=1e-4)
    assert (found.residual < 1e-5).all()


def test_the_truth_is_found_again_over_many_decades(form):
    log_q = special.log_softmax(RNG.normal(size=(5, 7)) * 12, axis=1)
    found = form(consistent(SPACES, log_q), SPACES)
    np.testing.assert_allclose(jnp.exp(found.logits), np.exp(log_q), atol=1e-4)


def test_the_order_of_teachers_changes_nothing(form):
    answers, order = inconsistent(SPACES), (2, 0, 1)
    other = LabelSpaces(tuple(SPACES.maps[i] for i in order), SPACES.union)
    a, b = form(answers, SPACES), form(tuple(answers[i] for i in order), other)
    np.testing.assert_allclose(jnp.exp(a.logits), jnp.exp(b.logits), atol=1e-4)


def test_renumbering_the_union_renumbers_the_answer(form):
    answers, places = inconsistent(SPACES), np.array([3, 0, 6, 2, 5, 1, 4])
    other = LabelSpaces(tuple(tuple(int(places[c]) for c in own) for own in SPACES.maps), SPACES.union)
    a, b = form(answers, SPACES), form(answers, other)
    np.testing.assert_allclose(jnp.exp(a.logits), jnp.exp(b.logits)[:, places], atol=1e-4)


def test_one_teacher_of_everything_is_repeated(form):
    alone = LabelSpaces(((1, 0, 2),), 3)
    said = inconsistent(alone)
    found = jnp.exp(form(said, alone).logits)[:, np.array([1, 0, 2])]
    np.testing.assert_allclose(found, jax.nn.softmax(said[0]), atol=1e-5)


def test_unlinked_classes_are_refused(form):
    spaces = LabelSpaces(((0, 1), (2, 3)), 4)
    with pytest.raises(BadInput, match="not identifiable"):
        form((jnp.zeros((2, 2)), jnp.zeros((2, 2))), spaces)
    with pytest.raises(BadInput, match="not identifiable"):
        unify.block_kl(jnp.zeros((2, 4)), jnp.zeros((2, 4)), spaces=spaces)


def explained_badly(u, said, spaces):
    """The objective of the cross-entropy form in float64, written from the paper."""
    total = 0.0
    for v, own in zip(said, spaces.maps, strict=True):
        total -= np.sum(special.softmax(v) * special.log_softmax(u[list(own)]))
    return total


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_cross_entropy_form_agrees_with_an_independent_solver(scale):
    answers = inconsistent(SPACES, scale)
    found = FORMS["cross_entropy"](answers, SPACES)
    assert (found.residual <= 1e-6).all()
    for row in range(5):
        said = [np.asarray(a[row], np.float64) for a in answers]
        best = optimize.minimize(
            explained_badly, np.zeros(7), args=(said, SPACES), method="BFGS", options={"gtol": 1e-7}
        )
        np.testing.assert_allclose(jnp.exp(found.logits[row]), special.softmax(best.x), atol=2e-4)
        assert explained_badly(np.asarray(found.logits[row]), said, SPACES) <= best.fun + 1e-6


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_teachers_that_contradict_each_other_strongly_give_no_nan(form, scale):
    found = form(inconsistent(SPACES, scale), SPACES)
    assert jnp.isfinite(found.logits).all()
    np.testing.assert_allclose(jnp.exp(found.logits).sum(1), 1, rtol=1e-3)


def test_a_solver_stopped_early_says_so():
    assert (FORMS["cross_entropy"](inconsistent(SPACES), SPACES, steps=0).residual > 1e-2).any()


def test_factorised_logits_are_the_least_squares():
    answers, temperature = inconsistent(SPACES), 2.0
    u = np.asarray(unify.factorise_logits(answers, SPACES, temperature=temperature), np.float64)

    def squares(u):
        # The best b_i for given u is the mean of what is left.
        left = [np.asarray(a, np.float64) - u[:, list(own)] for a, own in zip(answers, SPACES.maps, strict=True)]
        return sum(((x - x.mean(1, keepdims=True)) ** 2).sum(1) for x in left)

    for _ in range(10):
        direction = RNG.normal(size=u.shape)
        assert (squares(u + 1e-2 * direction) > squares(u)).all()
        np.testing.assert_allclose(squares(u + 1e-2 * direction), squares(u - 1e-2 * direction), rtol=1e-3)


def test_factorised_probabilities_are_stationary():
    answers = inconsistent(SPACES, 1.0)
    found = FORMS["factorise_probabilities"](answers, SPACES)
    assert (found.residual <= 1e-6).all()
    q = np.exp(np.asarray(found.logits, np.float64))

    def squares(q):
        total = np.zeros(len(q))
        for v, own in zip(answers, SPACES.maps, strict=True):
            p, u = special.softmax(np.asarray(v, np.float64), axis=1), q[:, list(own)]
            c = (p * u).sum(1, keepdims=True) / (u**2).sum(1, keepdims=True)
            total += ((p - u * c) ** 2).sum(1)
        return total

    for _ in range(10):
        direction = RNG.normal(size=q.shape)
        slope = (squares(q * np.exp(1e-4 * direction)) - squares(q * np.exp(-1e-4 * direction))) / 2e-4
        np.testing.assert_allclose(slope, 0, atol=1e-4)
    start = np.exp(np.asarray(unify.factorise_logits(answers, SPACES), np.float64))
    assert (squares(q) < squares(start)).all()


def test_the_block_loss_has_the_slope_of_the_cross_entropy_form():
    """Its minimum over a free student is the unified answer."""
    answers = inconsistent(SPACES)
    side_by_side = jnp.concatenate(answers, axis=1)
    best = FORMS["cross_entropy"](answers, SPACES).logits
    slope = jax.grad(lambda z: unify.block_kl(z, side_by_side, spaces=SPACES).sum())
    np.testing.assert_allclose(slope(best), 0, atol=1e-5)
    assert jnp.abs(slope(best + jnp.eye(7)[:1])).max() > 1e-2


def test_the_block_loss_is_nought_for_a_student_that_believes_what_all_believe():
    log_q = special.log_softmax(RNG.normal(size=(5, 7)), axis=1)
    side_by_side = jnp.concatenate(consistent(SPACES, log_q), axis=1)
    keep = jnp.array([1, 1, 1, 1, 0])
    loss = unify.block_kl(jnp.asarray(log_q, jnp.float32), side_by_side, spaces=SPACES, where=keep > 0)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    wrong = jnp.asarray(log_q, jnp.float32).at[:, 2].add(1)
    loss = unify.block_kl(wrong, side_by_side, spaces=SPACES, where=keep > 0)
    assert ((loss > 1e-3) == (keep > 0)).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match=r"accepted: \[batch, 7\] and \[batch, 10\]"):
        unify.block_kl(jnp.zeros((2, 7)), jnp.zeros((2, 9)), spaces=SPACES)
    with pytest.raises(BadInput, match="temperature=0"):
        unify.cross_entropy(inconsistent(SPACES), SPACES, temperature=0.0)


def test_no_gradient_reaches_the_teachers(form):
    slopes = jax.grad(lambda a: form(a, SPACES).logits.sum())(inconsistent(SPACES))
    assert all(not np.any(s) for s in slopes)


@pytest.mark.parametrize("scale", [10.0, 80.0])
def test_answers_as_sure_as_trained_networks_are_still_solved(scale):
    """Among 20,000 such answers float32 once left some without a solution, and a student of them diverged."""
    spaces = LabelSpaces(maps=(tuple(range(7)), tuple(range(4, 10))), union=10)
    rng = np.random.default_rng(int(scale))
    answers = [jnp.asarray(rng.normal(size=(20000, n)) * scale, jnp.float32) for n in (7, 6)]
    logits, residual = jax.jit(lambda a: unify.cross_entropy(a, spaces, temperature=4.0))(answers)
    assert np.isfinite(logits).all()
    assert residual.max() < 1e-4

"""Specialists: who is confused with whom, what a specialist learns from, and what a committee says."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from kdjax.ensembles.specialists import (
    committee,
    confusable,
    correct_dustbin,
    half_and_half,
    specialist_labels,
    with_dustbin,
)
from kdjax.types import BadInput

RNG = np.random.default_rng(0)
SUBSETS = ((0, 1, 2), (4, 2), (5, 1))
TOGETHER = jax.jit(committee, static_argnames=("subsets", "steps"))


def logits(batch, classes, scale=2.0):
    return jnp.asarray(RNG.normal(size=(batch, classes)) * scale, jnp.float32)


def test_classes_that_are_confused_are_found():
    groups, rows = ((0, 3), (1, 4, 5), (2, 6)), []
    for group in groups:
        for _ in range(40):
            row = np.full(7, 0.01)
            row[list(group)] += RNG.dirichlet(np.full(len(group), 2.0))
            rows.append(row / row.sum())
    assert sorted(confusable(np.array(rows), 3)) == sorted(groups)
    assert confusable(np.array(rows), 7) == ()
    with pytest.raises(BadInput, match="clusters=8; accepted: 1 to 7"):
        confusable(np.array(rows), 8)


def test_labels_of_a_specialist():
    labels = np.array([0, 1, 2, 3, 4, -1, 9])
    np.testing.assert_array_equal(specialist_labels(labels, (3, 1)), [2, 1, 2, 0, 2, -1, 2])
    np.testing.assert_array_equal(specialist_labels(np.array([0, 0]), (3, 1)), [2, 2])


@pytest.mark.parametrize(("subset", "others"), [((0, 1), 300), ((0, 1, 2, 3), 100)])
def test_half_and_half(subset, others):
    labels = np.repeat(np.arange(5), 100)
    chosen, ratio = half_and_half(labels, subset, seed=3)
    own = np.isin(labels[chosen], subset)
    assert own.mean() == 0.5
    np.testing.assert_array_equal(np.unique(chosen[own]), np.flatnonzero(np.isin(labels, subset)))
    assert ratio == others / own.sum()
    assert (half_and_half(labels, subset, seed=3)[0] == chosen).all()
    assert (half_and_half(labels, subset, seed=4)[0] != chosen).any()


@pytest.mark.parametrize("subset", [(7, 8), (0, 1, 2)])
def test_a_mix_without_one_half_is_refused(subset):
    with pytest.raises(BadInput, match="accepted: some of both"):
        half_and_half(np.array([0, 1, 2]), subset, seed=0)


def test_the_correction_undoes_the_over_sampling():
    """Posteriors of the half-and-half mix, corrected, are those of the data."""
    likelihood, prior = RNG.dirichlet(np.ones(3), size=8), np.array([0.1, 0.15, 0.75])
    special_share = prior[:2].sum()
    mixed = np.array([*prior[:2] / special_share / 2, 0.5])
    trained = jnp.asarray(np.log(likelihood * mixed), jnp.float32)
    corrected = correct_dustbin(trained, (1 - special_share) / special_share)
    expected = likelihood * prior / (likelihood * prior).sum(1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(corrected), expected, rtol=1e-5)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX's, of numbers of 64 bits put among those of 32
        np.testing.assert_allclose(correct_dustbin(trained, (1 - special_share) / special_share), corrected)


def test_a_network_seen_as_a_specialist_adds_the_others_up():
    z = logits(4, 6)
    p, seen = jax.nn.softmax(z), jax.nn.softmax(with_dustbin(z, (4, 2)))
    np.testing.assert_allclose(seen, jnp.stack([p[:, 4], p[:, 2], 1 - p[:, 4] - p[:, 2]], axis=1), atol=1e-6)


@pytest.mark.parametrize("subset", [(), (0, 0), (0, 6), (-1, 2), (0, 1, 2, 3, 4, 5)])
def test_what_is_no_proper_subset_is_refused(subset):
    with pytest.raises(BadInput, match="not all, each once and from 0 to 5"):
        with_dustbin(logits(2, 6), subset)


def test_a_generalist_alone_is_repeated():
    g = logits(5, 6)
    np.testing.assert_allclose(jax.nn.softmax(committee(g, [], []).logits), jax.nn.softmax(g), atol=1e-6)
    # Classes 0 to 2 are the generalist's choice nowhere, so the specialist is never asked.
    g = g.at[:, 5].set(20)
    silent = TOGETHER(g, (logits(5, 4),), subsets=((0, 1, 2),))
    np.testing.assert_allclose(jax.nn.softmax(silent.logits), jax.nn.softmax(g), atol=1e-6)


def test_one_active_specialist_has_a_closed_form():
    g, m = logits(5, 6).at[:, 1].set(9), logits(5, 4)
    p_g, p_m = np.asarray(jax.nn.softmax(g)), np.asarray(jax.nn.softmax(m))
    expected = np.empty((5, 6))
    expected[:, :3] = (p_g[:, :3] + p_m[:, :3]) / 2
    rest = p_g[:, 3:].sum(1, keepdims=True)
    expected[:, 3:] = p_g[:, 3:] / rest * (rest + p_m[:, 3:]) / 2
    found = TOGETHER(g, (m,), subsets=((0, 1, 2),))
    np.testing.assert_allclose(jnp.exp(found.logits), expected, atol=1e-6)


def disagreement(u, g, said):
    """The objective in float64, written from the paper, over logits u of q."""
    p, q = special.softmax(g), special.softmax(u)
    total = np.sum(special.rel_entr(p, q))
    for m, subset in zip(said, SUBSETS, strict=True):
        if g.argmax() in subset:
            binned = np.append(q[list(subset)], q[np.setdiff1d(np.arange(6), subset)].sum())
            total += np.sum(special.rel_entr(special.softmax(m), binned))
    return total


def test_the_committee_agrees_with_an_independent_solver():
    g = logits(6, 6).at[jnp.arange(6), jnp.arange(6)].set(4)  # 1 and 2 wake two specialists, 3 none
    said = tuple(logits(6, len(s) + 1) for s in SUBSETS)
    found = TOGETHER(g, said, subsets=SUBSETS)
    assert (found.residual <= 1e-6).all()
    for row in range(6):
        args = (np.asarray(g[row], np.float64), [np.asarray(m[row], np.float64) for m in said])
        best = optimize.minimize(disagreement, args[0], args=args, method="BFGS", options={"gtol": 1e-8})
        np.testing.assert_allclose(jnp.exp(found.logits[row]), special.softmax(best.x), atol=1e-5)


def test_the_order_of_specialists_changes_nothing():
    g, said = logits(6, 6), tuple(logits(6, len(s) + 1) for s in SUBSETS)
    turned = TOGETHER(g, said[::-1], subsets=SUBSETS[::-1])
    np.testing.assert_allclose(jnp.exp(TOGETHER(g, said, subsets=SUBSETS).logits), jnp.exp(turned.logits), atol=1e-5)


def test_sure_members_that_contradict_each_other_give_no_nan():
    g = logits(6, 6, 1e4)
    found = TOGETHER(g, tuple(logits(6, len(s) + 1, 1e4) for s in SUBSETS), subsets=SUBSETS)
    assert jnp.isfinite(found.logits).all()
    np.testing.assert_allclose(jnp.exp(found.logits).sum(1), 1, rtol=1e-5)


def test_specialists_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match=r"have shapes \[\(2, 3\)\]; accepted: \[\(2, 4\)\], a dustbin"):
        committee(logits(2, 6), [logits(2, 3)], [(0, 1, 2)])

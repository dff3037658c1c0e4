"""What an example's loss is multiplied by, and the loss of labels that looks at the most believed wrong class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import emphasis, response
from kdjax.recipes.comparisons import EMPHASES
from kdjax.types import BadInput

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)) * 2, jnp.float32)
LABELS = jnp.array([0, 3, -1, 2, 1])


def p_y():
    p = np.exp(np.asarray(LOGITS, np.float64))
    p = p / p.sum(1, keepdims=True)
    return np.where(LABELS < 0, p.max(1), p[np.arange(5), LABELS])


def test_values_by_hand():
    for power in (0.0, 0.1, 1.0, 3.0):
        np.testing.assert_allclose(emphasis.confidence(LOGITS, LABELS, power=power), p_y() ** power, rtol=1e-5)
        np.testing.assert_allclose(
            emphasis.doubt(LOGITS, LABELS, power=power), 1 - p_y() ** power, rtol=1e-5, atol=1e-7
        )


def test_entropies_by_hand():
    p = np.exp(np.asarray(LOGITS, np.float64))
    p = p / p.sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1)
    np.testing.assert_allclose(
        emphasis.uncertainty(LOGITS, LABELS, scale=2.0), 2 * (entropy - entropy.min()), rtol=1e-5, atol=1e-6
    )
    span = entropy.max() - entropy.min()
    np.testing.assert_allclose(
        emphasis.certainty(LOGITS, LABELS), (entropy.max() - entropy) / span, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(emphasis.certainty(jnp.zeros((5, 4)), LABELS), 0)


@pytest.mark.parametrize(("name", "number"), [("confidence", "power"), ("doubt", "power"), ("uncertainty", "scale")])
def test_numbers_out_of_range(name, number):
    with pytest.raises(BadInput, match=f"{number}=-1"):
        EMPHASES.functions[name](LOGITS, LABELS, **{number: -1.0})


@pytest.mark.parametrize("name", EMPHASES.names())
def test_laws(name):
    plain = EMPHASES.functions[name]
    weigh, rows = jax.jit(plain), jnp.ones(5)
    slope = jax.jit(jax.grad(lambda z, where: plain(z, LABELS, where=where).sum()))
    value = plain(LOGITS, LABELS)
    assert value.shape == (5,)
    assert ((value >= 0) & (value <= (5 * np.log(4) if name == "uncertainty" else 1))).all()
    for where in ({}, {"where": rows}):
        np.testing.assert_allclose(weigh(LOGITS, LABELS, **where), value, rtol=1e-6)
    order = np.array([3, 1, 4, 0, 2])
    np.testing.assert_allclose(weigh(LOGITS[order], LABELS[order]), value[order], rtol=1e-6)
    where, kept = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0]), np.array([0, 2, 3])
    dirty = LOGITS.at[1].set(jnp.nan)
    found = weigh(dirty, LABELS.at[1].set(99), where=where)
    np.testing.assert_allclose(found[kept], weigh(LOGITS[kept], LABELS[kept]), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found[np.array([1, 4])], 0)
    assert np.isfinite(slope(dirty, where)).all()
    huge = jnp.array([[1e4, -1e4, 0, 0]] * 5, jnp.float32)
    assert np.isfinite(weigh(huge, LABELS)).all()
    assert np.isfinite(slope(huge, rows)).all()
    np.testing.assert_array_equal(plain(LOGITS.astype(jnp.bfloat16), LABELS).dtype, jnp.float32)


def test_boosted_cross_entropy_by_hand_and_at_its_ends():
    z = np.asarray(LOGITS, np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    wrong = np.where(np.arange(4) == np.asarray(LABELS)[:, None], 0, p).max(1)
    expected = np.where(LABELS < 0, 0, -np.log(p_y()) - np.log(1 - wrong))
    np.testing.assert_allclose(response.boosted_cross_entropy(LOGITS, LABELS), expected, rtol=1e-5)
    where = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(
        response.boosted_cross_entropy(LOGITS.at[1].set(jnp.nan), LABELS, where=where), expected * where, rtol=1e-5
    )
    for huge in ([1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0], [1e4, 1e4, 0, 0]):
        rows = jnp.array([huge] * 5, jnp.float32)
        assert jnp.isfinite(response.boosted_cross_entropy(rows, LABELS)).all()
        assert jnp.isfinite(jax.grad(lambda z: response.boosted_cross_entropy(z, LABELS).sum())(rows)).all()
    assert jnp.isnan(response.boosted_cross_entropy(LOGITS, LABELS.at[0].set(4))[0])

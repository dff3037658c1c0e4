"""The norm that losses share, where squares are no float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import _logits


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20, 1e37])
def test_the_norm_and_its_gradient_at_any_scale(scale):
    x = jnp.array([[3.0, -4.0, 0.0]]) * scale
    np.testing.assert_allclose(_logits.norm(x, 1), [[5 * scale]], rtol=1e-6)
    slope = jax.grad(lambda x: _logits.norm(x, 1).sum())(x)
    np.testing.assert_allclose(slope, [[0.6, -0.8, 0.0]], atol=1e-6)


def test_the_norm_of_nothing_is_0_with_slope_0_and_what_is_no_number_stays_none():
    zero = jnp.zeros((1, 3))
    np.testing.assert_array_equal(_logits.norm(zero, 1), [[0.0]])
    np.testing.assert_array_equal(jax.grad(lambda x: _logits.norm(x, 1).sum())(zero), zero)
    assert jnp.isnan(_logits.norm(zero.at[0, 1].set(jnp.nan), 1)).all()
    assert jnp.isinf(_logits.norm(zero.at[0, 1].set(jnp.inf), 1)).all()

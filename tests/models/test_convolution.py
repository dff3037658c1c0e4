"""The fast convolution is Linen's, in value and in every slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax.models.convolution import StridedConv
from kdjax.types import BadInput


@pytest.mark.parametrize(
    ("size", "stride", "padding", "side"), [(4, 2, 1, 8), (4, 2, 1, 9), (3, 3, 0, 10), (2, 1, 1, 5)]
)
def test_it_is_linens_convolution_and_so_are_its_slopes(size, stride, padding, side):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
    fast = StridedConv(5, size, stride, padding)
    plain = nn.Conv(5, (size, size), strides=stride, padding=padding)
    variables = plain.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, fast.init(jax.random.key(1), x)) == jax.tree.map(jnp.shape, variables)

    def both(model):
        def value(variables, x):
            return jnp.sum(jnp.sin(model.apply(variables, x)))

        return [
            model.apply(variables, x),
            *jax.tree.leaves(jax.grad(value, (0, 1))(variables, x)),
            jax.jvp(lambda x: value(variables, x), (x,), (jnp.cos(x),))[1],
            jax.jvp(lambda x: jax.grad(value, 1)(variables, x), (x,), (jnp.cos(x),))[1],
        ]

    for ours, theirs in zip(both(fast), both(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(BadInput, match="size=3, stride=2"):
        StridedConv(5, 3, 2, 1).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))

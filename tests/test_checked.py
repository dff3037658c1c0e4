"""How these tests check annotations: each function by its own, though functions alike share what was made for one."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

from tests import checked

VECTOR = jnp.zeros(3)


def made(annotation, told=None):
    """A function within a function, as libraries of closures are full of."""

    @jaxtyped(typechecker=checked)
    def inner(x: annotation) -> annotation:
        return x if told is None else told

    return inner


def test_a_function_that_is_defined_again_is_checked_again():
    for _ in range(2):
        inner = made(Float[Array, " n"])
        assert inner(VECTOR) is VECTOR
        with pytest.raises(TypeCheckError, match="parameter 'x'"):
            inner(np.zeros(3))
        with pytest.raises(TypeCheckError, match="return value"):
            made(Float[Array, " n"], told=jnp.zeros((3, 3)))(VECTOR)
        with pytest.raises(TypeCheckError, match="return value"):
            made(Float[Array, " n"], told=jnp.zeros(4))(VECTOR)


def test_one_of_other_annotations_is_checked_by_its_own():
    assert made(Float[Array, " n"])(VECTOR) is VECTOR
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        made(Float[Array, "n m"])(VECTOR)
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        made(np.ndarray)(VECTOR)


def test_the_library_is_checked_so():
    from kdjax.losses import response

    with pytest.raises(TypeCheckError, match=r"response\.kl"):
        response.kl(np.zeros((2, 3)), np.zeros((2, 3)))

"""A teacher that is run in every step."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from kdjax.types import ApplyFn, Batch, Outputs, PyTree

Teacher = Callable[[PyTree, Batch], Outputs]
"""`(frozen, batch) -> Outputs`: what the teacher says of a batch; several teachers' logits are `[T, B, K]`."""


@functools.cache  # One object a model, so that a program made of it is found again.
def live(apply: ApplyFn) -> Teacher:
    """A teacher that is run in every step, in evaluation mode, on variables found in `state.frozen`."""
    return lambda frozen, batch: apply(frozen, jnp.asarray(batch["image"]), train=False, key=None)[0]

"""A teacher that is run in every step."""

from collections.abc import Callable

import jax.numpy as jnp

from kdjax.types import ApplyFn, Batch, Outputs, PyTree

Teacher = Callable[[PyTree, Batch], Outputs]
"""`(frozen, batch) -> Outputs`: what the teacher says of a batch; several teachers' logits are `[T, B, K]`."""


def live(apply: ApplyFn) -> Teacher:
    """A teacher that is run in every step, in evaluation mode, on variables found in `state.frozen`."""
    return lambda frozen, batch: apply(frozen, jnp.asarray(batch["image"]), train=False, key=None)[0]

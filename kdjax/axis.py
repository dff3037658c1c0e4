"""Over which axis of devices a batch lies while a step is traced.

Under jit a step sees the global batch. Under pmap each device sees its own part, and what couples examples (batch
statistics, relations, memories) must look at all parts: the step says over which axis they lie, once, and nobody
between the step and such a layer or loss has to pass it on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

from kdjax.types import PyTree

_AXIS: ContextVar[str | None] = ContextVar("axis", default=None)


@contextmanager
def batch_over(axis_name: str | None) -> Iterator[None]:
    """Within this context the batch lies over the devices of a named axis; None: it is whole."""
    token = _AXIS.set(axis_name)
    try:
        yield
    finally:
        _AXIS.reset(token)


def batch_axis() -> str | None:
    """The name of the axis that the batch lies over; None where it is whole."""
    return _AXIS.get()


def whole(tree: PyTree) -> PyTree:
    """The rows of all devices, in their order; the tree as it is where the batch is whole."""
    axis_name = batch_axis()
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), tree)


def own(rows: int) -> Callable[[jax.Array], jax.Array]:
    """What cuts this device's rows, `rows` of them, out of an array over the rows of all devices."""
    axis_name = batch_axis()
    if axis_name is None:
        return lambda x: x
    return lambda x: jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis_name) * rows, rows)

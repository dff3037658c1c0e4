"""Losses that couple examples or remember them: what they are given on one device and on several."""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import axis
from kdjax.training.parallel import everywhere
from kdjax.types import Batch, PyTree, TrainState

_BY_ROW = ("where", "labels", "index")


def recall(name: str, state: TrainState, batch: Batch) -> dict[str, Any]:
    """What a loss that remembers is given in a step besides the embeddings."""
    return {
        "memory": state.memory[name],
        "facts": getattr(state.frozen, "facts", {}).get(name),
        # Not the recipe's key: under pmap that one differs from device to device.
        "key": _own(jax.random.fold_in(state.key, state.step), name),
        "index": jnp.asarray(batch["index"]) if "index" in batch else None,
    }


def _own(key: Array, name: str) -> Array:
    # By name and not by number: one more loss then changes no other's draws.
    return jax.random.fold_in(key, zlib.crc32(f"memory/{name}".encode()))


def over_devices(loss: Callable[..., Any], *, remembers: bool = False) -> Callable[..., Any]:
    """A loss that sees the rows of all devices that the batch lies over, and returns this device's (and its memory).

    Where the batch is whole the loss is as it is; one that remembers is given the batch whole on every device, so that
    its memory may lie split over them.
    """

    def gathered(student: PyTree, teacher: PyTree, **keywords: Any) -> Any:
        by_row = {name: value for name, value in keywords.items() if name in _BY_ROW}
        if axis.batch_axis() is None and remembers:
            student, teacher, by_row = everywhere((student, teacher, by_row))
            values, memory = loss(student, teacher, **{**keywords, **by_row})
            return everywhere(values), memory
        mine = axis.own(len(jax.tree.leaves(student)[0]))
        student, teacher, by_row = axis.whole((student, teacher, by_row))
        found = loss(student, teacher, **{**keywords, **by_row})
        return (mine(found[0]), found[1]) if remembers else mine(found)

    return gathered

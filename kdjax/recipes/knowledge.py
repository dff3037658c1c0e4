"""What a student may learn from a teacher besides its answers: features, relations, contrasts."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import axis
from kdjax.training.parallel import everywhere
from kdjax.training.state import MEMORY
from kdjax.types import Batch, Model, PyTree, TrainState

Pairs = Callable[..., tuple[dict[str, tuple[Any, Any, dict[str, Any]]], PyTree]]
"""`(variables, student's outputs, teacher's outputs, train=..., mask=...) -> ({name: (student, teacher, keywords)},
state)`: what is compared, once connectors have made it comparable, and the connectors' new state."""


_BY_ROW = ("where", "labels", "index")


class Knowledge(NamedTuple):
    """One more loss of a distillation, weighted by `state.hparams["weight/NAME"]`.

    `name` among those of `Pairs`, or of a loss on logits. `loss`: `(student, teacher, *, where, ...) -> [B]`.
    `on_logits`: it is given logits, labels and temperature. `sees_the_batch`: an example's number depends on others.
    `pair`: what it compares of `Pairs`, where that is not called as it is.
    `remembers`: the loss is the `step` of a `losses.contrastive.Remembering`, and returns its new memory as well.
    """

    name: str
    loss: Callable[..., Any]
    on_logits: bool = False
    sees_the_batch: bool = False
    pair: str = ""
    remembers: bool = False

    @property
    def weight(self) -> str:
        """The hyper-parameter that weighs it."""
        return f"weight/{self.name}"


class Frozen(NamedTuple):
    """`TrainState.frozen` where a loss remembers: the teacher's, and by loss what it must know of the data set."""

    teacher: PyTree
    facts: dict[str, PyTree]


def with_memories(model: Model, memories: Mapping[str, Callable[[Array], PyTree]]) -> Model:
    """A model whose initial state has also the memories of losses, by name: `model_state["memory"][name]`."""

    def init(key: Array) -> tuple[PyTree, PyTree]:
        params, state = model.init(key)
        return params, {**state, MEMORY: {name: begin(_own(key, name)) for name, begin in memories.items()}}

    return Model(init, model.apply)


def recall(name: str, state: TrainState, batch: Batch) -> dict[str, Any]:
    """What a loss that remembers is given in a step besides the embeddings."""
    return {
        "memory": state.model_state[MEMORY][name],
        "facts": state.frozen.facts.get(name) if isinstance(state.frozen, Frozen) else None,
        # Not the recipe's key: under pmap that one differs from device to device.
        "key": _own(jax.random.fold_in(state.key, state.step), name),
        "index": jnp.asarray(batch["index"]) if "index" in batch else None,
    }


def _own(key: Array, name: str) -> Array:
    # By name and not by number: one more loss then changes no other's draws.
    return jax.random.fold_in(key, zlib.crc32(f"{MEMORY}/{name}".encode()))


def hyper(state: TrainState, schedules: Mapping[str, Callable[[Array], Array]]) -> dict[str, Array]:
    """The state's hyper-parameters, each times its schedule at this step where it has one."""
    return {
        name: value * jnp.asarray(schedules[name](state.step), value.dtype) if name in schedules else value
        for name, value in state.hparams.items()
    }


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

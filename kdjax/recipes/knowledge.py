"""What a student may learn from a teacher besides its answers: features, relations, contrasts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.types import PyTree, TrainState

Pairs = Callable[..., tuple[dict[str, tuple[Any, Any, dict[str, Any]]], PyTree]]
"""`(variables, student's outputs, teacher's outputs, train=...) -> ({name: (student, teacher, keywords)}, state)`: what
is compared, once connectors have made it comparable, and the connectors' new state."""


_BY_ROW = ("where", "labels", "index")


class Knowledge(NamedTuple):
    """One more loss of a distillation, weighted by `state.hparams["weight/NAME"]`.

    `name` among those of `Pairs`, or of a loss on logits. `loss`: `(student, teacher, *, where, ...) -> [B]`.
    `on_logits`: it is given logits, labels and temperature. `sees_the_batch`: an example's number depends on others.
    `pair`: what it compares of `Pairs`, where that is not called as it is.
    """

    name: str
    loss: Callable[..., Array]
    on_logits: bool = False
    sees_the_batch: bool = False
    pair: str = ""

    @property
    def weight(self) -> str:
        """The hyper-parameter that weighs it."""
        return f"weight/{self.name}"


def hyper(state: TrainState, schedules: Mapping[str, Callable[[Array], Array]]) -> dict[str, Array]:
    """The state's hyper-parameters, each times its schedule at this step where it has one."""
    return {
        name: value * jnp.asarray(schedules[name](state.step), value.dtype) if name in schedules else value
        for name, value in state.hparams.items()
    }


def over_devices(loss: Callable[..., Array], axis_name: str | None) -> Callable[..., Array]:
    """A loss that sees the batches of all devices of a named axis, and returns this device's rows.

    Without a name the loss as it is: what it is given is the global batch already.
    """
    if axis_name is None:
        return loss

    def gathered(student: PyTree, teacher: PyTree, **keywords: Any) -> Array:
        rows = len(jax.tree.leaves(student)[0])
        by_row = {name: value for name, value in keywords.items() if name in _BY_ROW}
        student, teacher, by_row = jax.tree.map(
            lambda x: jax.lax.all_gather(x, axis_name, tiled=True), (student, teacher, by_row)
        )
        values = loss(student, teacher, **{**keywords, **by_row})
        return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(axis_name) * rows, rows)

    return gathered

"""A teacher, and one that is run in every step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from kdjax.types import ATTACKED, CLEAN, LINEARIZED, MIRRORED, STUDENT, ApplyFn, BadInput, Batch, Outputs, PyTree


@dataclass(frozen=True)
class Teacher:
    """Who is asked what a batch is: live, stored, or several as one.

    Attributes:
        ask: `(frozen, batch) -> Outputs`, frozen being the train state's; several teachers' logits are `[T, B, K]`.
        views: of a batch that it can answer; stored answers are to the clean one.
    """

    ask: Callable[[PyTree, Batch], Outputs]
    views: tuple[str, ...] = (CLEAN, ATTACKED, MIRRORED, LINEARIZED)

    def __call__(self, frozen: PyTree, batch: Batch) -> Outputs:
        return self.ask(frozen, batch)


def live(apply: ApplyFn) -> Teacher:
    """A teacher that is run in every step, in evaluation mode, on variables found in `state.frozen`.

    Those may be a network's own, `{"params": ..., ...}`, or what `fit` returned, `{"student": ..., ...}`.

    Raises:
        BadInput: when asked, `frozen` is neither, or is another network's.
    """

    def ask(frozen: PyTree, batch: Batch) -> Outputs:
        names = sorted(frozen) if isinstance(frozen, Mapping) else frozen
        if not isinstance(frozen, Mapping) or not {"params", STUDENT} & frozen.keys():
            raise BadInput(f"frozen={names}: accepted are the teacher's variables, or what trained it returned")
        own = frozen if "params" in frozen else frozen[STUDENT]
        try:
            return apply(own, jnp.asarray(batch["inputs"]), train=False, key=None)[0]
        except BadInput as error:
            raise BadInput(f"the teacher, asked with frozen={names}: {error}") from None

    return Teacher(ask)

"""A step is a list of updates: each a loss function, an optimizer, the networks that it moves, and how many times."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import optax

from kdjax.types import BadInput, Batch, LossFn, PyTree


def _all(batch: Batch, time: int) -> Batch:
    return batch


class Update(NamedTuple):
    """One part of a step: differentiate a loss and move some networks.

    One update is supervised learning or distillation; two are a GAN; five of one and one of another are data-free
    extraction.

    Attributes:
        loss_fn: a recipe's.
        tx: an Optax transformation; it sees the parameters of the networks that it moves, by name.
        networks: their names; empty is all.
        times: how many times in a step, each with randomness of its own.
        name: what its metrics begin with, where a step has several updates.
        sees: `(batch, time) -> batch`, what of a step's batch it is shown the first time, 0, and each time after.
    """

    loss_fn: LossFn
    tx: optax.GradientTransformation
    networks: tuple[str, ...] = ()
    times: int = 1
    name: str = ""
    sees: Callable[[Batch, int], Batch] = _all

    def moved(self, params: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """The parameters of the networks that it moves.

        Raises:
            BadInput: one that there is not.
        """
        for name in self.networks:
            if name not in params:
                raise BadInput(f"networks={self.networks}: accepted are {', '.join(params)}")
        return {name: params[name] for name in self.networks or params}


def _no_loss(*_: object) -> tuple:
    raise BadInput("an update without a loss function: accepted is one where a step is made")


def updates_of(tx: optax.GradientTransformation | Sequence[Update], loss_fn: LossFn = _no_loss) -> tuple[Update, ...]:
    """The updates of a step; a transformation alone is one update of everything.

    Raises:
        BadInput: another value; no update, one that is made no time, or two of one name.
    """
    if isinstance(tx, optax.GradientTransformation):
        return (Update(loss_fn, tx),)
    if not isinstance(tx, Sequence) or not all(isinstance(update, Update) for update in tx):
        raise BadInput(f"tx={tx!r}; accepted: an Optax transformation, such as optax.adam(1e-3), or updates")
    updates = tuple(tx)
    if not updates or any(u.times < 1 for u in updates) or len({u.name for u in updates}) < len(updates):
        shown = [(u.name, u.times) for u in updates]
        raise BadInput(f"updates={shown}: accepted are one or more, each with a name of its own and made once or more")
    return updates

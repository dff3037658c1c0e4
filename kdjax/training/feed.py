"""How batches reach a step: from data on the device, many steps a call or one, or streamed from the host."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdjax.training import parallel
from kdjax.types import AnyArray

Rows = Mapping[str, np.ndarray]
Order = Callable[[int, int], Rows]
"""`(seed, epoch) -> rows`: all batches of an epoch as `index`, `mask` and further columns, each `[S, B]`."""


@dataclass(frozen=True)
class Feed:
    """The batches of a data set, for a plain run and for a population.

    Attributes:
        order: which rows each step of an epoch sees; as many steps for every seed and epoch.
        steps: of an epoch.
        mesh: the devices.
        columns: the data set, put whole on every device; rows say where in it. Empty where batches are streamed.
        stream: makes whole batches of each step's rows, on the host; None where the columns are on the device.
        scan: whether a call makes many steps; only of what is on the device.
        steps_per_call: most steps of one call.
    """

    order: Order
    steps: int
    mesh: parallel.Mesh
    columns: Mapping[str, AnyArray]
    stream: Callable[[Iterable[Rows]], Iterator[Rows]] | None = None
    scan: bool = True
    steps_per_call: int = 1000

    def data(self) -> Mapping[str, Any]:
        """The columns on the devices."""
        return parallel.replicate(dict(self.columns), self.mesh)

    def chunks(self, seed: int) -> Callable[[int, int], Iterator[tuple[int, Rows]]]:
        """`(epoch, first step) -> (number of steps, rows)` of one call each, always cut at the same places."""

        def made(epoch: int, first: int) -> Iterator[tuple[int, Rows]]:
            rows = self.order(seed, epoch)

            def cut(part: slice | int) -> Rows:
                return {name: column[part] for name, column in rows.items()}

            if self.scan:
                size = -(-self.steps // -(-self.steps // self.steps_per_call))
                starts = (at for at in range(0, self.steps, size) if at >= first)
                yield from ((min(size, self.steps - at), cut(slice(at, at + size))) for at in starts)
            else:
                each = (cut(step) for step in range(first, self.steps))
                yield from ((1, batch) for batch in (self.stream(each) if self.stream else each))

        return made

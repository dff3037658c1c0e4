"""A training's program as a value: built once from what it computes, run for every seed, lowered without training."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from kdjax.training import parallel
from kdjax.training.metrics import Sums
from kdjax.training.step import Rows, Run, many_steps, one_step, step_of
from kdjax.training.update import Update
from kdjax.types import AnyArray, PyTree, TrainState


class Program:
    """The compiled step of a recipe, or a scan of such steps.

    It is traced at its first run and at no other with arrays of the same shapes: whoever trains several seeds keeps it.

    Args:
        updates: of a step; `updates_of(tx, loss_fn)` for one loss function and one optimizer.
        mesh: the devices that a batch is split over.
        wrapper: jit or pmap.
        scan: whether rows have a leading axis of steps, `[S, B]`.
    """

    def __init__(
        self,
        updates: Sequence[Update],
        mesh: parallel.Mesh,
        *,
        wrapper: str = "jit",
        scan: bool = True,
    ) -> None:
        def make(axis_name: str | None) -> Run:
            step = step_of(updates, axis_name=axis_name)
            return many_steps(step) if scan else one_step(step)

        self._wrapped = parallel.wrap(wrapper, make, mesh, batch_axis=1 if scan else 0)

    def run(self, state: TrainState, data: Mapping[str, AnyArray], rows: Rows) -> tuple[TrainState, Sums]:
        """Train on rows: `(state, metrics)`. The state is donated, but for what is frozen."""
        return self._wrapped(state, data, rows)

    def lower(self, state: TrainState, data: Any, rows: Any) -> Any:
        """The program for the mesh's platform, without training: arguments are arrays, or `jax.ShapeDtypeStruct`s."""
        return self._wrapped.lower(state, data, rows)


def chooses_scan(loop: str, params: PyTree, mesh: parallel.Mesh) -> bool:
    """Scan, unless XLA's CPU backend would run convolutions inside it: there a step is slower than when called alone.

    The rule is fixed rather than timed at start, because the two forms may differ in the last bit and a resumed run
    must repeat the form it began with; `experiments/benchmarks/speed.py` holds the measurement behind it.

    Args:
        loop: scan, step, or auto for this rule.
        params: of the model, or their shapes.
        mesh: the devices that train.
    """
    if loop != "auto":
        return loop == "scan"
    convolutions = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    return not (convolutions and parallel.platform(mesh) == "cpu")

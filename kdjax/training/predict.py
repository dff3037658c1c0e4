"""A model's logits for a whole data set, every example once."""

from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from kdjax.training.parallel import replicate, shard
from kdjax.training.step import eval_step
from kdjax.types import ApplyFn, Batch, Diverged, PyTree


class Predictor:
    """A forward pass in evaluation mode, batches split over the devices of a mesh.

    It is compiled once for all variables that it is given: who asks a model often keeps one.
    """

    def __init__(self, apply: ApplyFn, mesh: Mesh) -> None:
        self._mesh = mesh
        self._step = jax.jit(eval_step(apply))

    def __call__(self, variables: PyTree, batches: Iterable[Batch]) -> np.ndarray:
        """Logits of the real rows, in order.

        Args:
            variables: the model's.
            batches: with `inputs [B, ...]` and `mask [B]`; B is a multiple of the number of devices.

        Returns:
            `[N, K]` float32, N the sum of the masks.

        Raises:
            Diverged: an answer has no largest number that is finite; minus infinity is a class that is ruled out.
        """
        variables = replicate(variables, self._mesh)
        parts = [(self._step(variables, shard(b["inputs"], self._mesh)), np.asarray(b["mask"]) > 0) for b in batches]
        logits = np.concatenate([np.asarray(logits)[real] for logits, real in parts])
        bad = np.flatnonzero(~np.isfinite(logits.max(-1)))
        if len(bad):
            count = f"{len(bad)} of {len(logits)} examples"
            raise Diverged(f"the answers to {count} are not numbers (the first is row {bad[0]})")
        return logits

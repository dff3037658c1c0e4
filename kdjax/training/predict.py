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
            batches: with `image [B, ...]` and `mask [B]`; B is a multiple of the number of devices.

        Returns:
            `[N, K]` float32, N the sum of the masks.

        Raises:
            Diverged: an answer is NaN or plus infinity; minus infinity is a class that is ruled out.
        """
        variables = replicate(variables, self._mesh)
        parts = [(self._step(variables, shard(b["image"], self._mesh)), np.asarray(b["mask"]) > 0) for b in batches]
        logits = np.concatenate([np.asarray(logits)[real] for logits, real in parts])
        bad = np.flatnonzero(~(logits < np.inf).reshape(len(logits), -1).all(1))
        if len(bad):
            raise Diverged(f"the network's answer to {len(bad)} of {len(logits)} examples is not finite")
        return logits

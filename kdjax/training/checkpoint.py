"""Checkpoints: atomic, asynchronous, the newest few and the best. The only mention of Orbax.

A checkpoint holds all that an exact resume needs: parameters, model and optimizer state, step (which is the data's
position), key, traced hyper-parameters, and the running sums of an unfinished epoch. Teachers (`frozen`) are not in it.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from kdjax.types import BadInput, PyTree, TrainState

log = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of one run, in one directory, numbered by step.

    Args:
        directory: created if missing.
        keep: how many of the newest to keep.
        best: the metric whose highest value marks one more checkpoint to keep; "" keeps only the newest.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2, best: str = "") -> None:
        if keep < 1:
            raise BadInput(f"keep={keep}: accepted are whole numbers from 1.")
        self.directory = Path(directory).absolute()
        self.best = best
        kept: list[Any] = [policies.LatestN(keep)]
        if best:
            kept.append(policies.BestN(get_metric_fn=lambda metrics: metrics[best], n=1))
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=(lambda metrics: metrics[best]) if best else None,
                # A kill during a save leaves a temporary folder; without this it would stay forever.
                cleanup_tmp_directories=True,
            ),
            item_names=("model", "training", "meta"),
        )

    def save(
        self,
        state: TrainState,
        *,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Start saving; returns once the arrays are copied. The checkpoint appears whole or not at all."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = _items(state)
        digests = {name: _digest(tree) for name, tree in items.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                meta=ocp.args.JsonSave({"sha256": digests, **(meta or {})}),
            ),
            metrics={self.best: metrics[self.best]} if self.best and metrics and self.best in metrics else None,
        )

    def restore(self, like: TrainState, *, best: bool = False) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that is whole (or the best one), with its meta; None if there is none.

        A damaged checkpoint (truncated, or failing its SHA-256) is set aside as `damaged-STEP` with a warning, and the
        one before it is tried.

        Args:
            like: a state of the same structure; its `frozen` is kept.
            best: take the best checkpoint by validation first.
        """
        found = self._newest_whole(_items(like), best)
        if found is None:
            return None
        items, meta = found
        training = items["training"]
        key = jax.random.wrap_key_data(training.pop("key"), impl=jax.random.key_impl(like.key))
        return like.replace(**items["model"], **training, key=key), meta

    def restore_variables(self, params: PyTree, model_state: PyTree, *, best: bool = False) -> PyTree:
        """Only `{"params": ..., **model_state}`, for a model whose optimizer is no longer of interest.

        Args:
            params, model_state: arrays of the structure wanted.
            best: take the best checkpoint by validation first.

        Raises:
            BadInput: there is no whole checkpoint.
        """
        found = self._newest_whole({"model": {"params": params, "model_state": model_state}}, best)
        if found is None:
            raise BadInput(f"checkpoint={str(self.directory)!r}: accepted is a folder with a whole checkpoint.")
        model = found[0]["model"]
        return {"params": model["params"], **model["model_state"]}

    def _newest_whole(self, like: dict[str, PyTree], best: bool) -> tuple[dict[str, PyTree], dict[str, Any]] | None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        if best and (top := self._manager.best_step()) is not None:
            steps = [top, *(s for s in steps if s != top)]
        for step in steps:
            try:
                return self._read(step, like)
            except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
                log.warning("checkpoint %s/%d is damaged and set aside (%s)", self.directory, step, _short(error))
                self._set_aside(step)
        return None

    def _read(self, step: int, like: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, Any]]:
        targets = {
            name: ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
            for name, tree in like.items()
        }
        read = self._manager.restore(step, args=ocp.args.Composite(**targets, meta=ocp.args.JsonRestore()))
        meta = dict(read["meta"])
        digests = meta.pop("sha256")
        items = {name: read[name] for name in like}
        for name, tree in items.items():
            if digests[name] != _digest(tree):
                raise ValueError(f"item {name} does not have the SHA-256 it was saved with")
        return items, meta

    def _set_aside(self, step: int) -> None:
        # A damaged folder must go, or the same step could never be saved again.
        source, target = self.directory / str(step), self.directory / f"damaged-{step}"
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
        self._manager.reload()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def newest(self) -> str:
        """Where the newest whole checkpoint is, in words for a message."""
        self.wait()
        steps = self.steps()
        return f"step {steps[-1]} in {self.directory}" if steps else "none"

    def wait(self) -> None:
        """Block until every started save is on disk."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _items(state: TrainState) -> dict[str, PyTree]:
    # Two items, so that a teacher's variables can be read without knowing what trained them.
    training = {"step": state.step, "opt_state": state.opt_state, "hparams": state.hparams}
    return {
        "model": {"params": state.params, "model_state": state.model_state},
        "training": {**training, "key": jax.random.key_data(state.key)},
    }


def _digest(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if getattr(leaf, "is_fully_addressable", True):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {json.dumps(str(error)[:120])}"

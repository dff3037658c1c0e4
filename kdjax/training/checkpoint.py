"""Checkpoints: atomic, asynchronous, the newest few and the best. The only mention of Orbax.

A checkpoint holds all that an exact resume needs: parameters, model and optimizer state, step (which is the data's
position), key, traced hyper-parameters, and the running sums of an unfinished epoch. Teachers (`frozen`) are not in it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from kdjax.files import NotSaved
from kdjax.types import STUDENT, BadInput, PyTree, TrainState

log = logging.getLogger(__name__)

Items = dict[str, PyTree]


class Checkpointer:
    """The checkpoints of one run, in one directory, numbered by step.

    Args:
        directory: created if missing.
        keep: how many of the newest to keep.
        best: the metric whose highest value marks one more checkpoint to keep; "" keeps only the newest.
        read_only: change nothing, as for a teacher that somebody else may be writing.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int = 2, best: str = "", read_only: bool = False
    ) -> None:
        if keep < 1:
            raise BadInput(f"keep={keep}: accepted are whole numbers from 1.")
        self.directory = Path(directory).absolute()
        self.best = best
        self.read_only = read_only
        if best and not read_only:
            self._set_aside_unreadable_metrics()
        kept: list[Any] = [policies.LatestN(keep)]
        if best:
            by_metric = policies.BestN(
                get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False
            )
            kept.append(by_metric)
        self._stack = ExitStack()
        self._proven = read_only
        self._manager = ocp.CheckpointManager(
            self._stack.enter_context(_linked(self.directory)),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=(lambda metrics: metrics[best]) if best else None,
                # A kill or a full disk during a save leaves a temporary folder; without this it would stay forever.
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_names=("model", "training", "meta"),
        )

    def save(
        self, state: TrainState, *, metrics: Mapping[str, float] | None = None, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Start saving; returns once the arrays are copied. The checkpoint appears whole or not at all.

        The first of a run is read back at once: where a file system does not give back what it took, the run ends here
        and not after days.

        Raises:
            NotSaved: this or the save before could not be written, or cannot be read.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = jax.tree.map(_on_host, _items(state))
        with self._saving():
            self._write(step, items, metrics, meta)
        if not self._proven:
            self.wait()
            try:
                self._read(step, items)
            except Exception as error:
                self._set_aside(step)
                why = f"written, it cannot be read: {_short(error)}"
                raise NotSaved(f"checkpoint={str(self.directory / str(step))!r}", why, self._newest()) from error
            self._proven = True

    def _write(
        self, step: int, items: Items, metrics: Mapping[str, float] | None, meta: Mapping[str, Any] | None
    ) -> None:
        written = {
            "sha256": {name: _digest(tree) for name, tree in items.items()},
            "structure": {name: _structure(tree) for name, tree in items.items()},
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                meta=ocp.args.JsonSave({**written, **(meta or {})}),
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

        Raises:
            BadInput: a checkpoint is whole but of another structure, or all are damaged.
        """
        found = self._newest_whole(_items(like), best)
        if found is None:
            return None
        self._proven = True
        items, meta = found
        training = items["training"]
        key = jax.random.wrap_key_data(training.pop("key"), impl=jax.random.key_impl(like.key))
        return like.replace(**items["model"], **training, key=key), meta

    def restore_variables(
        self, params: PyTree, model_state: PyTree, *, network: str = STUDENT, best: bool = False
    ) -> PyTree:
        """Only one network's `{"params": ..., **model_state}`, where what trained it is no longer of interest.

        Args:
            params, model_state: arrays of the structure wanted.
            network: its name in the state.
            best: take the best checkpoint by validation first.

        Raises:
            BadInput: there is no whole checkpoint, or it is of another structure.
        """
        like = {"params": {network: params}, "model_state": {network: model_state}}
        found = self._newest_whole({"model": like}, best, part=network)
        if found is None:
            raise BadInput(f"checkpoint={str(self.directory)!r}: accepted is a folder with a whole checkpoint.")
        model = found[0]["model"]
        read = {"params": model["params"][network], **model["model_state"].get(network, {})}
        return jax.tree.map(jnp.asarray, read)

    def _newest_whole(self, like: Items, best: bool, part: str = "") -> tuple[Items, dict[str, Any]] | None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        if best and (top := self._manager.best_step()) is not None:
            steps = [top, *(s for s in steps if s != top)]
        for step in steps:
            try:
                return self._read(step, like, part)
            except (BadInput, MemoryError):
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
                log.warning("checkpoint %s/%d is damaged and set aside (%s)", self.directory, step, _short(error))
                if not self.read_only:
                    self._set_aside(step)
        if steps:  # to start again from nothing is the user's decision
            raise BadInput(
                f"checkpoint={str(self.directory)!r}: all of {steps} are damaged; accepted: a whole one, or none."
            )
        return None

    def _read(self, step: int, like: Items, part: str = "") -> tuple[Items, dict[str, Any]]:
        read = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        meta = dict(read["meta"])
        digests, structures = meta.pop("sha256"), meta.pop("structure")
        for name, tree in like.items():
            had = {path: leaf for path, leaf in structures[name].items() if not part or _of_network(path, part)}
            if had != (wanted := _structure(tree)):
                differ = sorted(set(had.items()) ^ set(wanted.items()))
                raise BadInput(
                    f"checkpoint={str(self.directory / str(step))!r}: {name} was saved with another structure "
                    f"({len(differ)} differences, the first at {differ[0]}); accepted: the same model and optimizer."
                )
        # Of a part no form is given: all is read, so that its digest can be told, and the part is taken. It goes to one
        # device where those that saved it are not here: a teacher may be used on another machine.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        targets = {
            name: ocp.args.StandardRestore(fallback_sharding=here)
            if part
            else ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
            for name, tree in like.items()
        }
        arrays = self._manager.restore(step, args=ocp.args.Composite(**targets))
        items = {name: arrays[name] for name in like}
        for name, tree in items.items():
            if digests[name] != _digest(tree):
                raise ValueError(f"item {name} does not have the SHA-256 it was saved with")
        return items, meta

    def _set_aside(self, step: int) -> None:
        # A damaged folder must go, or the same step could never be saved again.
        _rename_damaged(self.directory / str(step))
        self._manager.reload()

    def _set_aside_unreadable_metrics(self) -> None:
        # Orbax reads all metrics to know the best, and stops at the first that it cannot read.
        for file in self.directory.glob("*/metrics/metrics"):
            step = file.parents[1]
            try:
                good = step.name.isdigit() is False or self.best in json.loads(file.read_text())
            except (ValueError, OSError):
                good = False
            if not good:
                log.warning("checkpoint %s is damaged and set aside (its metrics cannot be read)", step)
                _rename_damaged(step)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def newest(self) -> str:
        """Where the newest whole checkpoint is, in words for a message."""
        self.wait()
        return self._newest()

    def _newest(self) -> str:
        # From the folder itself: it holds no save that failed.
        steps = [int(p.name) for p in self.directory.iterdir() if p.name.isdigit()] if self.directory.is_dir() else []
        return f"step {max(steps)} in {self.directory}" if steps else "none"

    def wait(self) -> None:
        """Block until every started save is on disk.

        Raises:
            NotSaved: one could not be written.
        """
        with self._saving():
            self._manager.wait_until_finished()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except (BadInput, MemoryError):
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for a full disk
            raise NotSaved(f"checkpoint={str(self.directory)!r}", _short(error), self._newest()) from error

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            try:
                self.wait()
            finally:
                with self._saving():  # it says again what was not saved
                    self._manager.close()


def _items(state: TrainState) -> Items:
    # Two items, so that a teacher's variables can be read without knowing what trained them.
    training = {"step": state.step, "opt_state": state.opt_state, "hparams": state.hparams, "memory": state.memory}
    return {
        "model": {"params": state.params, "model_state": state.model_state},
        "training": {**training, "key": jax.random.key_data(state.key)},
    }


@contextmanager
def _linked(directory: Path) -> Iterator[Path]:
    """The directory under a name that Orbax can read back.

    Etils globs the whole path, so that `x[1]` stands for `x1`, and TensorStore takes a backslash for a slash: either
    would leave a checkpoint that nobody can read. Such a folder is reached by a link.
    """
    if re.fullmatch(r"[\w ./+=,@-]*", str(directory), re.ASCII):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="kdjax-") as folder:
        directory.mkdir(parents=True, exist_ok=True)
        link = Path(folder) / "link"
        link.symlink_to(directory, target_is_directory=True)
        yield link


def _on_host(leaf: Any) -> Any:
    # Of an array on several devices Orbax would cut a share out on each, by a program for every shape; and what is read
    # back is a second copy of the state, which may not fit on the device.
    return np.asarray(leaf) if getattr(leaf, "is_fully_addressable", True) else leaf


def _of_network(path: str, network: str) -> bool:
    """Whether a leaf of `{"params": {network: ...}, "model_state": {network: ...}}` is this network's."""
    return path.startswith((f"['params']['{network}']", f"['model_state']['{network}']"))


def _structure(tree: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _digest(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if getattr(leaf, "is_fully_addressable", True):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _rename_damaged(step: Path) -> None:
    target = step.with_name(f"damaged-{step.name}")
    shutil.rmtree(target, ignore_errors=True)
    step.rename(target)


def _short(error: Exception) -> str:
    # TensorStore says the system's reason last, as a number.
    reason = re.search(r"os_error_code='(\d+)'", text := str(error))
    if code := int(reason[1]) if reason else getattr(error, "errno", None):
        return os.strerror(code)
    return f"{type(error).__name__}: {json.dumps(text[:120])}"

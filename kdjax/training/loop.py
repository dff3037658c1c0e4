"""The training loop: plain Python around compiled calls. It knows no loss, no model and no file format."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.training import metrics as sums
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.step import Run
from kdjax.types import PyTree, TrainState

log = logging.getLogger(__name__)

Chunk = Mapping[str, np.ndarray]


class Diverged(RuntimeError):
    """A metric became NaN or infinite. Nothing after the last good checkpoint was kept."""


class Interrupted(SystemExit):
    """SIGTERM was received; the state is on disk and the same command goes on from it. Exit code 143."""

    def __init__(self, message: str) -> None:
        super().__init__(143)
        self.message = message


@contextmanager
def until_sigterm() -> Iterator[threading.Event]:
    """Within this context SIGTERM sets an event instead of ending the process, so that the loop can save first."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def fit(
    state: TrainState,
    run: Run,
    *,
    data: Mapping[str, Any],
    chunks: Callable[[int, int], Iterator[tuple[int, Chunk]]],
    epochs: int,
    steps_per_epoch: int,
    checkpointer: Checkpointer | None = None,
    checkpoint_every: int = 1,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    on_start: Callable[[int], None] | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    name: str = "run",
) -> TrainState:
    """Train to the end of the last epoch, from the newest checkpoint if there is one.

    Args:
        state: the initial state; its arrays may be donated.
        run: `(state, data, rows) -> (state, metrics)`, compiled.
        data: arrays on the device that rows index into; empty when rows are whole batches.
        chunks: `(epoch, first_step) -> (number of steps, rows)`; the rows of one call of `run`, always cut at the same
            places, so that a resumed run makes the same calls.
        epochs: passes to make in all.
        steps_per_epoch: steps of one pass.
        checkpointer: where states go; none keeps nothing.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
        evaluate: metrics of a state on held-out data, once per epoch.
        on_start: called with the number of whole epochs already done.
        on_epoch: called with (epoch counted from 1, metrics).
        name: for messages.

    Raises:
        Diverged: a training metric is not finite; names step, metric and last good checkpoint.
        Interrupted: after SIGTERM, once the state is saved.
    """
    with until_sigterm() as stop:
        total: dict[str, tuple[float, float]] = {}
        if checkpointer and (found := checkpointer.restore(state)):
            state, meta = found
            total = {key: (s, c) for key, (s, c) in meta["sums"].items()}
            log.info("%s: resumed at step %d of %d", name, int(state.step), epochs * steps_per_epoch)
        step = int(state.step)
        if on_start:
            on_start(step // steps_per_epoch)

        for epoch in range(step // steps_per_epoch, epochs):
            pending = None
            for length, rows in chunks(epoch, step - epoch * steps_per_epoch):
                state, out = run(state, data, rows)
                # The previous call's metrics are read while this one computes.
                total = _settle(total, pending, checkpointer, name)
                pending, step = (step, out), step + length
                if stop.is_set() and step < (epoch + 1) * steps_per_epoch:
                    _stop(state, checkpointer, _settle(total, pending, checkpointer, name), name)
            total = _settle(total, pending, checkpointer, name)
            row = {f"train_{key}": value for key, value in sums.means(total).items()}
            row |= {"step": step, **(evaluate(state) if evaluate else {})}
            total = {}
            last = epoch + 1 == epochs
            # The row first: a kill between the two then leaves a row too many, which the resumed run replaces.
            if on_epoch:
                on_epoch(epoch + 1, row)
            if checkpointer and (last or stop.is_set() or (epoch + 1) % checkpoint_every == 0):
                _check_finite(state, checkpointer, name)
                checkpointer.save(state, metrics=row, meta={"sums": total})
            if stop.is_set():
                _stop(state, checkpointer, total, name)
    if checkpointer:
        checkpointer.wait()
    return state


def _settle(
    total: dict[str, tuple[float, float]],
    pending: tuple[int, sums.Sums] | None,
    checkpointer: Checkpointer | None,
    name: str,
) -> dict[str, tuple[float, float]]:
    """Add a call's metrics to the epoch's, once they are known to be finite."""
    if pending is None:
        return total
    first, out = pending
    if bad := sums.first_not_finite(out):
        last = checkpointer.newest() if checkpointer else "none"
        raise Diverged(f"{name}: {bad[1]} is not finite at step {first + bad[0] + 1}; last good checkpoint: {last}.")
    return sums.add(total, out)


@jax.jit
def _all_finite(params: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def _check_finite(state: TrainState, checkpointer: Checkpointer, name: str) -> None:
    # An update may overflow after metrics that were finite: such parameters must not become the newest checkpoint.
    if not _all_finite(state.params):
        last = checkpointer.newest()
        raise Diverged(f"{name}: params is not finite at step {int(state.step)}; last good checkpoint: {last}.")


def _stop(state: TrainState, checkpointer: Checkpointer | None, total: Mapping[str, Any], name: str) -> None:
    where = "no checkpointer: nothing is saved"
    if checkpointer:
        _check_finite(state, checkpointer, name)
        checkpointer.save(state, meta={"sums": dict(total)})
        checkpointer.wait()
        where = f"saved at step {int(state.step)}; the same command goes on from there"
    message = f"{name}: SIGTERM; {where}"
    log.warning(message)
    raise Interrupted(message)

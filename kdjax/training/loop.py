"""The training loop: plain Python around compiled calls. It knows no loss, no model and no file format."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.files import LOST, NotSaved
from kdjax.training import metrics as sums
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.step import Run
from kdjax.training.stop import Interrupted, Stop, until_stopped
from kdjax.types import Diverged, PyTree, TrainState

log = logging.getLogger(__name__)

Chunk = Mapping[str, np.ndarray]


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
        Diverged: a training metric, an evaluation, a parameter or a statistic is not finite; names it, the step and the
            last good checkpoint.
        Interrupted: after SIGTERM or Ctrl-C, once the state is saved.
        NotSaved: there is no room for what is written; names the last good checkpoint.
    """
    with until_stopped() as stop, _no_room(checkpointer, name):
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
                if stop and step < (epoch + 1) * steps_per_epoch:
                    _save_and_stop(state, checkpointer, _settle(total, pending, checkpointer, name), name, stop)
            total = _settle(total, pending, checkpointer, name)
            last = epoch + 1 == epochs
            saves = last or bool(stop) or (epoch + 1) % checkpoint_every == 0
            if saves:
                _check_finite(state, checkpointer, name)
            row = {f"train_{key}": value for key, value in sums.means(total).items()}
            row |= {"step": step, **_scores(evaluate, state, step, checkpointer, name)}
            total = {}
            # The row first: a kill between the two then leaves a row too many, which the resumed run replaces.
            if on_epoch:
                on_epoch(epoch + 1, row)
            if checkpointer and saves:
                checkpointer.save(state, metrics=row, meta={"sums": total})
            if stop:
                _save_and_stop(state, checkpointer, total, name, stop)
        if checkpointer:
            checkpointer.wait()
    return state


@contextmanager
def _no_room(checkpointer: Checkpointer | None, name: str) -> Iterator[None]:
    """Say what stands where a file that goes along with training cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in LOST:
            raise
        raise NotSaved(f"{name}: {error.filename or 'a file'}", str(error.strerror), _last(checkpointer)) from error


def _last(checkpointer: Checkpointer | None) -> str:
    return checkpointer.newest() if checkpointer else "none"


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
        raise _diverged(name, bad[1], first + bad[0] + 1, checkpointer)
    return sums.add(total, out)


def _scores(
    evaluate: Callable[[TrainState], dict[str, float]] | None,
    state: TrainState,
    step: int,
    checkpointer: Checkpointer | None,
    name: str,
) -> dict[str, float]:
    """An evaluation's scores, once they are known to be finite."""
    try:
        scores = evaluate(state) if evaluate else {}
    except Diverged as error:
        raise Diverged(f"{name}: {error} at step {step}; last good checkpoint: {_last(checkpointer)}.") from None
    for metric, value in scores.items():
        if not math.isfinite(value):
            raise _diverged(name, metric, step, checkpointer)
    return scores


def _check_finite(state: TrainState, checkpointer: Checkpointer | None, name: str) -> None:
    """An update may overflow after metrics that were finite; running statistics may, and no metric ever tells."""
    for part in ("params", "model_state"):
        if not _all_finite(getattr(state, part)):
            raise _diverged(name, part, int(state.step), checkpointer)


@jax.jit
def _all_finite(tree: PyTree) -> Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)], bool))


def _diverged(name: str, what: str, step: int, checkpointer: Checkpointer | None) -> Diverged:
    return Diverged(f"{name}: {what} is not finite at step {step}; last good checkpoint: {_last(checkpointer)}.")


def _save_and_stop(
    state: TrainState, checkpointer: Checkpointer | None, total: Mapping[str, Any], name: str, stop: Stop
) -> None:
    where = "no checkpointer: nothing is saved"
    if checkpointer:
        _check_finite(state, checkpointer, name)
        checkpointer.save(state, meta={"sums": dict(total)})
        checkpointer.wait()
        where = f"saved at step {int(state.step)}; the same command goes on from there"
    message = f"{name}: {stop.name}; {where}"
    log.warning(message)
    raise Interrupted(message, stop.number)

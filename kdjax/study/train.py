"""Train one network on one data set, and ask it: the glue between engine, checkpoints and records."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from kdjax.data import pipeline
from kdjax.data.source import Examples, Source
from kdjax.evaluation.classification import classification
from kdjax.models.create import parameter_count
from kdjax.study.data import Common, Study, optimizer_of
from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import fit
from kdjax.training.predict import Predictor
from kdjax.training.state import create_state, variables
from kdjax.training.step import Run, many_steps, one_step, train_step
from kdjax.types import Batch, Diverged, LossFn, Model, PyTree, TrainState

log = logging.getLogger("kdjax.train")


def chooses_scan(loop: str, params: PyTree) -> bool:
    """Scan, unless XLA's CPU backend would run convolutions inside it: there a step is slower than when called alone.

    The rule is fixed rather than timed at start, because the two forms may differ in the last bit and a resumed run
    must repeat the form it began with; `experiments/benchmarks/speed.py` holds the measurement behind it.
    """
    if loop != "auto":
        return loop == "scan"
    convolutions = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    return not (convolutions and jax.default_backend() == "cpu")


def predict(study: Study, model: Model, weights: PyTree, source: Examples, *, batch_size: int = 1000) -> np.ndarray:
    """A model's logits for every example of a source, in order; those that are not numbers end the run."""
    return _ask(Predictor(model.apply, study.mesh), weights, _eval_batches(study, source, batch_size), source)


def predictions(
    study: Study, model: Model, weights: PyTree, source: Examples, *, first: int = 0, batch_size: int = 1000
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same batch by batch from example `first` on, bit for bit: images as they were shown, and logits."""
    forward, weights = Predictor(model.apply, study.mesh), parallel.replicate(weights, study.mesh)
    for batch in _eval_batches(study, source, batch_size, first):
        wanted = (batch["mask"] > 0) & (batch["index"] >= first)
        yield batch["image"][wanted], _ask(forward, weights, [batch], source)[wanted[batch["mask"] > 0]]


def _ask(forward: Predictor, weights: PyTree, batches: Iterable[Batch], source: Examples) -> np.ndarray:
    try:
        return forward(weights, batches)
    except Diverged as error:
        raise Diverged(f"{source.name}: {error}") from None


def _eval_batches(
    study: Study, source: Examples, batch_size: int, first: int = 0
) -> Iterator[Mapping[str, np.ndarray]]:
    """Every example once, in order, beginning with the batch that example `first` is in."""
    devices = study.mesh.size
    size = max(min(batch_size, len(source)) // devices, 1) * devices
    order = np.arange(len(source), dtype=np.int32)
    order = order if len(order) >= size else np.resize(order, size)
    index, mask = pipeline.batches(order, size, devices)
    mask.reshape(-1)[len(source) :] = 0
    skip = first // size
    rows = (pipeline.take(source, i, m) for i, m in zip(index[skip:], mask[skip:], strict=True))
    return rows if isinstance(source, Source) else pipeline.prefetch(rows)


@lru_cache(maxsize=8)
def _program(config: Common, loss_fn: LossFn, steps: int, scan: bool, mesh: Any) -> Run:
    """The compiled step or scan of a recipe: the next seed of the same recipe does not trace it again."""
    tx = optimizer_of(config, steps=steps)

    def make(axis_name: str | None) -> Run:
        step = train_step(loss_fn, tx, axis_name=axis_name)
        return many_steps(step) if scan else one_step(step)

    return parallel.wrap(config.parallel, make, mesh, batch_axis=1 if scan else 0)


def train(
    study: Study,
    workdir: Path,
    run: str,
    model: Model,
    loss_fn: LossFn,
    *,
    seed: int,
    epochs: int,
    hparams: Mapping[str, float],
    source: Examples | None = None,
    examples_per_epoch: int | None = None,
    frozen: PyTree = None,
    begin: Callable[[TrainState], TrainState] = lambda state: state,
    watch: Examples | None = None,
) -> TrainState:
    """Train `model` to the end, or go on from where the same command was stopped.

    Args:
        study: data and devices.
        workdir: of the experiment; checkpoints go to `checkpoints/<run>`.
        run: a name such as `student/seed-0`.
        model: what is trained.
        loss_fn: a recipe's.
        seed: of initialisation, data order and every draw.
        epochs: passes.
        hparams: traced scalars, `learning_rate` among them.
        source: what to train on; `study.train` by default.
        examples_per_epoch: more places in an epoch than examples, to give a small source as many steps as a large one.
        frozen: for `TrainState.frozen`.
        begin: changes the initial state, as to parameters that were trained or copied before.
        watch: examples whose accuracy is written down after every epoch as `watched_accuracy`, and chooses nothing.
    """
    config, mesh = study.config, study.mesh
    source = study.train if source is None else source
    places = examples_per_epoch or len(source)
    steps = -(-places // config.batch_size)
    tx = optimizer_of(config, steps=steps * epochs)
    state = begin(create_state(model, tx, jax.random.key(seed), hparams=hparams))
    state = parallel.place(state.replace(frozen=frozen), mesh, config.parallel)

    columns = source.arrays if isinstance(source, Source) else None
    resident = columns is not None and sum(a.nbytes for a in columns.values()) <= config.device_data_gb * 1e9
    scan = resident and chooses_scan(config.loop, state.params)
    data = parallel.replicate(dict(columns), mesh) if columns is not None and resident else {}

    def chunks(epoch: int, first: int) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        order = {"seed": seed, "epoch": epoch, "length": places, "multiple_of": mesh.size}
        rows = pipeline.epoch_rows(len(source), config.batch_size, **order)

        def cut(part: slice | int) -> dict[str, np.ndarray]:
            return {name: column[part] for name, column in rows.items()}

        if scan:
            cuts = -(-steps // config.steps_per_call)
            size = -(-steps // cuts)
            for at in range(0, steps, size):
                if at >= first:
                    yield min(size, steps - at), cut(slice(at, at + size))
        elif resident:
            yield from ((1, cut(s)) for s in range(first, steps))
        else:
            yield from pipeline.prefetch((1, pipeline.take(source, **cut(s))) for s in range(first, steps))

    def score(state: TrainState, held_out: Examples) -> dict[str, float]:
        return classification(predict(study, model, variables(state), held_out), held_out.labels())

    def evaluate(state: TrainState) -> dict[str, float]:
        found: dict[str, float] = {}
        if study.validation is not None:
            scores = score(state, study.validation)
            found = {f"validation_{name}": scores[name] for name in ("accuracy", "nll")}
        return found if watch is None else {**found, "watched_accuracy": score(state, watch)["accuracy"]}

    checkpoints = workdir / "checkpoints" / run
    bar = tqdm(total=epochs, desc=run, unit="epoch", disable=not sys.stderr.isatty(), leave=False)

    def on_start(done: int) -> None:
        study.recorder.begin(run, done)
        bar.update(done)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        study.recorder.write(run, epoch, metrics)
        shown = " ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        log.debug("%s epoch %d/%d %s", run, epoch, epochs, shown)
        bar.update()

    best = "validation_accuracy" if study.validation is not None else ""
    with Checkpointer(checkpoints, keep=config.keep, best=best) as checkpointer, bar:
        state = fit(
            state,
            _program(config, loss_fn, steps * epochs, scan, mesh),
            data=data,
            chunks=chunks,
            epochs=epochs,
            steps_per_epoch=steps,
            checkpointer=checkpointer,
            checkpoint_every=config.checkpoint_every,
            evaluate=evaluate,
            on_start=on_start,
            on_epoch=on_epoch,
            name=run,
        )
    study.recorder.end(run)
    log.info("%s: %d parameters, %d epochs of %d steps", run, parameter_count(state.params), epochs, steps)
    return state

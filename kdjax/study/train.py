"""Train one network on one data set, and ask it: the glue between engine, checkpoints and records."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from kdjax.data import pipeline
from kdjax.data.source import Examples, Source
from kdjax.evaluation.classification import classification
from kdjax.models.create import parameter_count
from kdjax.study.data import Common, Forward, Study, feed, optimizer_of
from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import Chunk, fit
from kdjax.training.program import Program
from kdjax.training.state import Begin, Init, compiled, create_state, initializer, variables
from kdjax.training.step import Run
from kdjax.training.update import updates_of
from kdjax.types import BadInput, Batch, Diverged, LossFn, Model, Networks, PyTree, TrainState

log = logging.getLogger("kdjax.train")
CHOSEN = "chosen"


def predict(study: Study, model: Model, weights: PyTree, source: Examples, *, batch_size: int = 1000) -> np.ndarray:
    """A model's logits for every example of a source, in order; those that are not numbers end the run."""
    return _ask(study.forward(model), weights, _eval_batches(study, source, batch_size), source)


def predictions(
    study: Study, model: Model, weights: PyTree, source: Examples, *, first: int = 0, batch_size: int = 1000
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same batch by batch from example `first` on, bit for bit: images as they were shown, and logits."""
    forward, weights = study.forward(model), parallel.replicate(weights, study.mesh)
    for batch in _eval_batches(study, source, batch_size, first):
        wanted = (batch["mask"] > 0) & (batch["index"] >= first)
        yield batch["inputs"][wanted], _ask(forward, weights, [batch], source)[wanted[batch["mask"] > 0]]


def _ask(forward: Forward, weights: PyTree, batches: Iterable[Batch], source: Examples) -> np.ndarray:
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


class Programs:
    """The programs of one study, each traced once for all the seeds that train it.

    What trains several seeds keeps one, and makes its loss functions once, before any seed; two that learn by the same
    loss function share a program.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Program] = {}
        self._begun: dict[Begin, Begin] = {}

    def init(self, model: Model | Networks) -> Init:
        """A model's initial variables by key; a network that is in several models begins by one program."""

        def program(begin: Begin) -> Begin:
            if begin not in self._begun:
                self._begun[begin] = compiled(begin)
            return self._begun[begin]

        return initializer(model, program)

    def program(self, config: Common, loss_fn: LossFn, *, steps: int, scan: bool, mesh: Any) -> Program:
        """The program of a recipe for a run of so many steps."""
        key = (config, loss_fn, steps, scan)
        if key not in self._made:
            tx = optimizer_of(config, steps=steps)
            self._made[key] = Program(updates_of(tx, loss_fn), mesh, wrapper=config.parallel, scan=scan)
        return self._made[key]


def train(
    study: Study,
    workdir: Path,
    run: str,
    model: Model | Networks,
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
    programs: Programs | None = None,
    answers: Model | None = None,
    choose: Callable[[PyTree], float] | None = None,
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
        answers: the network that is scored on the validation split, where several are trained together.
        programs: of a study that trains this loss function for several seeds.
        watch: examples whose accuracy is written down after every epoch as `watched_accuracy`, and chooses nothing.
        choose: how good the network's variables are after an epoch, written down as `chosen`: the best of those that
            are saved is kept (`best_of`), by this and not by accuracy on the validation split.
    """
    config, mesh = study.config, study.mesh
    source = study.train if source is None else source
    steps = -(-(examples_per_epoch or len(source)) // config.batch_size)
    tx = optimizer_of(config, steps=steps * epochs)
    programs = programs or Programs()
    init = programs.init(model)
    state = begin(create_state(model, tx, jax.random.key(seed), hparams=hparams, init=init))
    state = parallel.place(state.replace(frozen=frozen), mesh, config.parallel)
    fed = feed(study, source, state.params, places=examples_per_epoch or 0)
    program = programs.program(config, loss_fn, steps=steps * epochs, scan=fed.scan, mesh=mesh)

    scored = model if isinstance(model, Model) else answers
    if scored is None:
        raise BadInput("answers=None for several networks: accepted is the one of them that is scored")

    def score(state: TrainState, held_out: Examples) -> dict[str, float]:
        return classification(predict(study, scored, variables(state), held_out), held_out.labels())

    def evaluate(state: TrainState) -> dict[str, float]:
        found: dict[str, float] = {}
        if study.validation is not None:
            scores = score(state, study.validation)
            found = {f"validation_{name}": scores[name] for name in ("accuracy", "nll")}
        found |= {} if choose is None else {CHOSEN: choose(variables(state))}
        return found if watch is None else {**found, "watched_accuracy": score(state, watch)["accuracy"]}

    best = CHOSEN if choose else "validation_accuracy" if study.validation is not None else ""
    return kept(
        study, workdir, run, state, program.run, data=fed.data(), chunks=fed.chunks(seed), epochs=epochs, steps=steps,
        evaluate=evaluate, best=best,
    )  # fmt: skip


def kept(
    study: Study,
    workdir: Path,
    run: str,
    state: TrainState,
    step: Run,
    *,
    data: Mapping[str, Any],
    chunks: Callable[[int, int], Iterator[tuple[int, Chunk]]],
    epochs: int,
    steps: int,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    best: str = "",
) -> TrainState:
    """`training.loop.fit` with a study's checkpoints, records and messages, from where it was stopped.

    Args:
        study: records and flags.
        workdir: of the experiment; checkpoints go to `checkpoints/<run>`.
        run: its name.
        state: the initial state, on the devices.
        step: of `fit`, its `run`; so are `data`, `chunks`, `epochs` and `evaluate`.
        steps: of an epoch.
        best: the metric by which one more checkpoint is kept.
    """
    config = study.config
    bar = tqdm(total=epochs, desc=run, unit="epoch", disable=not sys.stderr.isatty(), leave=False)

    def on_start(done: int) -> None:
        study.recorder.begin(run, done)
        bar.update(done)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        study.recorder.write(run, epoch, metrics)
        shown = " ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        log.debug("%s epoch %d/%d %s", run, epoch, epochs, shown)
        bar.update()

    with Checkpointer(workdir / "checkpoints" / run, keep=config.keep, best=best) as checkpointer, bar:
        state = fit(
            state,
            step,
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


def best_of(workdir: Path, run: str, model: Model) -> PyTree:
    """The variables of the epoch that `choose` found best in a finished run, of those that were saved."""
    like = jax.eval_shape(model.init, jax.random.key(0))
    with Checkpointer(workdir / "checkpoints" / run, best=CHOSEN, read_only=True) as checkpointer:
        return checkpointer.restore_variables(*like, best=True)

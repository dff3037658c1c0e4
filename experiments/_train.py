"""Train one network on one data set: the glue between data, engine, checkpoints and records that experiments share."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from kdjax.config import field
from kdjax.data import checks, pipeline, splits
from kdjax.data.load import load
from kdjax.data.source import Examples, Source
from kdjax.evaluation.answers import fault
from kdjax.evaluation.classification import classification
from kdjax.models.create import parameter_count
from kdjax.training import optimizers, parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import Diverged, fit
from kdjax.training.predict import Predictor
from kdjax.training.record import Recorder
from kdjax.training.state import create_state, variables
from kdjax.training.step import Run, many_steps, one_step, train_step
from kdjax.types import BadInput, LossFn, Model, PyTree, TrainState

log = logging.getLogger("kdjax.train")


@dataclass(frozen=True)
class Data:
    """The flags of every experiment that reads a data set."""

    workdir: str = field("", "folder for everything the run leaves", identity=False)
    dataset: str = field("digits", "digits (embedded), or a prepared TFDS set such as mnist, cifar10")
    data_dir: str = field(
        "", "where TFDS sets are prepared (default $TFDS_DATA_DIR, or ~/tensorflow_datasets)", identity=False
    )
    train_split: str = field("train[:80%]", "split to train on")
    validation_split: str = field("train[80%:]", "split that chooses; empty for none")
    test_split: str = field("test", "split that is reported")
    image_size: int = field(0, "resize images to this height and width; 0 as stored", low=0)
    batch_size: int = field(64, "examples per step, over all devices", low=1)


@dataclass(frozen=True)
class Common(Data):
    """The flags of every experiment that trains one network at a time."""

    seeds: int = field(5, "runs, numbered from 0", low=1, smoke=2)
    optimizer: str = field("adam", "Optax optimizer", choices=optimizers.OPTIMIZERS)
    schedule: str = field("constant", "learning-rate schedule", choices=optimizers.SCHEDULES)
    warmup_steps: int = field(0, "steps of linear warm-up", low=0)
    momentum: float = field(0.0, "of sgd and rmsprop", low=0.0, high=0.999999)
    weight_decay: float = field(0.0, "decoupled for adamw and its kin, L2 otherwise", low=0.0)
    grad_clip: float = field(0.0, "largest global gradient norm; 0 for none", low=0.0)
    parallel: str = field("jit", "wrapper of the step over all devices", choices=("jit", "pmap"))
    loop: str = field("auto", "scan many steps in one call, or call each from Python", choices=("auto", "scan", "step"))
    steps_per_call: int = field(1000, "most steps in one scan; SIGTERM waits for no more", low=1)
    device_data_gb: float = field(2.0, "data up to this size lives on the device; larger is streamed", low=0.0)
    keep: int = field(2, "newest checkpoints to keep, beside the best by validation", low=1, identity=False)
    checkpoint_every: int = field(10, "epochs between checkpoints", low=1, identity=False)


@dataclass(frozen=True)
class Study:
    """The data and devices of one experiment, and how it trains."""

    config: Common
    train: Examples
    validation: Examples | None
    test: Examples
    mesh: Any
    recorder: Recorder

    @property
    def shape(self) -> dict[str, Any]:
        """What a model must fit: classes and image shape."""
        return {"num_classes": self.train.num_classes, "image_shape": self.train.image_shape()}


def open_study(config: Common, workdir: Path) -> Study:
    """Load the splits and find the devices; every mistake in flags about data is found here."""

    def get(split: str) -> Examples:
        return load(config.dataset, split, data_dir=config.data_dir, image_size=config.image_size)

    for a, b in combinations(("train_split", "validation_split", "test_split"), 2):
        first, second = getattr(config, a), getattr(config, b)
        if overlap(config, first, second):
            raise BadInput(f"--{a}={first} and --{b}={second} share examples; accepted: disjoint splits.")
    study = Study(
        config,
        train=get(config.train_split),
        validation=get(config.validation_split) if config.validation_split else None,
        test=get(config.test_split),
        mesh=parallel.data_mesh(),
        recorder=Recorder(workdir),
    )
    check_batch(study, study.train)
    for flag, scored in (("validation_split", study.validation), ("test_split", study.test)):
        if scored is not None:
            checks.require_labels(scored, flag=flag)
    checks.warn_of_duplicates({f"{name}_split": getattr(study, name) for name in ("train", "validation", "test")})
    sizes = {name: len(s) for name in ("train", "validation", "test") if (s := getattr(study, name)) is not None}
    log.info("%s: %s", config.dataset, ", ".join(f"{n} {name}" for name, n in sizes.items()))
    return study


def overlap(config: Common, first: str, second: str) -> bool:
    """Whether two splits of the data set share examples."""
    (base, cut), (other, other_cut) = splits.parse(first), splits.parse(second)
    if not base or base != other:
        return False
    examples = len(load(config.dataset, base, data_dir=config.data_dir, image_size=config.image_size))
    a, b = cut(examples), other_cut(examples)
    return max(a.start, b.start) < min(a.stop, b.stop)


def check_batch(study: Study, source: Examples) -> None:
    """Refuse, before training, a batch that is larger than the data or that the devices cannot share."""
    pipeline.batches(np.arange(len(source), dtype=np.int32), study.config.batch_size, study.mesh.size)


def optimizer_of(config: Common, *, steps: int) -> optax.GradientTransformation:
    """The optimizer and schedule that the flags ask for, for a run of so many steps; refuses what does not fit."""
    return optimizers.optimizer(
        config.optimizer,
        learning_rate=optimizers.schedule(config.schedule, total_steps=steps, warmup_steps=config.warmup_steps),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        grad_clip=config.grad_clip,
    )


def chooses_scan(loop: str, params: PyTree) -> bool:
    """Scan, unless XLA's CPU backend would run convolutions inside it: there a step is slower than when called alone.

    The rule is fixed rather than timed at start, because the two forms may differ in the last bit and a resumed run
    must repeat the form it began with; `experiments/benchmark_speed.py` holds the measurement behind it.
    """
    if loop != "auto":
        return loop == "scan"
    convolutions = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    return not (convolutions and jax.default_backend() == "cpu")


def predict(study: Study, model: Model, weights: PyTree, source: Examples, *, batch_size: int = 1000) -> np.ndarray:
    """A model's logits for every example of a source, in order; those that are not numbers end the run."""
    return _numbers(Predictor(model.apply, study.mesh)(weights, _eval_batches(study, source, batch_size)), source)


def predictions(
    study: Study, model: Model, weights: PyTree, source: Examples, *, first: int = 0, batch_size: int = 1000
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same batch by batch from example `first` on, bit for bit: images as they were shown, and logits."""
    forward, weights = Predictor(model.apply, study.mesh), parallel.replicate(weights, study.mesh)
    for batch in _eval_batches(study, source, batch_size, first):
        wanted = (batch["mask"] > 0) & (batch["index"] >= first)
        yield batch["image"][wanted], _numbers(forward(weights, [batch])[wanted[batch["mask"] > 0]], source)


def _numbers(logits: np.ndarray, source: Examples) -> np.ndarray:
    if found := fault(logits):
        raise Diverged(f"{source.name}: {found}")
    return logits


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

    resident = (
        isinstance(source, Source) and sum(a.nbytes for a in source.arrays.values()) <= config.device_data_gb * 1e9
    )
    scan = resident and chooses_scan(config.loop, state.params)
    data = parallel.replicate(dict(source.arrays), mesh) if resident else {}

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

"""The data, devices and flags of a study: what every experiment opens before it trains."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import optax

from kdjax import spec
from kdjax.config import field
from kdjax.data import checks, pipeline, splits
from kdjax.data.load import load
from kdjax.data.source import Examples, Source
from kdjax.training import optimizers, parallel
from kdjax.training.feed import Feed
from kdjax.training.predict import Predictor
from kdjax.training.program import chooses_scan
from kdjax.training.record import Recorder
from kdjax.types import BadInput, Batch, Model, PyTree, nearest

log = logging.getLogger("kdjax.train")

_NUMBERS = ("momentum", "weight_decay", "grad_clip", "max_norm")
OPTIMIZER = (
    "Optax optimizer, with numbers of its own such as sgd(momentum=0.9, weight_decay=5e-4, grad_clip=1): momentum of "
    "sgd and rmsprop, weight decay decoupled for adamw and its kin and L2 otherwise, the largest global gradient norm, "
    "the largest norm of the weights into one unit; "
    f"{', '.join(optimizers.OPTIMIZERS)}"
)
"""The manual of --optimizer."""
SCHEDULE = (
    "factor of the learning rate over the run: cosine(1, 0), linear(1, 0), steps((1, 0.1), (0.5,)), or any of them "
    "after a rise, warmup(0.05, cosine(1, 0))"
)
"""The manual of --schedule."""


Forward = Callable[[PyTree, Iterable[Batch]], np.ndarray]
"""Variables and batches to the logits of the real rows, in order."""


@dataclass(frozen=True)
class Data:
    """The flags of every experiment that reads a data set."""

    workdir: str = field("", "folder for everything the run leaves", identity=False)
    dataset: str = field("digits", "digits (embedded), npz:FILE, or a prepared TFDS set such as mnist, cifar10")
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

    seeds: int = field(5, "runs, numbered from 0; more go on in the same --workdir", low=1, smoke=2, may_grow=True)
    optimizer: str = field("adam", OPTIMIZER)
    schedule: str = field("constant(1)", SCHEDULE)
    parallel: str = field("jit", "wrapper of the step over all devices", choices=("jit", "pmap"))
    loop: str = field("auto", "scan many steps in one call, or call each from Python", choices=("auto", "scan", "step"))
    steps_per_call: int = field(1000, "most steps in one scan; SIGTERM waits for no more", low=1)
    device_data_gb: float = field(2.0, "data up to this size lives on the device; larger is streamed", low=0.0)
    keep: int = field(2, "newest checkpoints to keep, beside the best by validation", low=1, identity=False)
    checkpoint_every: int = field(10, "epochs between checkpoints", low=1, identity=False)


@dataclass(frozen=True)
class Study:
    """The data and devices of one experiment, and how it trains.

    `config` holds the flags of `Data`; of `Common`, where networks are trained.
    """

    config: Any
    train: Examples
    validation: Examples | None
    test: Examples
    mesh: Any
    recorder: Recorder
    asked: dict[Any, Forward] = dataclasses.field(default_factory=dict)
    """The compiled forward pass of each model that was asked in this study; of a service, how it is asked."""

    @property
    def shape(self) -> dict[str, Any]:
        """What a model must fit: classes and image shape."""
        return {"num_classes": self.train.num_classes, "image_shape": self.train.image_shape()}

    def forward(self, model: Model) -> Forward:
        """The model's forward pass, compiled once in a study."""
        if model.apply not in self.asked:
            self.asked[model.apply] = Predictor(model.apply, self.mesh)
        return self.asked[model.apply]


def feed(study: Study, source: Examples, params: PyTree, *, places: int = 0) -> Feed:
    """How a source's batches reach the step of a network, as the flags say: resident and scanned, resident, streamed.

    Args:
        study: flags and devices.
        source: what is learned from.
        params: of the network, or their shapes: convolutions decide the loop.
        places: of an epoch; more than there are examples give a small source as many steps as a large one. 0 is one
            for each example.
    """
    config, size, length = study.config, len(source), places or len(source)
    order = {"length": length, "multiple_of": study.mesh.size}
    columns = source.arrays if isinstance(source, Source) else {}
    resident = bool(columns) and sum(a.nbytes for a in columns.values()) <= config.device_data_gb * 1e9

    def stream(each: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
        return pipeline.prefetch(pipeline.take(source, **rows) for rows in each)

    return Feed(
        lambda seed, epoch: pipeline.epoch_rows(size, config.batch_size, seed=seed, epoch=epoch, **order),
        steps=-(-length // config.batch_size),
        mesh=study.mesh,
        columns=columns if resident else {},
        stream=None if resident else stream,
        scan=resident and chooses_scan(config.loop, params, study.mesh),
        steps_per_call=config.steps_per_call,
    )


def open_study(config: Data, workdir: Path) -> Study:
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
            checks.require_image_shape(scored, study.train, flag=f"{flag}={getattr(config, flag)}")
    checks.warn_of_duplicates({f"{name}_split": getattr(study, name) for name in ("train", "validation", "test")})
    sizes = {name: len(s) for name in ("train", "validation", "test") if (s := getattr(study, name)) is not None}
    log.info("%s: %s", config.dataset, ", ".join(f"{n} {name}" for name, n in sizes.items()))
    return study


def overlap(config: Data, first: str, second: str) -> bool:
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
    rate = factor_of(config, steps=steps)
    call = spec.call(config.optimizer, flag="optimizer")
    wanted = f"{call.name}({', '.join(f'{name}=NUMBER' for name in _NUMBERS)})"
    for name, value in call.kwargs:
        if name not in _NUMBERS or isinstance(value, bool) or not isinstance(value, int | float):
            raise call.error(f"read {name}={value!r}; accepted: {wanted}{nearest(name, _NUMBERS)}")
    if call.args:
        raise call.error(f"read {call!r}; accepted: {wanted}")
    numbers = {name: float(value) for name, value in call.kwargs}
    try:
        return optimizers.optimizer(call.name, learning_rate=rate, **numbers)
    except BadInput as error:
        raise call.error(str(error)) from None


def factor_of(config: Common, *, steps: int) -> optax.Schedule:
    """The factor of the learning rate that `--schedule` asks for, for a run of so many steps.

    Raises:
        BadInput: a set, or as `optimizers.following`.
    """
    factor = spec.number(config.schedule, flag="schedule")
    if spec.sets(factor):
        raise BadInput(f"--schedule={config.schedule}: a set; accepted: a schedule, such as cosine(1, 0)")
    schedule = factor if isinstance(factor, spec.Schedule) else spec.constant(factor)
    try:
        return optimizers.following(schedule, steps=steps)
    except BadInput as error:
        raise BadInput(f"--schedule={config.schedule}: {error}") from None

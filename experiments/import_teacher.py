"""A network that PyTorch trained, as a teacher: its state dict becomes a workdir that `--teacher` and `--model` read.

    python -m experiments.import_teacher --weights=resnet56.safetensors --model=resnet56 --dataset=cifar10 \
        --mean=0.5071,0.4867,0.4408 --std=0.2675,0.2565,0.2761 --workdir=runs/imported
    python -m experiments.distill --teacher=runs/imported --dataset=cifar10 --student=resnet20

The file is a .safetensors or an .npz of the state dict (`kdjax.models.import_torch` says how PyTorch writes them, and
whose names it reads, RobustBench's among them). `--mean` and `--std` are what PyTorch's images were normalised with:
that becomes part of the network, and where the state dict says it itself (`mu` and `sigma`, or `mean` and `std`), it
need not be typed. The test split is scored, and the score is the check that nothing was lost on the way: it should be
the one that the network had. `--train_split` says what it learned from; a study that tests on those images will refuse
it.

Cost: seconds, and one pass over the test images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import models
from kdjax.config import field
from kdjax.evaluation.classification import classification
from kdjax.models.import_torch import READABLE, from_torch, to_torch
from kdjax.models.state_dict import moments, read
from kdjax.study import command, lineage, networks, report, train
from kdjax.study.data import Data, open_study
from kdjax.training import optimizers
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.state import create_state
from kdjax.types import STUDENT, BadInput

COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "errors", "parameters")


@dataclass(frozen=True)
class Config(Data):
    """Flags of this experiment."""

    workdir: str = field("runs/imported", "folder of the teacher", identity=False, smoke="runs/smoke/imported")
    weights: str = field(
        "",
        "the state dict, .safetensors or .npz; `random` writes one of random weights first, and reads it",
        smoke="random",
    )
    model: str = field("resnet56", "the network", choices=READABLE, smoke="resnet8")
    mean: tuple[float, ...] = field((0.0,), "subtracted from images in [0, 1], by channel or one for all")
    std: tuple[float, ...] = field((1.0,), "divides them, by channel or one for all", low=1e-6)


def main(config: Config, workdir: Path) -> None:
    """Read, score, save."""
    if not config.weights:
        raise BadInput("--weights= is empty; accepted: a .safetensors or .npz file of a state dict.")
    study = open_study(config, workdir)
    path = Path(config.weights)
    normalised: dict[str, Any] = normalisation(config, study.shape["image_shape"][-1])
    description: dict[str, Any] = {"name": config.model, **study.shape, **normalised}
    model = models.create(**description)
    if config.weights == "random":
        params, model_state = model.init(jax.random.key(0))
        path = workdir / "random.npz"
        arrays: dict[str, Any] = to_torch({"params": params, **model_state}, config.model)
        np.savez(path, **arrays)
    weights = from_torch(path, config.model, **study.shape, **normalised)
    logits = train.predict(study, model, weights, study.test)
    scores = {
        **classification(logits, study.test.labels()),
        "parameters": models.parameter_count(weights["params"]),
    }
    networks.save_model(workdir, **description)
    tx = optimizers.optimizer("sgd")
    state = create_state(model, tx, jax.random.key(0), hparams={"learning_rate": 0.0})
    own = {name: tree for name, tree in weights.items() if name != "params"}
    with Checkpointer(workdir / "checkpoints" / "teacher" / "seed-0") as checkpointer:
        checkpointer.save(state.replace(params={STUDENT: weights["params"]}, model_state={STUDENT: own}))
    known = {"run": "teacher", "split": config.train_split}
    lineages = lineage.lineages({"teacher": lineage.trained_elsewhere(known, config.weights)}, {"teacher": ["teacher"]})
    report.save_results(workdir, {"teacher": [scores], **lineages}, report.table({"teacher": [scores]}, COLUMNS))


def normalisation(config: Config, channels: int) -> dict[str, tuple[float, ...]]:
    """The mean and deviation that were typed; where neither was, those that the state dict holds, if it does."""
    typed: dict[str, tuple[float, ...]] = {}
    for name in ("mean", "std"):
        numbers = getattr(config, name)
        if len(numbers) not in (1, channels):
            raise BadInput(f"--{name}={numbers}; accepted: 1 number, or {channels}, one per channel.")
        typed[name] = numbers * (channels if len(numbers) == 1 else 1)
    if config.weights != "random" and (config.mean, config.std) == (Config.mean, Config.std):
        typed |= moments(read(config.weights), channels)
    return typed


if __name__ == "__main__":
    command.start(Config, main)

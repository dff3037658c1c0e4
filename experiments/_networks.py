"""Networks that a run left in its folder: written where they are trained, read where they teach or are attacked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import _train
from kdjax.models.create import create
from kdjax.training.checkpoint import Checkpointer
from kdjax.types import BadInput, Model, PyTree


class Network(NamedTuple):
    """A trained network: the model, its variables seed by seed, what it was built with and what it learned from."""

    model: Model
    weights: list[PyTree]
    description: dict[str, Any]
    learned: dict[str, Any]


def save_model(workdir: Path, **description: Any) -> None:
    """Write model.json: what `create` needs to build the network whose checkpoints lie in this folder."""
    (workdir / "model.json").write_text(json.dumps(description, indent=2) + "\n")


def load_network(
    path: str, *, flag: str, role: str = "teacher", shape: Mapping[str, Any] | None = None, dataset: str = ""
) -> Network:
    """A network by the folder of the run that trained it.

    Args:
        path: the run's --workdir.
        flag: the flag that named it, for messages.
        role: whose checkpoints; each seed's last one is read.
        shape: what it must fit, classes and image shape of `dataset`, looked at before any checkpoint is read.
        dataset: its name, for messages.

    Raises:
        BadInput: no such run, an unfinished or damaged one, or one for other classes or images.
    """
    folder = Path(path).expanduser()
    try:
        description = json.loads((folder / "model.json").read_text())
        learned = json.loads((folder / "config.json").read_text())
        seeds = len(json.loads((folder / "results.json").read_text())[role])
        description |= {name: tuple(description[name]) for name in ("hidden", "image_shape")}
    except (OSError, ValueError, KeyError):
        accepted = "accepted is the --workdir of a finished experiments.train_teacher run"
        raise BadInput(
            f"--{flag}={path}: model.json, config.json or results.json is missing or damaged; {accepted}."
        ) from None
    refuse_other_shapes(description, path, shape or {}, dataset, flag=flag)
    model = create(**description)
    like = jax.eval_shape(model.init, jax.random.key(0))
    weights = []
    for seed in range(seeds):
        with Checkpointer(folder / "checkpoints" / role / f"seed-{seed}", read_only=True) as checkpointer:
            weights.append(checkpointer.restore_variables(*like))
    return Network(model, weights, description, learned)


def refuse_other_shapes(
    description: Mapping[str, Any], path: str, study_shape: Mapping[str, Any], dataset: str, *, flag: str
) -> None:
    """Refuse a network for other classes or images than a data set's."""
    for name, mine in study_shape.items():
        theirs = description[name]
        if theirs != mine:
            raise BadInput(
                f"--{flag}={path}: the teacher has {name} {theirs}, the data set {dataset!r} has {mine}; "
                "accepted is a teacher of the same."
            )


def load_teachers(study: _train.Study, path: str) -> tuple[Model, list[PyTree]]:
    """A network trained by `experiments.train_teacher`: the model, and its variables seed by seed.

    Raises:
        BadInput: as `load_network`; one for other classes or images than this study's, or one that learned from this
            study's test images.
    """
    network = load_network(path, flag="teacher", shape=study.shape, dataset=study.config.dataset)
    test, learned = study.config.test_split, network.learned
    if learned["dataset"] == study.config.dataset and _train.overlap(study.config, learned["train_split"], test):
        raise BadInput(
            f"--teacher={path}: it learned from {learned['train_split']}, which shares examples with "
            f"--test_split={test}; accepted is a teacher that has not seen them."
        )
    return network.model, network.weights

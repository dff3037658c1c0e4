"""Networks that learn from the same images, from labels or from a teacher's cached answers: glue of several studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.config import field
from kdjax.data.source import Examples, hide_labels, labelled
from kdjax.evaluation.classification import classification
from kdjax.evaluation.paired import paired_difference
from kdjax.losses import response
from kdjax.models import create as models
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import figures, networks, train
from kdjax.study.data import Common, Study, optimizer_of
from kdjax.study.report import gain, save_results, table
from kdjax.teachers.stored import cached
from kdjax.training.state import variables
from kdjax.types import Model, PyTree, TrainState

COLUMNS = ("accuracy", "f1", "nll", "ece", "parameters")
Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Flags(Common):
    """The flags of a study that trains several networks on the same images for as long."""

    model: str = field("mlp", "every network's kind", choices=models.all_names())
    dropout: float = field(0.0, "every network's dropout rate", low=0.0, high=0.99)
    norm: str = field("batch", "every network's normalisation, where it has one", choices=models.NORMS)
    standardize: bool = field(False, networks.STANDARDIZE)
    labels: int = field(100, "labelled images, balanced over classes; 0 for all", low=0)
    epochs: int = field(60, "passes of each network over its images", low=1, smoke=2)
    learning_rate: float = field(3e-3, "peak learning rate", low=0.0)
    temperature: float = field(4.0, "softens both sides of the distillation loss", low=1e-6, high=1e4)
    alpha: float = field(0.9, "weight of the teacher; 1 - alpha of the labels", low=0.0, high=1.0)


def network(study: Study, config: Flags, hidden: str = "hidden") -> Model:
    """A network that fits the data, of the widths that a flag says if it takes any."""
    return networks.from_flags(config, study.shape, hidden=hidden, train=study.train).model


def transfers(study: Study, config: Any) -> list[Examples]:
    """All training images with the labels that there are, for each seed; and refusals before anything trains."""
    steps = -(-len(study.train) // config.batch_size)
    optimizer_of(config, steps=steps * config.epochs)
    seeds = range(config.seeds)
    return [hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in seeds]


def from_labels(
    study: Study, workdir: Path, config: Flags, run: str, model: Model, transfer: Examples, *, seed: int
) -> TrainState:
    """Train on the labelled images, in as many steps as there would be on all."""
    return train.train(
        study,
        workdir,
        run,
        model,
        supervised(model),
        seed=seed,
        epochs=config.epochs,
        hparams={"learning_rate": config.learning_rate},
        source=labelled(transfer),
        examples_per_epoch=len(study.train),
    )


def from_answers(
    study: Study,
    workdir: Path,
    config: Flags,
    run: str,
    model: Model,
    transfer: Examples,
    answers: np.ndarray,
    *,
    seed: int,
) -> TrainState:
    """Distil a teacher's logits on the transfer set `[N, K]`, in as many steps as there would be on all images."""
    return train.train(
        study,
        workdir,
        run,
        model,
        distill(model, cached(), response.kl),
        seed=seed,
        epochs=config.epochs,
        hparams={"learning_rate": config.learning_rate, "temperature": config.temperature, "alpha": config.alpha},
        source=transfer.with_column("teacher_logits", answers),
        examples_per_epoch=len(study.train),
    )


def scores(study: Study, logits: np.ndarray, *weights: PyTree) -> dict[str, Any]:
    """What logits on the test images are worth, and how many parameters gave them."""
    parameters = sum(models.parameter_count(w["params"]) for w in weights)
    return {**classification(logits, study.test.labels()), "parameters": parameters}


def tested(study: Study, model: Model, state: TrainState) -> dict[str, Any]:
    """The scores of a trained network."""
    return scores(study, train.predict(study, model, variables(state), study.test), variables(state))


def report(
    workdir: Path,
    study: Study,
    results: Results,
    pairs: Sequence[tuple[str, str]],
    *,
    title: str,
    note: str = "",
) -> None:
    """Table, paired differences in accuracy, figures, results.json."""
    accuracy: Mapping[str, list[float]] = {role: [s["accuracy"] for s in found] for role, found in results.items()}
    text, found = table(results, COLUMNS), dict[str, Any](results)
    if study.config.seeds > 1:
        text += "\n"
        for a, b in pairs:
            difference = paired_difference(accuracy[a], accuracy[b])
            found[f"{a} minus {b}"] = difference
            text += "\n" + gain(f"{a} minus {b}", difference) + "  "
    text += f"\n\n{note}" if note else ""
    figures.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    figures.comparison(accuracy, workdir / "comparison.png", title=title)
    save_results(workdir, found, text)

"""Networks that learn from the same images, from labels or from a teacher's answers: flags and arms of a study."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdjax import models
from kdjax.config import field
from kdjax.data.source import Examples, hide_labels, labelled
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import networks
from kdjax.study.compare import Arm, Done, Given, Lineage
from kdjax.study.data import Common, Study, optimizer_of
from kdjax.teachers.stored import cached
from kdjax.types import Model


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


def seen(labels: int, images: str = "") -> str:
    """What a lineage says of a source: `60 labels`, `60 labels of all images`."""
    return f"{labels or 'all'} labels{images}"


@dataclass(frozen=True)
class Student:
    """A network that learns in several arms from the same images: its two recipes, made once, and its arms.

    Attributes:
        study: the data.
        config: `Flags`, or others with the same names.
        model: the network.
        images: all training images with the labels that there are, by seed.
        learns_labels, learns_answers: the recipes.
    """

    study: Study
    config: Any
    model: Model
    images: Sequence[Examples]
    learns_labels: Any
    learns_answers: Any

    def from_labels(self, name: str, run: str) -> Arm:
        """An arm that trains on the labelled images, in as many steps as there would be on all."""
        return Arm(
            name,
            self.model,
            self.learns_labels,
            self.config.epochs,
            {"learning_rate": self.config.learning_rate},
            Lineage("labels", source=seen(self.config.labels)),
            lambda done: Given(labelled(self.images[done.seed])),
            run=run,
            places=len(self.study.train),
        )

    def from_answers(
        self,
        name: str,
        run: str,
        *teachers: str,
        answers: Callable[[Done, Examples], np.ndarray] | None = None,
        only_labelled: bool = False,
    ) -> Arm:
        """An arm that distils teachers' logits, in as many steps as there would be on all images.

        Args:
            name, run: of the arm.
            teachers: arms.
            answers: what they say together, `(done, images) -> [N, K]`; the first one's logits by default.
            only_labelled: leave out images without a label.
        """
        config = self.config

        def given(done: Done) -> Given:
            images = self.images[done.seed]
            images = labelled(images) if only_labelled else images
            logits = answers(done, images) if answers else done.answers(teachers[0], images)
            return Given(images.with_column("teacher_logits", logits))

        rates = {name: getattr(config, name) for name in ("learning_rate", "temperature", "alpha")}
        source = seen(config.labels, "" if only_labelled else ", all images")
        lineage = Lineage("alpha*response.kl + (1-alpha)*labels", teachers, source)
        alone = self.from_labels(name, run)
        return replace(alone, loss_fn=self.learns_answers, hparams=rates, lineage=lineage, given=given)


def student(study: Study, config: Any, model: Model, images: Sequence[Examples]) -> Student:
    """The arms of a network: see `Student`."""
    learns_answers = distill(model, cached(), response.kl)
    return Student(study, config, model, images, supervised(model), learns_answers)

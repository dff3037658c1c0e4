"""Who is attacked: the networks of a run, seed by seed, or a service, which is asked and paid."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdjax.attacks.victims import Victim, black_box, white_box
from kdjax.study import networks, service
from kdjax.study.attacks import answers
from kdjax.types import BadInput

if TYPE_CHECKING:
    from kdjax.teachers.service import Service


class Victims(NamedTuple):
    """Victims by seed, what their run says of them, the data set that they learned from, and their service if any."""

    by_seed: list[Victim]
    description: Mapping[str, Any]
    learned: Mapping[str, Any]
    service: "Service | None" = None
    lineage: Mapping[str, Any] = MappingProxyType({})

    def logits(self, victim: Victim, image: np.ndarray) -> np.ndarray:
        """Answers that are looked at and no attack's: a service is not asked again what it has answered."""
        return answers(victim, image) if self.service is None else self.service.logits(image)

    @property
    def paid(self) -> dict[str, Any] | None:
        """What a service was paid for so far; None where there is none."""
        if self.service is None:
            return None
        return dict(zip(("requests", "images", "price"), self.service.paid.totals(), strict=True))


def found(model: str, role: str, dataset: str, workdir: Path) -> Victims:
    """The victims that a flag names.

    Raises:
        BadInput: as `load_network` and `service.connect`; a service without --dataset.
    """
    if not service.is_service(model):
        network = networks.load_network(model, flag="model", role=role)
        each = [white_box(network.model.apply, weights) for weights in network.weights]
        return Victims(each, network.description, network.learned, lineage=network.lineage)
    if not dataset:
        raise BadInput(f"--model={model} does not say what it learned from; accepted: --dataset=NAME with it.")
    asked = service.connect(model, workdir, flag="model")
    victim = black_box(asked.ask, num_classes=asked.num_classes)
    return Victims([victim], service.description(asked), {"dataset": dataset}, asked)

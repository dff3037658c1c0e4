"""Train a classifier from labels, over several seeds: flags, training, table and figures."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from kdjax import config as configs
from kdjax import models
from kdjax.config import field
from kdjax.recipes.supervised import supervised
from kdjax.study import attacks, networks, views
from kdjax.study.compare import Arm, Lineage, compare
from kdjax.study.data import Common, open_study
from kdjax.types import BadInput

COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "errors", "parameters")


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/teacher", "folder for everything the run leaves", identity=False, smoke="runs/smoke/teacher"
    )
    model: str = field("mlp", "network", choices=models.all_names())
    hidden: tuple[int, ...] = field((256, 256), "widths of an mlp, channels of a cnn", low=1, smoke=(16,))
    dropout: float = field(0.2, "dropout rate of hidden layers", low=0.0, high=0.99)
    input_dropout: float = field(0.0, "dropout rate of pixels", low=0.0, high=0.99)
    norm: str = field("batch", "normalisation, where the network has one", choices=models.NORMS)
    standardize: bool = field(False, networks.STANDARDIZE)
    label_smoothing: float = field(0.0, "share of the target spread over all classes", low=0.0, high=1.0)
    augment: str = field("", views.HELP)
    attack: str = field(
        "", "adversarial training: an attack such as pgd(0.3, steps=7, random_start=True); empty for clean images"
    )
    attacked: float = field(1.0, "share of each batch that is attacked", low=0.0, high=1.0)
    epochs: int = field(60, "passes over the training split", low=1, smoke=2)
    learning_rate: float = field(1e-3, "peak learning rate", low=0.0)


def main(config: Config, workdir: Path) -> None:
    """Train, test, tabulate."""
    if config.attacked != 1 and not config.attack:
        raise BadInput(f"--attacked={config.attacked}: nothing is attacked without --attack; accepted: both, or none.")
    views.refuse_mixing(config.augment, why="all is learned from labels here")
    study = open_study(config, workdir)
    model, description = networks.from_flags(config, study.shape, train=study.train)
    against = attacks.named(config.attack, flag="attack") if config.attack else None
    networks.save_model(workdir, **description)
    recipe = supervised(
        model,
        label_smoothing=config.label_smoothing,
        augment=views.from_flag(config.augment, study.shape).from_labels,
        attacked=config.attacked,
        **({"attack": against.repeated(against.make()), "objective": against.objective} if against else {}),
    )
    lineage = Lineage("labels", facts={"attack": config.attack, "augment": config.augment})
    arm = Arm("teacher", model, recipe, config.epochs, {"learning_rate": config.learning_rate}, lineage)
    title = f"{config.dataset}, {networks.title(description)}, {config.epochs} epochs"
    compare(study, workdir, [arm], title=title, columns=COLUMNS)


def small_network(workdir: Path) -> str:
    """Train one on digits, in a folder of its own, where it is found again."""
    folder = workdir / "network"
    config = Config(workdir=str(folder), hidden=(32,), dropout=0.0, epochs=20, seeds=1)
    configs.claim(config, folder)
    with contextlib.redirect_stdout(io.StringIO()):
        main(config, folder)
    return str(folder)

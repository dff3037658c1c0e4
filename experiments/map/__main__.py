"""Where does distillation pay? Gain over the student alone, against width, labels, temperature and epochs.

    python -m experiments.map --widths=800 --labels=100,1000,0 --epochs=3 --temperatures=4 --alpha=1 \
        --learning_rates=3e-4,1e-3 --workdir=runs/map-800
    python -m experiments.map --also=runs/map-800

Minutes on two shared cores: map-800 20, map 34. Result: docs/results/README.md. The teacher is the notebook's,
784-1200-1200-10 with dropout 0.5, 3 epochs, all labels, one per seed. Both students start from the same parameters and
make the same number of updates: the student alone repeats its labelled images; the distilled one sees every training
image with the teacher's answers, and no label (alpha = 1), except in the column "all", where it also uses the labels
with weight 1 - alpha.

Each cell compares both arms at their own best learning rate, chosen by seed 0 on the last 5,000 training images, which
that run and its teacher did not train on; the 5 seeds then train on all images and are tested once. All members of a
(width, arm, seed) train as one compiled program by vmap over traced hyper-parameters, with one data order.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from experiments.map import figures, gains
from kdjax.config import field
from kdjax.data import pipeline
from kdjax.data.checks import require_labels
from kdjax.data.source import Source, hide_labels, labelled
from kdjax.files import append_line, to_json, typed_path, write_whole
from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, report
from kdjax.study.data import Common, Data, open_study
from kdjax.study.lineage import Lineage, Pair, as_data, lineages
from kdjax.teachers.stored import cached
from kdjax.training import optimizers
from kdjax.training.population import Plan, Population
from kdjax.training.stacked import Asked, Member
from kdjax.types import BadInput, Diverged, LossFn, Model, TrainState

log = logging.getLogger("kdjax.map")
TOGETHER = Plan(own_order=False, members_per_call=10**6, group=10**6)
"""All members of a block at once, in the order of their seed."""


@dataclass(frozen=True)
class Config(Data):
    """Flags of this experiment."""

    seeds: int = field(5, "runs, numbered from 0; more go on in the same --workdir", low=2, smoke=2, may_grow=True)
    optimizer: str = field("adam", "Optax optimizer", choices=optimizers.OPTIMIZERS)
    workdir: str = field("runs/map", "folder of the run", identity=False, smoke="runs/smoke/map")
    dataset: str = field("mnist", "a prepared TFDS set", smoke="digits")
    train_split: str = field("train", "all training images", smoke="train")
    validation_split: str = field("", "unused: the map cuts its own", choices=("",))
    held_out: int = field(5000, "last training images that choose the learning rate", low=1, smoke=300)
    teacher_hidden: tuple[int, ...] = field((1200, 1200), "teacher's widths", low=1, smoke=(16,))
    teacher_dropout: float = field(0.5, "teacher's dropout rate", low=0.0, high=0.99)
    teacher_epochs: int = field(3, "teacher's passes", low=1, smoke=1)
    teacher_learning_rate: float = field(1e-3, "teacher's learning rate", low=0.0)
    widths: tuple[int, ...] = field((10, 20, 100), "hidden units of the student's one layer", low=1, smoke=(4,))
    labels: tuple[int, ...] = field((100, 1000, 10000, 0), "labelled images; 0 for all", low=0, smoke=(20, 0))
    temperatures: tuple[float, ...] = field((1.0, 2.0, 4.0, 7.0), "temperatures", low=1e-6, high=1e4, smoke=(7.0,))
    alpha: float = field(0.8, "weight of the teacher where all labels are known", low=0.0, high=1.0)
    epochs: tuple[int, ...] = field((3, 10), "passes over all images", low=1, smoke=(1,))
    also: str = field("", "workdir of another finished map, to draw and tabulate with this one", identity=False)
    learning_rates: tuple[float, ...] = field((1e-3, 3e-3, 1e-2), "to choose from", low=0.0, smoke=(1e-3, 1e-2))


class Arm:
    """Students of one width that learn by one loss: all members of a seed are one compiled program, for every seed."""

    def __init__(self, config: Config, mesh: Any, model: Model, loss_fn: LossFn) -> None:
        self.config = config
        tx = optimizers.optimizer(config.optimizer)
        self.population, self.ask = Population(model, tx, loss_fn, mesh, TOGETHER), Asked(model.apply, mesh)

    def accuracies(
        self, source: Source, against: Source, hparams: Sequence[Mapping[str, float]], *, seed: int, places: int
    ) -> dict[int, list[float]]:
        """Each member's accuracy against other examples, after each of `config.epochs`.

        Raises:
            Diverged: a number of a member is not finite.
        """
        found: dict[int, list[float]] = {}
        steps = -(-places // self.config.batch_size)
        labels = against.labels()

        def order(_: int, epoch: int) -> dict[str, np.ndarray]:
            visited = pipeline.epoch_order(len(source), seed=seed, epoch=epoch, length=places)
            index, mask = pipeline.batches(visited, self.config.batch_size)
            return {"index": index, "mask": mask}

        def evaluate(states: TrainState) -> dict[str, np.ndarray]:
            if int(states.step) // steps not in self.config.epochs:
                return {}
            logits = self.ask(states, against.arrays["inputs"])
            right = (logits.argmax(-1) == labels).mean(-1)
            return {"accuracy": np.where(np.isfinite(logits).all((1, 2)), right, np.nan)}

        def check(members: Sequence[Member], epoch: int, metrics: list[dict[str, float]]) -> None:
            if wrong := [m.hparams for m, own in zip(members, metrics, strict=True) if not own]:
                raise Diverged(f"seed {seed}: a number of the member {wrong[0]} is not finite in epoch {epoch}")
            if epoch in self.config.epochs:
                found[epoch] = [own["accuracy"] for own in metrics]

        members = [Member(seed, own) for own in hparams]
        epochs = max(self.config.epochs)
        for _ in self.population.train(
            members, data=source.arrays, order=order, epochs=epochs, evaluate=evaluate, on_epoch=check
        ):
            pass
        return found


def cells_of(folder: str) -> list[dict[str, Any]]:
    """The cells of another run's map."""
    try:
        return json.loads((typed_path(folder) / "results.json").read_text())["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"--also={folder}: no results.json of a map there; accepted: the folder of one") from None


def main(config: Config, workdir: Path) -> None:
    """Choose learning rates, train every cell, draw the map."""
    shared = {f.name: getattr(config, f.name) for f in fields(Data)}
    study = open_study(Common(**shared, seeds=config.seeds, optimizer=config.optimizer), workdir)
    train, test = study.train, study.test
    if not (isinstance(train, Source) and isinstance(test, Source)):
        raise BadInput(f"--dataset={config.dataset}: accepted are sets that fit in memory.")
    if not config.held_out < len(train):
        raise BadInput(f"--held_out={config.held_out}: accepted are 1 to {len(train) - 1}.")
    chooses = f"the last {config.held_out} of {config.train_split}"
    kept, chosen_on = np.split(np.arange(len(train)), [len(train) - config.held_out])
    require_labels(train.select(chosen_on), flag="held_out")
    for count in filter(None, config.labels):  # refuses a wrong count before anything trains
        hide_labels(train.select(kept), count, 0)
    others = cells_of(config.also) if config.also else []
    teacher = create("mlp", **study.shape, hidden=config.teacher_hidden, dropout=config.teacher_dropout)
    done = Done(workdir / "cells.jsonl")

    trainer, learns, arms = compare.Trainer(study, workdir), supervised(teacher), dict[str, Any]()

    def answered(source: Source, role: str, seed: int) -> Source:
        """The source with the answers of a teacher of its own."""
        images = "all labels" if source is train else f"all labels but those of {chooses}"
        rate, learned = {"learning_rate": config.teacher_learning_rate}, Lineage("labels", source=images)
        arm = compare.Arm(
            role, teacher, learns, config.teacher_epochs, rate, learned, lambda done: compare.Given(source),
            once=source is not train,
        )  # fmt: skip
        arms[role] = compare.described(arm, study)
        done = compare.Done(study, seed)
        trainer.train(arm, done)
        return source.with_column("teacher_logits", done.answers(role, source))

    students = {width: create("mlp", **study.shape, hidden=(width,)) for width in config.widths}
    programs = {
        (width, name): Arm(config, study.mesh, student, loss_fn)
        for width, student in students.items()
        for name, loss_fn in (
            ("distilled", distill(student, cached(), response.kl)),
            ("alone", supervised(student)),
        )
    }

    def sweep(phase: str, seed: int, source: Source, against: Source, rates: Callable[..., Iterable[float]]) -> None:
        """Both arms at every width, each at the learning rates that `rates` gives for it."""
        for width in config.widths:
            soft = [
                {"learning_rate": r, "temperature": t, "alpha": a}
                for t in config.temperatures
                for a in sorted({1.0, config.alpha})
                for r in rates(width, "distilled", 0, t, a)
            ]
            blocks = [("distilled", 0, source, soft)]
            for count in config.labels:
                known = labelled(hide_labels(source, count, seed)) if count else source
                blocks.append(("alone", count, known, [{"learning_rate": r} for r in rates(width, "alone", count)]))
            for name, count, data, members in blocks:
                key = {"phase": phase, "width": width, "arm": name, "labels": count, "seed": seed}
                if done.has(key):
                    continue
                found = programs[width, name].accuracies(data, against, members, seed=seed, places=len(source))
                done.add(
                    [
                        {**key, **m, "epochs": epoch, "accuracy": a}
                        for epoch, scores in found.items()
                        for m, a in zip(members, scores, strict=True)
                    ]
                )
                log.info("%s", key)

    sweep(
        "choose",
        0,
        answered(train.select(kept), "chooser", 0),
        train.select(chosen_on),
        lambda *_: config.learning_rates,
    )
    best = gains.best_rates(done.cells)

    def chosen(
        width: int, arm: str, count: int, temperature: float | None = None, alpha: float | None = None
    ) -> list[float]:
        return sorted({best[width, arm, count, temperature, alpha, e] for e in config.epochs})

    for seed in range(config.seeds):
        sweep("test", seed, answered(train, "teacher", seed), test, chosen)
    cells = gains.gains(done.cells, best, few_alpha=1.0, all_alpha=config.alpha, labels=config.labels)
    cells = sorted([*cells, *others], key=gains.order)
    figures.draw(cells, workdir / "map.png", dataset=config.dataset)
    both = {
        "distilled": Lineage(
            "alpha*response.kl + (1-alpha)*labels",
            ("teacher",),
            "all images, labels in cells of all",
            chosen_on=chooses,
        ),
        "alone": Lineage("labels", source="the labels of a cell", chosen_on=chooses),
    }
    how = {"split": config.train_split, "epochs": list(config.epochs), "seeds": list(range(config.seeds))}
    arms |= {name: as_data(own, run=name, **how) for name, own in both.items()}
    results = {"cells": cells, **lineages(arms, {"cells": both}, [Pair("distilled", "alone")])}
    report.save_results(workdir, results, gains.table(cells))


class Done:
    """Results on disk, a finished block at a time, so that a stopped map goes on where it was."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cells: list[dict[str, Any]] = []
        whole = []
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                self.cells += json.loads(line)
                whole.append(line + "\n")
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
        write_whole(file, "".join(whole))

    def has(self, key: dict[str, Any]) -> bool:
        """Whether the block's cells are there."""
        return any(all(c[k] == v for k, v in key.items()) for c in self.cells)

    def add(self, cells: list[dict[str, Any]]) -> None:
        """Keep a block, in memory and on disk."""
        line = to_json(cells, self.file.name)
        self.cells += cells
        append_line(self.file, line)


if __name__ == "__main__":
    command.start(Config, main)

"""Every method of the field on one teacher and one student: same seeds, same steps, same data; what does each gain?

    python -m experiments.methods
    python -m experiments.methods --methods=kd,fitnet,at,sp,rkd,dkd --seeds=3 --workdir=runs/methods-few

Cost and result: see the README.

One teacher per seed, trained on all labels. The student alone chooses the learning rate, and each method then chooses a
factor for its field's weights (`study/methods.py`), both on validation images with the first seeds; then every arm
trains on all seeds from the same initial parameters in as many steps, and the test images are scored. Reported is the
last epoch.
The column `best epoch` is the best of all epochs *on the test images*, as much of the literature reports it: its
distance from the last epoch is what such a choice adds, and it is compared with nothing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.methods import report
from kdjax.config import field
from kdjax.data.source import labelled
from kdjax.evaluation.classification import classification
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, methods, networks, stages
from kdjax.study import train as training
from kdjax.study.data import open_study, optimizer_of
from kdjax.training.state import variables
from kdjax.types import BadInput, PyTree

log = logging.getLogger("kdjax.compare")
ALONE = "student alone"


@dataclass(frozen=True)
class Config(methods.Flags):
    """Flags of this experiment."""

    workdir: str = field("runs/methods", "folder of the run", identity=False, smoke="runs/smoke/methods")
    labels: int = field(300, "images that students learn from, with their labels; 0 for all", low=0)
    teacher_epochs: int = field(30, "teacher's passes over all training images", low=1, smoke=2)
    learning_rate: float = field(3e-3, "teacher's peak learning rate", low=0.0)
    learning_rates: tuple[float, ...] = field(
        (1e-3, 3e-3, 1e-2), "peak rates that the student alone chooses from, for all arms", low=0.0, smoke=(3e-3,)
    )
    factors: tuple[float, ...] = field(
        (0.01, 0.1, 1.0, 10.0, 100.0), "of a method's weights, to choose from", low=0.0, smoke=(1.0,)
    )
    search_seeds: int = field(2, "of the seeds, the first so many choose", low=1, smoke=1)


Runs = Callable[[float, int], tuple[str, PyTree]]
"""`(choice, seed) -> (the run's name, the student's trained variables)`."""


def main(config: Config, workdir: Path) -> None:
    """Choose on validation, then train every arm on every seed."""
    study = open_study(config, workdir)
    if study.validation is None:
        raise BadInput("--validation_split= is empty; accepted: a split that chooses rates and factors.")
    if config.search_seeds > config.seeds:
        raise BadInput(f"--search_seeds={config.search_seeds}; accepted: at most --seeds={config.seeds}.")
    teacher, student = (
        networks.from_flags(config, study.shape, role, train=study.train).model for role in ("teacher", "student")
    )
    images = [labelled(all_images) for all_images in compare.transfers(study, config)]
    arms, unfit = methods.arms(config, study, student, teacher, examples=len(images[0]))
    steps = -(-len(study.train) // config.batch_size)
    for epochs in {config.teacher_epochs, *(stage.epochs for arm in arms.values() for stage in arm.stages)}:
        optimizer_of(config, steps=steps * epochs)
    for name, why in unfit.items():
        log.info("%s does not fit: %s", name, why)
    train = partial(training.train, study, workdir)
    fit = partial(train, examples_per_epoch=len(study.train), watch=study.test)

    recipe, teachers = supervised(teacher), []
    results: compare.Results = {"teacher": [], ALONE: [], **{name: [] for name in arms}}
    for seed in range(config.seeds):
        hparams = {"learning_rate": config.learning_rate}
        run = f"teacher/seed-{seed}"
        state = train(run, teacher, recipe, seed=seed, epochs=config.teacher_epochs, hparams=hparams)
        teachers.append(variables(state))
        results["teacher"].append(compare.tested(study, teacher, state))
    recipe = supervised(student)

    def alone(rate: float, seed: int) -> tuple[str, PyTree]:
        run = f"alone-{rate:g}/seed-{seed}"
        hparams = {"learning_rate": rate}
        state = fit(run, student, recipe, seed=seed, epochs=config.epochs, hparams=hparams, source=images[seed])
        return run, variables(state)

    def taught(arm: methods.Arm, name: str, rate: float, factor: float, seed: int) -> tuple[str, PyTree]:
        run, begin = f"{methods.slug(name)}-{factor:g}/seed-{seed}", stages.unchanged
        for number, (stage, hparams) in enumerate(zip(arm.stages, arm.hparams(factor), strict=True)):
            last = number + 1 == len(arm.stages)
            state = fit(
                run if last else f"first-{run}",
                stage.plan.model,
                stage.recipe,
                seed=seed,
                epochs=stage.epochs,
                hparams={"learning_rate": rate, **hparams},
                source=images[seed],
                frozen=stage.plan.frozen(teachers[seed], images[seed]),
                begin=begin,
            )
            if last:
                return run, stage.plan.own(variables(state))
            begin = stages.after(state)
        raise AssertionError("a method has a stage")

    def tested(runs: Runs, choices: Sequence[float]) -> tuple[float, list[dict[str, Any]]]:
        """The choice that validation prefers, the first of equals, and its scores on the test images."""
        held_out: Any = study.validation
        means = []
        for choice in choices:
            found = (runs(choice, seed)[1] for seed in range(config.search_seeds))
            answers = [training.predict(study, student, weights, held_out) for weights in found]
            means.append(np.mean([classification(z, held_out.labels())["accuracy"] for z in answers]))
        best = choices[int(np.argmax(means))]
        scores = []
        for seed in range(config.seeds):
            run, weights = runs(best, seed)
            logits = training.predict(study, student, weights, study.test)
            watched = [row["watched_accuracy"] for row in study.recorder.rows() if row["run"] == run]
            scores.append({**compare.scores(study, logits, weights), "best_epoch": max(watched), "choice": best})
        return best, scores

    rate, results[ALONE] = tested(alone, config.learning_rates)
    for name, arm in arms.items():
        factor, results[name] = tested(partial(taught, arm, name, rate), config.factors)
        log.info("%s: factor %g", name, factor)
    title = f"{config.dataset}, {config.teacher_model} to {config.student_model}, {config.labels or 'all'} labels"
    report.report(workdir, study, results, unfit, title=title, alone=ALONE)


if __name__ == "__main__":
    command.start(Config, main)

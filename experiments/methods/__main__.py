"""Every method of the field on one teacher and one student: same seeds, same steps, same data; what does each gain?

    python -m experiments.methods
    python -m experiments.methods --methods=kd,fitnet,at,sp,rkd,dkd --seeds=3 --workdir=runs/methods-few

Minutes on two shared cores: methods 50. Result: docs/results/methods.

One teacher per seed, trained on all labels. The student alone chooses the learning rate, and each method then chooses a
factor for its field's weights (`kdjax/methods`), both on validation images with the first seeds; then every arm
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
from kdjax.recipes.lesson import Lesson
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, methods, networks, stages, students
from kdjax.study.compare import Arm, Done, Given, Lineage
from kdjax.study.data import open_study, optimizer_of
from kdjax.types import BadInput, LossFn, Model, Networks

log = logging.getLogger("kdjax.compare")
TEACHER, ALONE = "teacher", "student alone"


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


def main(config: Config, workdir: Path) -> None:
    """Choose on validation, then train every arm on every seed."""
    study = open_study(config, workdir)
    if study.validation is None:
        raise BadInput("--validation_split= is empty; accepted: a split that chooses rates and factors.")
    if config.search_seeds > config.seeds:
        raise BadInput(f"--search_seeds={config.search_seeds}; accepted: at most --seeds={config.seeds}.")
    moments = study.train if config.standardize else None
    teacher, student = (
        networks.named(getattr(config, role), study.shape, flag=role, train=moments).model
        for role in ("teacher", "student")
    )
    images = [labelled(all_images) for all_images in students.transfers(study, config)]
    arms, unfit = methods.arms(config, study, student, teacher, examples=len(images[0]))
    steps = -(-len(study.train) // config.batch_size)
    for epochs in {config.teacher_epochs, *(stage.epochs for arm in arms.values() for stage in arm.stages)}:
        optimizer_of(config, steps=steps * epochs)
    for name, why in unfit.items():
        log.info("%s does not fit: %s", name, why)
    trainer, seeds = compare.Trainer(study, workdir), [Done(study, seed) for seed in range(config.seeds)]
    learns, lineage = supervised(teacher), Lineage("labels")
    first = Arm(TEACHER, teacher, learns, config.teacher_epochs, {"learning_rate": config.learning_rate}, lineage)
    for done in seeds:
        trainer.train(first, done)
    results = {TEACHER: [compare.score(done, TEACHER) for done in seeds]}
    by_name = {TEACHER: compare.described(first, study)}

    def arm(
        name: str, model: Model | Networks, recipe: LossFn, epochs: int, hparams: Any, lineage: Lineage, **own: Any
    ) -> Arm:
        return Arm(name, model, recipe, epochs, hparams, lineage, places=len(study.train), watch=study.test, **own)

    recipe, seen = supervised(student), students.seen(config.labels)

    def alone(rate: float) -> list[Arm]:
        hparams, lineage = {"learning_rate": rate}, Lineage("labels", source=seen, chosen_on="validation")
        given = lambda done: Given(images[done.seed])  # noqa: E731
        own = {"lineage": lineage, "run": f"alone-{rate:g}", "given": given}
        return [arm(ALONE, student, recipe, config.epochs, hparams, **own)]

    def taught(name: str, rate: float, factor: float) -> list[Arm]:
        """The stages of a method with its weights multiplied by a factor."""
        found: list[Arm] = []
        method = arms[name]
        for stage, hparams in zip(method.stages, method.hparams(factor), strict=True):
            last, start = stage is method.stages[-1], found[-1].name if found else ""
            facts = {"layers": [list(pair) for pair in stage.plan.named], "factor": factor}
            lineage = Lineage(str(method.method.expression), (TEACHER,), seen, "train", start, "validation", facts)
            run = f"{'' if last else 'first-'}{methods.slug(name)}-{factor:g}"
            own = {
                "lineage": lineage,
                "run": run,
                "given": partial(given, stage.plan, method.stages[0].plan, start),
                "answers": student,
            }
            hparams = {"learning_rate": rate, **hparams}
            whole = name if last else f"first stage of {name}"
            found.append(arm(whole, stage.plan.model, stage.recipe, stage.epochs, hparams, **own))
        return found

    def given(plan: Lesson, first: Lesson, start: str, done: Done) -> Given:
        begin = stages.after(first, done.state(start)) if start else stages.unchanged
        return Given(images[done.seed], plan.frozen(done.weights(TEACHER), images[done.seed].labels), begin)

    def trained(made: Sequence[Arm], done: Done) -> tuple[Arm, Done]:
        """A choice's last stage, and what it leaves at a seed; the networks of other choices are let go."""
        own = Done(study, done.seed, dict(done.trained))
        for one in made:
            trainer.train(one, own)
        return made[-1], own

    def tested(make: Callable[[float], list[Arm]], choices: Sequence[float]) -> float:
        """The choice that validation prefers, the first of equals; its scores on the test images become a row."""
        held_out: Any = study.validation
        means = []
        for choice in choices:
            found = (trained(make(choice), done) for done in seeds[: config.search_seeds])
            answers = [own.answers(last.name, held_out) for last, own in found]
            means.append(float(np.mean([classification(z, held_out.labels())["accuracy"] for z in answers])))
        best = choices[int(np.argmax(means))]
        name = make(best)[-1].name
        results[name] = []
        for done in seeds:
            last, own = trained(make(best), done)
            run = f"{last.run}/seed-{done.seed}"
            watched = [row["watched_accuracy"] for row in study.recorder.rows() if row["run"] == run]
            results[name].append({**compare.score(own, name), "best_epoch": max(watched), "choice": best})
        by_name.update({one.name: compare.described(one, study) for one in make(best)})
        by_name[name]["choices"] = {f"{choice:g}": mean for choice, mean in zip(choices, means, strict=True)}
        return best

    rate = tested(alone, config.learning_rates)
    for name in arms:
        log.info("%s: factor %g", name, tested(partial(taught, name, rate), config.factors))
    title = f"{config.dataset}, {config.teacher} to {config.student}, {config.labels or 'all'} labels"
    rows = {name: [name] for name in results}
    report.report(workdir, compare.Compared(results, {"arms": by_name, "rows": rows}), unfit, title=title, alone=ALONE)


if __name__ == "__main__":
    command.start(Config, main)

"""Several teachers of unequal quality, one student: which way of following them all is worth the trouble.

    python -m experiments.ensemble
    python -m experiments.ensemble --teachers_noise=0 --teachers_share=1 --workdir=runs/ensemble-clean
    python -m experiments.ensemble --teachers='mlp(128), cnn(8, 16), mlp(64, 64), cnn(8)' \
        --teachers_noise=0,0.6,0.8,0.3 --workdir=runs/ensemble-mixed
    python -m experiments.ensemble --against='mean_probability + confidence_aware' \
        --arms='mean_probability + confidence_aware + 0.1*features' --workdir=runs/ensemble-features

The first is 1,797 real digits, five seeds and three teachers of which two learned from wrong labels in part; in the
second all three saw all labels as they are; in the third they are of several architectures; the last asks what CA-MKD's
feature term adds to its weights of answers.
Minutes on two shared cores: ensemble 5. Results: docs/results/README.md.
The term's weight 0.1 was chosen from 0.1, 1, 10 and 50 on the last fifth of the training images, three seeds.

Every student starts from the same parameters, makes the same number of updates and differs only in whom it follows: no
one, the teacher that is best on the validation split, or all of them, pooled and weighed as `--arms` says. Each arm is
compared with the one of `--against`, the plain average, over the same seeds. A wrong label is the next class, so bad
teachers err alike and can outvote a good one; the student's labels are right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.ensemble.arms import TEACHERS, Teachers, follow, parse_teachers, parse_ways, taught
from kdjax import models
from kdjax.config import field
from kdjax.data.source import hide_labels, labelled
from kdjax.ensembles import pools
from kdjax.evaluation.classification import classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, figures, students
from kdjax.study.compare import Arm, Done, Given, Lineage, Pair, Row, Scores
from kdjax.study.data import Common, Study, open_study, optimizer_of
from kdjax.study.report import gain, table
from kdjax.teachers.stored import cached
from kdjax.types import BadInput

PLAIN, ALONE, BEST = "mean_probability", "student alone", "best single teacher"
COLUMNS = ("accuracy", "f1", "nll", "ece", "agreement", "teacher_kl")
ARMS = (
    "mean_logit, mean_probability + entropy(scale=0.3), mean_probability + ebkd, mean_probability + confidence_aware, "
    "mean_probability + confidence_aware + 0.1*features, mean_probability + gradient_space, vote"
)


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/ensemble", "folder for everything the run leaves", identity=False, smoke="runs/smoke/ensemble"
    )
    teachers: str = field("mlp(128), mlp(64), mlp(32)", TEACHERS, smoke="mlp(9), cnn(4), mlp(7)")
    teachers_share: tuple[float, ...] = field(
        (0.5,), "share of the training images that each teacher sees, its own draw; one, or one per teacher",
        low=0.01, high=1.0,
    )  # fmt: skip
    teachers_noise: tuple[float, ...] = field(
        (0.0, 0.6, 0.8), "share of what a teacher sees that is labelled as the next class; one, or one per teacher",
        low=0.0, high=1.0,
    )  # fmt: skip
    teachers_epochs: int = field(60, "teachers' passes over as many places as there are images", low=1, smoke=2)
    teachers_learning_rate: float = field(1e-3, "teachers' peak learning rate", low=0.0)
    teacher_outputs: str = field(
        "cached", "teachers' answers: computed once, or in every step", choices=("cached", "live")
    )
    student_hidden: tuple[int, ...] = field((20,), "student's widths", low=1, smoke=(8,))
    labels: int = field(0, "labelled images that students get, balanced over classes; 0 for all", low=0)
    epochs: int = field(60, "passes over the transfer set (all training images)", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    arms: str = field(
        ARMS,
        "ways of following them: POOL or POOL + GATE, such as mean_probability + fixed(shares=(2, 1, 1)); "
        "+ W*features adds CA-MKD's term on last features with weight W "
        f"(pools: {', '.join(pools.POOLS.names())}; gates: {', '.join(pools.GATES.names())})",
        smoke="mean_logit + confidence_aware + 1*features, vote",
    )
    against: str = field(PLAIN, "the arm that all others are compared with")
    temperature: float = field(2.0, "softens both sides", low=1e-6, high=1e4)
    alpha: float = field(0.9, "weight of the teachers; 1 - alpha of the labels", low=0.0, high=1.0)


def each(config: Config, flag: str, count: int) -> tuple[float, ...]:
    """A flag's values, one per teacher; one value is for all.

    Raises:
        BadInput: another number of values.
    """
    values = getattr(config, flag)
    if len(values) not in (1, count):
        given = ",".join(map(str, values))
        raise BadInput(f"--{flag}={given} has {len(values)} values; accepted: 1, or {count}, one per teacher.")
    return values * count if len(values) == 1 else values


def main(config: Config, workdir: Path) -> None:
    """For each seed: the teachers, a student alone, one of the best teacher, and one per arm."""
    study = open_study(config, workdir)
    experts = parse_teachers(config.teachers, study.shape)
    count = len(experts)
    share, noise = (each(config, flag, count) for flag in ("teachers_share", "teachers_noise"))
    if study.validation is None:
        raise BadInput("--validation_split= is empty; accepted: a split, which chooses the best single teacher.")
    validation = study.validation
    ways = parse_ways(config.arms, config.against, experts=experts, classes=study.train.num_classes)
    transfers = [
        hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in range(config.seeds)
    ]
    student = models.create("mlp", **study.shape, hidden=config.student_hidden)
    steps = -(-len(study.train) // config.batch_size)
    for epochs in (config.epochs, config.teachers_epochs):
        optimizer_of(config, steps=steps * epochs)

    def teacher(t: int) -> Arm:
        def given(done: Done) -> Given:
            return Given(taught(study.train, share[t], noise[t], 1000 * t + done.seed))

        sees = f"{share[t]:.0%} of the images, {noise[t]:.0%} wrong labels"
        return Arm(
            f"teacher {t + 1}: {experts[t].text}, {noise[t]:.0%} wrong labels",
            experts[t].model,
            supervised(experts[t].model),
            config.teachers_epochs,
            {"learning_rate": config.teachers_learning_rate},
            Lineage("labels", source=sees),
            given,
            run=f"teacher-{t}",
            places=len(study.train),
            seed=lambda number: 1000 * t + number,
        )

    trained = [teacher(t) for t in range(count)]
    names = tuple(arm.name for arm in trained)
    teachers = Teachers(experts, names, live=config.teacher_outputs == "live")
    rate = {"learning_rate": config.learning_rate}
    soft = {**rate, "temperature": config.temperature, "alpha": config.alpha}
    seen = students.seen(config.labels, ", all images")

    def best(done: Done) -> Given:
        images = transfers[done.seed]
        chosen, _ = teachers.best(done, validation)
        return Given(images.with_column("teacher_logits", teachers.answers(done, images)[:, chosen]))

    def learner(name: str, model: Any, recipe: Any, hparams: Any, lineage: Lineage, given: Any, **own: Any) -> Arm:
        own = {"run": name.replace(" ", "")} | own
        return Arm(name, model, recipe, config.epochs, hparams, lineage, given, places=len(study.train), **own)

    one = Lineage("alpha*response.kl + (1-alpha)*labels", names, seen, chosen_on="validation")
    arms = [
        *trained,
        learner(ALONE, student, supervised(student), rate, Lineage("labels", source=students.seen(config.labels)),
                lambda done: Given(labelled(transfers[done.seed])), run="alone"),
        learner(BEST, student, distill(student, cached(), response.kl), soft, one, best, run="best"),
    ]  # fmt: skip
    for name, way in ways.items():
        how = follow(student, transfers, teachers, way)
        lineage = Lineage(f"alpha*response.kl({name}) + (1-alpha)*labels", names, seen)
        hparams = {**soft, **how.hparams}
        arms.append(learner(name, how.model, how.recipe, hparams, lineage, how.given, answers=student))

    truth, even = study.test.labels(), jnp.full((len(study.test), count), 1 / count)

    def mean(done: Done) -> np.ndarray:
        logits = jnp.moveaxis(jnp.asarray(teachers.answers(done, study.test)), 1, 0)
        return done.once("mean", lambda: np.asarray(pools.mean_probability(logits, even)))

    def score(name: str) -> Row:
        def of(done: Done) -> Scores:
            chosen, accuracy = teachers.best(done, validation)
            which = {"teacher": chosen + 1, "validation accuracy of teachers": accuracy} if name == BEST else {}
            logits = done.test(name)
            return {**classification(logits, truth), **fidelity(student=logits, teacher=mean(done)), **which}

        return Row((name, *names), of)

    rows = {name: Row((name,), lambda done, name=name: classification(done.test(name), truth)) for name in names}
    rows["teachers' mean"] = Row(names, lambda done: classification(mean(done), truth))
    learners = [ALONE, BEST, *ways]
    rows |= {name: score(name) for name in learners}
    pairs = [Pair(name, config.against) for name in learners if name != config.against]
    report(config, workdir, study, compare.scored(study, workdir, arms, rows, pairs), pairs)


def report(config: Config, workdir: Path, study: Study, found: compare.Compared, pairs: list[Pair]) -> None:
    """Table, paired differences to the arm of --against, figures, results.json."""
    text, more = table(found.results, COLUMNS), dict[str, Any]()
    against = "plain average" if config.against == PLAIN else config.against
    if gains := {pair.first: d for pair, d in compare.subtracted(found.results, pairs).items()}:
        more[f"minus {against}"] = gains
        text += "\n\n" + "\n\n".join(gain(f"{name} minus {against}", d) for name, d in gains.items())
    title = f"{config.dataset}, T={config.temperature:g}, alpha={config.alpha:g}"
    figures.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    broken = {
        name.replace(" + ", "\n+ ").replace(": ", "\n").replace(", ", "\n"): [s["accuracy"] for s in scores]
        for name, scores in found.results.items()
    }
    figures.comparison(broken, workdir / "comparison.png", title=title)
    compare.save(workdir, found, pairs, text, more)


if __name__ == "__main__":
    command.start(Config, main)

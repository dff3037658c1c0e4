"""Several teachers of unequal quality, one student: which way of following them all is worth the trouble.

    python -m experiments.ensemble
    python -m experiments.ensemble --teachers_noise=0 --teachers_share=1 --workdir=runs/ensemble-clean
    python -m experiments.ensemble --teachers=mlp:128,cnn:8:16,mlp:64:64,cnn:8 --teachers_noise=0,0.6,0.8,0.3 \
        --workdir=runs/ensemble-mixed
    python -m experiments.ensemble --against=mean_probability+confidence_aware \
        --arms=mean_probability+confidence_aware:features=0.1 --workdir=runs/ensemble-features

The first is 1,797 real digits, five seeds and three teachers of which two learned from wrong labels in part, about two
minutes on two cores; in the second all three saw all labels as they are; in the third they are of several
architectures; the last asks what CA-MKD's feature term adds to its weights of answers.
The term's weight 0.1 was chosen from 0.1, 1, 10 and 50 on the last fifth of the training images, three seeds.

Every student starts from the same parameters, makes the same number of updates and differs only in whom it follows: no
one, the teacher that is best on the validation split, or all of them, pooled and weighed as `--arms` says. Each arm is
compared with the one of `--against`, the plain average, over the same seeds. A wrong label is the next class, so bad
teachers err alike and can outvote a good one; the student's labels are right.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.ensemble.arms import TEACHERS, Staff, Taught, parse_arms, parse_teachers, taught
from kdjax.config import field
from kdjax.data.source import hide_labels, labelled
from kdjax.ensembles import pools
from kdjax.evaluation.answers import decided
from kdjax.evaluation.classification import classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.evaluation.paired import paired_difference
from kdjax.losses import response
from kdjax.models import create as models
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import command, figures
from kdjax.study import train as training
from kdjax.study.data import Common, Study, open_study, optimizer_of
from kdjax.study.report import gain, save_results, table
from kdjax.teachers.stored import cached
from kdjax.training.state import variables
from kdjax.types import BadInput

PLAIN = "mean_probability+uniform"
COLUMNS = ("accuracy", "f1", "nll", "ece", "agreement", "teacher_kl")
ARMS = (
    "mean_logit+uniform,mean_probability+entropy:scale=0.3,mean_probability+ebkd,mean_probability+confidence_aware,"
    "mean_probability+confidence_aware:features=0.1,mean_probability+gradient_space,vote"
)


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/ensemble", "folder for everything the run leaves", identity=False, smoke="runs/smoke/ensemble"
    )
    teachers: str = field("mlp:128,mlp:64,mlp:32", f"any number of them: {TEACHERS}", smoke="mlp:9,cnn:4,mlp:7")
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
        "ways of following them: POOL or POOL+GATE, with keywords as in mean_probability+fixed:shares=2/1/1; "
        "features=W adds CA-MKD's term on last features with weight W "
        f"(pools: {', '.join(pools.pools())}; gates: {', '.join(pools.gates())})",
        smoke="mean_logit+confidence_aware:features=1,vote",
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
    arms = parse_arms(config.arms, config.against, experts=experts, classes=study.train.num_classes)
    transfers = [
        hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in range(config.seeds)
    ]
    student = models.create("mlp", **study.shape, hidden=config.student_hidden)
    steps = -(-len(study.train) // config.batch_size)
    for epochs in (config.epochs, config.teachers_epochs):
        optimizer_of(config, steps=steps * epochs)

    rate = {"learning_rate": config.learning_rate}
    soft = {**rate, "temperature": config.temperature, "alpha": config.alpha}
    truth, even = study.test.labels(), jnp.full((len(study.test), count), 1 / count)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed, transfer in enumerate(transfers):
        train = partial(training.train, study, workdir, seed=seed)
        trained = [
            train(
                f"teacher-{t}/seed-{seed}",
                expert.model,
                supervised(expert.model.apply),
                seed=1000 * t + seed,
                epochs=config.teachers_epochs,
                hparams={"learning_rate": config.teachers_learning_rate},
                source=taught(study.train, share[t], noise[t], 1000 * t + seed),
                examples_per_epoch=len(study.train),
            )
            for t, expert in enumerate(experts)
        ]
        live = config.teacher_outputs == "live"
        staff = Staff(partial(training.predict, study), experts, [variables(state) for state in trained], live=live)
        right = decided(staff.answers(validation)) == validation.labels()[:, None]
        said, on_test = staff.answers(transfer), staff.answers(study.test)
        mean = np.asarray(pools.mean_probability(jnp.moveaxis(jnp.asarray(on_test), 1, 0), even))
        for t, expert in enumerate(experts):
            role = f"teacher {t + 1}: {expert.text}, {noise[t]:.0%} wrong labels"
            results.setdefault(role, []).append(classification(on_test[:, t], truth))
        results.setdefault("teachers' mean", []).append(classification(mean, truth))

        alone = Taught(student, student, supervised(student.apply), labelled(transfer))
        best = transfer.with_column("teacher_logits", said[:, int(right.mean(0).argmax())])
        followed = {
            "student alone": alone,
            "best single teacher": Taught(student, student, distill(student.apply, cached(), response.kl), best),
        }
        roles = {"student alone": "alone", "best single teacher": "best"}
        for role in (*followed, *arms):
            lesson = followed[role] if role in followed else staff.teach(student, transfer, said, arms[role])
            state = train(
                f"{roles.get(role, role).replace('/', '-')}/seed-{seed}",
                lesson.model,
                lesson.recipe,
                epochs=config.epochs,
                hparams={**(rate if lesson is alone else soft), **lesson.hparams},
                source=lesson.source,
                examples_per_epoch=len(transfer),
                frozen=lesson.frozen,
            )
            logits = training.predict(study, lesson.student, variables(state), study.test)
            results.setdefault(role, []).append({**classification(logits, truth), **fidelity(logits, mean)})
    report(config, workdir, study, results, teachers=count)


def report(
    config: Config, workdir: Path, study: Study, results: dict[str, list[dict[str, Any]]], *, teachers: int
) -> None:
    """Table, paired differences to the arm of --against, figures, results.json."""
    text, found = table(results, COLUMNS), dict[str, Any](results)
    accuracy = {role: [s["accuracy"] for s in scores] for role, scores in results.items()}
    if config.seeds > 1:
        students = list(accuracy)[teachers + 1 :]
        against = "plain average" if config.against == PLAIN else config.against
        gains = {r: paired_difference(accuracy[r], accuracy[config.against]) for r in students if r != config.against}
        found[f"minus {against}"] = gains
        text += "\n\n" + "\n\n".join(gain(f"{role} minus {against}", d) for role, d in gains.items())
    title = f"{config.dataset}, T={config.temperature:g}, alpha={config.alpha:g}"
    figures.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    broken = {role.replace("+", "\n+").replace(": ", "\n").replace(", ", "\n"): v for role, v in accuracy.items()}
    figures.comparison(broken, workdir / "comparison.png", title=title)
    save_results(workdir, found, text)


if __name__ == "__main__":
    command.start(Config, main)

"""Robust distillation in one command: clean model, attack, adversarially trained teacher, its students, evaluation.

    python -m experiments.robust
    python -m experiments.robust --teacher=resnet50_cifar --student=mobilenet_v2_cifar --dataset=cifar10 \
        --epsilon=8/255 --batch_size=128 --teacher_epochs=110 --epochs=200 --teacher_learning_rate=0.1 \
        --learning_rate=0.1 --optimizer='sgd(momentum=0.9, weight_decay=5e-4)' \
        --schedule='steps((1, 0.1), (0.75,))' --workdir=runs/robust-cifar

Cost: the first about ten minutes on two cores; the second belongs on a GPU. --teacher may be the folder of a run, such
as an imported network; it is then not trained.

For each seed: the teacher's network on clean images (`clean model`), the same adversarially trained (`teacher`), the
student alone, and the student by each of --methods; all students from the same initial parameters in as many steps.
Every student is compared with the first method's, seed by seed. `snippet` is the code of an article on robust
distillation, cross-entropy + 0.1 mean |S(x) - T(x)| on the logits of clean images, and `snippet_training` the same with
the teacher left in training mode, as there: two controls. `peer_aid` has no teacher: another network of the teacher's
kind learns beside the student.

With --labels students have as many labels, and the teacher all. A method that asks a teacher and attacks images without
a label (rslad, adaad), or attacks none (kd), learns from all images; the others, and the student alone, from the
labelled ones, in as many steps.

Reported is the last epoch. With --best_under the epoch that resists best on validation images has columns of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.robust import arms, learned
from experiments.robust.report import report
from experiments.robust.scores import Attackers, attackers, robustness, row
from kdjax import spec
from kdjax.attacks.projections import require_radius
from kdjax.config import field
from kdjax.data.checks import require_labels
from kdjax.data.source import Examples
from kdjax.methods import ROBUST
from kdjax.study import attacks, command, compare, networks, service, students
from kdjax.study import teacher as answering
from kdjax.study.compare import Pair
from kdjax.study.data import Common, Study, open_study, optimizer_of
from kdjax.study.showing import Timer
from kdjax.types import BadInput, Model


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field("runs/robust", "folder of the run", identity=False, smoke="runs/smoke/robust")
    teacher: str = field(
        "mlp(256, 256, dropout=0.2)", f"workdir of a finished run, which is not trained again, or {networks.NETWORK}",
        smoke="mlp(16, dropout=0.2)",
    )  # fmt: skip
    teacher_method: str = field("pgd_at", "how the teacher learns: one of --methods that asks no teacher")
    teacher_epochs: int = field(30, "passes of the teacher, and of the same network on clean images", low=1, smoke=2)
    teacher_learning_rate: float = field(1e-3, "their peak learning rate", low=0.0)
    student: str = field("mlp(32)", networks.NETWORK, smoke="mlp(8)")
    standardize: bool = field(False, networks.STANDARDIZE)
    methods: str = field(
        "pgd_at, trades, kd, snippet, snippet_training, ard, rslad, adaad, iad_i, mtard, saad",
        "how students learn, all compared with the first: methods with numbers of their own if need be, sums of them, "
        f"sums of losses, {learned.PEER_AID}, or a control ({', '.join(learned.CONTROLS)}). Of those that attack there "
        f"are {', '.join(ROBUST.names())}",
        smoke="pgd_at, snippet, snippet_training, rslad, mtard",
    )  # fmt: skip
    labels: int = field(0, "labelled images that students get, balanced over classes; 0 for all", low=0, smoke=100)
    epochs: int = field(30, "passes of each student", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    epsilon: float = field(0.1, "radius in linf, in pixel units, of all that scores", low=0.0)
    train_epsilon: str = field(
        "", "radius in training, which may be a schedule such as warmup(0.3, 0.3); empty: --epsilon"
    )
    attacks: str = field(
        "pgd(steps=50, random_start=True), standard", "what scores; the last one is that of the paired differences",
        smoke="fgsm, pgd(steps=2)",
    )  # fmt: skip
    robust_examples: int = field(1000, "test images that are attacked, from the first on", low=1, smoke=40)
    best_under: str = field(
        "", "attack, such as pgd, on as many validation images: keeps a student's best epoch too", smoke="fgsm"
    )
    chunk: int = field(250, "images attacked at once; changes no result", low=1)


def main(config: Config, workdir: Path) -> None:
    """Refuse what can be refused, train and score every network of every seed, tabulate."""
    if service.is_service(config.teacher):
        raise BadInput(f"--teacher={config.teacher}: a service is not asked in every step; accepted: a run, a network.")
    require_radius("--epsilon", config.epsilon, "linf", zero=False)
    scoring, choosing = (scored_by(config, flag) for flag in ("attacks", "best_under"))
    if choosing and not config.validation_split:
        raise BadInput("--best_under: --validation_split= is empty; accepted: a split that chooses the epoch.")
    study = open_study(replace(config, checkpoint_every=1) if choosing else config, workdir)
    moments = study.train if config.standardize else None
    student, small = networks.named(config.student, study.shape, flag="student", train=moments)
    teacher, given, large = networks.teacher_of(config, study)
    by = against(config, scoring, study.test, "test_split")
    learns, trainings = lessons(config, study, student, teacher)
    if any(one.asks for one in trainings.values()):
        answering.refuse_guessing(study, {f"--teacher={config.teacher}": (teacher, given)})
    choose = None
    if choosing and study.validation is not None:
        choose = robustness(student, against(config, choosing, study.validation, "validation_split"))
    networks.save_model(workdir, **small)
    large = large or networks.load_network(config.teacher, flag="teacher").description
    for role in ("teacher", "clean"):
        networks.save_model(workdir, role=role, **large)
    transfers = students.transfers(study, config)
    trained = arms.arms(study, student, teacher, learns, trainings, given, transfers, choose)
    adversarial = next(arm for arm in trained if arm.name == arms.TEACHER)
    timers = {model: Timer(model) for model in (student, teacher)}
    rows = {arm.name: row(arm, adversarial, by, workdir, timers) for arm in trained}
    first, *others = trainings
    scores = (scoring[-1].text, "accuracy")
    pairs = [Pair(name, first, score) for name in (*others, arms.ALONE) for score in scores]
    found = compare.scored(study, workdir, trained, rows, pairs)
    report(config, workdir, study, found, pairs, [attack.text for attack in scoring], [one.text for one in choosing])


def scored_by(config: Config, flag: str) -> list[attacks.Named]:
    """The attacks that a flag names, none of which may have a radius of its own, or be without one."""
    if not (text := getattr(config, flag)):
        if flag == "attacks":
            raise BadInput("--attacks= is empty; accepted: one or more attacks.")
        return []
    found = attacks.several(text, flag=flag, fixed={"epsilon": "--epsilon", "norm": "linf alone"})
    for one in found:
        if not one.has("epsilon"):
            raise one.call.error(f"read {one.text}; accepted: attacks with a radius")
    return found


def against(config: Config, named: list[attacks.Named], images: Examples, flag: str) -> Attackers:
    """Attacks at the radius of the study, on the first images of a split."""
    image, label = attacks.first(images, config.robust_examples)
    require_labels(images.select(np.arange(len(label))), flag=flag)
    return attackers(named, config.epsilon, image, label, config.chunk)


def lessons(
    config: Config, study: Study, student: Model, teacher: Model
) -> tuple[learned.Training, Mapping[str, learned.Training]]:
    """How the teacher learns, and how the student does by every method, checked on shapes."""
    radius: Any = spec.number(config.train_epsilon, flag="train_epsilon") if config.train_epsilon else config.epsilon
    if spec.sets(radius):
        raise BadInput(f"--train_epsilon={config.train_epsilon}: a set; accepted: one number, or a schedule.")
    if config.train_epsilon:
        along, name = [radius], "--train_epsilon"
        if isinstance(radius, spec.Schedule):
            # An end of a line may be a rounding away from what was typed.
            along = [round(radius.at(x), 12) for x in radius.extremes]
            name = f"--train_epsilon={config.train_epsilon} comes to epsilon"
        require_radius(name, along[0], "linf")
        require_radius(name, along[-1], "linf", zero=False)
    steps = -(-len(study.train) // config.batch_size)
    for epochs in (config.teacher_epochs, config.epochs):
        optimizer_of(config, steps=steps * epochs)
    how = learned.named(config.teacher_method, radius, flag="teacher_method")
    own = {"steps": steps * config.teacher_epochs, "batch_size": config.batch_size}
    learns = learned.training_of(*next(iter(how.items())), teacher, teacher, **own)
    if len(how) > 1 or learns.asks:
        raise BadInput(f"--teacher_method={config.teacher_method}; accepted: one method that asks no teacher.")
    own["steps"] = steps * config.epochs
    named = learned.named(config.methods, radius, flag="methods")
    trainings = {name: learned.training_of(name, one, student, teacher, **own) for name, one in named.items()}
    if any(one.facts[learned.IN_TRAINING] for one in trainings.values()):
        learned.refuse_same_in_training(teacher, study.shape)
    return learns, trainings


if __name__ == "__main__":
    command.start(Config, main)

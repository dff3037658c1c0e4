"""A teacher, a student trained alone, and the same student distilled, over the same seeds.

    python -m experiments.distill
    python -m experiments.distill --dataset=mnist --train_split=train --validation_split= --labels=0 --epochs=3 \
        --teacher_hidden=1200,1200 --teacher_dropout=0.5 --teacher_epochs=3 --student_hidden=20 --learning_rate=1e-3 \
        --temperature=7 --alpha=0.8 --workdir=runs/notebook

The first is 1,797 real digits and a student that has 60 labels, half a minute on two cores; the second reproduces a
notebook in which distillation loses, about 4 minutes. Results: see the README's tables.

Both students make the same number of updates from the same initial parameters. Student alone sees only the labelled
images; student distilled sees every training image with the teacher's answers, and the labels that there are.

More than one loss, and the student's layers taught by every second one of the teacher's:

    python -m experiments.distill --teacher_hidden=128,128,128,128,128,128 --student_hidden=64,64,64 --layers=every:2 \
        --loss=response.kl:0.9,feature.hint:1,relation.rkd_distance:1 --schedules=feature.hint=linear:0 \
        --workdir=runs/layers

The field's recipe for CIFAR, and a method with the weight that its code gives it; experiments/flags has them all:

    python -m experiments.train_teacher --flagfile=experiments/flags/cifar.flags --model=resnet56 \
        --workdir=runs/resnet56
    python -m experiments.distill --flagfile=experiments/flags/cifar.flags --flagfile=experiments/flags/sp.flags \
        --teacher=runs/resnet56 --student_model=resnet20 --workdir=runs/sp

A teacher that is given answers once for all runs, seeds and sweeps that share --answers_dir:

    python -m experiments.distill --teacher=runs/teacher --answers_dir=runs/teacher/answers --workdir=runs/from-disk
"""

import logging
from functools import cache, partial
from pathlib import Path
from typing import Any

from kdjax.data.source import hide_labels, labelled
from kdjax.evaluation.classification import classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.evaluation.paired import paired_difference
from kdjax.recipes.supervised import supervised
from kdjax.study import command, figures, networks, stages, views
from kdjax.study import teacher as answering
from kdjax.study import train as training
from kdjax.study.data import Study, open_study, optimizer_of
from kdjax.study.distillation import Config, planned, size
from kdjax.study.report import gain, save_results, table
from kdjax.training.state import variables
from kdjax.types import PyTree

log = logging.getLogger("kdjax.distill")
COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "agreement", "teacher_kl", "parameters")


def main(config: Config, workdir: Path) -> None:
    """Teacher, alone, distilled; for each seed."""
    study = open_study(config, workdir)
    student, small = networks.from_flags(config, study.shape, "student", train=study.train)
    given: list[PyTree] = []
    if config.teacher:
        teacher, given = networks.load_teachers(study, config.teacher)
    else:
        teacher, described = networks.from_flags(config, study.shape, "teacher", train=study.train)
        networks.save_model(workdir, **described)
    for role in ("alone", "distilled"):
        networks.save_model(workdir, role=role, **small)
    # All that can be refused is refused here, before anything trains: labels, loss arguments, schedules.
    transfers = [
        hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in range(config.seeds)
    ]
    steps = -(-len(study.train) // config.batch_size)
    plan = planned(config, study, student, teacher, steps * (config.hint_epochs or config.epochs))
    second = (
        planned(config, study, student, teacher, steps * config.epochs, second=True) if config.hint_epochs else plan
    )
    seen = views.from_flag(config.augment, study.shape)
    answering.check(config, study, workdir, given[: config.seeds])
    for epochs in (config.epochs, config.teacher_epochs, config.hint_epochs or config.epochs):
        optimizer_of(config, steps=steps * epochs)

    train = partial(training.train, study, workdir)
    # Made once: the next seed finds their programs compiled.
    taught_by_labels, alone_by_labels = (supervised(m, augment=seen.from_labels) for m in (teacher, student))
    hinted_by, taught_by = cache(plan.recipe), cache(second.recipe)
    rate = {"learning_rate": config.learning_rate}
    teaching = {"learning_rate": config.teacher_learning_rate}
    labels = study.test.labels()
    results: dict[str, list[dict[str, Any]]] = {"teacher": [], "student alone": [], "student distilled": []}
    for seed, transfer in enumerate(transfers):
        run, plain = f"seed-{seed}", partial(train, model=student, seed=seed, epochs=config.epochs)
        number = seed % len(given) if given else seed
        if given:
            answers = given[number]
        else:
            epochs = config.teacher_epochs
            trained = train(f"teacher/{run}", teacher, taught_by_labels, seed=seed, epochs=epochs, hparams=teaching)
            answers = variables(trained)
        alone = plain(
            run=f"alone/{run}",
            loss_fn=alone_by_labels,
            hparams=rate,
            source=labelled(transfer),
            examples_per_epoch=len(transfer),
        )
        answered = answering.answered(plan.outputs(config), study, teacher, answers, transfer, workdir, number)
        frozen = plan.frozen(answered.frozen, transfer)
        taught = partial(train, seed=seed, source=answered.source, frozen=frozen)
        begin, hparams = stages.unchanged, plan.hparams
        if config.copy_layers:
            begin, copied = stages.copies(plan, answers)
            log.info("copied from the teacher: %s", ", ".join(copied))
        if config.hint_epochs:
            hints = {**rate, **stages.hints_alone(plan)}
            loss_fn, epochs = hinted_by(answered.teacher), config.hint_epochs
            first = taught(f"hints/{run}", plan.model, loss_fn, epochs=epochs, hparams=hints, begin=begin)
            begin, hparams = stages.after(first, begin), stages.answers_alone(second)
        hparams, loss_fn = {**rate, **hparams}, taught_by(answered.teacher)
        distilled = taught(
            f"distilled/{run}", second.model, loss_fn, epochs=config.epochs, hparams=hparams, begin=begin
        )
        reference = training.predict(study, teacher, answers, study.test)
        results["teacher"].append({**classification(reference, labels), "parameters": size(answers)})
        both = {"student alone": variables(alone), "student distilled": second.own(variables(distilled))}
        for role, weights in both.items():
            logits = training.predict(study, student, weights, study.test)
            scores = {**classification(logits, labels), **fidelity(logits, reference)}
            results[role].append({**scores, "parameters": size(weights)})
    report(config, workdir, study, results)


def report(config: Config, workdir: Path, study: Study, results: dict[str, list[dict[str, Any]]]) -> None:
    """Table, figures, results.json."""
    text = table(results, COLUMNS)
    found: dict[str, Any] = dict(results)
    accuracy = {role: [s["accuracy"] for s in scores] for role, scores in results.items()}
    if config.seeds > 1:
        difference = paired_difference(accuracy["student distilled"], accuracy["student alone"])
        found["distilled minus alone"] = difference
        text += "\n\n" + gain("distilled minus alone", difference)
    if (
        config.teacher
        and (teachers := len(list(Path(config.teacher).expanduser().glob("checkpoints/teacher/seed-*")))) < config.seeds
    ):
        text += f"\n{teachers} teachers served {config.seeds} seeds in turn: the spread is that of the students."
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    figures.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    figures.comparison(accuracy, workdir / "comparison.png", title=title)
    save_results(workdir, found, text)


if __name__ == "__main__":
    command.start(Config, main)

"""A teacher, a student trained alone, and the same student distilled, over the same seeds.

    python -m experiments.distill
    python -m experiments.distill --dataset=mnist --train_split=train --validation_split= --labels=0 --epochs=3 \
        --teacher='mlp(1200, 1200, dropout=0.5)' --teacher_epochs=3 --student='mlp(20)' --learning_rate=1e-3 \
        --method='kd(alpha=0.8, temperature=7)' --workdir=runs/notebook

The first is 1,797 real digits and a student that has 60 labels; the second reproduces a notebook in which
distillation loses. Minutes on two shared cores: distill 2, notebook 3. On idle ones the first takes half a minute.
Results: docs/results/README.md.

Both students make the same number of updates from the same initial parameters. Student alone sees only the labelled
images; student distilled sees every training image with the teacher's answers, and the labels that there are.

More than one loss, and the student's layers taught by every second one of the teacher's:

    python -m experiments.distill --student='mlp(64, 64, 64)' \
        --teacher='mlp(128, 128, 128, 128, 128, 128, dropout=0.2)' \
        --loss='0.9*response.kl + 0.1*labels + linear(1, 0)*feature.hint(every(2)) + relation.rkd_distance' \
        --workdir=runs/layers

The field's recipe for CIFAR, and a method with the weight that its code gives it; `kdjax.methods` has them all:

    python -m experiments.train_teacher --flagfile=experiments/flags/cifar.flags --model=resnet56 \
        --workdir=runs/resnet56
    python -m experiments.distill --flagfile=experiments/flags/cifar.flags --method=sp \
        --teacher=runs/resnet56 --student=resnet20 --workdir=runs/sp

A robust student of an adversarially trained teacher (train_teacher --attack): the method brings its attack, and any of
its numbers may be another. The second takes a naturally trained teacher too:

    python -m experiments.distill --teacher=runs/robust --method='rslad(epsilon=0.1)' --workdir=runs/rslad
    python -m experiments.distill --teacher=runs/robust --method="mtard(natural='runs/teacher')" --workdir=runs/mtard

A teacher that is given answers once for all runs, seeds and sweeps that share --answers_dir:

    python -m experiments.distill --teacher=runs/teacher --answers_dir=runs/teacher/answers --workdir=runs/from-disk
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax

from kdjax.data.source import hide_labels, labelled
from kdjax.evaluation.fidelity import fidelity
from kdjax.files import typed_path
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, networks, stages, students, views
from kdjax.study import teacher as answering
from kdjax.study.compare import Arm, Done, Given, Lineage, Pair, Row, Scores
from kdjax.study.data import Study, open_study, optimizer_of
from kdjax.study.distillation import Config, hint_epochs, planned, taught_by
from kdjax.study.report import gain, table

log = logging.getLogger("kdjax.distill")
TEACHER, ALONE, DISTILLED = "teacher", "student alone", "student distilled"
PAIRS = (Pair(DISTILLED, ALONE),)
COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "agreement", "teacher_kl", "parameters")


def main(config: Config, workdir: Path) -> None:
    """Teacher, alone, distilled; for each seed."""
    study = open_study(config, workdir)
    moments = study.train if config.standardize else None
    student, small = networks.named(config.student, study.shape, flag="student", train=moments)
    teacher, given, described = networks.teacher_of(config, study)
    if described:
        networks.save_model(workdir, **described)
    for role in ("alone", "distilled"):
        networks.save_model(workdir, role=role, **small)
    # All that can be refused is refused here, before anything trains: labels, loss arguments, schedules.
    transfers = [
        hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in range(config.seeds)
    ]
    steps = -(-len(study.train) // config.batch_size)
    hinted = hint_epochs(config)
    chosen = taught_by(config)
    others, others_weights = networks.further(chosen.others, study)
    of = partial(planned, config, study, student, teacher, others=others)
    plan = of(steps * (hinted or config.epochs))
    plan.refuse_sets("--loss" if config.loss else "--method")
    second = of(steps * config.epochs, second=True) if hinted else plan
    hints = stages.hints_alone(plan) if hinted else {}
    if config.copy_layers:
        shapes = jax.eval_shape(lambda: dict(params=teacher.init(jax.random.key(0))[0]))
        stages.copies(config.copy_layers, student, teacher, shapes)
    seen = views.from_flag(config.augment, study.shape)
    answering.check(config, study, workdir, given[: config.seeds])
    for epochs in (config.epochs, config.teacher_epochs, hinted or config.epochs):
        optimizer_of(config, steps=steps * epochs)
    if plan.asks:
        asked = {f"--teacher={config.teacher}": (teacher, given[: config.seeds])}
        asked |= {f"{n}={path}": (others[n], others_weights[n][: config.seeds]) for n, path in chosen.others}
        answering.refuse_guessing(study, asked)

    rate = {"learning_rate": config.learning_rate}
    outputs = replace(config, teacher_outputs="live") if plan.live else config
    teacher_of_step = answering.teacher_of_step(outputs, teacher, study.train.num_classes)

    def number(seed: int) -> int:
        return seed % len(given) if given else seed

    def taught(done: Done) -> Given:
        weights, transfer = done.weights(TEACHER), transfers[done.seed]
        answered = answering.answered(outputs, study, teacher, weights, transfer, workdir, number(done.seed))
        begin = stages.unchanged
        if config.copy_layers:
            begin, copied = stages.copies(config.copy_layers, student, teacher, weights)
            log.info("copied from the teacher: %s", ", ".join(copied))
        further = {name: own[done.seed % len(own)] for name, own in others_weights.items()}
        return Given(answered.source, plan.frozen(answered.frozen, transfer.labels, further), begin)

    def after_hints(done: Done) -> Given:
        own = taught(done)
        return own._replace(begin=stages.after(plan, done.state("hints"), own.begin))

    facts = {"layers": [list(pair) for pair in plan.named], "copied": config.copy_layers}
    facts |= {"attack": str(chosen.attack or ""), "further teachers": dict(chosen.others)}
    source = students.seen(config.labels, ", all images")
    lineage = Lineage(str(plan.expression), (TEACHER,), source, start="hints" if hinted else "", facts=facts)
    arms = [
        Arm(
            TEACHER,
            teacher,
            supervised(teacher, augment=seen.from_labels),
            config.teacher_epochs,
            {"learning_rate": config.teacher_learning_rate},
            Lineage("labels", facts={"from": config.teacher if given else "trained here"}),
            known=(lambda done: given[number(done.seed)]) if given else None,
        ),
        Arm(
            ALONE,
            student,
            supervised(student, augment=seen.from_labels),
            config.epochs,
            rate,
            Lineage("labels", source=students.seen(config.labels)),
            lambda done: Given(labelled(transfers[done.seed])),
            run="alone",
            places=len(study.train),
        ),
    ]
    if hinted:
        first = lineage._replace(start="")
        arms.append(Arm("hints", plan.model, plan.taught_by(teacher_of_step), hinted, {**rate, **hints}, first, taught))
    arms.append(
        Arm(
            DISTILLED,
            second.model,
            second.taught_by(teacher_of_step),
            config.epochs,
            {**rate, **(stages.answers_alone(second) if hinted else plan.hparams)},
            lineage,
            after_hints if hinted else taught,
            run="distilled",
            answers=student,
        )
    )
    report(config, workdir, study, compare.scored(study, workdir, arms, rows_of(study), PAIRS))


def rows_of(study: Study) -> dict[str, Row]:
    """Teacher and students on the test images, and how well the students match the teacher."""

    def matched(name: str) -> Row:
        def of(done: Done) -> Scores:
            logits = done.test(name)
            return {
                **compare.scores(study, logits, done.weights(name)),
                **fidelity(student=logits, teacher=done.test(TEACHER)),
            }

        return Row((name, TEACHER), of)

    return {TEACHER: compare.tested(TEACHER), ALONE: matched(ALONE), DISTILLED: matched(DISTILLED)}


def report(config: Config, workdir: Path, study: Study, found: compare.Compared) -> None:
    """Table, figures, results.json."""
    text, differences = table(found.results, COLUMNS), {}
    for d in compare.subtracted(found.results, PAIRS).values():
        differences["distilled minus alone"] = d
        text += "\n\n" + gain("distilled minus alone", d)
    if (
        networks.is_run(config.teacher)
        and (teachers := len(list(typed_path(config.teacher).glob("checkpoints/teacher/seed-*")))) < config.seeds
    ):
        text += f"\n{teachers} teachers served {config.seeds} seeds in turn: the spread is that of the students."
    title = f"{config.dataset}, {config.labels or 'all'} labels, {taught_by(config).expression}"
    compare.draw(study, workdir, found.results, title=title)
    compare.save(workdir, found, PAIRS, text, differences)


if __name__ == "__main__":
    command.start(Config, main)

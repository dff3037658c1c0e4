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
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax

from experiments import _answers, _knowledge, _networks, _report, _run, _schedules, _stages, _train, _views
from kdjax.config import field
from kdjax.data.source import hide_labels, labelled
from kdjax.evaluation.classification import classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.evaluation.paired import paired_difference
from kdjax.losses import combine, terms
from kdjax.models import create as models
from kdjax.recipes.supervised import supervised
from kdjax.training.state import variables
from kdjax.types import BadInput, Model, PyTree

log = logging.getLogger("kdjax.distill")
LAYER_LOSS = "feature.hint:1"
COLUMNS = ("accuracy", "precision", "recall", "f1", "nll", "ece", "agreement", "teacher_kl", "parameters")


@dataclass(frozen=True)
class Flags(_train.Common):
    """Flags of a teacher and one student."""

    workdir: str = field(
        "runs/distill", "folder for everything the run leaves", identity=False, smoke="runs/smoke/distill"
    )
    teacher: str = field(
        "", "workdir of a finished train_teacher run (other teacher_ flags are then unused); empty trains one per seed"
    )
    teacher_model: str = field("mlp", "teacher's network", choices=models.all_names())
    teacher_hidden: tuple[int, ...] = field((256, 256), "teacher's widths or channels", low=1, smoke=(16,))
    teacher_dropout: float = field(0.2, "teacher's dropout rate", low=0.0, high=0.99)
    teacher_norm: str = field("batch", "teacher's normalisation, where it has one", choices=models.NORMS)
    teacher_epochs: int = field(60, "teacher's passes", low=1, smoke=2)
    teacher_learning_rate: float = field(1e-3, "teacher's peak learning rate", low=0.0)
    teacher_outputs: str = field(
        "cached",
        "teacher's answers: computed once, or in every step (always where layers are compared or images augmented)",
        choices=("cached", "live"),
    )
    answers_dir: str = field(
        "", "folder that keeps cached answers for this run and others; empty: in memory only", identity=False
    )
    answers_top_k: int = field(
        0, "of cached answers, keep the k largest logits and the others' sum; 0 keeps all", low=0
    )
    student_model: str = field("mlp", "student's network", choices=models.all_names())
    student_hidden: tuple[int, ...] = field((20,), "student's widths or channels", low=1, smoke=(8,))
    student_dropout: float = field(0.0, "student's dropout rate", low=0.0, high=0.99)
    student_norm: str = field("batch", "student's normalisation, where it has one", choices=models.NORMS)
    standardize: bool = field(False, _networks.STANDARDIZE)
    labels: int = field(60, "labelled images that students get, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "passes over the transfer set (all training images)", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    loss: str = field("response.kl", "distillation loss", choices=combine.names("response"))
    loss_args: str = field("", "the loss's own hyper-parameters, such as alpha=1,beta=2 for response.dkd")
    temperature: float = field(4.0, "softens both sides", low=1e-6, high=1e4)
    alpha: float = field(0.9, "weight of the teacher; 1 - alpha of the labels", low=0.0, high=1.0)


@dataclass(frozen=True)
class Config(Flags):
    """Flags of this experiment."""

    loss: str = field("response.kl", _knowledge.HELP)
    layers: str = field(
        "",
        "which of the teacher's layers teach the student's: every:2, offset:2, first, last, or pairs 1=2,2=4; then "
        f"stages by name, joined by +: every:2+embedding+logits. By {LAYER_LOSS} if --loss has none on features",
    )
    layer_weights: tuple[float, ...] = field((1.0,), "factors of the pairs of --layers, or one for all", low=0.0)
    schedules: str = field("", f"of weights and temperature: {_schedules.SYNTAX}")
    hint_epochs: int = field(
        0,
        "epochs that compare layers alone, before those of answers alone (FitNets); of feature.ft's paraphraser",
        low=0,
    )
    augment: str = field("", f"{_views.HELP}. The teacher sees what the student sees, in every step")
    copy_layers: bool = field(False, "start from the teacher's --layers where shapes agree")


def main(config: Config, workdir: Path) -> None:
    """Teacher, alone, distilled; for each seed."""
    study = _train.open_study(config, workdir)
    student, small = _networks.from_flags(config, study.shape, "student", train=study.train)
    given: list[PyTree] = []
    if config.teacher:
        teacher, given = _networks.load_teachers(study, config.teacher)
    else:
        teacher, described = _networks.from_flags(config, study.shape, "teacher", train=study.train)
        _networks.save_model(workdir, **described)
    for role in ("alone", "distilled"):
        _networks.save_model(workdir, role=role, **small)
    # All that can be refused is refused here, before anything trains: labels, loss arguments, schedules.
    transfers = [
        hide_labels(study.train, config.labels, seed) if config.labels else study.train for seed in range(config.seeds)
    ]
    steps = -(-len(study.train) // config.batch_size)
    plan = planned(config, study, student, teacher, steps * (config.hint_epochs or config.epochs))
    second = (
        planned(config, study, student, teacher, steps * config.epochs, second=True) if config.hint_epochs else plan
    )
    seen = _views.from_flag(config.augment, study.shape)
    _answers.check(config, study, workdir, given[: config.seeds])
    for epochs in (config.epochs, config.teacher_epochs, config.hint_epochs or config.epochs):
        _train.optimizer_of(config, steps=steps * epochs)

    train = partial(_train.train, study, workdir)
    # Made once: the next seed finds their programs compiled.
    taught_by_labels, alone_by_labels = (supervised(m.apply, augment=seen.from_labels) for m in (teacher, student))
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
        answered = _answers.answered(plan.outputs(config), study, teacher, answers, transfer, workdir, number)
        frozen = plan.frozen(answered.frozen, transfer)
        taught = partial(train, seed=seed, source=answered.source, frozen=frozen)
        begin, hparams = _stages.unchanged, plan.hparams
        if config.copy_layers:
            begin, copied = _stages.copies(plan, answers)
            log.info("copied from the teacher: %s", ", ".join(copied))
        if config.hint_epochs:
            hints = {**rate, **_stages.hints_alone(plan)}
            loss_fn, epochs = hinted_by(answered.teacher), config.hint_epochs
            first = taught(f"hints/{run}", plan.model, loss_fn, epochs=epochs, hparams=hints, begin=begin)
            begin, hparams = _stages.after(first, begin), _stages.answers_alone(second)
        hparams, loss_fn = {**rate, **hparams}, taught_by(answered.teacher)
        distilled = taught(
            f"distilled/{run}", second.model, loss_fn, epochs=config.epochs, hparams=hparams, begin=begin
        )
        reference = _train.predict(study, teacher, answers, study.test)
        results["teacher"].append({**classification(reference, labels), "parameters": size(answers)})
        both = {"student alone": variables(alone), "student distilled": second.own(variables(distilled))}
        for role, weights in both.items():
            logits = _train.predict(study, student, weights, study.test)
            scores = {**classification(logits, labels), **fidelity(logits, reference)}
            results[role].append({**scores, "parameters": size(weights)})
    report(config, workdir, study, results)


def planned(
    config: Config, study: _train.Study, student: Model, teacher: Model, steps: int, *, second: bool = False
) -> _knowledge.Plan:
    """What the student learns, as the flags say; refused here if it cannot be, or if a flag would do nothing."""
    found = terms.parse(config.loss)
    # A map that no loss takes is a wish of its own, unless it says what to copy.
    mapped = any(t.name.startswith("feature.") and not t.student for t in found)
    if config.layers and not (mapped or config.copy_layers):
        config = replace(config, loss=f"{config.loss},{LAYER_LOSS}")
    if not config.layers and config.layer_weights != Config.layer_weights:
        raise BadInput(f"--layer_weights={config.layer_weights}: there is no --layers; accepted: both, or none.")
    first = next((t for t in found if t.on_logits), None)
    if config.alpha != Flags.alpha and (first is None or first.weight is not None):
        raise BadInput(f"--alpha={config.alpha:g}: --loss={config.loss} says all weights; accepted: one or the other.")
    plan = _knowledge.plan(
        student,
        teacher,
        study.shape,
        steps=steps,
        second=second,
        examples=len(study.train),
        batch_size=config.batch_size,
        augment=_views.from_flag(config.augment, study.shape).from_teacher,
        **{name: getattr(config, name) for name in ("loss", "alpha", "temperature", "loss_args", "layers")},
        **{name: getattr(config, name) for name in ("layer_weights", "schedules")},
    )
    left = _stages.answers_alone(plan)
    weights = [left["alpha"], left.get("label_weight", 1 - left["alpha"])]
    if second and not any([*weights, *(value for name, value in left.items() if name.startswith("weight/"))]):
        raise BadInput(f"--hint_epochs={config.hint_epochs}: --loss={config.loss} leaves nothing for the second stage.")
    if plan.compares_layers and (config.answers_dir or config.answers_top_k):
        raise BadInput("--answers_dir and --answers_top_k keep answers, not layers; accepted: losses on answers alone.")
    if plan.augmented and (config.answers_dir or config.answers_top_k):
        raise BadInput(
            f"--augment={config.augment}: --answers_dir and --answers_top_k keep answers to images as they are stored; "
            "accepted: one or the other."
        )
    if plan.uses_labels:
        _views.refuse_mixing(config.augment, why="labels have weight here")
    if config.hint_epochs:
        _stages.hints_alone(plan)
    if config.copy_layers:
        _stages.copies(plan, jax.eval_shape(lambda: dict(params=teacher.init(jax.random.key(0))[0])))
    return plan


def size(weights: PyTree) -> int:
    """The number of parameters."""
    return models.parameter_count(weights["params"])


def report(config: Config, workdir: Path, study: _train.Study, results: dict[str, list[dict[str, Any]]]) -> None:
    """Table, figures, results.json."""
    text = _report.table(results, COLUMNS)
    found: dict[str, Any] = dict(results)
    accuracy = {role: [s["accuracy"] for s in scores] for role, scores in results.items()}
    if config.seeds > 1:
        difference = paired_difference(accuracy["student distilled"], accuracy["student alone"])
        found["distilled minus alone"] = difference
        text += "\n\n" + _report.gain("distilled minus alone", difference)
    if (
        config.teacher
        and (teachers := len(list(Path(config.teacher).expanduser().glob("checkpoints/teacher/seed-*")))) < config.seeds
    ):
        text += f"\n{teachers} teachers served {config.seeds} seeds in turn: the spread is that of the students."
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    _report.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    _report.comparison(accuracy, workdir / "comparison.png", title=title)
    _report.save_results(workdir, found, text)


if __name__ == "__main__":
    _run.start(Config, main)

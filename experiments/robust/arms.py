"""The arms of a study of robust distillation, as data: who learns what, from which teacher, at which seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.robust.learned import Training
from kdjax.data.source import Examples, labelled
from kdjax.recipes.supervised import supervised
from kdjax.study.compare import Arm, Done, Given, Lineage
from kdjax.study.data import Study
from kdjax.study.methods import slug
from kdjax.study.students import seen
from kdjax.types import Model, PyTree

CLEAN, TEACHER, ALONE = "clean model", "teacher", "student alone"
ASKED = {"teacher": TEACHER, "natural": CLEAN}
"""The arm of each teacher that a method asks."""


def arms(
    study: Study,
    student: Model,
    teacher: Model,
    learns: Training,
    trainings: Mapping[str, Training],
    given: Sequence[PyTree],
    transfers: Sequence[Examples],
    choose: Callable[[PyTree], float] | None,
) -> list[Arm]:
    """The teacher's network clean and adversarially trained, the student alone, and the student by every method.

    Args:
        study: data and flags.
        student, teacher: the networks.
        learns: how the teacher does.
        trainings: how the student does, by method.
        given: the teacher's variables by seed, where it was trained elsewhere.
        transfers: the students' images by seed, with the labels that there are.
        choose: what finds a student's best epoch.
    """
    config = study.config
    theirs, own = {"learning_rate": config.teacher_learning_rate}, {"learning_rate": config.learning_rate}
    origin = {"from": config.teacher if given else "trained here"}
    epoch = {"best epoch chosen on": config.validation_split} if choose else {}
    found = [
        Arm(CLEAN, teacher, supervised(teacher), config.teacher_epochs, theirs, Lineage("labels"), run="clean"),
        Arm(
            TEACHER,
            learns.model,
            learns.recipe,
            config.teacher_epochs,
            {**theirs, **learns.hparams},
            Lineage(learns.says, facts={**learns.facts, **origin}),
            run="teacher",
            answers=teacher,
            known=(lambda done: given[done.seed % len(given)]) if given else None,
        ),
        Arm(
            ALONE,
            student,
            supervised(student),
            config.epochs,
            own,
            Lineage("labels", source=seen(config.labels), facts=epoch),
            lambda done: Given(labelled(transfers[done.seed])),
            run="alone",
            places=len(study.train),
            choose=choose,
        ),
    ]
    for name, one in trainings.items():
        who = tuple(ASKED[role] for role in one.asks)
        source = seen(config.labels, "" if one.from_labelled else ", all images")
        found.append(
            Arm(
                name,
                one.model,
                one.recipe,
                config.epochs,
                {**own, **one.hparams},
                Lineage(one.says, who, source, facts={**one.facts, **epoch}),
                _given(one, transfers),
                run=f"student-{slug(name)}",
                places=len(study.train),
                answers=student,
                choose=choose,
            )
        )
    return found


def _given(one: Training, transfers: Sequence[Examples]) -> Callable[[Done], Given]:
    """The images that the method can learn from, and the variables of the teachers that it asks."""

    def given(done: Done) -> Given:
        images = transfers[done.seed]
        source = labelled(images) if one.from_labelled else images
        weights = {role: done.weights(ASKED[role]) for role in one.asks}
        others: dict[str, Any] = {role: weights[role] for role in one.others}
        return Given(source, one.frozen(weights.get("teacher"), source.labels, others))

    return given

"""A generalist, specialists for the classes that it confuses, and one student of the whole committee.

    python -m experiments.specialists
    python -m experiments.specialists --dataset=fashion_mnist --train_split=train[:10%] --validation_split= \
        --labels=500 --epochs=30 --learning_rate=1e-3 --workdir=runs/specialists-fashion

Minutes on two shared cores: specialists 5 (--seeds=20), specialists-fashion 3. Result: docs/results/README.md.

Specialists are copies of the generalist that go on learning from half their own classes and half others, these as one
dustbin class. Which classes they take is found from the generalist's predictions on its training images, without
labels. The student is trained alone, distilled from the generalist, and distilled from the committee: from the same
initial parameters and in as many steps. Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015,
section 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.special import softmax

from kdjax.config import field
from kdjax.data.source import Examples
from kdjax.ensembles import specialists as rules
from kdjax.recipes.supervised import supervised
from kdjax.study import command, students
from kdjax.study.compare import Arm, Done, Given, Lineage, Pair, Results, Row, Scores, compare, scores, tested
from kdjax.study.data import Study, open_study
from kdjax.types import STUDENT, BadInput, Model, Outputs, PyTree

Classes = tuple[int, ...]


@dataclass(frozen=True)
class Config(students.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/specialists", "folder for everything the run leaves", identity=False,
        smoke="runs/smoke/specialists",
    )  # fmt: skip
    seeds: int = field(5, "runs, numbered from 0; more go on in the same --workdir", low=1, smoke=1, may_grow=True)
    generalist_hidden: tuple[int, ...] = field((256, 256), "generalist's widths or channels", low=1, smoke=(16,))
    generalist_epochs: int = field(30, "generalist's passes", low=1, smoke=4)
    generalist_learning_rate: float = field(1e-3, "generalist's peak learning rate", low=0.0)
    specialists: int = field(4, "sets that classes are cut into; a set of one class has no specialist", low=1, smoke=2)
    confusion_temperature: float = field(
        10.0,
        "softens the predictions that show what is confused; at 1 a sure generalist confuses nothing",
        low=1e-6,
        high=1e4,
    )
    specialist_epochs: int = field(10, "specialists' passes over their half-and-half mix", low=1, smoke=1)
    specialist_learning_rate: float = field(3e-4, "specialists' peak learning rate", low=0.0)
    hidden: tuple[int, ...] = field((20,), "student's widths or channels", low=1, smoke=(8,))
    labels: int = field(60, "labelled images that students get, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "students' passes over all training images", low=1, smoke=2)


def main(config: Config, workdir: Path) -> None:
    """Generalist, specialists, and three students; for each seed."""
    study = open_study(config, workdir)
    if config.specialists > study.train.num_classes:
        raise BadInput(f"--specialists={config.specialists}: accepted are 1 to {study.train.num_classes}, the classes.")
    model = students.network(study, config, "generalist_hidden")
    small = students.network(study, config)
    student = students.student(study, config, small, students.transfers(study, config))
    generalist = Arm(
        "generalist",
        model,
        supervised(model),
        config.generalist_epochs,
        {"learning_rate": config.generalist_learning_rate},
        Lineage("labels"),
    )
    names = [f"specialist-{number}" for number in range(config.specialists)]
    found: dict[int, Sequence[Classes]] = {}

    def committee_of(done: Done, source: Examples) -> np.ndarray:
        """What generalist and specialists say together, `[N, K]` log-probabilities."""
        return done.once(("committee", id(source)), lambda: committee(done, found[done.seed], source))

    alone = student.from_labels("student alone", "alone")
    distilled = student.from_answers("student distilled from generalist", "distilled-generalist", "generalist")

    def arms(done: Done) -> Iterator[Arm]:
        yield generalist
        confused = softmax(done.answers("generalist", study.train) / config.confusion_temperature, axis=-1)
        found[done.seed] = rules.confusable(confused, config.specialists, seed=done.seed)
        experts = [
            specialist(study, config, name, model, classes)
            for name, classes in zip(names, found[done.seed], strict=False)
        ]
        yield from experts
        yield alone
        yield distilled
        followed = ("generalist", *(arm.name for arm in experts))
        yield student.from_answers(
            "student distilled from committee", "distilled-committee", *followed, answers=committee_of
        )

    def whole(done: Done) -> Scores:
        weights = [done.weights(name) for name in ("generalist", *names[: len(found[done.seed])])]
        return {**scores(study, committee_of(done, study.test), *weights), "classes": found[done.seed]}

    rows = {"generalist": tested("generalist"), "generalist + specialists": Row(("generalist", *names), whole)}
    roles = [*rows, *(f"student {how}" for how in ("alone", "distilled from generalist", "distilled from committee"))]
    rows |= {name: tested(name) for name in roles[2:]}
    pairs = [Pair(roles[1], roles[0]), Pair(roles[3], roles[2]), Pair(roles[4], roles[2]), Pair(roles[4], roles[3])]
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    compare(study, workdir, arms, pairs, title=title, rows=rows, note=note)


def note(results: Results) -> str:
    """Which classes the specialists of each seed know."""
    sets = (row["classes"] for row in results["generalist + specialists"])
    told = (" ".join(",".join(map(str, classes)) for classes in each) or "none" for each in sets)
    return "Classes of the specialists, by seed: " + "; ".join(told)


def specialist(study: Study, config: Config, name: str, generalist: Model, classes: Classes) -> Arm:
    """A copy of the generalist, trained on a mix of its classes and others."""

    def apply(
        variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]:
        outputs, model_state = generalist.apply(variables, image, train=train, key=key, mask=mask)
        return Outputs(rules.with_dustbin(outputs.logits, classes), outputs.features), model_state

    def given(done: Done) -> Given:
        mix = study.train.select(rules.half_and_half(study.train.labels(), classes, seed=done.seed)[0])
        mix = mix.with_column("label", rules.specialist_labels(mix.labels(), classes))
        weights = jax.tree.map(jnp.array, done.weights("generalist"))  # copies: a state is donated
        params = weights.pop("params")
        return Given(mix, begin=lambda state: state.replace(params={STUDENT: params}, model_state={STUDENT: weights}))

    model = Model(generalist.init, apply)
    return Arm(
        name,
        model,
        supervised(model),
        config.specialist_epochs,
        {"learning_rate": config.specialist_learning_rate},
        Lineage(
            "labels of its classes, and of all others as one",
            ("generalist",),
            "half its classes, half others",
            start="generalist",
        ),
        given,
        # Validation images have the labels of all classes, which a specialist does not speak of.
        study=replace(study, validation=None),
    )


def committee(done: Done, subsets: Sequence[Classes], source: Examples) -> np.ndarray:
    """What generalist and specialists say together, `[N, K]` log-probabilities."""
    labels = done.study.train.labels()
    answers = []
    for number, classes in enumerate(subsets):
        ratio = rules.half_and_half(labels, classes, seed=done.seed)[1]
        answers.append(rules.correct_dustbin(jnp.asarray(done.answers(f"specialist-{number}", source)), ratio))
    general = done.answers("generalist", source)
    answer = jax.jit(rules.committee, static_argnames="subsets")(general, answers, subsets=subsets)
    if not (worst := float(answer.residual.max())) < 1e-5:
        raise ArithmeticError(f"the committee's answer was not found: residual {worst:.1e}")
    return np.asarray(answer.logits)


if __name__ == "__main__":
    command.start(Config, main)

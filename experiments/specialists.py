"""A generalist, specialists for the classes that it confuses, and one student of the whole committee.

    python -m experiments.specialists
    python -m experiments.specialists --dataset=fashion_mnist --train_split=train[:10%] --validation_split= \
        --labels=500 --epochs=30 --learning_rate=1e-3 --workdir=runs/specialists-fashion

Cost: the first about 70 seconds on two cores, the second about 100 seconds. Result: see the README's tables.

Specialists are copies of the generalist that go on learning from half their own classes and half others, these as one
dustbin class. Which classes they take is found from the generalist's predictions on its training images, without
labels. The student is trained alone, distilled from the generalist, and distilled from the committee: from the same
initial parameters and in as many steps. Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015,
section 5.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.special import softmax

from kdjax.config import field
from kdjax.data.source import Examples
from kdjax.ensembles import specialists as rules
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare
from kdjax.study import train as training
from kdjax.study.data import Study, open_study
from kdjax.training.state import variables
from kdjax.types import BadInput, Model, Outputs, PyTree


@dataclass(frozen=True)
class Config(compare.Flags):
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
    generalist = compare.network(study, config, "generalist_hidden")
    student = compare.network(study, config)
    results: compare.Results = {}
    found: list[list[tuple[int, ...]]] = []
    for seed, transfer in enumerate(compare.transfers(study, config)):
        trained = training.train(
            study, workdir, f"generalist/seed-{seed}", generalist, supervised(generalist), seed=seed,
            epochs=config.generalist_epochs, hparams={"learning_rate": config.generalist_learning_rate},
        )  # fmt: skip
        weights = variables(trained)
        general = {name: training.predict(study, generalist, weights, s) for name, s in both(study).items()}
        subsets = rules.confusable(
            softmax(general["train"] / config.confusion_temperature, axis=-1), config.specialists, seed=seed
        )
        found.append(list(subsets))
        experts = [
            specialist(study, workdir, config, f"specialist-{m}", generalist, weights, s, seed=seed)
            for m, s in enumerate(subsets)
        ]
        together = {name: committee(study, general[name], experts, subsets, s) for name, s in both(study).items()}

        students = {"alone": compare.from_labels(
            study, workdir, config, f"alone/seed-{seed}", student, transfer, seed=seed
        )}  # fmt: skip
        for role, answers in (("generalist", general["train"]), ("committee", together["train"])):
            run = f"distilled-{role}/seed-{seed}"
            students[role] = compare.from_answers(study, workdir, config, run, student, transfer, answers, seed=seed)
        committee_weights = [weights, *(w for _, w, _ in experts)]
        rows: dict[str, dict[str, Any]] = {
            "generalist": compare.scores(study, general["test"], weights),
            "generalist + specialists": compare.scores(study, together["test"], *committee_weights),
            "student alone": compare.tested(study, student, students["alone"]),
            "student distilled from generalist": compare.tested(study, student, students["generalist"]),
            "student distilled from committee": compare.tested(study, student, students["committee"]),
        }
        for role, row in rows.items():
            results.setdefault(role, []).append(row)
    roles = list(results)
    pairs = [(roles[1], roles[0]), (roles[3], roles[2]), (roles[4], roles[2]), (roles[4], roles[3])]
    note = "Classes of the specialists, by seed: " + "; ".join(
        " ".join(",".join(map(str, s)) for s in subsets) or "none" for subsets in found
    )
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    compare.report(workdir, study, results, pairs, title=title, note=note)


def both(study: Study) -> dict[str, Examples]:
    """The images that are learned from and those that are reported."""
    return {"train": study.train, "test": study.test}


Expert = tuple[Model, PyTree, float]
"""A specialist: the model, its variables, and by how much its classes were over-sampled."""


def specialist(
    study: Study, workdir: Path, config: Config, role: str, generalist: Model, weights: PyTree,
    subset: tuple[int, ...], *, seed: int,
) -> Expert:  # fmt: skip
    """A copy of the generalist, trained on a mix of its classes and others."""

    def init(key: Array) -> tuple[PyTree, PyTree]:
        return weights["params"], {name: tree for name, tree in weights.items() if name != "params"}

    def apply(
        variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]:
        outputs, model_state = generalist.apply(variables, image, train=train, key=key, mask=mask)
        return Outputs(rules.with_dustbin(outputs.logits, subset), outputs.features), model_state

    model = Model(init, apply)
    labels = study.train.labels()
    chosen, ratio = rules.half_and_half(labels, subset, seed=seed)
    mix = study.train.select(chosen)
    mix = mix.with_column("label", rules.specialist_labels(mix.labels(), subset))
    # Validation images have the labels of all classes, which a specialist does not speak of.
    state = training.train(
        replace(study, validation=None), workdir, f"{role}/seed-{seed}", model,
        supervised(model), seed=seed, epochs=config.specialist_epochs, source=mix,
        hparams={"learning_rate": config.specialist_learning_rate},
    )  # fmt: skip
    return model, variables(state), ratio


def committee(
    study: Study, general: np.ndarray, experts: list[Expert], subsets: tuple[tuple[int, ...], ...],
    source: Examples,
) -> np.ndarray:  # fmt: skip
    """What generalist and specialists say together, `[N, K]` log-probabilities."""
    said = [
        rules.correct_dustbin(jnp.asarray(training.predict(study, model, weights, source)), ratio)
        for model, weights, ratio in experts
    ]
    answer = jax.jit(rules.committee, static_argnames="subsets")(general, said, subsets=subsets)
    if not (worst := float(answer.residual.max())) < 1e-5:
        raise ArithmeticError(f"the committee's answer was not found: residual {worst:.1e}")
    return np.asarray(answer.logits)


if __name__ == "__main__":
    command.start(Config, main)

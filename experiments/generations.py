"""Born-again networks: each generation learns from the one before, of the same size and from a fresh start.

    python -m experiments.generations

Minutes on two shared cores with --seeds=20: generations 6. Result: docs/results/README.md.

Every generation sees the same labelled images; generation 0 learns from the labels alone. Against generation k stands
a network with the same initial parameters and the same order of images that learned from labels alone, and against the
ensemble of generations the ensemble of those: what is compared is what teaching adds to training again. Furlanello,
Lipton, Tschannen, Itti, Anandkumar, Born-Again Neural Networks, ICML 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import log_softmax, logsumexp

from kdjax.config import field
from kdjax.study import command, students
from kdjax.study.compare import Done, Pair, Row, Scores, compare, scores, tested
from kdjax.study.data import open_study


@dataclass(frozen=True)
class Config(students.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/generations", "folder for everything the run leaves", identity=False,
        smoke="runs/smoke/generations",
    )  # fmt: skip
    hidden: tuple[int, ...] = field((64,), "widths or channels of every generation", low=1, smoke=(8,))
    generations: int = field(3, "generations that have a teacher", low=1, smoke=2)
    temperature: float = field(1.0, "softens both sides of the distillation loss", low=1e-6, high=1e4)
    alpha: float = field(0.5, "weight of the teacher; 1 - alpha of the labels", low=0.0, high=1.0)


def main(config: Config, workdir: Path) -> None:
    """Generation after generation, and as many networks from labels; for each seed."""
    study = open_study(config, workdir)
    images = students.transfers(study, config)
    network = students.student(study, config, students.network(study, config), images)
    count = config.generations + 1
    born, alone = ([f"{name} {k}" for k in range(count)] for name in ("generation", "alone"))
    arms = []
    for k in range(count):
        from_labels = network.from_labels(alone[k] if k else born[0], f"alone-{k}")
        born_again = network.from_answers(born[k], f"generation-{k}", born[k - 1], only_labelled=True)
        # Apart from every other generation of every seed, so that each start is fresh.
        arms += [
            replace(arm, seed=lambda number, k=k: number * count + k)
            for arm in ([from_labels, born_again] if k else [from_labels])
        ]

    def together(names: Sequence[str]) -> Row:
        def of(done: Done) -> Scores:
            return scores(study, mean_answer([done.test(name) for name in names]), *map(done.weights, names))

        return Row(tuple(names), of)

    alone[0] = born[0]  # the same network
    rows = {name: tested(name) for name in born} | {"ensemble of generations": together(born)}
    rows |= {name: tested(name) for name in alone[1:]} | {"ensemble alone": together(alone)}
    pairs = [Pair(born[k], alone[k]) for k in range(1, count)]
    pairs += [Pair(born[-1], born[0]), Pair("ensemble of generations", "ensemble alone")]
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    compare(study, workdir, arms, pairs, title=title, rows=rows)


def mean_answer(logits: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several networks' probabilities, as logits `[N, K]`."""
    return logsumexp([log_softmax(z, axis=-1) for z in logits], axis=0) - np.log(len(logits))


if __name__ == "__main__":
    command.start(Config, main)

"""Born-again networks: each generation learns from the one before, of the same size and from a fresh start.

    python -m experiments.generations

Cost: about a minute on two cores. Result: see the README's tables.

Every generation sees the same labelled images; generation 0 learns from the labels alone. Against generation k stands
a network with the same initial parameters and the same order of images that learned from labels alone, and against the
ensemble of generations the ensemble of those: what is compared is what teaching adds to training again. Furlanello,
Lipton, Tschannen, Itti, Anandkumar, Born-Again Neural Networks, ICML 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax, logsumexp

from kdjax.config import field
from kdjax.data.source import labelled
from kdjax.study import command, compare, train
from kdjax.study.data import open_study
from kdjax.training.state import variables


@dataclass(frozen=True)
class Config(compare.Flags):
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
    model = compare.network(study, config)
    count = config.generations + 1
    results: compare.Results = {}
    for seed, transfer in enumerate(compare.transfers(study, config)):
        lesson = labelled(transfer)
        born, alone = [], []
        for k in range(count):
            # Apart from every other generation of every seed, so that each start is fresh.
            own = {"seed": seed * count + k}
            alone.append(compare.from_labels(study, workdir, config, f"alone-{k}/seed-{seed}", model, transfer, **own))
            if k == 0:
                born.append(alone[0])
                continue
            answers = train.predict(study, model, variables(born[-1]), lesson)
            run = f"generation-{k}/seed-{seed}"
            born.append(compare.from_answers(study, workdir, config, run, model, lesson, answers, **own))
        for name, states in (("generation", born), ("alone", alone)):
            said = [train.predict(study, model, variables(s), study.test) for s in states]
            for k, (state, logits) in enumerate(zip(states, said, strict=True)):
                results.setdefault(f"{name} {k}", []).append(compare.scores(study, logits, variables(state)))
            together = compare.scores(study, mean_answer(said), *map(variables, states))
            results.setdefault(f"ensemble of {name}s" if name == "generation" else "ensemble alone", []).append(
                together
            )
    results.pop("alone 0")  # the same network as generation 0
    last = config.generations
    pairs = [(f"generation {k}", f"alone {k}") for k in range(1, count)]
    pairs += [(f"generation {last}", "generation 0"), ("ensemble of generations", "ensemble alone")]
    title = f"{config.dataset}, {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    compare.report(workdir, study, results, pairs, title=title)


def mean_answer(logits: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several networks' probabilities, as logits `[N, K]`."""
    return logsumexp([log_softmax(z, axis=-1) for z in logits], axis=0) - np.log(len(logits))


if __name__ == "__main__":
    command.start(Config, main)

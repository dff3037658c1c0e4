"""Teacher assistants: a large network teaches a middle one, which teaches the small one.

    python -m experiments.assistants

Cost: about a minute on two cores. Result: see the README's tables.

The teacher learns from every label; assistants and student have `--labels` labels, and answers for every image.
The small network learns, from the same initial parameters and over as many steps, from labels, from the large network,
and from the last assistant. Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, AAAI 2020.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdjax.config import field
from kdjax.data.source import Examples
from kdjax.models import create as models
from kdjax.study import command, compare, train
from kdjax.study.data import open_study
from kdjax.training.state import variables
from kdjax.types import BadInput, TrainState


@dataclass(frozen=True)
class Config(compare.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/assistants", "folder for everything the run leaves", identity=False,
        smoke="runs/smoke/assistants",
    )  # fmt: skip
    model: str = field("mlp", "every network's kind", choices=models.names())
    chain: tuple[int, ...] = field(
        (256, 64, 10), "width of the one hidden layer of the teacher, each assistant and the student", low=1,
        smoke=(16, 8, 4),
    )  # fmt: skip
    labels: int = field(60, "labelled images of assistants and student, balanced over classes; 0 for all", low=0)
    epochs: int = field(100, "passes of each network over its images", low=1, smoke=2)


def main(config: Config, workdir: Path) -> None:
    """The chain, and its ends without it; for each seed."""
    if len(config.chain) < 3:
        raise BadInput(f"--chain={','.join(map(str, config.chain))}: accepted are three widths or more, largest first.")
    study = open_study(config, workdir)
    own = [replace(config, chain=(width,)) for width in config.chain]
    links = [compare.network(study, link, "chain") for link in own]
    student, last = links[-1], len(links) - 1
    results: compare.Results = {}
    for seed, transfer in enumerate(compare.transfers(study, config)):

        def said(link: int, state: TrainState, transfer: Examples = transfer) -> np.ndarray:
            return train.predict(study, links[link], variables(state), transfer)

        def record(role: str, link: int, state: TrainState) -> None:
            results.setdefault(role, []).append(compare.tested(study, links[link], state))

        given = (study, workdir, config)
        teacher = compare.from_labels(*given, f"teacher/seed-{seed}", links[0], study.train, seed=seed)
        alone = compare.from_labels(*given, f"alone/seed-{seed}", student, transfer, seed=seed)
        answers = said(0, teacher)
        direct = compare.from_answers(*given, f"direct/seed-{seed}", student, transfer, answers, seed=seed)
        record("teacher", 0, teacher)
        for link in range(1, last):
            run = f"assistant-{link}/seed-{seed}"
            assistant = compare.from_answers(*given, run, links[link], transfer, answers, seed=seed)
            record(f"assistant {config.chain[link]}", link, assistant)
            answers = said(link, assistant)
        assisted = compare.from_answers(*given, f"assisted/seed-{seed}", student, transfer, answers, seed=seed)
        record("student alone", last, alone)
        record("student distilled directly", last, direct)
        record("student distilled by assistant", last, assisted)
    pairs = [
        ("student distilled by assistant", "student distilled directly"),
        ("student distilled by assistant", "student alone"),
        ("student distilled directly", "student alone"),
    ]
    title = f"{config.dataset}, {'-'.join(map(str, config.chain))}, T={config.temperature:g}, alpha={config.alpha:g}"
    compare.report(workdir, study, results, pairs, title=title)


if __name__ == "__main__":
    command.start(Config, main)

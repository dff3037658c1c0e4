"""Teacher assistants: a large network teaches a middle one, which teaches the small one.

    python -m experiments.distill_assistants

Cost: about a minute on two cores. Result: see the README's tables.

The teacher learns from every label; assistants and student have `--labels` labels, and answers for every image.
The small network learns, from the same initial parameters and over as many steps, from labels, from the large network,
and from the last assistant. Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, AAAI 2020.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments import _run, _students, _train
from kdjax.config import field
from kdjax.data.source import Examples
from kdjax.models import create as models
from kdjax.training.state import variables
from kdjax.types import BadInput, TrainState


@dataclass(frozen=True)
class Config(_students.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/distill_assistants", "folder for everything the run leaves", identity=False,
        smoke="runs/smoke/distill_assistants",
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
    study = _train.open_study(config, workdir)
    own = [replace(config, chain=(width,)) for width in config.chain]
    links = [_students.network(study, link, "chain") for link in own]
    student, last = links[-1], len(links) - 1
    results: _students.Results = {}
    for seed, transfer in enumerate(_students.transfers(study, config)):

        def said(link: int, state: TrainState, transfer: Examples = transfer) -> np.ndarray:
            return _train.predict(study, links[link], variables(state), transfer)

        def record(role: str, link: int, state: TrainState) -> None:
            results.setdefault(role, []).append(_students.tested(study, links[link], state))

        given = (study, workdir, config)
        teacher = _students.from_labels(*given, f"teacher/seed-{seed}", links[0], study.train, seed=seed)
        alone = _students.from_labels(*given, f"alone/seed-{seed}", student, transfer, seed=seed)
        answers = said(0, teacher)
        direct = _students.from_answers(*given, f"direct/seed-{seed}", student, transfer, answers, seed=seed)
        record("teacher", 0, teacher)
        for link in range(1, last):
            run = f"assistant-{link}/seed-{seed}"
            assistant = _students.from_answers(*given, run, links[link], transfer, answers, seed=seed)
            record(f"assistant {config.chain[link]}", link, assistant)
            answers = said(link, assistant)
        assisted = _students.from_answers(*given, f"assisted/seed-{seed}", student, transfer, answers, seed=seed)
        record("student alone", last, alone)
        record("student distilled directly", last, direct)
        record("student distilled by assistant", last, assisted)
    pairs = [
        ("student distilled by assistant", "student distilled directly"),
        ("student distilled by assistant", "student alone"),
        ("student distilled directly", "student alone"),
    ]
    title = f"{config.dataset}, {'-'.join(map(str, config.chain))}, T={config.temperature:g}, alpha={config.alpha:g}"
    _students.report(workdir, study, results, pairs, title=title)


if __name__ == "__main__":
    _run.start(Config, main)

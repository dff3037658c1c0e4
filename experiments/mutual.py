"""Deep mutual learning: peers that learn from labels and from each other, against peers that learn from labels alone.

    python -m experiments.mutual

Minutes on two shared cores with --seeds=20: mutual 2. Result: docs/results/README.md.

Both cohorts have the same initial parameters and the same order of images; they differ by the weight of the peers'
answers alone. Zhang, Xiang, Hospedales, Lu, Deep Mutual Learning, CVPR 2018.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdjax.config import field
from kdjax.data.source import labelled
from kdjax.recipes.mutual import alike, mutual
from kdjax.study import command, students, train
from kdjax.study.compare import Arm, Done, Given, Lineage, Pair, Row, Scores, compare, scores, tested
from kdjax.study.data import open_study


@dataclass(frozen=True)
class Config(students.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/mutual", "folder for everything the run leaves", identity=False, smoke="runs/smoke/mutual"
    )
    hidden: tuple[int, ...] = field((64,), "widths or channels of every peer", low=1, smoke=(8,))
    peers: int = field(2, "networks in a cohort", low=2)
    weight: float = field(1.0, "of the other peers' answers, against 1 for the labels", low=0.0)
    temperature: float = field(1.0, "softens the peers' answers", low=1e-6, high=1e4)


def main(config: Config, workdir: Path) -> None:
    """A cohort whose peers learn from each other, and one whose peers do not; for each seed."""
    study = open_study(config, workdir)
    peer, images = students.network(study, config), students.transfers(study, config)
    cohort = alike(peer, config.peers)
    recipe = mutual(cohort.model)
    arms = [
        Arm(
            f"cohort, {role}",
            cohort.model,
            recipe,
            config.epochs,
            {"learning_rate": config.learning_rate, "weight": weight, "temperature": config.temperature},
            Lineage("labels + weight*response.kl(peers)", source=students.seen(config.labels)),
            lambda done: Given(labelled(images[done.seed])),
            run=role,
            places=len(study.train),
        )
        for role, weight in (("alone", 0.0), ("mutual", config.weight))
    ]

    def peers(cohorts: str) -> Row:
        def of(done: Done) -> Scores:
            each = [cohort.peer(done.weights(cohorts), p) for p in range(config.peers)]
            found = [scores(study, train.predict(study, peer, w, study.test), w) for w in each]
            return {name: float(np.mean([s[name] for s in found])) for name in found[0]}

        return Row((cohorts,), of)

    rows = {}
    for role in ("alone", "mutual"):
        rows[f"peer, {role}"] = peers(f"cohort, {role}")
        rows[f"ensemble, {role}"] = tested(f"cohort, {role}")
    pairs = [
        Pair("peer, mutual", "peer, alone"),
        Pair("ensemble, mutual", "ensemble, alone"),
        Pair("peer, mutual", "ensemble, alone"),
    ]
    title = f"{config.dataset}, {config.labels or 'all'} labels, {config.peers} peers, weight {config.weight:g}"
    note = "A peer's numbers are means over the peers of its cohort."
    compare(study, workdir, arms, pairs, title=title, rows=rows, note=note)


if __name__ == "__main__":
    command.start(Config, main)

"""Deep mutual learning: peers that learn from labels and from each other, against peers that do not heed each other.

    python -m experiments.mutual

Cost: about 20 seconds on two cores. Result: see the README's tables.

Both cohorts have the same initial parameters and the same order of images; they differ by the weight of the peers'
answers alone. Zhang, Xiang, Hospedales, Lu, Deep Mutual Learning, CVPR 2018.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdjax.config import field
from kdjax.data.source import labelled
from kdjax.recipes.mutual import alike, mutual
from kdjax.study import command, compare, train
from kdjax.study.data import open_study
from kdjax.training.state import variables


@dataclass(frozen=True)
class Config(compare.Flags):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/mutual", "folder for everything the run leaves", identity=False, smoke="runs/smoke/mutual"
    )
    hidden: tuple[int, ...] = field((64,), "widths or channels of every peer", low=1, smoke=(8,))
    peers: int = field(2, "networks in a cohort", low=2)
    weight: float = field(1.0, "of the other peers' answers, against 1 for the labels", low=0.0)
    temperature: float = field(1.0, "softens the peers' answers", low=1e-6, high=1e4)


def main(config: Config, workdir: Path) -> None:
    """A cohort that heeds its peers and one that does not; for each seed."""
    study = open_study(config, workdir)
    peer = compare.network(study, config)
    cohort = alike(peer, config.peers)
    results: compare.Results = {}
    for seed, transfer in enumerate(compare.transfers(study, config)):
        for role, weight in (("alone", 0.0), ("mutual", config.weight)):
            state = train.train(
                study,
                workdir,
                f"{role}/seed-{seed}",
                cohort.model,
                mutual(cohort.model),
                seed=seed,
                epochs=config.epochs,
                hparams={
                    "learning_rate": config.learning_rate,
                    "weight": weight,
                    "temperature": config.temperature,
                },
                source=labelled(transfer),
                examples_per_epoch=len(study.train),
            )
            each = [cohort.peer(variables(state), p) for p in range(config.peers)]
            found = [compare.scores(study, train.predict(study, peer, w, study.test), w) for w in each]
            mean = {name: float(np.mean([s[name] for s in found])) for name in found[0]}
            results.setdefault(f"peer, {role}", []).append(mean)
            results.setdefault(f"ensemble, {role}", []).append(compare.tested(study, cohort.model, state))
    pairs = [
        ("peer, mutual", "peer, alone"),
        ("ensemble, mutual", "ensemble, alone"),
        ("peer, mutual", "ensemble, alone"),
    ]
    title = f"{config.dataset}, {config.labels or 'all'} labels, {config.peers} peers, weight {config.weight:g}"
    note = "A peer's numbers are means over the peers of its cohort."
    compare.report(workdir, study, results, pairs, title=title, note=note)


if __name__ == "__main__":
    command.start(Config, main)

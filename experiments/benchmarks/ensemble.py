"""The forward pass of several teachers of one architecture, stacked, beside the same teachers one after the other.

    python -m experiments.benchmarks.ensemble

Cost: about 20 seconds. Result: docs/benchmarks.md.

Each way is one compiled program per call, timed to the end of its work: `stacked` runs all teachers in one program on
variables with a leading axis; `alone` runs one program per teacher, and its time is the sum; `together` runs them
unstacked in one program. The ways alternate, round after round; a row is the median over rounds with its range.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from kdjax import models
from kdjax.config import field
from kdjax.study import command, networks, report
from kdjax.teachers.live import live
from kdjax.teachers.several import stack, stacked, together


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/ensemble-speed", "folder of the run", identity=False, smoke="runs/smoke/ensemble-speed")
    model: str = field("mlp", "teachers' network", choices=models.all_names())
    hidden: tuple[int, ...] = field((256, 256), "teachers' widths or channels", low=1, smoke=(16,))
    teachers: int = field(5, "how many", low=1)
    batch_size: int = field(64, "images of 28 x 28 in a call", low=1)
    rounds: int = field(200, "timed calls of each way", low=1, smoke=3)


def main(config: Config, workdir: Path) -> None:
    """Compile, warm up, alternate, tabulate."""
    model = networks.from_flags(config, {"num_classes": 10, "image_shape": (28, 28, 1)}).model
    weights = []
    for seed in range(config.teachers):
        params, model_state = jax.jit(model.init)(jax.random.key(seed))
        weights.append({"params": params, **model_state})
    batch = {"inputs": jax.random.uniform(jax.random.key(99), (config.batch_size, 28, 28, 1))}
    names = [f"teacher-{t}" for t in range(config.teachers)]
    one = jax.jit(lambda w, b: live(model.apply)(w, b).logits)
    several = jax.jit(lambda w, b: stacked(model.apply)(w, b).logits)
    unstacked = jax.jit(lambda w, b: together(dict.fromkeys(names, model.apply))(w, b).logits)
    piled, by_name = stack(weights), dict(zip(names, weights, strict=True))
    ways: dict[str, Callable[[], Any]] = {
        "alone": lambda: [one(w, batch).block_until_ready() for w in weights],
        "stacked": lambda: several(piled, batch).block_until_ready(),
        "together": lambda: unstacked(by_name, batch).block_until_ready(),
    }
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    lines = ["| | milliseconds | range (10 to 90 %) | of the sum alone |", "|---|---|---|---|"]
    base = median(seconds["alone"])
    for name, taken in seconds.items():
        low, high = np.quantile(taken, (0.1, 0.9)) * 1e3
        lines.append(f"| {name} | {median(taken) * 1e3:.3f} | {low:.3f} to {high:.3f} | {median(taken) / base:.2f} |")
    results = {name: {"median": median(taken), "of_alone": median(taken) / base} for name, taken in seconds.items()}
    report.save_results(workdir, results, "\n".join(lines))


if __name__ == "__main__":
    command.start(Config, main)

"""Seconds per epoch of the notebook's job, kdjax beside hand-written PyTorch, in one run.

    python -m experiments.benchmarks.speed          # needs the benchmarks extra

Cost: about 10 minutes on two cores, which must be otherwise idle. Result: docs/benchmarks.md.

60,000 images of MNIST in memory, batch 64, Adam, float32, the same number of threads on both sides. Each side is one
process that waits while the other works; the sides alternate, round after round, and a row is the median over rounds
with its range. PyTorch is eager, once with its default Adam and once with `fused=True`. A second table compares the two
forms of kdjax's loop; the last line is the time from starting a process to the end of its first step, with an empty and
with a filled compilation cache.
"""

import importlib.util
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.timing import Worker, cell, ratio, rounds
from kdjax.config import field
from kdjax.data.load import load
from kdjax.study import command, report
from kdjax.study.data import Data
from kdjax.types import BadInput

JOBS = ("student from labels", "student, teacher cached", "student, teacher in the step", "teacher")
WORKERS = ("kdjax", "torch eager", "torch fused")


@dataclass(frozen=True)
class Config(Data):
    """Flags of this experiment."""

    workdir: str = field("runs/speed", "folder of the run", identity=False, smoke="runs/smoke/speed")
    dataset: str = field("mnist", "a set in memory", smoke="digits")
    train_split: str = field("train", "what an epoch passes over")
    rounds: int = field(5, "alternations", low=1, smoke=1)
    threads: int = field(2, "threads of each side", low=1)
    teacher_hidden: tuple[int, ...] = field((1200, 1200), "teacher's widths", low=1, smoke=(16,))
    student_hidden: tuple[int, ...] = field((20,), "student's widths", low=1, smoke=(8,))
    channels: tuple[int, ...] = field((16, 32), "of the small CNN of the loop table", low=1, smoke=(4,))
    peers: bool = field(True, "measure PyTorch too", smoke=False)


def worker(name: str, config: Config, data: Path) -> Worker:
    """A process that passes over the data once for each job."""
    sizes = {"teacher": config.teacher_hidden, "student": config.student_hidden, "channels": config.channels}
    spec = {"name": name, "data": str(data), "threads": config.threads, "batch": config.batch_size, **sizes}
    return Worker("speed_worker", spec)


def start_up(data: Path, config: Config, cache: Path) -> float:
    """Seconds from starting a process to the end of its first step."""
    begun = time.perf_counter()
    os.environ["KDJAX_BENCHMARK_CACHE"] = str(cache)
    one = worker("kdjax", config, data)
    one("first step")
    seconds = time.perf_counter() - begun
    one.close()
    del os.environ["KDJAX_BENCHMARK_CACHE"]
    return seconds


def main(config: Config, workdir: Path) -> None:
    """Measure, tabulate."""
    if config.peers and importlib.util.find_spec("torch") is None:
        raise BadInput("--peers: PyTorch is not installed; run pip install -e '.[benchmarks]', or give --nopeers.")
    train = load(config.dataset, config.train_split, data_dir=config.data_dir, image_size=config.image_size)
    names = WORKERS if config.peers else WORKERS[:1]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        arrays: dict[str, Any] = train[np.arange(len(train))]
        np.savez(data, **arrays)
        starts = {"cold": start_up(data, config, Path(folder) / "xla")}
        starts["warm"] = start_up(data, config, Path(folder) / "xla")
        workers = {name: worker(name, config, data) for name in names}
        speed = rounds(workers, {job: list(names) for job in JOBS}, config.rounds)
        kinds = ("mlp", "cnn")
        loops = rounds(
            workers, {f"{kind} {form}": ["kdjax"] for kind in kinds for form in ("scan", "step")}, config.rounds
        )
        for one in workers.values():
            one.close()

    lines = [
        "| seconds per epoch | kdjax | torch eager | torch fused | eager / kdjax | fused / kdjax |",
        "|---" * 6 + "|",
    ]
    for job, by in speed.items():
        ours = by["kdjax"]
        peers = [cell(by[n]) for n in names[1:]] or ["–", "–"]
        ratios = [ratio(by[n], ours) for n in names[1:]] or ["–", "–"]
        lines.append(f"| {job} | {cell(ours)} | " + " | ".join([*peers, *ratios]) + " |")
    lines += ["", "| loop | scan, s | step from Python, s | step / scan |", "|---" * 4 + "|"]
    for kind in kinds:
        scan, step = (loops[f"{kind} {form}"]["kdjax"] for form in ("scan", "step"))
        lines.append(f"| {kind} | {cell(scan)} | {cell(step)} | {ratio(step, scan)} |")
    lines += [
        "",
        f"start-up to the first step: {starts['cold']:.1f} s with an empty compilation cache, "
        f"{starts['warm']:.1f} s with a filled one",
    ]
    results: dict[str, Any] = {"epochs": speed, "loops": loops, "start-up": starts}
    report.save_results(workdir, results, "\n".join(lines))


if __name__ == "__main__":
    command.start(Config, main)

"""A sweep of 64 students as one program, beside the same students one after another and beside eager PyTorch.

    python -m experiments.benchmarks.sweep          # needs the benchmarks extra

Cost: about 10 minutes on two cores, which must be otherwise idle. Result: docs/benchmarks.md.

8 temperatures x 2 alphas x 4 seeds of the notebook's student (784-20-10, MNIST, batch 64, Adam, cached teacher). Sides
alternate, round after round, one epoch each: an epoch of the whole population with a shared order and with own orders
(seconds divided by the number of students), `--sequential` epochs of one student by kdjax's plain engine, and one epoch
of one student by eager PyTorch. Compilation is outside. All have the same number of threads; on a CPU the population
uses them as that many devices, each with its part of the students. Nothing is extrapolated but that every student
costs the sequential side the same.

What sharing the order does to independence is measured by training the population to its end twice, own and shared:
the standard deviation of test accuracy over seeds within a point (pooled over points), and how often two seeds of a
point err on the same test images (mean correlation of their error indicators).
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks import sweep_worker, timing
from kdjax.config import field
from kdjax.data import pipeline
from kdjax.data.load import load
from kdjax.data.source import Examples
from kdjax.losses import response
from kdjax.models.create import create
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import command, report
from kdjax.study.data import Data
from kdjax.teachers.stored import cached
from kdjax.training import optimizers, parallel, population, stacked
from kdjax.training.population import Member, Plan
from kdjax.types import BadInput

PLAIN = "student, teacher cached"


@dataclass(frozen=True)
class Config(Data):
    """Flags of this experiment."""

    workdir: str = field("runs/sweep-speed", "folder of the run", identity=False, smoke="runs/smoke/sweep-speed")
    dataset: str = field("mnist", "a set in memory", smoke="digits")
    train_split: str = field("train", "what an epoch passes over")
    rounds: int = field(5, "alternations", low=1, smoke=1)
    sequential: int = field(4, "epochs of single students that kdjax runs in each round", low=1, smoke=1)
    threads: int = field(2, "threads of each side", low=1)
    temperatures: int = field(8, "values in the grid", low=1, high=8, smoke=1)
    alphas: int = field(2, "values in the grid", low=1, high=2, smoke=1)
    seeds: int = field(4, "of each point", low=2, smoke=2)
    epochs: int = field(3, "of the students whose independence is measured", low=1, smoke=1)
    group: int = field(0, "students of one vmap; 0 chooses for the device", low=0)
    student_hidden: tuple[int, ...] = field((20,), "student's widths", low=1, smoke=(8,))
    teacher_hidden: tuple[int, ...] = field((1200,), "teacher's widths, for independence only", low=1, smoke=(8,))
    peers: bool = field(True, "measure PyTorch too", smoke=False)


def worker(name: str, config: Config, data: Path) -> timing.Worker:
    """A process that does one job of `sweep_worker` when told and answers with its seconds."""
    students = config.temperatures * config.alphas * config.seeds
    spec = {
        "name": name,
        "data": str(data),
        "threads": config.threads,
        # As many as share the students evenly.
        "devices": max(d for d in range(1, config.threads + 1) if students % d == 0),
        "batch": config.batch_size,
        "group": config.group,
        "grid": (config.temperatures, config.alphas, config.seeds),
        "student": config.student_hidden,
        "teacher": config.teacher_hidden,
        "channels": (1,),
    }
    return timing.Worker("sweep_worker", spec)


def measure(config: Config, train: Examples) -> dict[str, list[float]]:
    """Seconds per student and epoch of every side, round by round."""
    students = config.temperatures * config.alphas * config.seeds
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        arrays: dict[str, Any] = train[np.arange(len(train))]
        np.savez(data, **arrays)
        names = ["population", "sequential", *["torch eager"] * config.peers]
        workers = {name: worker(name, config, data) for name in names}
        sides = {
            "shared order": ("population", "shared", 1, students),
            "own order": ("population", "own", 1, students),
            "sequential": ("sequential", PLAIN, config.sequential, config.sequential),
            **({"torch eager": ("torch eager", PLAIN, 1, 1)} if config.peers else {}),
        }
        for doer, job, _, _ in sides.values():  # compile and warm up
            workers[doer](job)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(config.rounds):
            for side, (doer, job, calls, epochs) in sides.items():
                seconds[side].append(sum(workers[doer](job) for _ in range(calls)) / epochs)
        for one in workers.values():
            one.close()
    return seconds


def independence(config: Config, train: Examples, test: Examples) -> dict[str, dict[str, float]]:
    """For either order: sd of test accuracy over seeds, and the correlation of errors between seeds of a point."""
    mesh = parallel.data_mesh()
    columns = train[np.arange(len(train))]
    shape = {"num_classes": train.num_classes, "image_shape": train.image_shape()}
    teacher, student = (create("mlp", **shape, hidden=h) for h in (config.teacher_hidden, config.student_hidden))
    tx = optimizers.optimizer("adam")

    def order(seed: int, epoch: int) -> dict[str, np.ndarray]:
        return pipeline.epoch_rows(len(train), config.batch_size, seed=seed, epoch=epoch)

    study = {"order": order, "epochs": config.epochs}
    one = [Member(0, {"learning_rate": 1e-3})]
    teachers = population.Population(teacher, tx, supervised(teacher), mesh)
    (taught,) = teachers.train(one, data=columns, **study)
    columns["teacher_logits"] = stacked.Asked(teacher.apply, mesh)(taught.states, columns["inputs"])[0]
    grid = sweep_worker.grid(config.temperatures, config.alphas, config.seeds)
    members = [Member(s, {"learning_rate": 1e-3, "temperature": t, "alpha": a}) for s, t, a in grid]
    loss_fn, found = distill(student, cached(), response.kl), {}
    ask = stacked.Asked(student.apply, mesh)
    images, labels = test[np.arange(len(test))]["inputs"], test.labels()
    for name in ("own order", "shared order"):
        learners = population.Population(student, tx, loss_fn, mesh, Plan(own_order=name == "own order"))
        parts = learners.train(members, data=columns, **study)
        logits = np.concatenate([ask(p.states, images) for p in parts])
        wrong = (logits.argmax(-1) != labels).reshape(-1, config.seeds, len(labels))
        found[name] = {
            "accuracy": float(1 - wrong.mean()),
            "sd over seeds": float(np.sqrt(wrong.mean(-1).var(axis=1, ddof=1).mean())),
            "error correlation": float(np.mean([_pairwise(point) for point in wrong])),
        }
    return found


def _pairwise(wrong: np.ndarray) -> float:
    """Mean correlation of two rows, over all pairs of them."""
    return float(np.corrcoef(wrong)[np.triu_indices(len(wrong), 1)].mean())


def main(config: Config, workdir: Path) -> None:
    """Measure, tabulate."""
    if config.peers and importlib.util.find_spec("torch") is None:
        raise BadInput("--peers: PyTorch is not installed; run pip install -e '.[benchmarks]', or give --nopeers.")

    def get(split: str) -> Examples:
        return load(config.dataset, split, data_dir=config.data_dir, image_size=config.image_size)

    train, test = get(config.train_split), get(config.test_split)
    seconds = measure(config, train)
    apart = independence(config, train, test)
    students = config.temperatures * config.alphas * config.seeds
    head = f"| {students} students | seconds per student-epoch | sequential / this | torch eager / this |"
    lines = [head, "|---" * 4 + "|"]
    for side, values in seconds.items():
        peer = timing.ratio(seconds["torch eager"], values) if config.peers else "–"
        cell = f"{median(values):.4f} [{min(values):.4f}, {max(values):.4f}]"
        lines.append(f"| {side} | {cell} | {timing.ratio(seconds['sequential'], values)} | {peer} |")
    lines += ["", "| independence of seeds | test accuracy % | sd over seeds, points | correlation of errors |"]
    lines.append("|---" * 4 + "|")
    for name, d in apart.items():
        numbers = f"{100 * d['accuracy']:.2f} | {100 * d['sd over seeds']:.3f} | {d['error correlation']:.3f}"
        lines.append(f"| {name} | {numbers} |")
    results: dict[str, Any] = {"seconds per student-epoch": seconds, "independence": apart}
    report.save_results(workdir, results, "\n".join(lines))


if __name__ == "__main__":
    command.start(Config, main)

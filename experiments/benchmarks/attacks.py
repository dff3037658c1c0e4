"""Attacks beside their peers on the same weights, in one run: ART, Foolbox, and PyTorch by hand.

    python -m experiments.benchmarks.attacks --model=runs/natural          # needs the benchmarks extra

Cost: about 8 minutes on two cores, which must be otherwise idle. Result: docs/benchmarks.md.

The network is a trained `fast_cnn`; its weights are handed to PyTorch (channels last) and written to weights.npz. Sides
alternate, round after round, two threads each; a number is the median of the rounds. ZOO is compared in seconds of CPU,
since ART predicts one image at a time and leaves threads idle.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import attack_peers
from kdjax.attacks import named, objectives
from kdjax.attacks.run import run
from kdjax.attacks.sweep import at_radius
from kdjax.attacks.victims import Victim, queries_only, white_box
from kdjax.config import field
from kdjax.data.load import load
from kdjax.study import attacks, command, networks, report
from kdjax.study.supervised import small_network
from kdjax.types import BadInput

# Spinning threads of the side that waits would slow the side that works.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/attack-speed", "folder", identity=False, smoke="runs/smoke/attack-speed")
    model: str = field("", "workdir of a finished train_teacher run of a fast_cnn on mnist; empty: digits, no peers")
    data_dir: str = field("", "where TFDS sets are prepared", identity=False)
    examples: int = field(1000, "images of FGSM and PGD", low=1, smoke=32)
    batch: int = field(250, "images at once", low=1, smoke=32)
    rounds: int = field(5, "alternations", low=1, smoke=1)
    epsilon: float = field(0.1, "radius", low=0.0)
    zoo_steps: int = field(60, "ZOO's steps in the timing", low=1, smoke=5)
    art_steps: int = field(15, "steps of ART's ZOO in the timing", low=1)
    l2_steps: int = field(200, "steps of both in the comparison of distances", low=1)
    l2_examples: int = field(5, "images of the comparison of distances", low=1)


def forward_rate(victim: Victim, image: np.ndarray, rounds: int) -> float:
    """Images a second through the network alone, at its best batch size."""
    call, best = jax.jit(lambda v, x: v(x)), 0.0
    for batch in (64, 257, 1028, 4112):
        x = jnp.asarray(np.resize(image, (batch, *image.shape[1:])))
        call(victim, x).block_until_ready()
        repeats, answer = max(20_000 // batch, 1), x
        for _ in range(rounds):
            begun = time.perf_counter()
            for _ in range(repeats):
                answer = call(victim, x)
            answer.block_until_ready()
            best = max(best, repeats * batch / (time.perf_counter() - begun))
    return best


def alternate(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job, round after round, once warm."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            begun = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def gradients(config: Config, victim: Victim, weights: Any, image: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """FGSM and PGD-20 by every side: images a second, and robust accuracy."""
    found: dict[str, Any] = {}
    model = attack_peers.twin(weights) if weights is not None else None
    for name, steps in {"FGSM": 1, "PGD-20": 20}.items():
        size = config.epsilon if steps == 1 else config.epsilon / 8
        ours = named.pgd(config.epsilon, steps=steps, step_size=size)
        answers: dict[str, float] = {}

        def by_us(ours: Any = ours, answers: dict[str, float] = answers) -> None:
            done = run(ours, victim, image, label, objective=objectives.cross_entropy, chunk=config.batch)
            answers["kdjax"] = 1 - float(done.success.mean())

        jobs: dict[str, Callable[[], None]] = {"kdjax": by_us}
        if model is not None:
            jobs |= torch_jobs(config, model, steps, size, image, label, answers)
        seconds = alternate(jobs, config.rounds)
        found[name] = {
            side: {"images a second": len(image) / median(s), "robust accuracy": answers[side]}
            for side, s in seconds.items()
        }
    return found


def torch_jobs(
    config: Config, model: Any, steps: int, size: float, image: np.ndarray, label: np.ndarray, answers: dict[str, float]
) -> dict[str, Callable[[], None]]:
    """The peers' attack and the count of what is left, batch by batch, as ours does."""
    import torch

    x = torch.from_numpy(image.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(label.astype(np.int64))

    def job(side: str, by: Callable[[Any, Any], Any]) -> Callable[[], None]:
        def work() -> None:
            right = 0
            for at in range(0, len(x), config.batch):
                part = slice(at, at + config.batch)
                moved = by(x[part], y[part])
                with torch.no_grad():
                    right += int((model(moved).argmax(1) == y[part]).sum())
            answers[side] = right / len(x)

        return work

    peers = attack_peers.attacks(model, config.epsilon, steps, size)
    return {side: job(side, by) for side, by in peers.items()}


def zoo(config: Config, victim: Victim, weights: Any, image: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """ZOO's model evaluations a second against the forward pass alone, and against ART by CPU time and distance."""
    ceiling = forward_rate(victim, image, config.rounds)
    found: dict[str, Any] = {"forward alone, images a second": ceiling}
    black = queries_only(victim)
    settings = {"search_steps": 1, "initial_weight": 1.0}
    for count in (1, 4):
        attack_of = named.zoo(steps=config.zoo_steps, **settings)
        call = lambda a=attack_of, n=count: run(a, black, image[:n], label[:n], objective=objectives.margin, chunk=n)  # noqa: E731
        seconds = alternate({"zoo": call}, config.rounds)["zoo"]
        found[f"ZOO, {count} images: of the ceiling"] = int(call().queries.sum()) / median(seconds) / ceiling
    if weights is None:
        return found
    model, few = attack_peers.twin(weights), image[:2]
    rates: dict[str, list[float]] = {"kdjax": [], "ART": []}
    for _ in range(min(config.rounds, 3)):
        begun = time.process_time()
        shown = int(call().queries.sum())
        rates["kdjax"].append(shown / (time.process_time() - begun))
        begun = time.process_time()
        _, shown = attack_peers.art_zoo(model, few, steps=config.art_steps)
        rates["ART"].append(shown / (time.process_time() - begun))
    found["queries per CPU-second: kdjax / ART as shipped"] = median(
        a / b for a, b in zip(rates["kdjax"], rates["ART"], strict=True)
    )
    some, classes = image[: config.l2_examples], label[: config.l2_examples]
    ours = run(named.zoo(steps=config.l2_steps, **settings), black, some, classes, objective=objectives.margin, chunk=5)
    theirs, _ = attack_peers.art_zoo(model, some, steps=config.l2_steps)
    fooled = np.asarray(victim(jnp.asarray(np.clip(theirs, 0, 1)))).argmax(-1) != classes
    lengths = np.sqrt(((theirs - some) ** 2).sum((1, 2, 3)))
    both = fooled & ours.success
    found["solved: kdjax"], found["solved: ART"] = int(ours.success.sum()), int(fooled.sum())
    if both.any():  # else there is nothing to compare, and no line
        ratio = float(ours.distance["l2"][both].mean() / lengths[both].mean())
        found["mean L2 where both solved: kdjax / ART"] = ratio
    return found


def sweep(config: Config, victim: Victim, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Sixteen radii from one program against sixteen runs of an attack made for one radius, all warm."""
    radii = np.linspace(0, 0.3, 16)
    ours = at_radius(lambda epsilon: named.pgd(epsilon, steps=20))
    alone = named.pgd(0.1, steps=20)
    some, classes = image[: config.batch], label[: config.batch]

    def go(attack_of: Any) -> None:
        run(attack_of, victim, some, classes, objective=objectives.cross_entropy, chunk=config.batch, on_device=False)

    jobs = {"sweep": lambda: [go(ours(float(e))) for e in radii], "singles": lambda: [go(alone) for _ in radii]}
    seconds = alternate(jobs, min(config.rounds, 3))
    ratio = median(a / b for a, b in zip(seconds["sweep"], seconds["singles"], strict=True))
    return {"16 radii from one program / 16 single runs": ratio}


def main(config: Config, workdir: Path) -> None:
    """Measure, tabulate."""
    missing = [n for n in ("torch", "foolbox", "art") if importlib.util.find_spec(n) is None]
    if config.model and missing:
        raise BadInput(f"{', '.join(missing)}: not installed; run pip install -e '.[benchmarks]'.")
    network = networks.load_network(config.model or small_network(workdir), flag="model")
    if config.model and (network.description["name"], network.description["image_shape"]) != ("fast_cnn", (28, 28, 1)):
        raise BadInput(f"--model={config.model}: accepted is a fast_cnn of 28 x 28 x 1 images.")
    source = load(network.learned["dataset"], "test", data_dir=config.data_dir)
    victim, weights = white_box(network.model.apply, network.weights[0]), network.weights[0] if config.model else None
    image, label = attacks.first(source, config.examples)
    flat, _ = jax.tree_util.tree_flatten_with_path(network.weights[0])
    arrays: dict[str, Any] = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}
    np.savez(workdir / "weights.npz", **arrays)
    results: dict[str, Any] = {
        "gradients": gradients(config, victim, weights, image, label),
        "sweep": sweep(config, victim, image, label),
        "zoo": zoo(config, victim, weights, image, label),
    }
    lines = ["| attack | side | images a second | kdjax is faster by | robust accuracy |", "|---|---|---|---|---|"]
    for name, sides in results["gradients"].items():
        for side, row in sides.items():
            factor = sides["kdjax"]["images a second"] / row["images a second"]
            lines.append(
                f"| {name} | {side} | {row['images a second']:,.0f} | {factor:.2f} | {row['robust accuracy']:.3f} |"
            )
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {value:,.3g} |" for part in ("sweep", "zoo") for name, value in results[part].items()]
    report.save_results(workdir, results, "\n".join(lines))


if __name__ == "__main__":
    command.start(Config, main)

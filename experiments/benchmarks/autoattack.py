"""`standard` beside AutoAttack in PyTorch, on the same weights: what is left, image by image, over seeds of both.

    python -m experiments.benchmarks.autoattack --models=runs/robust-mnist,runs/natural --epsilons=0.3,0.1

It needs the benchmarks extra and `pip install --no-deps torchattacks`. Cost: about five minutes for each network, seed
and side on two cores that are otherwise idle. Result: a table.

The networks are trained `fast_cnn`s of MNIST; the last row is the first one with logits `--sharpen` times as large: the
same answers, and a cross-entropy without slope. The peer is torchattacks: its four attacks with 100 steps, which its
own AutoAttack runs with 10, and as in it each on the images that those before left. Its Square never reaches the last
row and column. A network's spread is what two seeds of one side differ by.
"""

import contextlib
import importlib.util
import io
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import attack_peers
from kdjax.attacks import objectives
from kdjax.attacks.autoattack import standard
from kdjax.attacks.run import run
from kdjax.attacks.victims import white_box
from kdjax.config import field
from kdjax.data.load import load
from kdjax.study import attacks, command, report
from kdjax.study.networks import Network, load_network
from kdjax.study.supervised import small_network
from kdjax.types import BadInput

Side = tuple[np.ndarray, float]
"""Who stands `[N]`, and the seconds that it took."""
INSTALL = "pip install -e '.[benchmarks]' && pip install --no-deps torchattacks"
COLUMNS = ("left %", "spread", "agreement with the peer %", "seconds")


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/autoattack", "folder", identity=False, smoke="runs/smoke/autoattack")
    models: str = field("", "workdirs of fast_cnns trained on mnist, with commas between; empty: digits, no peer")
    epsilons: tuple[float, ...] = field((0.1,), "a radius for each network, or one for all", low=0.0)
    data_dir: str = field("", "where TFDS sets are prepared", identity=False)
    examples: int = field(500, "test images, from the first on", low=1, smoke=20)
    seeds: int = field(2, "of each side", low=1, smoke=1)
    steps: int = field(100, "of APGD and FAB", low=1, smoke=3)
    queries: int = field(5000, "of Square", low=1, smoke=20)
    sharpen: float = field(
        100.0, "what the last network's logits are multiplied with; 1 leaves it out", low=1.0, smoke=1.0
    )
    chunk: int = field(250, "images at once", low=1)


def main(config: Config, workdir: Path) -> None:
    """Attack every network by both sides, seed by seed."""
    missing = [n for n in ("torch", "torchattacks") if importlib.util.find_spec(n) is None]
    if config.models and missing:
        raise BadInput(f"{', '.join(missing)}: not installed; run {INSTALL}.")
    paths = [path.strip() for path in (config.models or small_network(workdir)).split(",")]
    if len(config.epsilons) not in (1, len(paths)):
        raise BadInput(f"--epsilons={config.epsilons}; accepted: 1 radius, or {len(paths)}, one for each network.")
    radii = config.epsilons * (len(paths) if len(config.epsilons) == 1 else 1)
    cases = [(path, epsilon, 1.0) for path, epsilon in zip(paths, radii, strict=True)]
    if config.sharpen > 1:
        cases.append((paths[0], radii[0], config.sharpen))
    results: dict[str, list[dict[str, Any]]] = {}
    for path, epsilon, times in cases:
        network = load_network(path, flag="models")
        kind = network.description["name"], network.description["image_shape"]
        if config.models and kind != ("fast_cnn", (28, 28, 1)):
            raise BadInput(f"--models={path}: accepted are fast_cnns of 28 x 28 x 1 images.")
        name = f"{Path(path).name}, {epsilon:g}" + f", logits x {times:g}" * (times > 1)
        image, label = attacks.first(
            load(network.learned["dataset"], "test", data_dir=config.data_dir), config.examples
        )
        sides = {"kdjax": [ours(config, network, times, image, label, epsilon, seed) for seed in range(config.seeds)]}
        if config.models:
            sides["torchattacks"] = [
                theirs(config, network, times, image, label, epsilon, seed) for seed in range(config.seeds)
            ]
        results |= {f"{name}: {side}": rows(found, sides) for side, found in sides.items()}
        report.save_results(workdir, results, attacks.table(results, COLUMNS, ()))


def rows(
    found: list[tuple[np.ndarray, float]], sides: dict[str, list[tuple[np.ndarray, float]]]
) -> list[dict[str, Any]]:
    """A side's numbers seed by seed; the peer's are those of the same seed."""
    left = [100 * float(stands.mean()) for stands, _ in found]
    spread = max((abs(a - b) for a, b in itertools.combinations(left, 2)), default=0.0)
    other = next((side for side in sides.values() if side is not found), None)
    return [
        {
            "left %": left[seed], "spread": spread, "seconds": seconds,
            "agreement with the peer %": None if other is None else 100 * float((stands == other[seed][0]).mean()),
        }
        for seed, (stands, seconds) in enumerate(found)
    ]  # fmt: skip


def ours(
    config: Config,
    network: Network,
    times: float,
    image: np.ndarray,
    label: np.ndarray,
    epsilon: float,
    seed: int,
) -> Side:
    """Who stands, and seconds."""
    victim = objectives.divided(white_box(network.model.apply, network.weights[0]), 1 / times)
    attack, begun = standard(epsilon, steps=config.steps, queries=config.queries), time.perf_counter()
    found = run(
        attack, victim, image, label, objective=objectives.margin, seed=seed, chunk=config.chunk
    )  # fmt: skip
    return ~found.success, time.perf_counter() - begun


def theirs(
    config: Config,
    network: Network,
    times: float,
    image: np.ndarray,
    label: np.ndarray,
    epsilon: float,
    seed: int,
) -> Side:
    """Who stands torchattacks' four, and seconds."""
    import torch

    model, begun = attack_peers.twin(network.weights[0], times), time.perf_counter()
    x, y = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()), torch.from_numpy(label.astype(np.int64))
    stands = []
    with contextlib.redirect_stdout(io.StringIO()):
        for part in range(0, len(x), config.chunk):
            here = slice(part, part + config.chunk)
            attack = attack_peers.autoattack(model, epsilon, config.steps, config.queries, seed)
            moved = attack(x[here], y[here])
            if (moved - x[here]).abs().max() > epsilon + 1e-5 or moved.min() < 0 or moved.max() > 1:
                raise BadInput(f"torchattacks left the ball of {epsilon}; accepted: images within it.")
            with torch.no_grad():
                stands.append((model(moved).argmax(1) == y[here]).numpy())
    return np.concatenate(stands), time.perf_counter() - begun


if __name__ == "__main__":
    command.start(Config, main)

"""ZOO against a white-box attack on the same images (Chen, Zhang, Sharma, Yi, Hsieh, AISec 2017, table 1, MNIST).

    python -m experiments.zoo2017 --model=runs/natural

Cost: about 20 minutes on two cores. The paper, on its own network: C&W 100 % success at L2 1.481, ZOO-Adam 100 % at
1.496, ZOO-Newton 100 % at 1.515; targeted 100 % at 2.007, 98.9 % at 1.987, 98.9 % at 2.057.

Every row attacks the first correctly classified test images of one network. A query is one image through the network,
the checks of success included: 257 for each step of 128 coordinates (the paper counts 128). The rows below ZOO-Adam
change one thing each, under the same budget, at one constant c.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdjax.attacks import named, objectives
from kdjax.attacks.run import Attacked, run
from kdjax.attacks.victims import queries_only, white_box
from kdjax.config import field
from kdjax.data.load import load
from kdjax.evaluation.answers import decided
from kdjax.study import attacks, command, lineage, networks, report
from kdjax.study.supervised import small_network
from kdjax.types import Attack, BadInput

COLUMNS = ("images", "success", "L2", "L2 against C&W", "queries", "first success", "seconds an image")


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/zoo2017", "folder of the run", identity=False, smoke="runs/smoke/zoo2017")
    model: str = field("", "workdir of a finished train_teacher run; empty trains a small network on digits")
    data_dir: str = field("", "where TFDS sets are prepared", identity=False)
    examples: int = field(20, "correctly classified images", low=1, smoke=3)
    steps: int = field(1000, "ZOO's most steps at each c", low=1, smoke=20)
    search_steps: int = field(4, "constants c tried by ZOO", low=1, smoke=2)
    initial_weight: float = field(1.0, "the first c", low=1e-6)
    learning_rate: float = field(1e-2, "ZOO's step", low=1e-6, smoke=0.1)
    cw_steps: int = field(1000, "C&W's steps at each c", low=1, smoke=50)
    cw_search_steps: int = field(9, "constants c tried by C&W", low=1, smoke=2)
    variants: bool = field(True, "also the rows that change one thing each", smoke=False)
    chunk: int = field(5, "images at once; changes no result", low=1)


def rows(config: Config, shape: tuple[int, int, int]) -> dict[str, tuple[Callable[..., Attack], bool]]:
    """Row name to how the attack is made, and whether it is targeted."""
    zoo = partial(
        named.zoo, steps=config.steps, search_steps=config.search_steps, initial_weight=config.initial_weight,
        learning_rate=config.learning_rate,
    )  # fmt: skip
    cw = partial(named.cw, steps=config.cw_steps, search_steps=config.cw_search_steps, initial_weight=0.1)
    found: dict[str, tuple[Callable[..., Attack], bool]] = {
        "C&W": (cw, False),
        "ZOO-Adam": (zoo, False),
        "C&W, targeted": (cw, True),
        "ZOO-Adam, targeted": (zoo, True),
    }
    if config.variants:
        one = partial(zoo, search_steps=1, initial_weight=config.initial_weight)
        side = shape[0] // 2
        changes: dict[str, dict[str, Any]] = {
            "as it is": {},
            "Newton": {"update": "newton"},
            "hybrid": {"update": "hybrid"},
            "importance sampling": {"importance": True},
            f"modifier {side} x {side}": {"sides": (side,)},
            f"modifier {side}, then {2 * side}": {"sides": (side, 2 * side)},
            "tanh box": {"box": "tanh"},
        }
        found |= {f"one c: {name}": (partial(one, **change), False) for name, change in changes.items()}
    return found


def main(config: Config, workdir: Path) -> None:
    """Attack, compare with C&W image by image, tabulate."""
    path = config.model or small_network(workdir)
    network = networks.load_network(path, flag="model")
    source = load(network.learned["dataset"], "test", data_dir=config.data_dir)
    victim = white_box(network.model.apply, network.weights[0])
    image, label = attacks.first(source, 20 * config.examples)
    right = np.flatnonzero(decided(np.asarray(victim(jnp.asarray(image)))) == label)[: config.examples]
    if len(right) < config.examples:
        raise BadInput(f"--examples={config.examples}: the network is right on {len(right)} of the images looked at.")
    image, label = image[right], label[right]
    results: dict[str, list[dict[str, Any]]] = {}
    reference: dict[bool, Attacked] = {}
    for name, (make, targeted) in rows(config, source.image_shape()).items():
        white = name.startswith("C&W")
        target = (label + 1) % source.num_classes if targeted else None
        begun = time.perf_counter()
        found = run(
            make(), victim if white else queries_only(victim), image, label, target=target,
            objective=objectives.margin, chunk=config.examples if white else config.chunk,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        if white:
            reference[targeted] = found
        results[name] = [compared(found, reference[targeted], seconds)]
        print(name, {k: v for k, v in results[name][0].items() if k != "L2 of each"}, flush=True)
    images = f"{network.learned['dataset']} test, first {config.examples} that it classifies well"
    arms = {"network": lineage.trained_elsewhere(network.lineage, path, attacked=images)}
    lineages = lineage.lineages(arms, dict.fromkeys(results, arms))
    report.save_results(workdir, {**results, **lineages}, report.table(results, COLUMNS))


def compared(found: Attacked, reference: Attacked, seconds: float) -> dict[str, Any]:
    """A row's numbers; a length of which there is none is left out, as a dash in the table, or None."""
    images, fooled, both = len(found.success), found.success, found.success & reference.success
    length, other = found.distance["l2"], reference.distance["l2"]
    return {
        "images": images,
        "success": float(fooled.mean()),
        **({"L2": float(length[fooled].mean())} if fooled.any() else {}),
        **({"L2 against C&W": float(length[both].mean() / other[both].mean())} if both.any() else {}),
        "queries": float(found.queries.mean()),
        "first success": float(np.median(found.first_success[fooled])) if fooled.any() else -1.0,
        "seconds an image": seconds / images,
        "L2 of each": [float(x) if hit else None for x, hit in zip(length, fooled, strict=True)],
    }


if __name__ == "__main__":
    command.start(Config, main)

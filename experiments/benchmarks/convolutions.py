"""A training step of a CIFAR ResNet on a CPU, clean or adversarial, kdjax beside eager PyTorch, in one run.

    python -m experiments.benchmarks.convolutions   # needs the benchmarks extra
    python -m experiments.benchmarks.convolutions --network=resnet8 --adversarial --workdir=runs/adversarial-resnet8
    python -m experiments.benchmarks.convolutions --network=fast_cnn --adversarial --workdir=runs/adversarial-fast-cnn

Cost: about 1 minute on two cores, which must be otherwise idle: PyTorch's threads wait for each other, and other work
slows them several times more than kdjax's. Result: docs/benchmarks.md.

A batch of random images, float32, SGD with momentum 0.9 and weight decay 5e-4, cross-entropy; an adversarial step makes
PGD of ten steps at 8/255 from a random start first, on the network as it answers at test time; the same number of
threads on both sides; PyTorch with channels last. That the two networks are one function is checked before. Each side
is one process that waits while the other works; the sides alternate, `--steps` steps each, round after round. FLOPs are
the forward pass's, as XLA counts them, times three for a training step.
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import convolutions_worker, timing
from kdjax.config import field
from kdjax.models.create import create
from kdjax.models.import_torch import converted
from kdjax.models.zoo import FIXED
from kdjax.study import command, report
from kdjax.types import BadInput, Model

CLASSES = 100
NETWORKS = (*(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)), "fast_cnn")
JOBS = {"training step": 3, "adversarial step": 3 + 2 * convolutions_worker.STEPS, "forward pass": 1}
"""What is timed, and its FLOPs over those of the forward pass."""


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/convolutions", "folder of the run", identity=False, smoke="runs/smoke/convolutions")
    network: str = field("resnet20", "the network on both sides", choices=NETWORKS, smoke="resnet8")
    adversarial: bool = field(False, "measure adversarial steps alone")
    batch_size: int = field(128, "images per step", low=1, smoke=2)
    rounds: int = field(5, "alternations", low=1, smoke=1)
    steps: int = field(5, "steps of a side in every round", low=1, smoke=1)
    threads: int = field(2, "threads of each side", low=1)
    peers: bool = field(True, "measure PyTorch too", smoke=False)


def worker(name: str, config: Config, data: Path) -> timing.Worker:
    """A process that does one job of `convolutions_worker` when told and answers with its seconds."""
    spec = {"name": name, "data": str(data), "classes": CLASSES, "network": config.network}
    spec |= {"threads": config.threads, "steps": config.steps}
    return timing.Worker("convolutions_worker", spec)


def created(config: Config, image: np.ndarray) -> Model:
    """kdjax's network."""
    own = convolutions_worker.FAST if config.network == "fast_cnn" else {}
    return create(config.network, num_classes=CLASSES, image_shape=image.shape[1:], **own)


def check_same(name: str, image: np.ndarray) -> None:
    """Refuse to compare two networks that answer differently with the same weights."""
    import torch

    network = convolutions_worker.torch_network(name, CLASSES).eval()
    with torch.inference_mode():
        theirs = network(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    weights = converted(arrays, FIXED[name](num_classes=CLASSES), image.shape[1:], name=name)
    model = create(name, num_classes=CLASSES, image_shape=image.shape[1:])
    ours = model.apply(weights, jnp.asarray(image), train=False, key=None)[0].logits
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def flops(config: Config, image: np.ndarray) -> float:
    """Of the forward pass of a batch."""
    model = created(config, image)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    forward = jax.jit(lambda weights, x: model.apply(weights, x, train=False, key=None)[0].logits)
    counts: Any = forward.lower({"params": params, **state}, image).cost_analysis()
    return float(counts["flops"])


def main(config: Config, workdir: Path) -> None:
    """Measure, tabulate."""
    if config.peers and importlib.util.find_spec("torch") is None:
        raise BadInput("--peers: PyTorch is not installed; run pip install -e '.[benchmarks]', or give --nopeers.")
    jobs = [job for job in JOBS if (job == "adversarial step") == config.adversarial]
    rng = np.random.default_rng(0)
    shape = (28, 28, 1) if config.network == "fast_cnn" else (32, 32, 3)
    image = rng.random((config.batch_size, *shape), np.float32)
    if config.peers and config.network != "fast_cnn":  # whose twin is made of kdjax's own weights
        check_same(config.network, image[:2])
    names = ["kdjax", *["torch"] * config.peers]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, inputs=image, label=rng.integers(0, CLASSES, config.batch_size, np.int32))
        workers = {name: worker(name, config, data) for name in names}
        seconds = timing.rounds(workers, {job: names for job in jobs}, config.rounds)
        for one in workers.values():
            one.close()

    each = flops(config, image)
    lines = [
        f"| {config.network}, batch {config.batch_size} | side | per second | GFLOP/s | kdjax / torch |",
        "|---" * 5 + "|",
    ]
    for job, by in seconds.items():
        for name, values in by.items():
            rates = [config.steps / value for value in values]
            speed = f"{median(rates):.2f} [{min(rates):.2f}, {max(rates):.2f}]"
            relative = timing.ratio(by["torch"], values) if config.peers and name == "kdjax" else "–"
            lines.append(f"| {job} | {name} | {speed} | {JOBS[job] * each * median(rates) / 1e9:.1f} | {relative} |")
    report.save_results(workdir, {"seconds": seconds, "steps": config.steps, "forward_flops": each}, "\n".join(lines))


if __name__ == "__main__":
    command.start(Config, main)

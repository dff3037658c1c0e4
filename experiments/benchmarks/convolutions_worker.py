"""The workers of `benchmarks.convolutions`: steps of one network on one batch, by kdjax or by PyTorch."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks import attack_peers, speed_worker

MOMENTUM, DECAY, RATE = 0.9, 5e-4, 0.05
EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10
"""Of PGD in an adversarial step."""
FAST = {"hidden": (16, 32, 100)}
"""Channels and units of `fast_cnn`, the one network here that is no ResNet."""


def kdjax_jobs(spec: dict[str, Any], data: dict[str, np.ndarray]) -> Callable[[str], Callable[[], None]]:
    """`--steps` training steps called from Python, clean or adversarial, or as many forward passes."""
    import jax

    from kdjax.attacks.named import pgd
    from kdjax.models.create import create
    from kdjax.recipes.supervised import supervised
    from kdjax.training import optimizers, parallel
    from kdjax.training.state import create_state, variables
    from kdjax.training.step import train_step

    own = FAST if spec["network"] == "fast_cnn" else {}
    model = create(spec["network"], num_classes=spec["classes"], image_shape=data["inputs"].shape[1:], **own)
    tx = optimizers.optimizer("sgd", momentum=MOMENTUM, weight_decay=DECAY)
    mesh = parallel.data_mesh()
    batch = parallel.replicate({**data, "mask": np.ones(len(data["label"]), np.float32)}, mesh)
    first = create_state(model, tx, jax.random.key(0), hparams={"learning_rate": RATE})
    frozen = parallel.replicate(variables(first), mesh)
    state = parallel.replicate(first, mesh)
    attack = pgd(EPSILON, steps=STEPS, step_size=STEP_SIZE, random_start=True)
    clean, adversarial = (
        jax.jit(train_step(supervised(model, attack=made), tx), donate_argnums=0) for made in (None, attack)
    )
    answer = jax.jit(lambda weights, image: model.apply(weights, image, train=False, key=None)[0].logits)

    def train(step: Any) -> None:
        nonlocal state
        for _ in range(spec["steps"]):
            state, _ = step(state, batch)
        jax.block_until_ready(state.params)

    def forward() -> None:
        for _ in range(spec["steps"]):
            answer(frozen, batch["inputs"]).block_until_ready()

    jobs = {"training step": partial(train, clean), "adversarial step": partial(train, adversarial)}
    return {**jobs, "forward pass": forward}.__getitem__


def torch_network(name: str, classes: int) -> Any:
    """A ResNet of CIFAR in PyTorch, with the names of contrastive representation distillation's code; or `fast_cnn`."""
    import torch.nn.functional as F
    from torch import nn

    if name == "fast_cnn":
        import jax

        from kdjax.models.create import create

        params, _ = create(name, num_classes=classes, image_shape=(28, 28, 1), **FAST).init(jax.random.key(0))
        return attack_peers.twin({"params": params})

    class Residual(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            same = inputs == width
            shortcut = (nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            self.downsample = nn.Identity() if same else nn.Sequential(*shortcut)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(self.downsample(x) + y)

    class ResNet(nn.Module):
        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            for stage, width in enumerate((16, 32, 64), start=1):
                inputs, stride = (16, 1) if stage == 1 else (width // 2, 2)
                layers = [Residual(width if n else inputs, width, 1 if n else stride) for n in range(blocks)]
                setattr(self, f"layer{stage}", nn.Sequential(*layers))
            self.fc = nn.Linear(64, classes)

        def forward(self, x: Any) -> Any:
            x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
            return self.fc(x.mean((2, 3)))

    return ResNet((int(name.removeprefix("resnet")) - 2) // 6)


def torch_jobs(spec: dict[str, Any], data: dict[str, np.ndarray]) -> Callable[[str], Callable[[], None]]:
    """The same by eager PyTorch, weights and images with channels last."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    network = torch_network(spec["network"], spec["classes"]).to(memory_format=torch.channels_last)
    image = torch.from_numpy(data["inputs"]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    label = torch.from_numpy(data["label"].astype(np.int64))
    sgd = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def attacked() -> Any:
        """PGD on the network as it answers, as kdjax asks it."""
        network.eval()
        moved = (image + torch.empty_like(image).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
        for _ in range(STEPS):
            moved.requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(network(moved), label, reduction="sum"), moved)
            with torch.no_grad():
                near = torch.min(torch.max(moved + STEP_SIZE * slope.sign(), image - EPSILON), image + EPSILON)
                moved = near.clamp(0, 1)
        return moved.detach()

    def train(images: Callable[[], Any]) -> None:
        for _ in range(spec["steps"]):
            shown = images()
            network.train()
            sgd.zero_grad()
            F.cross_entropy(network(shown), label).backward()
            sgd.step()

    def forward() -> None:
        network.eval()
        with torch.inference_mode():
            for _ in range(spec["steps"]):
                network(image)

    jobs = {"training step": partial(train, lambda: image), "adversarial step": partial(train, attacked)}
    return {**jobs, "forward pass": forward}.__getitem__


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec["threads"]])
    speed_worker.serve((kdjax_jobs if spec["name"] == "kdjax" else torch_jobs)(spec, dict(np.load(spec["data"]))))

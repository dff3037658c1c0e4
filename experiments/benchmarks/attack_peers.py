"""The peers of `benchmarks.attacks` and `.autoattack`: the same network in PyTorch, and who attacks it there."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def twin(weights: Mapping[str, Any], times: float = 1.0) -> Any:
    """A `fast_cnn`'s weights as a PyTorch module, channels last; takes NCHW images.

    Args:
        weights: `{"params": ...}` of the network.
        times: what its logits are multiplied with.
    """
    import torch
    from torch import nn

    params = weights["params"]

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolutions, self.dense = nn.ModuleList(), nn.ModuleList()
            for name in sorted(n for n in params if n.startswith("conv")):
                kernel = np.asarray(params[name]["kernel"]).transpose(3, 2, 0, 1)
                layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], stride=2, padding=1)
                layer.weight.data, layer.bias.data = tensor(kernel), tensor(params[name]["bias"])
                self.convolutions.append(layer)
            for name in ("dense", "logits"):
                kernel = np.asarray(params[name]["kernel"]).T
                layer = nn.Linear(kernel.shape[1], kernel.shape[0])
                layer.weight.data, layer.bias.data = tensor(kernel), tensor(params[name]["bias"])
                self.dense.append(layer)

        def forward(self, x: Any) -> Any:
            for layer in self.convolutions:
                x = torch.relu(layer(x))
            x = x.permute(0, 2, 3, 1).flatten(1)
            return times * self.dense[1](torch.relu(self.dense[0](x)))

    def tensor(x: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    return Twin().eval().to(memory_format=torch.channels_last)


def attacks(model: Any, epsilon: float, steps: int, step_size: float) -> dict[str, Callable[[Any, Any], Any]]:
    """FGSM (`steps` = 1) or PGD without a random start, by each peer: `(NCHW images, labels) -> images`."""
    import foolbox
    import torch
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier
    from torch.nn import functional

    def by_hand(image: Any, label: Any) -> Any:
        now = image.clone()
        for _ in range(steps):
            now.requires_grad_(True)
            (slope,) = torch.autograd.grad(functional.cross_entropy(model(now), label, reduction="sum"), now)
            with torch.no_grad():
                moved = now + step_size * slope.sign()
                now = torch.clamp(torch.min(torch.max(moved, image - epsilon), image + epsilon), 0, 1)
        return now.detach()

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
    classifier = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1))
    art = ProjectedGradientDescent(
        classifier, eps=epsilon, eps_step=step_size, max_iter=steps, num_random_init=0, batch_size=10_000, verbose=False
    )
    return {
        "PyTorch by hand": by_hand,
        "Foolbox": lambda image, label: pgd(wrapped, image, label, epsilons=epsilon)[1],
        "ART": lambda image, label: torch.from_numpy(art.generate(image.numpy(), label.numpy())),
    }


def autoattack(model: Any, epsilon: float, steps: int, queries: int, seed: int) -> Any:
    """AutoAttack's standard four by torchattacks, each on what those before left: `(NCHW images, labels) -> images`."""
    import torchattacks

    how: dict[str, Any] = {"eps": epsilon, "norm": "Linf", "seed": seed, "n_restarts": 1}
    return torchattacks.MultiAttack(
        [
            torchattacks.APGD(model, steps=steps, loss="ce", **how),
            torchattacks.APGDT(model, steps=steps, n_classes=10, **how),
            torchattacks.FAB(model, steps=steps, multi_targeted=True, n_classes=10, **how),
            torchattacks.Square(model, n_queries=queries, **how),
        ]
    )


def art_zoo(model: Any, image: np.ndarray, *, steps: int) -> tuple[np.ndarray, int]:
    """ART's ZooAttack with the settings that make sense of it, one image after another, as it prefers.

    Args:
        model: a twin.
        image: `[N, 28, 28, 1]`.
        steps: of 128 coordinates each.

    Returns:
        Images `[N, 28, 28, 1]`, and how many images the network was shown.
    """
    from art.attacks.evasion import ZooAttack
    from art.estimators.classification import PyTorchClassifier
    from torch import nn

    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1))
    shown, predict = 0, classifier.predict

    def counted(x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        nonlocal shown
        shown += len(x)
        return predict(x, *args, **kwargs)

    classifier.predict = counted
    attack = ZooAttack(
        classifier, confidence=0.0, learning_rate=1e-2, max_iter=steps, binary_search_steps=1, initial_const=1.0,
        abort_early=False, use_resize=False, use_importance=False, nb_parallel=128, batch_size=1, variable_h=1e-4,
        verbose=False,
    )  # fmt: skip
    found = attack.generate(image.transpose(0, 3, 1, 2))
    return found.transpose(0, 2, 3, 1), shown

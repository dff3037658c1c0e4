"""Published networks in numpy, under the names of their repositories: an answer of each, and its state dict."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class StateDict:
    """PyTorch's layers in evaluation on `[B, C, H, W]`; what one needs is drawn when it is first named, and kept."""

    def __init__(self, seed=0):
        self.random, self.arrays = np.random.default_rng(seed), {}

    def _drawn(self, name, draw):
        if name not in self.arrays:
            self.arrays[name] = np.asarray(draw, np.float32)
        return self.arrays[name].astype(np.float64)

    def conv(self, x, name, outputs, size, stride=1, *, pad=None, groups=1):
        """`pad`: zeros before and after, in both directions; size // 2 where nothing is said, as in PyTorch's code."""
        before, after = (size // 2,) * 2 if pad is None else pad
        inputs = x.shape[1] // groups
        scale = (2 / (inputs * size**2)) ** 0.5
        kernel = self._drawn(f"{name}.weight", self.random.normal(0, scale, (outputs, inputs, size, size)))
        x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
        seen = sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
        seen = seen.reshape(len(x), groups, inputs, *seen.shape[2:])
        kernel = kernel.reshape(groups, outputs // groups, inputs, size, size)
        found = np.einsum("bgihwkl,goikl->bgohw", seen, kernel, optimize=True)
        return found.reshape(len(x), outputs, *found.shape[3:])

    def norm(self, x, name):
        channels = x.shape[1]
        scale, var = (self._drawn(f"{name}.{part}", self.random.uniform(0.5, 1.5, channels)) for part in SPREAD)
        shift, mean = (self._drawn(f"{name}.{part}", self.random.normal(0, 0.2, channels)) for part in PLACE)
        scale, var, shift, mean = (v[:, None, None] for v in (scale, var, shift, mean))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    def dense(self, x, name, outputs):
        weight = self._drawn(f"{name}.weight", self.random.normal(0, x.shape[1] ** -0.5, (outputs, x.shape[1])))
        return x @ weight.T + self._drawn(f"{name}.bias", self.random.normal(0, 0.1, outputs))


SPREAD, PLACE = ("weight", "running_var"), ("bias", "running_mean")


def relu(x):
    return np.maximum(x, 0)


def silu(x):
    return x / (1 + np.exp(-x))


def trades_wide(state, x, blocks, widths, stem, classes):
    """TRADES' WideResNet; its state dict has a copy of the first stage under `sub_block1`, which answers nothing."""
    x = state.conv(x, "conv1", stem, 3)
    for stage, width in enumerate(widths, start=1):
        for place in range(blocks):
            name, stride = f"block{stage}.layer.{place}", 2 if stage > 1 and place == 0 else 1
            active = relu(state.norm(x, f"{name}.bn1"))
            y = relu(state.norm(state.conv(active, f"{name}.conv1", width, 3, stride), f"{name}.bn2"))
            y = state.conv(y, f"{name}.conv2", width, 3)
            x = y + (x if x.shape == y.shape else state.conv(active, f"{name}.convShortcut", width, 1, stride))
    logits = state.dense(relu(state.norm(x, "bn1")).mean((2, 3)), "fc", classes)
    state.arrays |= {f"sub_{name}": array + 1 for name, array in state.arrays.items() if name.startswith("block1.")}
    return logits


def ard_mobile(state, x, width, classes):
    """The MobileNetV2 of adversarially robust distillation, RSLAD and MTARD, at a part of its width."""
    x = relu(state.norm(state.conv(x, "conv1", int(32 * width), 3), "bn1"))
    number = 0
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for factor, outputs, count, first in settings:
        outputs = int(outputs * width)
        for stride in (first, *[1] * (count - 1)):
            name, inner, number = f"layers.{number}", factor * x.shape[1], number + 1
            y = relu(state.norm(state.conv(x, f"{name}.conv1", inner, 1), f"{name}.bn1"))
            y = relu(state.norm(state.conv(y, f"{name}.conv2", inner, 3, stride, groups=inner), f"{name}.bn2"))
            y = state.norm(state.conv(y, f"{name}.conv3", outputs, 1), f"{name}.bn3")
            if stride == 1 and x.shape[1] != outputs:
                x = state.norm(state.conv(x, f"{name}.shortcut.0", outputs, 1), f"{name}.shortcut.1")
            x = x + y if stride == 1 else y
    x = relu(state.norm(state.conv(x, "conv2", 1280, 1), "bn2"))
    return state.dense(x.mean((2, 3)), "linear", classes)


def raw_preact(state, x, blocks, widths, classes):
    """The pre-activation ResNet-18 of fast adversarial training: raw shortcuts, and the plain mean of the last sum."""
    x = state.conv(x, "conv1", widths[0], 3)
    for stage, width in enumerate(widths, start=1):
        for place in range(blocks):
            name, stride = f"layer{stage}.{place}", 2 if stage > 1 and place == 0 else 1
            y = state.conv(relu(state.norm(x, f"{name}.bn1")), f"{name}.conv1", width, 3, stride)
            y = state.conv(relu(state.norm(y, f"{name}.bn2")), f"{name}.conv2", width, 3)
            x = y + (x if x.shape == y.shape else state.conv(x, f"{name}.shortcut.0", width, 1, stride))
    return state.dense(x.mean((2, 3)), "linear", classes)


def deepmind(state, x, blocks, widths, stem, classes):
    """DeepMind's networks: of three stages the wide ResNet, of four the pre-activation one with shortcuts of 3 x 3."""
    wide = len(widths) == 3
    first, second = ("conv_0", "conv_1") if wide else ("conv_2d_1", "conv_2d_2")
    x = state.conv(x, "init_conv" if wide else "conv_2d", stem, 3)
    for stage, width in enumerate(widths):
        for place in range(blocks):
            name = f"layer.{stage}.block.{place}" if wide else f"layer_{stage}.{place}"
            stride, pad = (2, (0, 1)) if stage > 0 and place == 0 else (1, (1, 1))
            active = silu(state.norm(x, f"{name}.batchnorm_0"))
            y = silu(
                state.norm(state.conv(active, f"{name}.{first}", width, 3, stride, pad=pad), f"{name}.batchnorm_1")
            )
            y = state.conv(y, f"{name}.{second}", width, 3)
            if x.shape == y.shape:
                x = x + y
            elif wide:
                x = y + state.conv(active, f"{name}.shortcut", width, 1, stride)
            else:
                x = y + state.conv(x, f"{name}.shortcut", width, 3, stride, pad=pad)
    return state.dense(silu(state.norm(x, "batchnorm")).mean((2, 3)), "logits", classes)

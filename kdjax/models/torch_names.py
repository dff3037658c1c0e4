"""PyTorch's names of the layers of networks, as their repositories write them."""

from collections.abc import Callable

from flax import linen as nn

from kdjax.models.mobilenet import MobileNetV2
from kdjax.models.resnet import ResNet
from kdjax.models.vgg import VGG
from kdjax.models.wrn import WideResNet

Names = dict[str, str]
"""A layer of ours, such as `block1/conv1`, to PyTorch's name of it."""


def names_of(module: nn.Module | None) -> Names | None:
    """A network's layers by PyTorch's names; None where no repository's names are known."""
    return _NAMES[type(module)](module) if type(module) in _NAMES else None


UNUSED: dict[type, tuple[str, ...]] = {WideResNet: ("sub_block1.",)}
"""What stands in a state dict and no answer depends on: TRADES' wide ResNet has a stage that it never calls."""


_PARTS: Names = {f"{ours}{n}": f"{theirs}{n}" for ours, theirs in (("conv", "conv"), ("norm", "bn")) for n in (1, 2, 3)}


def _block(number: int, theirs: str, shortcut: str = "downsample") -> Names:
    parts = _PARTS | {"shortcut_conv": f"{shortcut}.0", "shortcut_norm": f"{shortcut}.1"}
    return {f"block{number}/{ours}": f"{theirs}.{part}" for ours, part in parts.items()}


def _resnet(module: ResNet) -> Names:
    names, number = {"stem_conv": "conv1", "stem_norm": "bn1", "logits": "fc"}, 0
    for stage, count in enumerate(module.blocks, start=1):
        for place in range(count):
            number += 1
            names |= _block(number, f"layer{stage}.{place}")
    return names


def _wide(module: WideResNet) -> Names:
    # Three stages: wide ResNets; four: the pre-activation ResNet-18, written as its sisters are.
    wide = len(module.widths) == 3
    if module.deepmind:
        return _deepmind(module, wide)
    names = {"stem_conv": "conv1", "logits": "fc" if wide else "linear"}
    if module.last:
        names["last_norm"] = "bn1" if wide else "bn"
    for number in range(len(module.widths) * module.blocks):
        stage, place = divmod(number, module.blocks)
        theirs = f"block{stage + 1}.layer.{place}" if wide else f"layer{stage + 1}.{place}"
        names |= _block(number + 1, theirs)
        names[f"block{number + 1}/shortcut_conv"] = f"{theirs}.{'convShortcut' if wide else 'shortcut.0'}"
    return names


def _deepmind(module: WideResNet, wide: bool) -> Names:
    names = {"stem_conv": "init_conv" if wide else "conv_2d", "last_norm": "batchnorm", "logits": "logits"}
    convolutions = ("conv_0", "conv_1") if wide else ("conv_2d_1", "conv_2d_2")
    for number in range(len(module.widths) * module.blocks):
        stage, place = divmod(number, module.blocks)
        theirs = f"layer.{stage}.block.{place}" if wide else f"layer_{stage}.{place}"
        parts = dict(zip(("conv1", "conv2"), convolutions, strict=True)) | {
            "norm1": "batchnorm_0", "norm2": "batchnorm_1", "shortcut_conv": "shortcut",
        }  # fmt: skip
        names |= {f"block{number + 1}/{ours}": f"{theirs}.{part}" for ours, part in parts.items()}
    return names


def _vgg(module: VGG) -> Names:
    names, number = {"logits": "classifier"}, 0
    for stage, count in enumerate(module.blocks):
        for place in range(count):
            number += 1
            # Convolution, BatchNorm and ReLU each have a place.
            names |= {f"conv{number}": f"block{stage}.{3 * place}", f"norm{number}": f"block{stage}.{3 * place + 1}"}
    return names


def _mobile(module: MobileNetV2) -> Names | None:
    if not module.full:
        return None
    names = {"stem_conv": "conv1", "stem_norm": "bn1", "last_conv": "conv2", "last_norm": "bn2", "logits": "linear"}
    for number in range(17):
        names |= _block(number + 1, f"layers.{number}", "shortcut")
    return names


_NAMES: dict[type, Callable[..., Names | None]] = {
    ResNet: _resnet, WideResNet: _wide, VGG: _vgg, MobileNetV2: _mobile,
}  # fmt: skip

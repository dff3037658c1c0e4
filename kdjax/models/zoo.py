"""The networks by name: those that take widths, and those of the literature, whose widths are fixed."""

from collections.abc import Callable
from functools import partial

from flax import linen as nn

from kdjax.models.cnn import CNN
from kdjax.models.fast_cnn import FastCNN
from kdjax.models.fitnet import STUDENT, TEACHER, Maxout
from kdjax.models.lenet import LeNet
from kdjax.models.mlp import MLP
from kdjax.models.mobilenet import MobileNetV2
from kdjax.models.resnet import ResNet
from kdjax.models.shufflenet import ShuffleNet
from kdjax.models.vgg import VGG
from kdjax.models.vit import ViT
from kdjax.models.wrn import WideResNet

Constructor = Callable[..., nn.Module]

WITH_WIDTHS: dict[str, Constructor] = {"mlp": MLP, "cnn": CNN, "fast_cnn": FastCNN}
"""Networks whose widths are their users' choice, `hidden`."""

_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def _cifar(depth: int, stem: int, *widths: int) -> Constructor:
    return partial(ResNet, blocks=((depth - 2) // 6,) * 3, stem=stem, widths=widths)


def _large(name: str, **form: bool) -> Constructor:
    return partial(ResNet, blocks=_BLOCKS[name], widths=(64, 128, 256, 512), bottleneck=name == "resnet50", **form)


def _wide(depth: int, factor: int, **form: bool) -> Constructor:
    return partial(WideResNet, blocks=(depth - 4) // 6, widths=(16 * factor, 32 * factor, 64 * factor), **form)


_PREACT = partial(WideResNet, blocks=2, widths=(64, 128, 256, 512), stem=64)


FIXED: dict[str, Constructor] = {
    **{f"resnet{depth}": _cifar(depth, 16, 16, 32, 64) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": _cifar(depth, 32, 64, 128, 256) for depth in (8, 32)},
    **{name: _large(name, imagenet_stem=True) for name in _BLOCKS},
    **{f"{name}_cifar": _large(name) for name in _BLOCKS},
    **{
        f"wrn_{d}_{k}": _wide(d, k)
        for d, k in ((16, 1), (16, 2), (28, 10), (34, 10), (34, 20), (70, 16), (40, 1), (40, 2))
    },
    **{f"dm_wrn_{d}_{k}": _wide(d, k, deepmind=True) for d, k in ((28, 10), (34, 10), (70, 16), (94, 16))},
    "preact_resnet18": _PREACT,
    "preact_resnet18_raw": partial(_PREACT, raw=True, last=False),
    "dm_preact_resnet18": partial(_PREACT, raw=True, deepmind=True, shortcut=3),
    "vgg8": partial(VGG, blocks=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, blocks=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, blocks=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, blocks=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, blocks=(2, 2, 4, 4, 4)),
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v2_cifar": partial(MobileNetV2, cifar=True, full=True),
    "mobilenet_v2_half": partial(MobileNetV2, width=0.5, cifar=True),
    "shufflenet_v1": partial(ShuffleNet, widths=(240, 480, 960), groups=3),
    "shufflenet_v2": partial(ShuffleNet, widths=(116, 232, 464), groups=None, last=1024),
    "lenet": LeNet,
    "fitnet_teacher": partial(Maxout, layers=TEACHER),
    "fitnet_student": partial(Maxout, layers=STUDENT),
    "vit_tiny": ViT,
}
"""Networks of published widths."""

MODELS: dict[str, Constructor] = {**WITH_WIDTHS, **FIXED}

"""Weights from PyTorch and back: state dicts in .npz or .safetensors files, here `{"params": ..., "batch_stats": ...}`.

From PyTorch, `numpy.savez(path, **{name: array.numpy() for name, array in model.state_dict().items()})` writes the
first and `safetensors.torch.save_file(model.state_dict(), path)` the second; files made by pickle are not read, since
opening one runs what its author wrote.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kdjax.models.resnet import ResNet
from kdjax.models.vgg import VGG
from kdjax.models.wrn import WideResNet
from kdjax.models.zoo import FIXED
from kdjax.types import BadInput, PyTree, nearest

Names = dict[str, str]
"""A layer of ours, such as `block1/conv1`, to PyTorch's name of it."""


def from_torch(
    path: str | Path, name: str, *, num_classes: int, image_shape: tuple[int, int, int]
) -> dict[str, PyTree]:
    """The variables of a network of `create` from a PyTorch network's state dict.

    CIFAR ResNets, wide ResNets and VGGs under the names of contrastive representation distillation's code; ImageNet's
    ResNets under torchvision's; those for CIFAR and the pre-activation ResNet-18 with `shortcut` and `linear` too.

    Args:
        path: a .npz or .safetensors file of arrays by their names in the state dict.
        name: the network's name.
        num_classes: number of logits.
        image_shape: height, width and channels.

    Returns:
        `{"params": ..., "batch_stats": ...}`, float32, for `Model.apply`.

    Raises:
        BadInput: a file or a network that is not read; an array that is missing, left over or of another shape.
    """
    module = FIXED[name](num_classes=num_classes) if name in FIXED else None
    return converted(read(path), module, image_shape, name=name)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz or .safetensors file by name."""
    path = Path(path)
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise BadInput(f"path={str(path)!r}; accepted: an existing .npz or .safetensors file")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        return load_file(path)
    except (OSError, ValueError, BadZipFile, SafetensorError) as error:
        raise BadInput(f"path={str(path)!r} is damaged or holds what is no array ({error})") from None


def converted(
    arrays: Mapping[str, np.ndarray], module: nn.Module | None, image_shape: tuple[int, int, int], *, name: str
) -> dict[str, PyTree]:
    """A state dict's arrays as the variables of a module, of which `name` speaks in errors."""
    module, names = _readable(module, name)
    init = functools.partial(module.init, train=False)
    wanted: Any = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(wanted)
    left = {_plain(key): array for key, array in arrays.items() if not key.endswith("num_batches_tracked")}
    found: dict[tuple[str, ...], jax.Array] = {}
    for leaf, shape in flat.items():
        key = _plain(_key(names, leaf))
        if key not in left:
            raise BadInput(f"{key} is missing for {name}{nearest(key, left, most=3)}")
        array = left.pop(key)
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if array.shape != shape.shape:
            raise BadInput(f"{key} is of shape {array.shape}, channels last; accepted by {name}: {shape.shape}")
        found[leaf] = jnp.asarray(array, jnp.float32)
        if not jnp.isfinite(found[leaf]).all():
            raise BadInput(f"{key} is not finite; accepted by {name}: finite numbers")
    if left:
        raise BadInput(f"{name} has no place for {', '.join(left)}; accepted: the arrays of its state dict alone")
    return traverse_util.unflatten_dict(found)


def to_torch(variables: Mapping[str, PyTree], name: str) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: a state dict's arrays by PyTorch's names, for `numpy.savez` or `load_state_dict`.

    BatchNorm's counters of batches (`num_batches_tracked`), which no evaluation reads, are not in it: load with
    `strict=False` where PyTorch insists on them.

    Args:
        variables: `{"params": ..., "batch_stats": ...}` of a network of `create`.
        name: the network's name.

    Raises:
        BadInput: a network that is not read.
    """
    _, names = _readable(FIXED[name](num_classes=2) if name in FIXED else None, name)
    found = {}
    for leaf, array in traverse_util.flatten_dict(dict(variables)).items():
        array = np.asarray(array)
        found[_key(names, leaf)] = np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)
    return found


def _readable(module: nn.Module | None, name: str) -> tuple[nn.Module, Names]:
    if module is None or type(module) not in _NAMES:
        raise BadInput(f"name={name!r}; accepted: ResNets, wide and pre-activation ResNets, and VGGs")
    return module, _NAMES[type(module)](module)


def _key(names: Names, leaf: tuple[str, ...]) -> str:
    return f"{names['/'.join(leaf[1:-1])]}.{_LEAVES[leaf[-1]]}"


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _plain(key: str) -> str:
    """Names that differ between repositories, made one."""
    key = key.removeprefix("module.").replace("convShortcut.", "downsample.0.").replace("shortcut.", "downsample.")
    return "fc." + key.removeprefix("linear.") if key.startswith("linear.") else key


_SHORTCUT: Names = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
_PARTS: Names = {f"{ours}{n}": f"{theirs}{n}" for ours, theirs in (("conv", "conv"), ("norm", "bn")) for n in (1, 2, 3)}


def _block(number: int, theirs: str) -> Names:
    return {f"block{number}/{ours}": f"{theirs}.{part}" for ours, part in (_PARTS | _SHORTCUT).items()}


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
    names = {"stem_conv": "conv1", "last_norm": "bn1" if wide else "bn", "logits": "fc" if wide else "linear"}
    for number in range(len(module.widths) * module.blocks):
        stage, place = divmod(number, module.blocks)
        theirs = f"block{stage + 1}.layer.{place}" if wide else f"layer{stage + 1}.{place}"
        names |= _block(number + 1, theirs)
        names[f"block{number + 1}/shortcut_conv"] = f"{theirs}.{'convShortcut' if wide else 'shortcut.0'}"
    return names


def _vgg(module: VGG) -> Names:
    names, number = {"logits": "classifier"}, 0
    for stage, count in enumerate(module.blocks):
        for place in range(count):
            number += 1
            # Convolution, BatchNorm and ReLU each have a place.
            names |= {f"conv{number}": f"block{stage}.{3 * place}", f"norm{number}": f"block{stage}.{3 * place + 1}"}
    return names


_NAMES: dict[type, Callable[..., Names]] = {ResNet: _resnet, WideResNet: _wide, VGG: _vgg}
READABLE = tuple(name for name, module in FIXED.items() if type(module(num_classes=2)) in _NAMES)
"""The networks that `from_torch` and `to_torch` know."""

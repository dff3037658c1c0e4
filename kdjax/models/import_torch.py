"""Weights from PyTorch and back: state dicts in .npz or .safetensors files, here `{"params": ..., "batch_stats": ...}`.

From PyTorch, `numpy.savez(path, **{name: array.numpy() for name, array in model.state_dict().items()})` writes the
first and `safetensors.torch.save_file(model.state_dict(), path)` the second; files made by pickle are not read, since
opening one runs what its author wrote. For a file that PyTorch saved, such as RobustBench's, `model.state_dict()` is
`torch.load(FILE, map_location="cpu")`, or its entry `state_dict`.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from kdjax.models.state_dict import moments, one_spelling, read, unwrapped
from kdjax.models.torch_names import UNUSED, Names, names_of
from kdjax.models.zoo import FIXED
from kdjax.types import BadInput, PyTree, nearest

log = logging.getLogger("kdjax.models")


def from_torch(
    path: str | Path,
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> dict[str, PyTree]:
    """The variables of a network of `create` from a PyTorch network's state dict.

    CIFAR ResNets, wide ResNets and VGGs under the names of contrastive representation distillation's code; ImageNet's
    ResNets under torchvision's; those for CIFAR and the pre-activation ResNet-18 with `shortcut` and `linear` too; and
    RobustBench's, of which `sub_block1`, a stage that no answer depends on, is left out, DeepMind's
    names among them; adversarially robust distillation's MobileNetV2. A pre-activation ResNet-18 without `bn` is
    `preact_resnet18_raw`.

    Args:
        path: a .npz or .safetensors file of arrays by their names in the state dict, of any kind of float. A prefix
            that all names share (`model.`, `net.` ...) is taken off, that of a wrapper (`module.`, `_orig_mod.`) at
            any place; the log says which.
        name: the network's name.
        num_classes: number of logits.
        image_shape: height, width and channels.
        mean, std: what the network is created with to normalise images. A state dict that holds other numbers
            (RobustBench's `mu` and `sigma`, which `state_dict.moments` reads) is refused.

    Returns:
        `{"params": ..., "batch_stats": ...}`, float32, for `Model.apply`.

    Raises:
        BadInput: a file or a network that is not read; an array that is missing, left over, of another shape, of
            integers, or not finite; a running variance below 0; images normalised by other numbers.
    """
    module = FIXED[name](num_classes=num_classes, mean=mean, std=std) if name in FIXED else None
    return converted(read(path), module, image_shape, name=name)


def converted(
    arrays: Mapping[str, np.ndarray], module: nn.Module | None, image_shape: tuple[int, int, int], *, name: str
) -> dict[str, PyTree]:
    """A state dict's arrays as the variables of a module, of which `name` speaks in errors."""
    module, names = _readable(module, name)
    _check_moments(module, moments(arrays, image_shape[-1]), name)
    init = functools.partial(module.init, train=False)
    wanted: Any = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(wanted)
    left, stripped = unwrapped(arrays)
    left = {key: array for key, array in left.items() if not key.startswith(UNUSED.get(type(module), ()))}
    if stripped:
        log.info("%s: taken off the names of arrays: %s", name, stripped)
    note = f" (taken off the names of arrays: {stripped})" if stripped else ""
    found: dict[tuple[str, ...], jax.Array] = {}
    for leaf, shape in flat.items():
        key = one_spelling(_key(names, leaf))
        if key not in left:
            raise BadInput(f"{key} is missing for {name}{note}{nearest(key, left, most=3)}")
        array = left.pop(key)
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if array.shape != shape.shape:
            raise BadInput(f"{key} is of shape {array.shape}, channels last; accepted by {name}: {shape.shape}")
        found[leaf] = _numbers(key, array, name)
    if left:
        raise BadInput(f"{name} has no place for {', '.join(left)}{note}; accepted: the arrays of its state dict alone")
    return traverse_util.unflatten_dict(found)


def _check_moments(module: Any, stored: dict[str, tuple[float, ...]], name: str) -> None:
    """Refuse to hand over weights that were trained on images normalised in another way."""
    for which, numbers in stored.items():
        given = getattr(module, which)
        if given is None or not np.allclose(given, numbers, rtol=1e-5, atol=1e-6):
            raise BadInput(
                f"{which}={given} of {name}, whose state dict normalises images by {which}={numbers}; accepted: those"
            )


def _numbers(key: str, array: np.ndarray, name: str) -> jax.Array:
    """An array in float32; refuses what is no weight's."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        # Codes of a quantised network, whose scales lie elsewhere, are no weights.
        raise BadInput(f"{key} is of {array.dtype}; accepted by {name}: floats, such as float32")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise BadInput(f"{key} is not finite; accepted by {name}: finite numbers")
    if key.endswith("running_var") and array.min() < 0:
        raise BadInput(f"{key} has {float(array.min()):g}; accepted by {name}: variances, which are 0 or more")
    return jnp.asarray(array)


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
    names = names_of(module)
    if module is None or names is None:
        raise BadInput(f"name={name!r}; accepted: ResNets, wide and pre-activation ResNets, VGGs, mobilenet_v2_cifar")
    return module, names


def _key(names: Names, leaf: tuple[str, ...]) -> str:
    return f"{names['/'.join(leaf[1:-1])]}.{_LEAVES[leaf[-1]]}"


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


READABLE = tuple(name for name, module in FIXED.items() if names_of(module(num_classes=2)))
"""The networks that `from_torch` and `to_torch` know."""

"""Weights from PyTorch and back: state dicts in .npz or .safetensors files, here `{"params": ..., "batch_stats": ...}`.

From PyTorch, `numpy.savez(path, **{name: array.numpy() for name, array in model.state_dict().items()})` writes the
first and `safetensors.torch.save_file(model.state_dict(), path)` the second; files made by pickle are not read, since
opening one runs what its author wrote.
"""

import functools
import itertools
import logging
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from safetensors import SafetensorError, deserialize

from kdjax.models.resnet import ResNet
from kdjax.models.vgg import VGG
from kdjax.models.wrn import WideResNet
from kdjax.models.zoo import FIXED
from kdjax.types import BadInput, PyTree, nearest

log = logging.getLogger("kdjax.models")

Names = dict[str, str]
"""A layer of ours, such as `block1/conv1`, to PyTorch's name of it."""


def from_torch(
    path: str | Path, name: str, *, num_classes: int, image_shape: tuple[int, int, int]
) -> dict[str, PyTree]:
    """The variables of a network of `create` from a PyTorch network's state dict.

    CIFAR ResNets, wide ResNets and VGGs under the names of contrastive representation distillation's code; ImageNet's
    ResNets under torchvision's; those for CIFAR and the pre-activation ResNet-18 with `shortcut` and `linear` too.

    Args:
        path: a .npz or .safetensors file of arrays by their names in the state dict, of any kind of float. A prefix
            that all names share (`model.`, `net.` ...) is taken off, that of a wrapper (`module.`, `_orig_mod.`) at
            any place; the log says which.
        name: the network's name.
        num_classes: number of logits.
        image_shape: height, width and channels.

    Returns:
        `{"params": ..., "batch_stats": ...}`, float32, for `Model.apply`.

    Raises:
        BadInput: a file or a network that is not read; an array that is missing, left over, of another shape, of
            integers, or not finite; a running variance below 0.
    """
    module = FIXED[name](num_classes=num_classes) if name in FIXED else None
    return converted(read(path), module, image_shape, name=name)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz or .safetensors file by name."""
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".npz", ".safetensors"):
        raise BadInput(f"path={str(path)!r}; accepted: an existing .npz or .safetensors file")
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        held = deserialize(path.read_bytes())
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error, SafetensorError) as error:
        raise BadInput(f"path={str(path)!r} is damaged or holds what is no array ({error})") from None
    return {name: _array(name, described) for name, described in held}


_KINDS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "F8_E4M3FNUZ": jnp.float8_e4m3fnuz,
    "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""Of the safetensors format; its own reader for numpy knows no float of 8 bits."""


def _array(name: str, described: Mapping[str, Any]) -> np.ndarray:
    kind = described["dtype"]
    if kind not in _KINDS:
        raise BadInput(f"{name} is of {kind}; accepted: {', '.join(_KINDS)}")
    return np.frombuffer(described["data"], np.dtype(_KINDS[kind])).reshape(described["shape"])


def converted(
    arrays: Mapping[str, np.ndarray], module: nn.Module | None, image_shape: tuple[int, int, int], *, name: str
) -> dict[str, PyTree]:
    """A state dict's arrays as the variables of a module, of which `name` speaks in errors."""
    module, names = _readable(module, name)
    init = functools.partial(module.init, train=False)
    wanted: Any = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(wanted)
    left, stripped = _unwrapped(arrays)
    if stripped:
        log.info("%s: taken off the names of arrays: %s", name, stripped)
    note = f" (taken off the names of arrays: {stripped})" if stripped else ""
    found: dict[tuple[str, ...], jax.Array] = {}
    for leaf, shape in flat.items():
        key = _plain(_key(names, leaf))
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
    if module is None or type(module) not in _NAMES:
        raise BadInput(f"name={name!r}; accepted: ResNets, wide and pre-activation ResNets, and VGGs")
    return module, _NAMES[type(module)](module)


def _key(names: Names, leaf: tuple[str, ...]) -> str:
    return f"{names['/'.join(leaf[1:-1])]}.{_LEAVES[leaf[-1]]}"


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DataParallel, torch.compile and their kin put before the names of what they wrap, a layer or the network."""


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """A state dict under the names of the network itself, without BatchNorm's counters; and what was taken off."""
    parts = {key: key.split(".") for key in arrays if not key.endswith("num_batches_tracked")}
    wrappers = [word for word in _WRAPPERS if any(word in words for words in parts.values())]
    bare = {key: [word for word in words if word not in _WRAPPERS] for key, words in parts.items()}
    # The last two words name a layer and its array.
    places = zip(*(words[:-2] for words in bare.values()), strict=False)
    shared = [place[0] for place in itertools.takewhile(lambda place: len(set(place)) == 1, places)]
    left: dict[str, np.ndarray] = {}
    for key, words in bare.items():
        plain = _plain(".".join(words[len(shared) :]))
        if plain in left:
            raise BadInput(f"{plain} is there twice, the second time as {key}; accepted: one network's state dict")
        left[plain] = arrays[key]
    return left, ", ".join(f"{word}." for word in (*wrappers, ".".join(shared)) if word)


def _plain(key: str) -> str:
    """Names that differ between repositories, made one."""
    key = key.replace("convShortcut.", "downsample.0.").replace("shortcut.", "downsample.")
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

"""A PyTorch network's state dict as it lies in a file: its arrays, without the prefixes that wrappers add."""

import itertools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np
from numpy.lib.npyio import NpzFile
from safetensors import SafetensorError, deserialize

from kdjax.files import typed_path
from kdjax.types import BadInput


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz or .safetensors file by name."""
    path = typed_path(path)
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".npz", ".safetensors"):
        pickled = ", as safetensors.torch.save_file(state_dict, FILE) writes it" if suffix in _PICKLED else ""
        raise BadInput(f"path={str(path)!r}; accepted: an existing .npz or .safetensors file{pickled}")
    try:
        if suffix == ".npz":
            # numpy.load would take a single array under this name too.
            with path.open("rb") as opened, NpzFile(opened, allow_pickle=False) as arrays:
                return dict(arrays)
        held = deserialize(path.read_bytes())
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error, SafetensorError) as error:
        raise BadInput(f"path={str(path)!r} is damaged or holds what is no array ({error})") from None
    return {name: _array(name, described) for name, described in held}


_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".pkl")
"""Suffixes of what PyTorch saves."""

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


_MOMENTS = {"mu": "mean", "mean": "mean", "sigma": "std", "std": "std"}
"""RobustBench's names of what a network normalises its images with, to ours."""


def moments(arrays: Mapping[str, np.ndarray], channels: int) -> dict[str, tuple[float, ...]]:
    """What the network normalises images with, by channel, as its state dict says: `{"mean": ..., "std": ...}`, or {}.

    >>> moments({"model.mu": np.float32([[[0.4914]], [[0.5]]]), "model.sigma": np.ones((1, 1))}, 2)
    {'mean': (0.4914, 0.5), 'std': (1.0, 1.0)}

    Raises:
        BadInput: one without the other, two of a kind, or another count than that of the channels.
    """
    found: dict[str, tuple[float, ...]] = {}
    for key, array in arrays.items():
        name = _MOMENTS.get(key.rpartition(".")[2])
        if name is None:
            continue
        # The shortest decimals that are this float32.
        numbers = tuple(float(str(number)) for number in np.asarray(array, np.float32).ravel())
        numbers = numbers * channels if len(numbers) == 1 else numbers
        if name in found or len(numbers) != channels:
            raise BadInput(
                f"{key} is the {name} of {len(numbers)} channels, {'the second one' if name in found else 'alone'}; "
                f"accepted: one {name}, of {channels} channels"
            )
        found[name] = numbers
    if len(found) == 1:
        raise BadInput(f"the state dict has {', '.join(found)} of images alone; accepted: mean and std, or neither")
    return found


_COUNTERS = ("num_batches_tracked", "n_averaged")
"""What BatchNorm and averages of weights (`AveragedModel`) count, and no answer reads."""

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DataParallel, torch.compile and their kin put before the names of what they wrap, a layer or the network."""


def unwrapped(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The layers of a state dict under the names of the network itself, without counters; and what was taken off."""
    parts = {key: key.split(".") for key in arrays if key.rpartition(".")[2] not in (*_COUNTERS, *_MOMENTS)}
    wrappers = [word for word in _WRAPPERS if any(word in words for words in parts.values())]
    bare = {key: [word for word in words if word not in _WRAPPERS] for key, words in parts.items()}
    # The last two words name a layer and its array.
    places = zip(*(words[:-2] for words in bare.values()), strict=False)
    shared = [place[0] for place in itertools.takewhile(lambda place: len(set(place)) == 1, places)]
    left: dict[str, np.ndarray] = {}
    for key, words in bare.items():
        plain = one_spelling(".".join(words[len(shared) :]))
        if plain in left:
            raise BadInput(f"{plain} is there twice, the second time as {key}; accepted: one network's state dict")
        left[plain] = arrays[key]
    return left, ", ".join(f"{word}." for word in (*wrappers, ".".join(shared)) if word)


def one_spelling(key: str) -> str:
    """Names that differ between repositories, made one."""
    key = key.replace("convShortcut.", "downsample.0.").replace("shortcut.", "downsample.")
    return "fc." + key.removeprefix("linear.") if key.startswith("linear.") else key

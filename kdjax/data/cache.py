"""Decoded data sets on disk, so that only the first run waits for PNG and JPEG."""

import hashlib
import os
import uuid
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def directory() -> Path:
    """`$KDJAX_CACHE`, or else `~/.cache/kdjax/data`. Everything in it can be deleted at any time."""
    return Path(os.environ.get("KDJAX_CACHE") or "~/.cache/kdjax/data").expanduser()


def fingerprint(folder: Path) -> str:
    """Twelve hexadecimal digits that change when a file of the folder is written, added or removed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    seen = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:12]


def cached(
    key: str, shapes: Mapping[str, tuple[int, ...]], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays from the cache, or else made now and written to it.

    The cache only ever saves time: a damaged file gives a warning and is made again, a folder that cannot be written
    to gives a warning. Writing is atomic, so that processes that start together do not read each other's halves.

    Args:
        key: what tells these arrays from all others; the name of the file.
        shapes: the arrays that must come back, and their shapes.
        make: makes them.
    """
    path = directory() / f"{key}.npz"
    if path.exists():
        try:
            return _read(path, shapes)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            warnings.warn(f"damaged cache file {path} ({error}): decoding again", stacklevel=2)
    arrays = make()
    unfinished = path.with_name(f"{key}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(unfinished, path)
    except OSError as error:
        warnings.warn(
            f"cannot write {path} ({error}): decoding at every start; $KDJAX_CACHE names another folder",
            stacklevel=2,
        )
        if unfinished.exists():
            unfinished.unlink()
    return arrays


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {name: file[name] for name in shapes}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape} instead of {shape}")
    return arrays

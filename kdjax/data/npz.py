"""Data sets in a file of numpy's: `--dataset=npz:FILE` reads one, `save` writes one, such as attacked images.

The file holds, for each of its splits, `NAME_inputs [N, H, W, C]`, uint8 or float32 in [0, 1], and `NAME_label [N]`,
whole numbers below `num_classes`, which it holds too (-1: not known). `made_by`, a text of JSON, says what made it.

    numpy.savez("mine.npz", train_inputs=a, train_label=b, test_inputs=c, test_label=d, num_classes=10)
"""

import io
import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from kdjax.data import splits
from kdjax.data.source import Source, validate
from kdjax.files import typed_path, write_whole
from kdjax.types import BadInput

log = logging.getLogger("kdjax.data")

PREFIX = "npz:"
"""What `--dataset` begins with."""


def load(path: str | Path, split: str) -> Source:
    """A split of a file, or a slice of one.

    Args:
        path: of the file.
        split: the name of one of its splits, or a slice of it, such as `test[:80%]`.

    Raises:
        BadInput: no such file or split, a damaged file, an array that is missing or is not as above.
    """
    path, (base, cut) = require_npz(path), splits.parse(split)
    wanted = (f"{base}_inputs", f"{base}_label", "num_classes")
    held, found = _read(path, (*wanted, "made_by"))
    names = [name.removesuffix("_inputs") for name in held if name.endswith("_inputs")]
    if base not in names:
        among = f"{', '.join(names)}, or a slice of one" if names else "NAME_inputs and NAME_label in the file"
        raise BadInput(f"split={split!r} of {path}; accepted: {among}")
    for name in wanted:
        if name not in held:
            raise BadInput(f"{path} has {', '.join(held)}; accepted: {', '.join(wanted)} too")
    inputs, label, classes = (found[name] for name in wanted)
    if classes.shape or not np.issubdtype(classes.dtype, np.integer) or classes < 2:
        raise BadInput(f"num_classes of {path} is {classes}; accepted: one whole number, 2 or more")
    whole = validate(Source({"inputs": inputs, "label": label}, int(classes), f"{path.name}/{split}"))
    if "made_by" in found:
        log.info("%s was made by %s", path, found["made_by"])
    rows = whole.select(np.arange(len(whole))[cut(len(whole))])
    return rows.with_column("label", rows.labels().astype(np.int32))


def save(
    path: str | Path, split: str, inputs: np.ndarray, label: np.ndarray, num_classes: int, made_by: Mapping[str, Any]
) -> None:
    """Write a file of one split that `load` reads.

    Args:
        path: of the file, which is replaced.
        split: its name; of a slice, the name of what it is a slice of.
        inputs: `[N, H, W, C]`.
        label: `[N]`.
        num_classes: K.
        made_by: what made it, such as the command.

    Raises:
        BadInput: a path that is no .npz file's, or arrays that `load` would refuse.
    """
    base = splits.parse(split)[0]
    validate(Source({"inputs": inputs, "label": label}, num_classes, str(path)))
    arrays: dict[str, Any] = {f"{base}_inputs": inputs, f"{base}_label": label.astype(np.int32)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, num_classes=num_classes, made_by=json.dumps(made_by))
    write_whole(require_npz(path, new=True), file.getvalue())


def made_by(path: str | Path) -> dict[str, Any]:
    """What a file says made it; nothing where it does not say.

    Raises:
        BadInput: no such file, or a damaged one.
    """
    _, found = _read(require_npz(path), ("made_by",))
    try:
        return dict(json.loads(str(found.get("made_by", "{}"))))
    except (ValueError, TypeError):
        return {}


def attacked(dataset: str) -> bool:
    """Whether a data set, as `--dataset` says it, is a file of attacked images."""
    return dataset.startswith(PREFIX) and "attacks" in made_by(dataset.removeprefix(PREFIX))


def _read(path: Path, wanted: tuple[str, ...]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of all arrays of a file, and those that are wanted."""
    try:
        # numpy.load would take a single array under this name too.
        with path.open("rb") as opened, NpzFile(opened, allow_pickle=False) as file:
            return sorted(file.files), {name: file[name] for name in wanted if name in file}
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} is damaged, or holds what is no array ({error}); accepted: a whole .npz file") from None


def require_npz(path: str | Path, *, new: bool = False) -> Path:
    """A file's path; refuses one that is no .npz file's, or whose folder, or that itself unless `new`, is not there."""
    file = typed_path(path)
    there = file.parent.is_dir() and not file.is_dir() if new else file.is_file()
    if file.suffix.lower() != ".npz" or not there:
        if new:
            raise BadInput(f"{str(path)!r}; accepted: a .npz file in a folder that exists")
        raise BadInput(f"dataset={PREFIX}{path}; accepted: a .npz file that is there")
    return file

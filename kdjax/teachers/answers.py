"""What a teacher says of a data set: computed once, kept in a folder, and refused where it would not be the same again.

    FOLDER/answers.json    the key; size and SHA-256 of each file below
    FOLDER/index.npy       [N] the examples' places in their data set, by which answers are found
    FOLDER/shown.npy       [N] CRC-32 of the image that the teacher was shown
    FOLDER/<column>.npy    [N, ...] such as teacher_logits; read through a memory map

The key is whatever decides the numbers: data set, teacher (`checksum`), view of the images (augmentation, its key and
epoch), numeric precision. Rows are appended to FOLDER.part, which becomes FOLDER when it is whole: a run that was
killed leaves nothing that could be taken for answers, and the next one goes on behind the last row.
"""

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from jaxtyping import Integer, UInt32

from kdjax.data.source import Examples, Source, unit_interval
from kdjax.files import LOST, NotSaved, to_json, typed_path, write_whole
from kdjax.types import BadInput, PyTree

Compute = Callable[[int], Iterable[Mapping[str, np.ndarray]]]
"""`compute(first)` yields columns of examples first, first + 1, ..., some at a time, and `image`, as it was shown:
float32 before any augmentation, of which only a checksum is kept."""

CHECKED = 256
"""Images compared with those that a teacher was shown, where comparing means decoding; in memory all are."""

_WHOLE, _BEGUN = "answers.json", "begun.json"


def checksum(variables: PyTree) -> str:
    """SHA-256 over every array's name, type, shape and bytes.

    >>> checksum({"a": np.zeros(2)}) == checksum({"b": np.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def stored(
    folder: str | os.PathLike[str],
    key: Mapping[str, Any],
    source: Examples,
    compute: Compute,
    *,
    index: Integer[np.ndarray, " examples"] | None = None,
) -> dict[str, np.ndarray]:
    """The answers for a data set, from the folder or else computed now and written to it.

    Processes that ask for the same folder at the same time wait for the one that computes.

    Args:
        folder: one teacher's answers to one data set; made if it is missing.
        key: all that decides the numbers, as JSON values. Names are free; they are what a message shows.
        source: the examples that answers are wanted for.
        compute: called where the folder has no answers, with the number of rows that are there already.
        index: each example's place in the data set that the key names; by default 0, 1, ... A part of what is there,
            or another order of it, gets its own rows.

    Returns:
        Column by column, row i for example i: a view of the file where the examples lie there side by side in this
        order, otherwise a copy.

    Raises:
        BadInput: the folder has answers of another key, to other images or not to all examples, or is damaged, or
            cannot be written, or holds something else.
        Diverged: a number of the key is not finite.
        NotSaved: there is no room; the next call goes on behind the last whole row.
    """
    folder = typed_path(folder).absolute()
    index = np.arange(len(source)) if index is None else index.astype(np.int64)
    if len(index) != len(source) or len(np.unique(index)) != len(index):
        raise BadInput(f"index has {len(np.unique(index))} numbers; accepted: {len(source)}, one per example")
    key = _as_read(key)
    if not (folder / _WHOLE).exists():
        try:
            _write(folder, key, index, compute)
        except OSError as error:
            if error.errno in LOST:
                raise NotSaved(str(folder), str(error.strerror)) from error
            raise BadInput(f"{folder}: cannot be written ({error}); accepted: a folder of yours") from error
    return _read(folder, key, index, source)


def refuse_stale(folder: str | os.PathLike[str], key: Mapping[str, Any]) -> None:
    """Refuse a folder whose answers have another key; one without answers passes. Reads no answers.

    Raises:
        BadInput: as `stored`; the message shows each difference.
    """
    folder = typed_path(folder).absolute()
    if (folder / _WHOLE).exists():
        _description(folder, _as_read(key))


def _as_read(key: Mapping[str, Any]) -> dict[str, Any]:
    """The key as a file gives it back: tuples are lists."""
    return json.loads(to_json(key, "key"))


def _description(folder: Path, key: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        described = json.loads((folder / _WHOLE).read_text())
        theirs, files = dict(described["key"]), dict(described["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, _WHOLE, str(error)) from None
    pairs = {n: (theirs.get(n, "(absent)"), key.get(n, "(absent)")) for n in sorted(theirs.keys() | key.keys())}
    changed = [f"  {name}: {was!r} there, {now!r} now" for name, (was, now) in pairs.items() if was != now]
    if changed:
        listed = "\n".join(changed)
        raise BadInput(
            f"{folder} holds a teacher's answers that are not these:\n{listed}\naccepted: another folder, or none"
        )
    return files


def _damaged(folder: Path, name: str, how: str) -> BadInput:
    return BadInput(f"{folder / name} is damaged ({how}); delete {folder}, and the answers are computed again")


def _read(
    folder: Path, key: Mapping[str, Any], index: Integer[np.ndarray, " examples"], source: Examples
) -> dict[str, np.ndarray]:
    columns = {}
    for name, facts in _description(folder, key).items():
        try:
            if _facts(folder / name) != facts:
                raise ValueError("its size or SHA-256 is not what was written")
            columns[name.removesuffix(".npy")] = np.load(folder / name, mmap_mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise _damaged(folder, name, str(error)) from None
    if not {"index", "shown"} < columns.keys():
        raise _damaged(folder, _WHOLE, f"it names {sorted(columns)}")
    rows = _rows(folder, columns.pop("index"), index)
    columns = {name: column[rows] for name, column in columns.items()}
    _refuse_other_images(folder, columns.pop("shown"), index, source)
    return columns


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def _rows(folder: Path, there: np.ndarray, index: np.ndarray) -> slice | np.ndarray:
    """Where the examples' answers are."""
    order = np.argsort(there)
    rows = order[np.minimum(np.searchsorted(there, index, sorter=order), len(there) - 1)]
    missing = index[there[rows] != index]
    if len(missing):
        raise BadInput(
            f"{folder} has answers for {len(there)} examples, and not for {len(missing)} of these {len(index)}, such "
            f"as number {missing[0]}; accepted: examples among those, or another folder"
        )
    side_by_side = (rows == rows[0] + np.arange(len(rows))).all()
    return slice(int(rows[0]), int(rows[0]) + len(rows)) if side_by_side else rows


def _refuse_other_images(folder: Path, shown: np.ndarray, index: np.ndarray, source: Examples) -> None:
    every = isinstance(source, Source)
    places = np.arange(len(source)) if every else np.unique(np.linspace(0, len(source) - 1, CHECKED).astype(int))
    for part in np.array_split(places, -(-len(places) // 1000)):
        wrong = part[_crc(unit_interval(source[part]["inputs"])) != shown[part]]
        if len(wrong):
            raise BadInput(
                f"{folder}: example {index[wrong[0]]} was another image when the teacher answered; accepted: the same "
                "data set in the same order and size, or another folder"
            )


def _crc(image: np.ndarray) -> UInt32[np.ndarray, " batch"]:
    return np.array([zlib.crc32(one.tobytes()) for one in image], np.uint32)


def _write(folder: Path, key: Mapping[str, Any], index: np.ndarray, compute: Compute) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} holds something else; accepted: a folder that is empty or not there")
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    with _alone(part):
        if (folder / _WHOLE).exists():  # another process wrote them while this one waited
            return
        _begin(part, {"key": key, "index": hashlib.sha256(index.tobytes()).hexdigest()}, index)
        _fill(part, len(index), compute)
        described = {"key": key, "files": {file.name: _facts(file) for file in sorted(part.glob("*.npy"))}}
        write_whole(part / _WHOLE, to_json(described, _WHOLE, indent=2) + "\n")
        os.replace(part, folder)
        (folder / _BEGUN).unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process holds the folder. The system lets go of it however a process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _begin(part: Path, claim: dict[str, Any], index: np.ndarray) -> None:
    """Leave what an earlier process wrote of these very answers, and nothing else."""
    try:
        before = json.loads((part / _BEGUN).read_text())
    except FileNotFoundError:
        before = None
        if foreign := [file.name for file in part.iterdir() if file.suffix != ".part"]:
            raise BadInput(f"{part} holds {foreign[0]}; accepted: a folder that is not there") from None
    except ValueError:
        before = None
    if before != claim:
        for file in part.glob("*.npy"):
            file.unlink()
        write_whole(part / _BEGUN, to_json(claim, _BEGUN, indent=2) + "\n")
    np.save(part / "index.npy", index)


def _fill(part: Path, examples: int, compute: Compute) -> None:
    """Append rows until there are as many as examples."""
    files = [file for file in part.glob("*.npy") if file.name != "index.npy"]
    done = min(map(_rows_written, files), default=0)
    with ExitStack() as stack:
        opened: dict[str, BinaryIO] = {}
        for chunk in compute(done) if done < examples else ():
            arrays = {name: np.ascontiguousarray(array) for name, array in chunk.items() if name != "inputs"}
            arrays["shown"] = _crc(chunk["inputs"])
            if not opened:
                # Every file begins before any has a row: rows in one are proof of all the others.
                for name, array in arrays.items():
                    opened[name] = stack.enter_context(_open(part / f"{name}.npy", array, examples, done))
            for name, array in arrays.items():
                opened[name].write(array.tobytes())
                opened[name].flush()
            done += len(chunk["inputs"])
        for file in opened.values():
            os.fsync(file.fileno())
    if done != examples:
        raise BadInput(f"compute yielded {done} rows; accepted: {examples}, one per example")


def _open(file: Path, array: np.ndarray, examples: int, done: int) -> BinaryIO:
    """A column's file, ready for row number `done`."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
    opened = file.open("r+b" if done else "wb")
    if done:
        offset, row = _layout(opened)
        opened.seek(offset + done * row)
        opened.truncate()
    else:
        np.lib.format.write_array_header_1_0(opened, {**header, "shape": (examples, *array.shape[1:])})
        opened.flush()
    return opened


def _layout(opened: BinaryIO) -> tuple[int, int]:
    """Bytes of an npy file's header and of each of its rows."""
    np.lib.format.read_magic(opened)
    shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
    return opened.tell(), int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize


def _rows_written(file: Path) -> int:
    with file.open("rb") as opened:
        try:
            offset, row = _layout(opened)
        except ValueError:  # killed within the header
            return 0
    return (file.stat().st_size - offset) // row

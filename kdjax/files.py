"""What a run writes is whole or not there, is JSON without NaN, and is written by one process at a time."""

import errno
import fcntl
import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdjax.types import BadInput, Diverged

log = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers that say: there is no room."""

LOST = FULL | {errno.EROFS, errno.EIO, errno.ESTALE}
"""Error numbers that say: what could be written a moment ago cannot be written now."""

LOCK = ".lock"


class NotSaved(RuntimeError):
    """Something could not be written. What was saved before stands, and the same command goes on from it."""

    def __init__(self, what: str, why: str, last: str = "") -> None:
        kept = f"; last good checkpoint: {last}" if last else ""
        super().__init__(f"{what}: cannot be written ({why}){kept}. The same command goes on once it can.")


def typed_path(text: str | os.PathLike[str]) -> Path:
    """A path as people type it: `~` is a home. Nothing need be there.

    Raises:
        BadInput: a home that nobody has, or a path that the file system cannot look up.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else "nobody has that home"
        raise BadInput(f"{str(text)!r} cannot be a path ({why}); accepted: one that can be looked up") from None
    return path


def to_json(value: Any, where: str, *, indent: int | None = None) -> str:
    """JSON, in which there is no NaN and no infinity.

    Args:
        value: what `json` takes.
        where: for the message.
        indent: as of `json.dumps`.

    Raises:
        Diverged: a number in it is not finite; names its place.

    >>> to_json({"a": [1.0, 2]}, "here")
    '{"a": [1.0, 2]}'
    >>> to_json({"a": [{"nll": float("nan")}]}, "results.json")
    Traceback (most recent call last):
    ...
    kdjax.types.Diverged: results.json: a.0.nll is nan; accepted: finite numbers.
    """
    bad = next(_not_finite(value, ()), None)
    if bad:
        raise Diverged(f"{where}: {'.'.join(map(str, bad[0]))} is {bad[1]}; accepted: finite numbers.")
    return json.dumps(value, indent=indent, allow_nan=False)


def _not_finite(value: Any, at: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield at, value
    elif isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, part in pairs:
            yield from _not_finite(part, (*at, name))


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file; where that fails, the old one stands and nothing else is left."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # some file systems say only now that there is no room
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = str(path)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; where that fails, the file is as it was."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before)
        error.filename = str(path)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder that no other process holds; the system lets go of it however a process ends, kill -9 included.

    Who only reads the folder does not ask. Where the file system knows no locks, a warning says that nothing is held.

    Raises:
        BadInput: another process holds it, which is named; or the folder cannot be written.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise BadInput(
            f"--workdir={folder}: cannot be written ({error.strerror}); accepted: a folder of yours."
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise BadInput(
                f"--workdir={folder}: {holder} is running in it; accepted: another folder, or the same command once "
                "that one has ended."
            ) from None
        except OSError as error:
            log.warning("%s: its file system has no locks (%s): start no second run in it", folder, error.strerror)
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)

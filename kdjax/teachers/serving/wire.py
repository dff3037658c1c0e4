"""Images and answers as bytes: npy or JSON in, safetensors or JSON out. Nothing that comes in is unpickled or run."""

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load, save

from kdjax.data.source import unit_interval
from kdjax.types import BadInput

NPY, JSON, TENSORS = "application/x-npy", "application/json", "application/x-safetensors"
HEADER = 10_000
"""Most bytes of an npy file's header."""
CHARACTERS = 30
"""Most bytes of a number in JSON, with its comma and brackets."""


class Refused(Exception):
    """A request that is not answered and not charged: the HTTP status, a reason in one word, and a sentence."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after


def longest(media: str, shape: tuple[int, ...], most: int) -> int:
    """The most bytes that a body of `most` images may have."""
    pixels = most * math.prod(shape)
    return HEADER + pixels * (4 if media == NPY else CHARACTERS)


def pack(images: Float[np.ndarray, "batch ..."]) -> bytes:
    """Images as an npy file; as bytes where that loses nothing, a quarter of the size."""
    levels, few, exact = np.empty(images.shape, np.uint8), 64, True  # so few at a time stay in a core's cache
    for at in range(0, len(images), few):
        part = images[at : at + few]
        levels[at : at + few] = np.rint(part * np.float32(255)).clip(0, 255)
        if not (exact := np.array_equal(unit_interval(levels[at : at + few]), part)):
            break
    file = io.BytesIO()
    np.save(file, levels if exact else np.ascontiguousarray(images, np.float32))
    return file.getvalue()


def unpack(body: bytes, media: str, shape: tuple[int, ...], most: int) -> Float[np.ndarray, "batch ..."]:
    """Images `[N, *shape]`, float32 in [0, 1].

    Raises:
        Refused: what is no array, or one of another type, shape or range.
    """
    if media not in (NPY, JSON):
        raise Refused(415, "media_type", f"Content-Type {media[:80]!r}; accepted: {NPY} or {JSON}.")
    images = _from_npy(body, shape, most) if media == NPY else _from_json(body, shape, most)
    if not (images.min() >= 0 and images.max() <= 1):  # NaN is refused too
        raise Refused(422, "range", "images hold numbers outside [0, 1]; accepted: finite numbers in [0, 1].")
    return images


def _from_npy(body: bytes, shape: tuple[int, ...], most: int) -> np.ndarray:
    """The header decides before any array is made; objects, which would have to be unpickled, are refused by it."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        found, fortran, dtype = readers[version](file, max_header_size=HEADER)
    except Exception as error:  # the header is text of a stranger, and numpy raises what its parsers raise
        raise Refused(400, "malformed", f"no npy file that can be read ({type(error).__name__}).") from None
    if dtype not in (np.dtype("<f4"), np.dtype("u1")):
        raise Refused(422, "dtype", f"images of type {str(dtype)[:80]}; accepted: float32 or uint8, little-endian.")
    if fortran:
        raise Refused(422, "order", "images in Fortran's order; accepted: C's order.")
    _check_shape(found, shape, most)
    rest = len(body) - file.tell()
    if rest != math.prod(found) * dtype.itemsize:
        raise Refused(400, "malformed", f"{rest} bytes after the header; accepted: {math.prod(found) * dtype.itemsize}")
    return unit_interval(np.frombuffer(body, dtype, offset=file.tell()).reshape(found))


def _from_json(body: bytes, shape: tuple[int, ...], most: int) -> np.ndarray:
    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        given = json.loads(body, parse_constant=constant)
        nested = given["images"] if isinstance(given, dict) and given.keys() == {"images"} else None
        found = None if nested is None else np.asarray(nested)
    except (ValueError, RecursionError, OverflowError, TypeError) as error:
        raise Refused(400, "malformed", f"no JSON that can be read ({str(error)[:80]}).") from None
    if found is None:
        raise Refused(400, "malformed", 'JSON of another form; accepted: {"images": [N][H][W][C] of numbers}.')
    if found.dtype.kind not in "iuf":
        raise Refused(422, "dtype", f"images of type {str(found.dtype)[:80]}; accepted: numbers.")
    _check_shape(found.shape, shape, most)
    return found.astype(np.float32)


def _check_shape(found: tuple[int, ...], shape: tuple[int, ...], most: int) -> None:
    whole = all(type(size) is int for size in found)  # True is 1, and no size that an array can be given
    if not whole or len(found) != 1 + len(shape) or found[1:] != tuple(shape) or not 1 <= found[0] <= most:
        wanted = ", ".join(map(str, shape))
        raise Refused(422, "shape", f"images of shape {str(found)[:80]}; accepted: (1 to {most}, {wanted}).")


def pack_answer(columns: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> bytes:
    """An answer as it is kept, and sent to who asks for safetensors."""
    return save({name: np.ascontiguousarray(column) for name, column in columns.items()}, metadata=dict(facts))


def unpack_answer(body: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Columns, and what stands beside them.

    Raises:
        BadInput: other bytes.
    """
    try:
        columns = load(body)
        length = int.from_bytes(body[:8], "little")
        facts = json.loads(body[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # safetensors has an exception of its own, which is no common one's child
        raise BadInput(f"the service answers what is no safetensors file ({error}); accepted: {TENSORS}.") from None
    return columns, facts


def to_json(answer: bytes) -> bytes:
    """A kept answer as JSON."""
    columns, facts = unpack_answer(answer)
    told: dict[str, Any] = {**facts, "answers": {name: column.tolist() for name, column in columns.items()}}
    return json.dumps(told).encode()

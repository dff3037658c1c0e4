"""A data set too large for memory: records are read and decoded when a batch asks for them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from kdjax.data.source import check_column
from kdjax.types import BadInput

Record = tuple[bytes, int]
"""An encoded image (PNG, JPEG ...) and its label."""


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels of a data set's images, and what Pillow calls pixels of so many: grey, colour, colour with opacity."""

_READ = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


def decode(
    encoded: Sequence[bytes], shape: tuple[int, int, int], name: str
) -> UInt8[np.ndarray, "batch height width channels"]:
    """Encoded images as pixels of one shape.

    They are converted to the shape's channels and then resized (bilinear, each channel for itself) where they differ.
    Of 16 bits the high byte is taken, value >> 8; palettes are looked up; opacity is left out where the shape has no
    channel for it, and is 255 where the image has none. A camera's note on how to turn the picture is not followed, nor
    is it by TensorFlow's and torchvision's readers.

    Args:
        encoded: PNG, JPEG ...
        shape: height, width, and channels: 1, 3 or 4.
        name: the data set's, for errors.

    Raises:
        BadInput: a file that is no image, more pixels than Pillow thinks safe, or pixels whose range is not known
            (32-bit integers, floats).
    """
    from PIL import Image

    height, width, channels = shape
    mode, size = MODES[channels], (width, height)
    pixels = np.empty((len(encoded), height, width, channels), np.uint8)
    for row, data in zip(pixels, encoded, strict=True):
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInput(f"{name}: an image of feature 'image' cannot be read ({error})") from None
        image = _converted(image, mode, name)
        if image.size != size:
            bands = [band.resize(size, Image.Resampling.BILINEAR) for band in image.split()]
            image = Image.merge(mode, bands)
        row[...] = np.asarray(image).reshape(shape)
    return pixels


def _converted(image: Any, mode: str, name: str) -> Any:
    """A Pillow image in one of `MODES`."""
    from PIL import Image

    # Pillow cuts 16 bits off at 255 when it converts; its older versions give those of a PNG file as 32.
    if image.mode in _DEEP or (image.mode == "I" and image.format == "PNG"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in _READ:
        raise BadInput(
            f"{name}: an image of feature 'image' has Pillow's mode {image.mode!r} of unknown range; accepted: "
            f"{', '.join(_READ)} of 8 bits, and grey of 16 bits"
        )
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparent colours
    return image if image.mode == mode else image.convert(mode)


@dataclass(frozen=True, eq=False)
class Stream:
    """A data set on disk with the interface of `kdjax.data.source.Source`.

    `read(positions)` returns the records at some positions of the file; `positions [N]` says which of them this data
    set has, in which order; `columns` are held in memory and replace what is read (`label`, once some are hidden).
    """

    read: Callable[[Sequence[int]], Sequence[Record]] = field(repr=False)
    positions: Integer[np.ndarray, " examples"] = field(repr=False)
    shape: tuple[int, int, int]
    num_classes: int
    name: str
    columns: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """The rows `indices`, decoded now: `image` is uint8, `label` int32."""
        records = self.read(self.positions[indices].tolist())
        image = decode([data for data, _ in records], self.shape, self.name)
        label = np.array([number for _, number in records], np.int32)
        return {"inputs": image, "label": label} | {name: col[indices] for name, col in self.columns.items()}

    def labels(self) -> Integer[np.ndarray, " examples"]:
        """Every label, -1 where it is not known. Reads the whole set, a thousand records at a time, decoding none."""
        if "label" in self.columns:
            return self.columns["label"]
        parts = np.array_split(self.positions, -(-len(self) // 1000))
        return np.array([number for part in parts for _, number in self.read(part.tolist())], np.int32)

    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.shape

    def select(self, indices: Integer[np.ndarray, " some"]) -> "Stream":
        """The data set made of the rows `indices`, in that order."""
        columns = {name: column[indices] for name, column in self.columns.items()}
        return replace(self, positions=self.positions[indices], columns=columns)

    def with_column(self, name: str, array: np.ndarray) -> "Stream":
        """The data set with one more column, or with one replaced; it is held in memory."""
        check_column(name, array, len(self))
        return replace(self, columns={**self.columns, name: array})

"""A data set too large for memory: records are read and decoded when a batch asks for them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Integer, UInt8

from kdjax.data.source import check_column

Record = tuple[bytes, int]
"""An encoded image (PNG, JPEG ...) and its label."""


def decode(encoded: Sequence[bytes], shape: tuple[int, int, int]) -> UInt8[np.ndarray, "batch height width channels"]:
    """Encoded images as pixels of one shape, converted to grey or RGB and resized (bilinear) where they differ."""
    from PIL import Image

    height, width, channels = shape
    mode, size = "L" if channels == 1 else "RGB", (width, height)
    pixels = np.empty((len(encoded), height, width, channels), np.uint8)
    for row, data in zip(pixels, encoded, strict=True):
        image = Image.open(io.BytesIO(data))
        image = image if image.mode == mode else image.convert(mode)
        image = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
        row[...] = np.asarray(image).reshape(shape)
    return pixels


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
        image = decode([data for data, _ in records], self.shape)
        label = np.array([number for _, number in records], np.int32)
        return {"image": image, "label": label} | {name: col[indices] for name, col in self.columns.items()}

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

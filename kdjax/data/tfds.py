"""Any image set prepared by TFDS, read without TensorFlow. Preparing one needs TensorFlow, once; see `prepared.py`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax.data import cache, prepared, splits
from kdjax.data.source import Source
from kdjax.data.stream import MODES, Record, Stream, decode
from kdjax.types import BadInput

CHUNK = 1000
"""Records read at once while a whole set is decoded."""

_DECODER = 2
"""Counts the changes of `decode` that change pixels, so that no cache holds those of before."""


def load(name: str, split: str, data_dir: str = "", image_size: int = 0, memory_gb: float = 4.0) -> Source | Stream:
    """A prepared data set with the features `image` and `label`.

    Decoded images are kept in `kdjax.data.cache`, so that only the first load takes long (60,000 images of 28 x 28:
    some seconds, then a fraction of one). The key of the cache includes a fingerprint of the prepared folder.

    Args:
        name: `mnist`, `name/config`, `name:1.2.3`.
        split: see `kdjax.data.splits`.
        data_dir: where prepared sets are; "" is `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
        image_size: images are resized to this height and width (bilinear, proportions not kept); 0 leaves them.
        memory_gb: the most memory that images may take, in 10^9 bytes; above it the set is streamed.

    Raises:
        BadInput: a package, the data set, its split or one of its features is missing, its files have another format,
            or its images differ in size and `image_size` is 0. The message says what to do.
    """
    base, cut = splits.parse(split)
    tfds = prepared.package()
    found = prepared.find(name, data_dir)
    builder = tfds.builder_from_directory(found.folder)
    _check_format(builder, found, data_dir)
    if base not in builder.info.splits:
        raise BadInput(f"split={split!r} of {name}; accepted: {', '.join(builder.info.splits)}, or a slice of one")
    shape = _image_shape(tfds, builder.info.features, found.name, image_size)
    examples = builder.info.splits[base].num_examples
    part = cut(examples)
    images = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    records = builder.as_data_source(base, decoders={key: tfds.decode.SkipDecoding() for key in images})

    def read(positions: Sequence[int]) -> Sequence[Record]:
        return [(row["image"], row["label"]) for row in records.__getitems__(positions)]

    classes = builder.info.features["label"].num_classes
    stream = Stream(read, np.arange(part.start, part.stop), shape, classes, f"{found.name}/{split}")
    limit = memory_gb * 1e9 / np.prod(shape, dtype=float)
    if len(stream) > limit:
        return stream
    # The whole split is decoded if it fits, so that train[:80%] and train[80%:] share one file of the cache.
    whole = slice(0, examples) if examples <= limit else part
    positions = range(examples)[whole]
    size, stamp = "x".join(map(str, shape)), cache.fingerprint(found.folder)
    name_and_version = f"{found.name.replace('/', '+')}-{found.folder.name}"
    key = f"{name_and_version}-{base}-{whole.start}_{whole.stop}-{size}-{_DECODER}-{stamp}"
    arrays = cache.cached(
        key,
        {"inputs": (len(positions), *shape), "label": (len(positions),)},
        lambda: _decode_all(read, positions, shape, stream.name),
    )
    inside = slice(part.start - whole.start, part.stop - whole.start)
    return Source({column: array[inside] for column, array in arrays.items()}, classes, stream.name)


def _decode_all(read: Any, positions: range, shape: tuple[int, int, int], name: str) -> dict[str, np.ndarray]:
    image, label = np.empty((len(positions), *shape), np.uint8), np.empty(len(positions), np.int32)
    for start in range(0, len(positions), CHUNK):
        records = read(list(positions[start : start + CHUNK]))
        image[start : start + CHUNK] = decode([data for data, _ in records], shape, name)
        label[start : start + CHUNK] = [number for _, number in records]
    return {"inputs": image, "label": label}


def _check_format(builder: Any, found: prepared.Prepared, data_dir: str) -> None:
    info = builder.info
    formats = [form.value for form in (info.file_format, *info.alternative_file_formats)]
    if "array_record" not in formats:
        raise BadInput(
            f"dataset={found.name!r} is prepared in {found.folder} as {', '.join(formats)}; accepted: array_record, "
            f"which is read without TensorFlow. Move that folder away, or choose another data_dir, and run\n"
            f"  {prepared.command(found.name, data_dir)}"
        )


def _image_shape(tfds: Any, features: Any, name: str, image_size: int) -> tuple[int, int, int]:
    """Height, width and channels of what will be loaded; refuses what is not image classification."""
    given: dict[str, Any] = dict(features.items())
    image: Any = given.get("image")
    label: Any = given.get("label")
    classified = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    if not classified:
        kinds = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in given.items())
        raise BadInput(f"dataset={name!r} has features {kinds}; accepted: image (Image) and label (ClassLabel)")
    if image.np_dtype != np.uint8:
        raise BadInput(f"dataset={name!r}: feature 'image' is of {np.dtype(image.np_dtype)}; accepted: uint8")
    height, width, channels = image.shape
    if channels and channels not in MODES:
        raise BadInput(
            f"dataset={name!r}: feature 'image' has {channels} channels; accepted: 1 (grey), 3 (RGB) or 4 (RGBA)"
        )
    if image_size:
        height = width = image_size
    if not height or not width:
        raise BadInput(
            f"image_size=0, but the images of {name} differ in size; accepted: a size in pixels to resize to, "
            f"such as 64"
        )
    return height, width, channels or 3

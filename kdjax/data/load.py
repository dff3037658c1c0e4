"""A data set by name: the one function that experiments call."""

from kdjax.data import npz, tfds
from kdjax.data.embedded import EMBEDDED
from kdjax.data.source import Source, validate
from kdjax.data.stream import Stream
from kdjax.types import BadInput


def load(
    dataset: str, split: str, *, data_dir: str = "", image_size: int = 0, memory_gb: float = 4.0
) -> Source | Stream:
    """A data set by name: one of `kdjax.data.embedded`, a file of arrays, or any image set prepared by TFDS.

    Args:
        dataset: `digits` of scikit-learn; `npz:FILE` (`kdjax.data.npz`); or a TFDS name, such as `mnist`, `cifar10`,
            `oxford_flowers102`, `cars196:2.1.0`.
        split: see `kdjax.data.splits`.
        data_dir: where TFDS keeps prepared sets; "" is `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
        image_size: height and width to resize to, in pixels; 0 leaves images as they are.
        memory_gb: a set that needs more memory than this, in 10^9 bytes, is streamed.

    Returns:
        A `Source`, or a `Stream` if the set is too large for memory.

    Raises:
        BadInput: the set or the split cannot be had; the message says what to do.
    """
    if not split:
        raise BadInput('split="" means none: there is nothing to load; accepted: train, test, train[:80%] ...')
    if image_size < 0:
        raise BadInput(f"image_size={image_size}; accepted: 0 (as stored) or a size in pixels")
    if (named := dataset in EMBEDDED.functions) or dataset.startswith(npz.PREFIX):
        path = dataset.removeprefix(npz.PREFIX)
        found = validate(EMBEDDED.functions[dataset](split)) if named else npz.load(path, split)
        if image_size and found.image_shape()[:2] != (image_size, image_size):
            raise BadInput(f"image_size={image_size} for {dataset}, of {found.image_shape()}; accepted: 0, as stored")
        return found
    found = tfds.load(dataset, split, data_dir, image_size=image_size, memory_gb=memory_gb)
    return validate(found) if isinstance(found, Source) else found

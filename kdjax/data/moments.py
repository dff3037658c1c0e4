"""The mean and standard deviation of a data set's pixels, for networks that normalise their images."""

import functools

import numpy as np

from kdjax.data.source import Examples, unit_interval
from kdjax.types import BadInput

_AT_A_TIME = 1000


@functools.lru_cache(maxsize=1)
def channel_moments(examples: Examples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of all images in [0, 1], in float64.

    Reads the whole set, a thousand images at a time, and remembers the last one's answer.

    Args:
        examples: what is trained on; statistics of test images would let a network know them.

    Returns:
        `mean` and `std`, a number per channel each; std is the population's, divided by the number of pixels.

    Raises:
        BadInput: a channel that is the same everywhere.

    Reference:
        The numbers that the field normalises CIFAR with are these of its training split: 0.4914, 0.4822, 0.4465 and
        0.2470, 0.2435, 0.2616.
    """
    channels = examples.image_shape()[2]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for first in range(0, len(examples), _AT_A_TIME):
        rows = np.arange(first, min(first + _AT_A_TIME, len(examples)))
        pixels = unit_interval(examples[rows]["inputs"]).reshape(-1, channels)
        count += len(pixels)
        total += pixels.sum(0, dtype=np.float64)
        squares += np.square(pixels, dtype=np.float64).sum(0)
    mean = total / count
    variance = squares / count - mean**2
    if not variance.min() > 1e-12:
        raise BadInput(f"standardize: channel {int(variance.argmin())} of {examples.name} is the same in every pixel")
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())

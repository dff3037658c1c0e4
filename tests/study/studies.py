"""Studies for tests that look at shapes alone."""

from typing import Any

import numpy as np

from kdjax.data.source import Source
from kdjax.study.data import Study
from kdjax.training.record import Recorder


def study_of(shape: dict[str, Any], examples: int) -> Study:
    """A study of so many black images, which take no memory, of class 0; it is for reading and trains nothing."""
    image = np.broadcast_to(np.uint8(0), (examples, *shape["image_shape"]))
    source = Source({"inputs": image, "label": np.zeros(examples, np.int32)}, shape["num_classes"], "black")
    return Study(None, source, None, source, None, Recorder("."))

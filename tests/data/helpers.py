"""Prepared data sets for tests: the user's own where they exist, tiny made-up ones where a test needs its own."""

import io

import numpy as np
import pytest
from PIL import Image

from kdjax.data.prepared import prepared_sets


def prepared(name):
    """Skip the test, saying so, unless TFDS has prepared this set in $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    if name not in [one.name for one in prepared_sets("")]:
        pytest.skip(f"{name} is not prepared in $TFDS_DATA_DIR or ~/tensorflow_datasets")
    return name


def pixels(index, shape=(6, 5, 1)):
    """The image that `prepare` writes as example `index`."""
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    file.seek(0)
    return file


def prepare(data_dir, name="tiny", version="1.0.0", splits=None, shape=(6, 5, 1), features=None, offset=0, label=None):
    """Let TFDS itself write a small set in array_record: `splits` maps a name to a number of examples.

    `label(split, index)` is an example's, the index modulo four where nothing is said.
    """
    import tensorflow_datasets as tfds

    splits = splits or {"train": 20, "test": 8}
    found = features or {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=4),
    }
    real = [size if size is not None else 7 for size in shape]

    label = label or (lambda split, index: index % 4)

    def examples(split, count):
        for index in range(count):
            grown = [real[0] + (index if shape[0] is None else 0), *real[1:]]
            row = {"image": png(pixels(index + offset, grown)), "label": label(split, index), "note": "text"}
            yield index, {key: value for key, value in row.items() if key in found}

    members = {
        "__module__": __name__,
        "name": name,
        "VERSION": tfds.core.Version(version),
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(found)),
        "_split_generators": lambda self, dl: {split: examples(split, count) for split, count in splits.items()},
        "_generate_examples": lambda self: iter(()),
    }
    builder = type("Made" + name.title(), (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    builder(data_dir=str(data_dir), file_format="array_record").download_and_prepare()

"""The digits are always the same ones, and need nothing but scikit-learn."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdjax.data.embedded import digits
from kdjax.data.load import load
from kdjax.types import BadInput


def rows(source):
    return [image.tobytes() for image in source.arrays["inputs"]]


def test_train_and_test_share_nothing_and_miss_nothing():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    images, labels = load_digits(return_X_y=True)
    every = [(image / 16).astype(np.float32).tobytes() for image in images]
    assert sorted(rows(train) + rows(test)) == sorted(every)
    truth = dict(zip(every, labels, strict=True))
    for source in (train, test):
        assert [truth[row] for row in rows(source)] == source.labels().tolist()


def test_every_class_in_proportion():
    train, test = (np.bincount(digits(split).labels(), minlength=10) for split in ("train", "test"))
    np.testing.assert_allclose(test, (train + test) * 360 / 1797, atol=1)


def test_slices_mix_classes():
    assert set(digits("test[:60]").labels().tolist()) == set(range(10))
    assert rows(digits("train[:80%]")) + rows(digits("train[80%:]")) == rows(digits("train"))


def test_the_split_never_moves():
    # Written down on numpy 2.4.6, scikit-learn 1.9.1. If it fails, published numbers no longer compare.
    found = hashlib.sha256(b"".join(rows(digits("test")))).hexdigest()[:16]
    assert found == "65dcaf024abefc4a"


def test_nearest_class_mean():
    train, test = digits("train"), digits("test")
    x, z = (source.arrays["inputs"].reshape(len(source), -1) for source in (train, test))
    means = np.stack([x[train.labels() == number].mean(0) for number in range(10)])
    nearest = np.argmin(((z[:, None] - means[None]) ** 2).sum(-1), axis=1)
    assert 0.86 < (nearest == test.labels()).mean() < 0.94


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "valid"}, "split='valid' of digits; accepted: train, test"),
        ({"split": ""}, 'split="" means none'),
        ({"split": "train[:1438]"}, "at most 1437"),
        ({"split": "train", "image_size": 16}, r"image_size=16 for digits, of \(8, 8, 1\); accepted: 0, as stored"),
        ({"split": "train", "image_size": -1}, "image_size=-1"),
    ],
)
def test_what_cannot_be_loaded(arguments, words):
    with pytest.raises(BadInput, match=words):
        load("digits", **arguments)


def test_nothing_else_has_to_be_installed():
    code = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "array_record", "grain", "importlib_resources", "PIL"):
    sys.modules[name] = None
from kdjax.data import augment, cache, embedded, load, pipeline, prepared, source, splits, stream, tfds
from kdjax.types import BadInput
digits = load("digits", "train")
index, mask = pipeline.batches(pipeline.epoch_order(len(digits), seed=0, epoch=0), 64)
print(pipeline.take(digits, index[0], mask[0])["inputs"].shape)
try:
    load("mnist", "train")
except BadInput as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("(64, 8, 8, 1)\n")
    assert "pip install tensorflow-datasets array_record importlib_resources pillow" in ran.stdout

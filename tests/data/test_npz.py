"""Data sets in files of arrays: read back as written, split as any other, refused with what is wrong."""

import logging

import numpy as np
import pytest

from kdjax.data import npz
from kdjax.data.load import load
from kdjax.types import BadInput


def arrays(count=10, split="train"):
    random = np.random.default_rng(0)
    return {
        f"{split}_inputs": random.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8),
        f"{split}_label": random.integers(0, 4, count),
    }


@pytest.fixture
def file(tmp_path):
    def write(**changes):
        given = arrays() | arrays(6, "test") | {"num_classes": 4} | changes
        np.savez(tmp_path / "set.npz", **{name: array for name, array in given.items() if array is not None})
        return f"npz:{tmp_path / 'set.npz'}"

    return write


def test_splits_are_those_of_the_file_and_their_slices(file):
    name, given = file(), arrays(6, "test")
    whole = load(name, "test")
    assert (whole.num_classes, whole.image_shape(), len(load(name, "train"))) == (4, (4, 5, 3), 10)
    np.testing.assert_array_equal(whole.arrays["inputs"], given["test_inputs"])
    np.testing.assert_array_equal(whole.labels(), given["test_label"])
    assert whole.labels().dtype == np.int32
    part = load(name, "test[50%:]")
    np.testing.assert_array_equal(part.arrays["inputs"], given["test_inputs"][3:])
    np.testing.assert_array_equal(part.labels(), given["test_label"][3:])


def test_what_was_saved_is_read_with_what_made_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("kdjax"), "propagate", True)
    caplog.set_level(logging.INFO)
    image = np.random.default_rng(0).uniform(size=(3, 2, 2, 1)).astype(np.float32)
    npz.save(tmp_path / "a.npz", "test[:3]", image, np.array([0, 2, 1]), 3, {"command": "python -m x", "epsilon": 0.1})
    found = load(f"npz:{tmp_path / 'a.npz'}", "test")
    np.testing.assert_array_equal(found.arrays["inputs"], image)
    assert found.labels().tolist() == [0, 2, 1]
    assert '"epsilon": 0.1' in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.name != "a.npz"]


@pytest.mark.parametrize(
    ("changes", "split", "words"),
    [
        ({}, "validation", r"split='validation' of .*; accepted: test, train, or a slice of one"),
        (
            {"train_label": None},
            "train",
            "has num_classes, test_inputs, .*accepted: train_inputs, train_label, num_cla",
        ),
        ({"num_classes": None}, "train", "accepted: train_inputs, train_label, num_classes too"),
        ({"num_classes": 3}, "train", r"label runs from \d to 3; accepted: 0 to 2"),
        ({"num_classes": 1.5}, "train", "num_classes of .* is 1.5; accepted: one whole number, 2 or more"),
        ({"train_inputs": np.zeros((10, 4, 5, 3))}, "train", "inputs are float64; accepted: uint8"),
        (
            {"train_inputs": np.full((10, 4, 5, 3), 255, np.float32)},
            "train",
            "or the 255ths .* as uint8",
        ),
        ({"train_inputs": np.full((10, 4, 5, 3), 2, np.float32)}, "train", r"inputs run from 2.0 to 2.0; accepted: fl"),
        (
            {"train_inputs": np.zeros((10, 4, 5), np.uint8)},
            "train",
            r"inputs have shape \(10, 4, 5\); accepted: \[N, H",
        ),
        ({"train_inputs": np.zeros((9, 4, 5, 3), np.uint8)}, "train[:5]", "column 'inputs' has 9 rows; accepted: 10"),
        ({"train_label": np.zeros(10)}, "train", r"label is float64 of shape \(10,\); accepted: integers"),
        ({"train_inputs": None, "test_inputs": None}, "train", "accepted: NAME_inputs and NAME_label in the file"),
    ],
)
def test_files_that_are_not_such(file, changes, split, words):
    with pytest.raises(BadInput, match=words):
        load(file(**changes), split)


def test_paths_that_are_no_files(file, tmp_path):
    for name in ("none.npz", "set.csv"):
        with pytest.raises(BadInput, match=rf"{name}; accepted: a \.npz file"):
            load(f"npz:{tmp_path / name}", "train")
    (tmp_path / "junk.npz").write_text("junk")
    np.savez(tmp_path / "pickled.npz", train_inputs=np.array([{}], dtype=object))
    with (tmp_path / "array.npz").open("wb") as one:
        np.save(one, np.zeros(3))
    for name in ("junk", "pickled", "array"):
        with pytest.raises(BadInput, match=rf"{name}.npz is damaged, or holds what is no array .*; accepted: a whole"):
            load(f"npz:{tmp_path / name}.npz", "train")
    with pytest.raises(BadInput, match=r"image_size=8 for npz:.*, of \(4, 5, 3\); accepted: 0, as stored"):
        load(file(), "train", image_size=8)
    for path in (tmp_path / "set", tmp_path / "none" / "set.npz"):
        with pytest.raises(BadInput, match=r"accepted: a \.npz file in a folder that exists"):
            npz.require_npz(path, new=True)

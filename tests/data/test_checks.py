"""Splits that cannot be scored are refused by their flag; images in two splits are warned about."""

import logging

import numpy as np
import pytest

from kdjax.data import checks
from kdjax.data.load import load
from kdjax.data.source import Source
from kdjax.types import BadInput
from tests.data.helpers import prepare


def made(images, labels=None, num_classes=3):
    image = np.random.default_rng(0).integers(0, 256, (100, 2, 2, 1), np.uint8)[images]
    label = np.arange(len(images)) % 3 if labels is None else np.array(labels)
    return Source({"inputs": image, "label": label.astype(np.int32)}, num_classes, "made/test")


@pytest.fixture
def warned(caplog, monkeypatch):
    """What the log warns of, also where a command has taken the log for itself."""
    monkeypatch.setattr(logging.getLogger("kdjax"), "propagate", True)

    def run(**splits):
        caplog.clear()
        checks.warn_of_duplicates(splits)
        assert all(record.levelname == "WARNING" for record in caplog.records)
        return [record.getMessage() for record in caplog.records]

    return run


def test_labels_of_classes_are_accepted():
    checks.require_labels(made(range(3), [0, 2, 1]), flag="test_split")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([-1, -1, -1], r"3 of 3 examples of made/test .*example 0, labelled -1"),
        ([0, 2, -1], r"1 of 3 examples .*example 2, labelled -1"),
        ([0, 3, 9], r"2 of 3 examples .*example 1, labelled 3"),
    ],
)
def test_labels_that_cannot_be_scored_are_refused_by_their_flag(labels, words):
    for flag in ("test_split", "validation_split"):
        with pytest.raises(BadInput, match=rf"--{flag}: {words}.*accepted: a split whose labels all run from 0 to 2"):
            checks.require_labels(made(range(3), labels), flag=flag)


def test_a_stream_is_asked_as_well(tmp_path, cache_dir):
    prepare(tmp_path)
    stream = load("tiny", "test", data_dir=str(tmp_path), memory_gb=0.0)
    checks.require_labels(stream, flag="test_split")
    with pytest.raises(BadInput, match="--test_split: 8 of 8 examples of tiny/test"):
        checks.require_labels(stream.with_column("label", np.full(8, -1)), flag="test_split")


def test_splits_that_share_nothing_are_not_warned_about(warned):
    assert warned(train_split=made(range(50)), validation_split=None, test_split=made(range(50, 60))) == []


def test_shared_images_are_counted_by_content(warned):
    # Other labels, another order, and one image twice.
    train, test = made(range(50)), made([70, 49, 3, 3, 90], [0, 0, 0, 0, 0])
    (said,) = warned(train_split=train, validation_split=made(range(95, 99)), test_split=test)
    assert said.startswith("3 of the 5 images of --test_split looked at are images of --train_split too")


def test_every_two_splits_are_compared(warned):
    said = warned(train_split=made([0, 1, 2]), validation_split=made([2, 3]), test_split=made([3, 0, 9]))
    assert [line.split(" looked at are images of ")[0].split(" of the ")[0] for line in said] == ["1", "1", "1"]
    assert [line.split("--")[1].split()[0] for line in said] == ["validation_split", "test_split", "test_split"]


def test_a_stream_is_compared_with_memory_at_a_bounded_cost(tmp_path, cache_dir, warned, monkeypatch):
    prepare(tmp_path, splits={"train": 20, "copy": 20})
    memory = load("tiny", "train", data_dir=str(tmp_path))
    stream = load("tiny", "copy", data_dir=str(tmp_path), memory_gb=0.0)
    (said,) = warned(train_split=memory, test_split=stream)
    assert said.startswith("20 of the 20 images of --test_split")
    monkeypatch.setattr(checks, "STREAMED", 7)
    (said,) = warned(train_split=memory, test_split=stream)
    assert said.startswith("7 of the 7 images of --test_split")

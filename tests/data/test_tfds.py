"""Prepared sets: what comes back is what was written; every way to be wrong says what to do."""

import json
import shlex
import sys

import numpy as np
import pytest

from kdjax.data import splits
from kdjax.data.load import load
from kdjax.data.prepared import command, prepared_sets
from kdjax.data.source import Source, hide_labels, labelled
from kdjax.data.stream import Stream
from kdjax.types import BadInput
from tests.data.helpers import pixels, prepare, prepared


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder)
    return str(folder)


def same(source):
    """Whether rows are the images written under their labels, each once, in any order."""
    written = {pixels(index).tobytes(): index % 4 for index in range(20)}
    rows = source[np.arange(len(source))]
    assert rows["inputs"].dtype == np.uint8
    return sorted(image.tobytes() for image in rows["inputs"]) == sorted(written) and all(
        written[image.tobytes()] == label for image, label in zip(rows["inputs"], rows["label"], strict=True)
    )


def test_memory_and_stream_hold_what_was_written(made):
    memory, stream = load("tiny", "train", data_dir=made), load("tiny", "train", data_dir=made, memory_gb=0.0)
    assert isinstance(memory, Source)
    assert isinstance(stream, Stream)
    assert same(memory)
    assert same(stream)
    assert memory.num_classes == stream.num_classes == 4
    assert memory.image_shape() == stream.image_shape() == (6, 5, 1)
    chosen = np.array([7, 3, 3, 19])
    for column, rows in memory[chosen].items():
        np.testing.assert_array_equal(rows, stream[chosen][column])
    np.testing.assert_array_equal(memory.labels(), stream.labels())


@pytest.mark.parametrize("memory_gb", [4.0, 300e-9, 0.0], ids=["whole", "part", "stream"])
def test_slices_are_the_slices_of_the_whole(made, memory_gb):
    whole = load("tiny", "train", data_dir=made)
    for split in ("train[5:12]", "train[:50%]", "train[-3:]"):
        part = load("tiny", split, data_dir=made, memory_gb=memory_gb)
        cut = splits.parse(split)[1](20)
        np.testing.assert_array_equal(part[np.arange(len(part))]["inputs"], whole.arrays["inputs"][cut])
        np.testing.assert_array_equal(part.labels(), whole.labels()[cut])


def test_a_stream_can_be_changed_like_a_source(made):
    memory, stream = (hide_labels(load("tiny", "train", data_dir=made, memory_gb=gb), 8, 0) for gb in (4.0, 0.0))
    np.testing.assert_array_equal(memory.labels(), stream.labels())
    few = labelled(stream)
    assert len(few) == 8
    np.testing.assert_array_equal(few[np.arange(8)]["inputs"], labelled(memory).arrays["inputs"])
    np.testing.assert_array_equal(few[np.arange(8)]["label"], labelled(memory).arrays["label"])
    more = few.with_column("teacher_logits", np.arange(16.0).reshape(8, 2))
    np.testing.assert_array_equal(more[np.array([3])]["teacher_logits"], [[6.0, 7.0]])
    with pytest.raises(BadInput, match="7 rows; accepted: 8"):
        few.with_column("domain", np.zeros(7))


def test_images_of_many_sizes_need_one(tmp_path, cache_dir):
    prepare(tmp_path, shape=(None, None, 3))
    with pytest.raises(BadInput, match=r"image_size=0.*differ in size"):
        load("tiny", "train", data_dir=str(tmp_path))
    for memory_gb in (4.0, 0.0):
        source = load("tiny", "train", data_dir=str(tmp_path), image_size=9, memory_gb=memory_gb)
        assert source[np.arange(3)]["inputs"].shape == (3, 9, 9, 3)


def test_the_newest_version_unless_another_is_named(tmp_path, cache_dir):
    prepare(tmp_path, version="1.9.0", splits={"train": 5})
    prepare(tmp_path, version="1.10.0", splits={"train": 6})
    assert len(load("tiny", "train", data_dir=str(tmp_path))) == 6
    assert len(load("tiny:1.9.0", "train", data_dir=str(tmp_path))) == 5
    with pytest.raises(BadInput, match=r"not prepared|neither prepared"):
        load("tiny:2.0.0", "train", data_dir=str(tmp_path))


def test_other_features_are_refused_by_name(tmp_path):
    import tensorflow_datasets as tfds

    prepare(tmp_path, features={"image": tfds.features.Image(shape=(6, 5, 1)), "note": tfds.features.Text()})
    with pytest.raises(BadInput, match=r"features .*note \(Text\).*; accepted: image .* label"):
        load("tiny", "train", data_dir=str(tmp_path))


def test_another_file_format_is_refused_with_the_command(tmp_path):
    prepare(tmp_path)
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(BadInput, match=r'(?s)as tfrecord; accepted: array_record.*file_format="array_record"'):
        load("tiny", "train", data_dir=str(tmp_path))


def test_unknown_split_names_those_there_are(made):
    with pytest.raises(BadInput, match=r"split='valid' of tiny; accepted: (train, test|test, train)"):
        load("tiny", "valid", data_dir=made)
    with pytest.raises(BadInput, match="out of range"):
        load("tiny", "train[:21]", data_dir=made)


def test_a_set_not_prepared_says_what_to_run(made):
    with pytest.raises(BadInput) as caught:
        load("svhn_cropped", "train", data_dir=made)
    assert "prepared there: tiny" in str(caught.value)
    shown = str(caught.value).splitlines()[-1].strip()
    assert shown == command("svhn_cropped", made)
    code = shlex.split(shown.split("&&")[1])
    assert code[:2] == ["python", "-c"]
    compile(code[2], "shown", "exec")
    assert "svhn_cropped" in code[2]
    assert made in code[2]


@pytest.mark.parametrize(("typed", "meant"), [("mnst", "mnist"), ("digit", "digits"), ("tinny", "tiny")])
def test_an_unknown_name_is_guessed(made, typed, meant):
    with pytest.raises(BadInput, match=rf"nor known to TFDS; did you mean .*{meant}"):
        load(typed, "train", data_dir=made)
    with pytest.raises(BadInput, match="accepted: digits, NAME"):
        load("a b", "train", data_dir=made)


@pytest.mark.parametrize("absent", ["tensorflow_datasets", "array_record", "importlib_resources"])
def test_a_missing_package_is_named_with_the_command(made, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BadInput, match=rf"(?s){absent}.*pip install tensorflow-datasets"):
        load("tiny", "train", data_dir=made)


def test_data_dir_comes_from_the_environment(made, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", made)
    assert len(load("tiny", "test")) == 8


@pytest.mark.parametrize(
    ("name", "least", "most"), [("mnist", 0.80, 0.84), ("fashion_mnist", 0.66, 0.69), ("usps", 0.79, 0.85)]
)
def test_nearest_class_mean_of_a_real_set(name, least, most):
    train = load(prepared(name), "train[:7000]", memory_gb=0.01)
    test = load(name, "test")
    x, y = train.arrays["inputs"].reshape(7000, -1) / 255.0, train.labels()
    means = np.stack([x[y == number].mean(0) for number in range(10)])
    z = test.arrays["inputs"].reshape(len(test), -1) / 255.0
    nearest = np.argmin((means**2).sum(1)[None] - 2 * z @ means.T, axis=1)
    assert least < (nearest == test.labels()).mean() < most


def test_a_real_set_without_a_training_split():
    assert len(load(prepared("kmnist"), "test[:100]", memory_gb=1e-4)) == 100
    if any(list(one.folder.glob("kmnist-train*")) for one in prepared_sets("") if one.name == "kmnist"):
        pytest.skip("kmnist was prepared with its training split here")
    with pytest.raises(BadInput, match="split='train' of kmnist; accepted: test"):
        load("kmnist", "train")


def test_a_real_set_in_colour():
    source = load(prepared("cifar10"), "test[:64]", memory_gb=1e-3)
    assert source.arrays["inputs"].shape == (64, 32, 32, 3)
    assert source.num_classes == 10

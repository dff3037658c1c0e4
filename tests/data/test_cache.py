"""The cache saves time and never changes an answer."""

import os
import shutil

import numpy as np
import pytest

from kdjax.data import cache, tfds
from kdjax.data.load import load
from tests.data.helpers import pixels, prepare


@pytest.fixture
def decoded(monkeypatch):
    """How many images have been decoded so far, one entry per call."""
    calls = []
    real = tfds.decode
    monkeypatch.setattr(tfds, "decode", lambda encoded, *how: (calls.append(len(encoded)), real(encoded, *how))[1])
    return calls


def first_images(source):
    return {image.tobytes() for image in source.arrays["inputs"]}


def test_the_second_load_decodes_nothing(tmp_path, cache_dir, decoded):
    prepare(tmp_path)
    first = load("tiny", "train", data_dir=str(tmp_path))
    second = load("tiny", "train", data_dir=str(tmp_path))
    part = load("tiny", "train[10:]", data_dir=str(tmp_path))
    assert decoded == [20]
    for column, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[column])
        np.testing.assert_array_equal(array[10:], part.arrays[column])
        assert array.dtype == second.arrays[column].dtype
    assert [path.suffix for path in cache_dir.iterdir()] == [".npz"]


def test_splits_and_sizes_do_not_share_a_file(tmp_path, cache_dir, decoded):
    prepare(tmp_path, splits={"train": 8, "test": 8})
    for split, size in (("train", 0), ("test", 0), ("train", 4), ("train", 5)):
        load("tiny", split, data_dir=str(tmp_path), image_size=size)
    assert decoded == [8, 8, 8, 8]
    assert len(list(cache_dir.iterdir())) == 4


def test_a_set_prepared_again_is_not_served_stale(tmp_path, cache_dir):
    prepare(tmp_path)
    before = load("tiny", "train", data_dir=str(tmp_path))
    shutil.rmtree(tmp_path / "tiny")
    prepare(tmp_path, offset=1000)
    after = load("tiny", "train", data_dir=str(tmp_path))
    assert first_images(before) == {pixels(index).tobytes() for index in range(20)}
    assert first_images(after) == {pixels(index + 1000).tobytes() for index in range(20)}


def test_the_fingerprint_sees_every_change(tmp_path):
    (tmp_path / "a").write_text("1")
    seen = [cache.fingerprint(tmp_path)]
    (tmp_path / "b").write_text("1")
    seen.append(cache.fingerprint(tmp_path))
    (tmp_path / "b").write_text("12")
    seen.append(cache.fingerprint(tmp_path))
    os.utime(tmp_path / "b", ns=(1, 1))
    seen.append(cache.fingerprint(tmp_path))
    assert len(set(seen)) == 4
    assert cache.fingerprint(tmp_path) == seen[-1]


def _truncate(data):
    return data[: len(data) // 2]


def _flip(data):
    return data[:300] + bytes([data[300] ^ 255]) + data[301:]


def _empty(data):
    return b""


def _text(data):
    return b"not an archive"


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty, _text])
def test_a_damaged_file_is_made_again(tmp_path, cache_dir, decoded, damage):
    prepare(tmp_path)
    first = load("tiny", "train", data_dir=str(tmp_path))
    (file,) = cache_dir.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="damaged cache file"):
        second = load("tiny", "train", data_dir=str(tmp_path))
    np.testing.assert_array_equal(first.arrays["inputs"], second.arrays["inputs"])
    load("tiny", "train", data_dir=str(tmp_path))
    assert decoded == [20, 20]


def test_a_file_with_other_shapes_is_made_again(cache_dir):
    def make(size):
        return lambda: {"x": np.zeros(size)}

    cache.cached("key", {"x": (3,)}, make(3))
    with pytest.warns(UserWarning, match=r"shape \(3,\) instead of \(4,\)"):
        assert cache.cached("key", {"x": (4,)}, make(4))["x"].shape == (4,)


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    prepare(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot write"):
        source = load("tiny", "train", data_dir=str(tmp_path))
    assert first_images(source) == {pixels(index).tobytes() for index in range(20)}


def test_a_disk_that_fills_up_leaves_nothing_behind(cache_dir, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert cache.cached("key", {"x": (2,)}, lambda: {"x": np.ones(2)})["x"].sum() == 2
    assert list(cache_dir.iterdir()) == []


def test_the_folder_without_the_variable(monkeypatch):
    monkeypatch.delenv("KDJAX_CACHE")
    assert cache.directory().parts[-3:] == (".cache", "kdjax", "data")

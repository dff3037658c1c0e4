"""The table is always the same one, its units come from training rows alone, and hidden targets stay hidden."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from kdjax.data.source import Source, labelled
from kdjax.data.tabular import diabetes, from_units, hide_targets, scale_of, scaled, to_units
from kdjax.types import BadInput


def test_train_and_test_share_nothing_and_miss_nothing():
    train, test = diabetes("train"), diabetes("test")
    rows = np.concatenate([train.arrays["row"], test.arrays["row"]])
    np.testing.assert_array_equal(np.sort(rows), np.arange(442))
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    for part in (train, test):
        np.testing.assert_allclose(part.arrays["inputs"], inputs[part.arrays["row"]], rtol=1e-6)
        np.testing.assert_array_equal(part.arrays["target"][:, 0], targets[part.arrays["row"]])
    assert train.arrays["inputs"].shape == (300, 10)


def test_slices_and_the_split_never_move():
    rows = diabetes("train").arrays["row"]
    parts = [diabetes(split).arrays["row"] for split in ("train[:80%]", "train[80%:]")]
    assert [len(part) for part in parts] == [240, 60]
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    # Written down on numpy 2.4.6. If it fails, published numbers no longer compare.
    assert hashlib.sha256(diabetes("test").arrays["row"].tobytes()).hexdigest()[:16] == "206ca39bed3dc0dd"


@pytest.mark.parametrize("split", ["valid", ""])
def test_another_split_is_refused(split):
    with pytest.raises(BadInput, match=f"split='{split}' of diabetes; accepted: train, test"):
        diabetes(split)


def test_hidden_targets_are_nan_and_nested():
    train = diabetes("train")
    few, more = (hide_targets(train, keep, 3) for keep in (20, 50))
    for source, keep in ((few, 20), (more, 50)):
        known = source.labels() >= 0
        assert known.sum() == keep
        np.testing.assert_array_equal(np.isnan(source.arrays["target"][:, 0]), ~known)
        np.testing.assert_array_equal(source.arrays["target"][known], train.arrays["target"][known])
    assert set(labelled(few).arrays["row"]) < set(labelled(more).arrays["row"])
    assert set(labelled(few).arrays["row"]) != set(labelled(hide_targets(train, 20, 4)).arrays["row"])
    assert not np.isnan(train.arrays["target"]).any(), "the table it was made from is as it was"
    with pytest.raises(BadInput, match="labels=301"):
        hide_targets(train, 301, 0)


def test_units_come_from_all_inputs_and_the_known_targets():
    train = hide_targets(diabetes("train"), 30, 0)
    scale, inputs = scale_of(train), train.arrays["inputs"].astype(np.float64)
    np.testing.assert_allclose(scale.input_mean, inputs.sum(0) / 300, rtol=1e-12)
    np.testing.assert_allclose(scale.input_sd, np.sqrt(((inputs - inputs.mean(0)) ** 2).sum(0) / 300), rtol=1e-9)
    known = labelled(train).arrays["target"].astype(np.float64)
    np.testing.assert_allclose(scale.target_mean, known.sum(0) / 30, rtol=1e-12)
    np.testing.assert_allclose(scale.target_sd, np.sqrt(((known - known.mean(0)) ** 2).sum(0) / 30), rtol=1e-9)


def test_other_rows_are_put_in_the_units_of_training():
    train, test = diabetes("train"), diabetes("test")
    scale = scale_of(train)
    here, there = scaled(train, scale).arrays, scaled(test, scale).arrays
    np.testing.assert_allclose(here["inputs"].mean(0), 0, atol=1e-5)
    assert np.abs(there["inputs"].mean(0)).max() > 0.02, "not by the statistics of the test rows"
    first = (test.arrays["inputs"][0] - scale.input_mean) / scale.input_sd
    np.testing.assert_allclose(there["inputs"][0], first, rtol=1e-6)
    assert {here[name].dtype for name in ("inputs", "target")} == {np.dtype(np.float32)}
    np.testing.assert_allclose(from_units(there["target"], scale), test.arrays["target"], rtol=1e-5)


def table(inputs, target, label):
    arrays = {"inputs": np.float32(inputs), "target": np.float32(target)}
    return Source({**arrays, "label": np.int32(label)}, 1, "made up")


def test_a_constant_column_has_deviation_one():
    """Inputs 0.1 for ever, and 1, 2, 6: mean 3, variance 14/3. One known target: mean 8, deviation 1."""
    scale = scale_of(table([[0.1, 1], [0.1, 2], [0.1, 6]], [[np.nan], [8], [np.nan]], [-1, 0, -1]))
    np.testing.assert_allclose(scale.input_sd, [1, np.sqrt(14 / 3)])
    np.testing.assert_allclose(to_units(np.array([[8.0], [11.0]]), scale), [[0], [3]])


@pytest.mark.parametrize(("label", "words"), [([-1, -1], "0 finite of 0"), ([0, 0], "1 finite of 2 known targets")])
def test_no_units_from_targets_that_are_not_there(label, words):
    with pytest.raises(BadInput, match=words):
        scale_of(table([[1], [2]], [[np.nan], [8]], label))

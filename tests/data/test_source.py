"""Data sets in memory: what is refused, and the laws of hiding labels and dropping classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data.embedded import digits
from kdjax.data.source import (
    Examples,
    Source,
    drop_classes,
    hide_labels,
    labelled,
    unit_interval,
    validate,
)
from kdjax.types import BadInput


def made(image=None, label=None, classes=3, **more):
    image = np.zeros((6, 4, 4, 1), np.float32) if image is None else image
    label = np.array([0, 1, 2, 0, 1, 2]) if label is None else label
    return Source({"inputs": image, "label": label, **more}, classes, "made")


def with_pixel(value):
    image = np.full((6, 4, 4, 1), 0.5, np.float32)
    image[3, 2, 1, 0] = value
    return image


def test_no_labels_cannot_be_hidden():
    nothing = digits("test")
    nothing = nothing.with_column("label", np.full(len(nothing), -1, np.int32))
    with pytest.raises(BadInput, match=r"labels=10 of digits/test: no label is known; accepted: examples with"):
        hide_labels(nothing, 10, 0)


def test_what_is_right_comes_back_as_it_is():
    for source in (
        made(),
        made(image=np.full((6, 4, 4, 3), 255, np.uint8)),
        made(label=np.array([0, -1, 2, -1, -1, 2], np.int8)),
        made(image=with_pixel(1.0)),
        digits("test"),
    ):
        assert validate(source) is source
        assert isinstance(source, Examples)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (made(image=with_pixel(1.01)), r"inputs run from 0.5 to 1.0\d*; accepted: float32 in \[0, 1\]"),
        (made(image=with_pixel(-0.1)), "inputs run from -0.1"),
        (made(image=with_pixel(np.nan)), "nan"),
        (made(image=with_pixel(np.inf)), "inf"),
        (made(image=np.zeros((6, 16), np.float32)), r"shape \(6, 16\); accepted: \[N, H, W, C\]"),
        (made(image=np.zeros((6, 4, 4), np.uint8)), "a rank of 4"),
        (made(image=np.zeros((6, 4, 4, 1))), "inputs are float64; accepted: uint8"),
        (made(image=np.zeros((5, 4, 4, 1), np.float32)), "'inputs' has 5 rows; accepted: 6"),
        (made(label=np.zeros(6)), "label is float64"),
        (made(label=np.zeros((6, 3), int)), "accepted: integers"),
        (made(label=np.array([0, 1, 2, 3, 0, 0])), "label runs from 0 to 3; accepted: 0 to 2, or -1"),
        (made(label=np.array([0, 1, 2, -2, 0, 0])), "label runs from -2"),
        (made(np.zeros((0, 4, 4, 1), np.float32), np.zeros(0, int)), "0 rows; accepted: at least one"),
        (made(domain=np.zeros(4)), "'domain' has 4 rows"),
        (Source({"label": np.zeros(3, int)}, 3, "made"), "accepted: inputs and label among them"),
    ],
)
def test_what_is_wrong_is_named(source, words):
    with pytest.raises(BadInput, match=words):
        validate(source)


def test_rows_and_columns():
    source = digits("train").with_column("domain", np.arange(1437))
    chosen = source.select(np.array([5, 2, 2]))
    assert len(chosen) == 3
    assert chosen.arrays["domain"].tolist() == [5, 2, 2]
    np.testing.assert_array_equal(chosen[np.array([0])]["inputs"], source.arrays["inputs"][[5]])
    assert source.image_shape() == (8, 8, 1)
    with pytest.raises(BadInput, match="3 rows; accepted: 1437"):
        source.with_column("domain", np.zeros(3))


@pytest.mark.parametrize("keep", [10, 11, 100, 1000, 1437])
@pytest.mark.parametrize("seed", [0, 1])
def test_hidden_labels_are_even_and_true(keep, seed):
    source = digits("train")
    hidden = hide_labels(source, keep, seed)
    label, truth = hidden.labels(), source.labels()
    assert (label >= 0).sum() == keep
    assert ((label == truth) | (label == -1)).all()
    counts, sizes = np.bincount(label[label >= 0], minlength=10), np.bincount(truth)
    unfull = counts[counts < sizes]
    assert len(unfull) == 0 or counts.max() - unfull.min() <= 1
    np.testing.assert_array_equal(hide_labels(source, keep, seed).labels(), label)
    np.testing.assert_array_equal(hidden.arrays["inputs"], source.arrays["inputs"])
    assert len(labelled(hidden)) == keep
    assert labelled(hidden).labels().min() >= 0
    assert source.labels().min() == 0  # the original is untouched


def test_more_labels_contain_fewer_and_seeds_differ():
    kept = [set(np.flatnonzero(hide_labels(digits("train"), keep, 3).labels() >= 0)) for keep in (10, 57, 300)]
    assert kept[0] < kept[1] < kept[2]
    assert kept[1] != set(np.flatnonzero(hide_labels(digits("train"), 57, 4).labels() >= 0))


def test_the_class_that_gets_one_more_is_not_always_the_first():
    extra = {int(np.argmax(np.bincount(labelled(hide_labels(digits("train"), 11, s)).labels()))) for s in range(20)}
    assert len(extra) > 3


def test_hiding_twice_and_hiding_too_much():
    few = hide_labels(digits("train"), 100, 0)
    assert (hide_labels(few, 50, 1).labels() >= 0).sum() == 50
    for source, keep, words in (
        (few, 101, "labels=101 of .* accepted: 10 .* to 100"),
        (few, 9, "labels=9"),
        (digits("train"), 1438, "to 1437"),
    ):
        with pytest.raises(BadInput, match=words):
            hide_labels(source, keep, 0)


def test_dropping_classes_keeps_the_rest_in_order():
    source = digits("train")
    rest = drop_classes(source, (3, 7))
    kept = ~np.isin(source.labels(), (3, 7))
    np.testing.assert_array_equal(rest.arrays["inputs"], source.arrays["inputs"][kept])
    np.testing.assert_array_equal(rest.labels(), source.labels()[kept])
    assert rest.num_classes == 10
    assert (hide_labels(rest, 8, 0).labels() >= 0).sum() == 8
    with pytest.raises(BadInput, match=r"\[10\] out of range; accepted: 0 to 9"):
        drop_classes(source, (10,))
    with pytest.raises(BadInput, match="drops every example"):
        drop_classes(source, tuple(range(10)))
    with pytest.raises(BadInput, match="no label is known"):
        labelled(source.with_column("label", np.full(1437, -1)))


def test_pixels_on_the_host_and_on_the_device_agree_bit_for_bit():
    stored = np.arange(256, dtype=np.uint8)
    host, device = unit_interval(stored), jax.jit(unit_interval)(jnp.asarray(stored))
    np.testing.assert_array_equal(host, device)
    assert host.dtype == device.dtype == np.float32
    np.testing.assert_allclose(host, stored / 255, rtol=1e-6)
    assert host.max() == 1
    assert unit_interval(host) is host

"""The grammar of splits is that of TFDS, number by number."""

import pytest

from kdjax.data.splits import parse
from kdjax.types import BadInput

SPECS = [
    "train",
    "test",
    "train[:50]",
    "train[80%:]",
    "train[:50%]",
    "train[:80%]",
    "train[10:20]",
    "train[-10:]",
    "train[:-10]",
    "train[-20%:-10%]",
    "train[33%:67%]",
    "train[1_0:2_0]",
    "train[ 5 : 9 ]",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("length", [99, 101, 103, 1437])
def test_agrees_with_tfds(spec, length):
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    base, cut = parse(spec)
    template = tfds.core.ShardedFileTemplate(
        data_dir="", dataset_name="made", split=base, filetype_suffix="array_record"
    )
    info = tfds.core.SplitInfo(name=base, shard_lengths=[length], num_bytes=0, filename_template=template)
    instructions = tfds.core.SplitDict([info])[spec.replace(" ", "")].file_instructions
    taken = cut(length)
    assert sum(part.take if part.take >= 0 else length - part.skip for part in instructions) == taken.stop - taken.start
    assert instructions[0].skip == taken.start


@pytest.mark.parametrize("length", [1, 7, 10, 359, 1437, 60000])
@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_two_parts_make_the_whole(length, percent):
    def bounds(spec):
        try:
            cut = parse(spec)[1](length)
        except BadInput:
            return None
        return cut.start, cut.stop

    first, second = bounds(f"train[:{percent}%]"), bounds(f"train[{percent}%:]")
    if first is None or second is None:
        assert (first or second) == (0, length)
    else:
        assert first[0] == 0
        assert first[1] == second[0]
        assert second[1] == length


def test_both_bounds_can_be_left_out():
    assert parse("train[:]")[1](10) == slice(0, 10)


def test_none():
    base, cut = parse("")
    assert base == ""
    assert cut(100) == slice(0, 0)


@pytest.mark.parametrize(
    "spec", ["train[", "train[5]", "train[a:b]", "[:5]", "train[:5]x", "train[5.5:]", "tr ain", "train[:5%%]", " "]
)
def test_what_cannot_be_read(spec):
    with pytest.raises(BadInput, match=r"cannot be read; accepted: a split such as"):
        parse(spec)


def test_sums_of_splits_say_what_to_do():
    with pytest.raises(BadInput, match="load the two splits apart"):
        parse("train+test")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("train[5:5]", "empty split"),
        ("train[9:3]", "empty split"),
        ("train[:0%]", "empty split"),
        ("train[:-0]", "empty split"),
        ("train[10:]", "empty split"),
        ("train[11:]", "bound 11 is out of range; accepted: at most 10 "),
        ("train[-11:]", "bound -11"),
        ("train[:101%]", "at most 100%"),
    ],
)
def test_what_selects_nothing_or_too_much(spec, words):
    with pytest.raises(BadInput, match=words):
        parse(spec)[1](10)

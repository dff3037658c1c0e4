"""Laws of an epoch: everything once, nothing dropped, the same again from the same seed."""

import itertools
import threading
import time

import numpy as np
import pytest

from kdjax.data.embedded import digits
from kdjax.data.pipeline import batches, epoch_order, epoch_rows, prefetch, take
from kdjax.data.source import Source
from kdjax.types import BadInput

SIZES = [(1, 1, 1), (5, 2, 1), (5, 5, 1), (64, 64, 8), (65, 64, 8), (127, 16, 4), (360, 48, 3), (1437, 100, 2)]


@pytest.mark.parametrize(("n", "batch", "devices"), SIZES)
def test_every_example_exactly_once_in_every_epoch(n, batch, devices):
    for epoch in range(3):
        order = epoch_order(n, seed=7, epoch=epoch)
        index, mask = batches(order, batch, devices)
        assert index.shape == mask.shape == (-(-n // batch), batch)
        assert index.dtype == np.int32
        assert batch % devices == 0
        np.testing.assert_array_equal(np.sort(index[mask == 1]), np.arange(n))
        np.testing.assert_array_equal(index[mask == 1], order)
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert mask[:-1].all()
        assert index.min() >= 0
        assert index.max() < n


def test_order_is_a_function_of_seed_and_epoch():
    orders = {(s, e): tuple(epoch_order(50, seed=s, epoch=e)) for s, e in itertools.product(range(4), range(4))}
    assert len(set(orders.values())) == 16
    assert all(tuple(epoch_order(50, seed=s, epoch=e)) == order for (s, e), order in orders.items())


def test_order_does_not_change_with_the_version_of_numpy():
    # Written down on numpy 2.4.6. If it ever fails, resumed runs see other data: say so in the changelog.
    assert epoch_order(10, seed=3, epoch=1).tolist() == [4, 1, 2, 8, 5, 0, 7, 9, 6, 3]


@pytest.mark.parametrize(("n", "length"), [(7, 7), (7, 8), (7, 21), (7, 30), (1, 5)])
def test_a_longer_order_goes_round_and_round(n, length):
    order = epoch_order(n, seed=0, epoch=2, length=length)
    assert len(order) == length
    for start in range(0, length - n + 1, n):
        np.testing.assert_array_equal(np.sort(order[start : start + n]), np.arange(n))
    counts = np.bincount(order, minlength=n)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(order[:n], epoch_order(n, seed=0, epoch=2))


def test_rounds_of_a_longer_order_differ():
    order = epoch_order(50, seed=0, epoch=0, length=100)
    assert not np.array_equal(order[:50], order[50:])


@pytest.mark.parametrize(("n", "length", "batch"), [(7, None, 3), (7, 7, 7), (7, 8, 3), (7, 30, 4), (1, 5, 2)])
def test_rows_of_an_epoch_count_the_visits_of_each_example(n, length, batch):
    seen, places = set(), length or n
    for epoch in range(3):
        rows = epoch_rows(n, batch, seed=0, epoch=epoch, length=length)
        index, mask = batches(epoch_order(n, seed=0, epoch=epoch, length=length), batch)
        np.testing.assert_array_equal(rows["index"], index)
        np.testing.assert_array_equal(rows["mask"], mask)
        assert rows["epoch"].dtype == np.int32
        flat = {name: rows[name][mask == 1] for name in ("index", "epoch")}
        for visit in np.unique(flat["epoch"]):
            shown = flat["index"][flat["epoch"] == visit]
            assert len(np.unique(shown)) == len(shown) == min(n, places - (visit * n - epoch * -(-places // n) * n))
        pairs = set(zip(flat["index"].tolist(), flat["epoch"].tolist(), strict=True))
        assert len(pairs) == places
        assert not pairs & seen
        seen |= pairs
    assert {visit for _, visit in seen} == set(range(3 * -(-places // n)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n=0; accepted: at least 1"),
        ({"seed": -1}, "seed=-1; accepted: at least 0"),
        ({"epoch": -2}, "epoch=-2"),
        ({"length": 4}, "length=4; accepted: at least 5"),
    ],
)
def test_orders_that_cannot_be(arguments, words):
    given = {"n": 5, "seed": 0, "epoch": 0} | arguments
    with pytest.raises(BadInput, match=words):
        epoch_order(given.pop("n"), **given)


@pytest.mark.parametrize(
    ("batch", "devices", "words"),
    [
        (0, 1, "batch_size=0; accepted: 1 to 10"),
        (11, 1, "batch_size=11; accepted: 1 to 10"),
        (6, 4, "batch_size=6; accepted: a multiple of 4 devices, such as 8"),
        (6, 0, "multiple_of=0"),
    ],
)
def test_batches_that_cannot_be(batch, devices, words):
    with pytest.raises(BadInput, match=words):
        batches(np.arange(10, dtype=np.int32), batch, devices)


def test_take_makes_the_batch_that_types_promise():
    pixels = np.arange(0, 240, dtype=np.uint8).reshape(5, 4, 4, 3)
    source = Source({"inputs": pixels, "label": np.array([0, 1, -1, 1, 0])}, 2, "made")
    source = source.with_column("teacher_logits", np.arange(10, dtype=np.float32).reshape(5, 2))
    index, mask = batches(np.array([4, 2, 1], np.int32), 2)
    batch = take(source, index[1], mask[1])
    assert {name: (str(rows.dtype), rows.shape) for name, rows in batch.items()} == {
        "inputs": ("float32", (2, 4, 4, 3)),
        "label": ("int32", (2,)),
        "mask": ("float32", (2,)),
        "index": ("int32", (2,)),
        "teacher_logits": ("float32", (2, 2)),
    }
    np.testing.assert_allclose(batch["inputs"][0], pixels[1] / 255, rtol=1e-6)
    assert batch["mask"].tolist() == [1, 0]
    assert batch["index"].tolist() == [1, 4]
    assert batch["teacher_logits"].tolist() == [[2, 3], [8, 9]]


def test_an_epoch_of_digits_sums_to_the_whole():
    source = digits("train")
    index, mask = batches(epoch_order(len(source), seed=0, epoch=0), 100, 2)
    total = sum(
        (take(source, i, m)["inputs"] * m[:, None, None, None]).sum(0) for i, m in zip(index, mask, strict=True)
    )
    np.testing.assert_allclose(total, source.arrays["inputs"].sum(0), rtol=1e-4)


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "kdjax-prefetch"]


def until(condition):
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("size", [1, 2, 100])
def test_prefetch_changes_nothing(size):
    assert list(prefetch(range(50), size)) == list(range(50))
    assert list(prefetch([], size)) == []
    assert until(lambda: not workers())


def test_prefetch_works_ahead_by_its_size_and_no_more():
    made = []
    items = prefetch((made.append(i) or i for i in range(100)), size=3)
    assert next(items) == 0
    assert until(lambda: len(made) >= 5)
    time.sleep(0.2)
    assert len(made) == 5  # one taken, three waiting, one in hand
    items.close()


def test_prefetch_passes_exceptions_on_in_their_place():
    def items():
        yield 1
        raise KeyError("broken")

    found = prefetch(items())
    assert next(found) == 1
    with pytest.raises(KeyError, match="broken"):
        next(found)
    assert until(lambda: not workers())


def test_prefetch_stops_with_its_consumer():
    items = prefetch(itertools.count(), size=1)
    assert next(items) == 0
    assert len(workers()) == 1
    items.close()
    assert until(lambda: not workers())


def test_prefetch_refuses_no_room():
    with pytest.raises(BadInput, match="size=0"):
        prefetch(range(3), 0)

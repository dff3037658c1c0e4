"""The client's books by themselves: whose answer is whose, what counts against a budget, and how images travel."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from kdjax.data.source import Source
from kdjax.files import NotSaved
from kdjax.study import attacks
from kdjax.teachers.paid import Paid, Request
from kdjax.teachers.serving import wire
from kdjax.types import BadInput


def request(name, *asked):
    return Request(name, tuple((image.ljust(32, b"\0"), time) for image, time in asked), b"body")


def images(found):
    return {image.rstrip(b"\0"): answer for image, answer in found.items()}


def test_an_image_gets_its_own_answer_and_the_earliest(tmp_path):
    """Also where a digest's first bytes are another's too."""
    with closing(Paid(tmp_path / "paid.sqlite")) as paid:
        asked = request("1", (b"1234567a", 2), (b"1234567b", 0)), request("2", (b"1234567a", 1), (b"other", 1))
        for one, answers in zip(asked, (b"a2b0", b"a1o1"), strict=True):
            paid.open(one, 0)
            paid.settle(one, answers, 1.0)
    with closing(Paid(tmp_path / "paid.sqlite")) as paid:
        keys = [image for one in asked for image, _ in one.asked] + [b"1234567c".ljust(32, b"\0")]
        assert images(paid.known(keys)) == {b"1234567a": b"a1", b"1234567b": b"b0", b"other": b"o1"}
        assert images(paid.known(keys[1:2])) == {b"1234567b": b"b0"}
        again = request("3", (b"1234567a", 2), (b"1234567a", 1), (b"1234567a", 3), (b"1234567b", 1)).asked
        assert paid.told(again) == {again[0]: b"a2", again[1]: b"a1"}
        assert paid.known([]) == paid.told([]) == {}


def test_what_is_withdrawn_leaves_the_budget_and_what_waits_does_not(tmp_path):
    path = tmp_path / "paid.sqlite"
    with closing(Paid(path)) as paid:
        paid.open(request("1", (b"a", 0), (b"b", 0)), 3)
        with pytest.raises(BadInput, match="budget=3: 2 images are paid, and 2 more"):
            paid.open(request("2", (b"c", 0), (b"d", 0)), 3)
        paid.withdraw(request("1"))
        paid.open(request("2", (b"c", 0), (b"d", 0)), 3)
    with closing(Paid(path)) as paid:
        with pytest.raises(BadInput, match="budget=3: 2 images are paid, and 2 more"):
            paid.open(request("3", (b"e", 0), (b"f", 0)), 3)
        paid.open(request("4", (b"e", 0)), 3)
        assert [one.id for one in paid.waiting()] == ["2", "4"]


def test_a_full_disk_is_said_and_the_same_file_goes_on_once_there_is_room(tmp_path):
    with closing(Paid(tmp_path / "paid.sqlite")) as paid:
        paid.open(request("1", (b"a", 0)), 0)
        paid._db.execute("PRAGMA max_page_count = 1")
        big = request("2", (b"b", 0))._replace(body=b"x" * 100000)
        with pytest.raises(NotSaved, match=r"paid\.sqlite: cannot be written \(database or disk is full\)"):
            paid.open(big, 0)
        paid._db.execute("PRAGMA max_page_count = 100000")
        paid.open(big, 0)
        assert [one.id for one in paid.waiting()] == ["1", "2"]


def test_an_older_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "paid.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE answers (image BLOB, time INTEGER, said BLOB)")
    with pytest.raises(BadInput, match=r"paid\.sqlite: a file of an older kdjax.*accepted: another file"):
        Paid(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("answers",)]


@pytest.mark.parametrize("odd", [0, 99])
def test_stored_images_travel_as_bytes_and_one_that_is_none_keeps_its_numbers(odd):
    """As attacks and benchmarks read them; the odd one is among the first that are looked at together, or the last."""
    stored = np.arange(100 * 4, dtype=np.uint8).reshape(100, 2, 2, 1)
    read, _ = attacks.first(Source({"inputs": stored, "label": np.zeros(100, np.int32)}, 2, "some"), 100)
    assert len(wire.pack(read)) == 128 + stored.size
    read[odd, 1, 1] += np.float32(1e-4)
    np.testing.assert_array_equal(wire.unpack(wire.pack(read), wire.NPY, (2, 2, 1), 100), read)

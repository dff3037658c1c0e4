"""Stored answers are those that would be computed now, or they are refused."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from kdjax.data.augment import random_shift
from kdjax.data.pipeline import take
from kdjax.data.source import Source, unit_interval
from kdjax.data.stream import Stream
from kdjax.files import NotSaved
from kdjax.teachers import answers
from kdjax.types import BadInput, Diverged
from tests.data.helpers import pixels, png

SIZE, CLASSES = 12, 5
KEY = {"dataset": "tiny", "split": "train", "teacher": "e3b0", "view": "none", "top_k": 0, "precision": "highest"}
SOURCE = Source(
    {"inputs": np.stack([pixels(i) for i in range(SIZE)]), "label": np.arange(SIZE, dtype=np.int32) % CLASSES},
    CLASSES,
    "tiny/train",
)


class Teacher:
    """Answers three examples at a time and counts those that it was asked about."""

    def __init__(self, source=SOURCE, dies_at=None):
        self.source, self.dies_at, self.asked = source, dies_at, []

    def __call__(self, first):
        for start in range(first, len(self.source), 3):
            if self.dies_at is not None and start >= self.dies_at:
                raise KeyboardInterrupt
            rows = np.arange(start, min(start + 3, len(self.source)))
            self.asked += rows.tolist()
            image = unit_interval(self.source[rows]["inputs"])
            yield {"inputs": image, "teacher_logits": said(image), "classes": image.sum((1, 2, 3)).astype(np.int32)}


def said(image):
    """`[N, K]`, numbers that depend on the image alone."""
    weights = np.random.default_rng(0).normal(size=(image[0].size, CLASSES)).astype(np.float32)
    return np.stack([one.reshape(-1) @ weights for one in image])


EXPECTED = said(unit_interval(SOURCE.arrays["inputs"]))


def logits(folder, source=SOURCE, teacher=None, key=KEY, index=None):
    return answers.stored(folder, key, source, teacher or refuse, index=index)["teacher_logits"]


def refuse(first):
    raise AssertionError("the teacher was asked again")


def test_the_second_time_no_teacher_runs_and_the_answers_are_the_same_bit_for_bit(tmp_path):
    teacher = Teacher()
    first = answers.stored(tmp_path / "a", KEY, SOURCE, teacher)
    second = answers.stored(tmp_path / "a", KEY, SOURCE, refuse)
    assert teacher.asked == list(range(SIZE))
    assert first.keys() == second.keys() == {"teacher_logits", "classes"}
    for found in (first, second):
        assert found["teacher_logits"].dtype == np.float32
        assert found["classes"].dtype == np.int32
        assert found["teacher_logits"].tobytes() == EXPECTED.tobytes()
    assert not second["teacher_logits"].flags.owndata  # a view of the file
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("index", [[3, 4, 5], [11, 0, 5, 2], list(range(SIZE))[::-1]])
def test_a_part_or_another_order_gets_its_own_rows(tmp_path, index):
    logits(tmp_path, teacher=Teacher())
    index = np.array(index)
    np.testing.assert_array_equal(logits(tmp_path, SOURCE.select(index), index=index), EXPECTED[index])


def test_answers_of_a_part_serve_no_others(tmp_path):
    part = np.arange(4, 9)
    logits(tmp_path, SOURCE.select(part), Teacher(SOURCE.select(part)), index=part)
    np.testing.assert_array_equal(logits(tmp_path, SOURCE.select(part[1:]), index=part[1:]), EXPECTED[5:9])
    with pytest.raises(BadInput, match="5 examples, and not for 7 of these 12, such as number 0"):
        logits(tmp_path)


@pytest.mark.parametrize("name", KEY)
def test_another_key_is_refused_and_says_what_differs(tmp_path, name):
    logits(tmp_path, teacher=Teacher())
    for check in (lambda key: logits(tmp_path, key=key), lambda key: answers.refuse_stale(tmp_path, key)):
        with pytest.raises(BadInput, match=rf"\n  {name}: {KEY[name]!r} there, 'other' now\n") as info:
            check({**KEY, name: "other"})
        assert len(str(info.value).splitlines()) == 3  # nothing else is said to differ
        with pytest.raises(BadInput, match=rf"{name}: {KEY[name]!r} there, '\(absent\)' now"):
            check({n: value for n, value in KEY.items() if n != name})
    answers.refuse_stale(tmp_path, KEY)
    answers.refuse_stale(tmp_path / "nothing", KEY)


def test_a_replayed_view_has_a_key_of_its_own(tmp_path, key):
    def view(epoch):
        shifted = random_shift(
            jax.random.fold_in(key, epoch), jax.numpy.asarray(unit_interval(SOURCE.arrays["inputs"]))
        )
        return {**KEY, "view": f"random_shift(pixels=2), key 0, epoch {epoch}"}, said(np.asarray(shifted))

    for epoch in (0, 1):
        named, expected = view(epoch)
        image = unit_interval(SOURCE.arrays["inputs"])
        compute = lambda first, image=image, expected=expected: [{"inputs": image, "teacher_logits": expected}]  # noqa: E731
        logits(tmp_path / str(epoch), teacher=compute, key=named)
        np.testing.assert_array_equal(logits(tmp_path / str(epoch), key=view(epoch)[0]), view(epoch)[1])
    with pytest.raises(BadInput, match=r"view: 'random_shift\(pixels=2\), key 0, epoch 1' there"):
        logits(tmp_path / "1", key=view(0)[0])


def test_one_changed_pixel_is_refused(tmp_path):
    logits(tmp_path, teacher=Teacher())
    image = SOURCE.arrays["inputs"].copy()
    image[7, 2, 3, 0] ^= 1
    with pytest.raises(BadInput, match="example 7 was another image"):
        logits(tmp_path, SOURCE.with_column("inputs", image))
    with pytest.raises(BadInput, match="example 0 was another image"):
        logits(tmp_path, SOURCE.select(np.arange(SIZE)[::-1]))  # another order, given as the same


def test_the_checksum_sees_bytes_names_types_and_shapes():
    tree = {"a": {"w": np.ones((2, 3), np.float32)}, "b": np.zeros(2, np.int32)}
    others = [
        {**tree, "a": {"w": np.nextafter(tree["a"]["w"], np.float32(2))}},
        {**tree, "a": {"w": tree["a"]["w"].reshape(3, 2)}},
        {**tree, "a": {"v": tree["a"]["w"]}},
        {**tree, "b": np.zeros(2, np.float32)},
        {"b": tree["b"]},
    ]
    assert len({answers.checksum(t) for t in (tree, *others)}) == 6
    assert answers.checksum(jax.tree.map(jax.numpy.asarray, tree)) == answers.checksum(tree)


def _cut(data):
    return data[:-1]


def _flip_last(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def _flip_header(data):
    return data[:70] + bytes([data[70] ^ 1]) + data[71:]


def _empty(data):
    return b""


@pytest.mark.parametrize("damage", [_cut, _flip_last, _flip_header, _empty])
@pytest.mark.parametrize("name", ["teacher_logits.npy", "index.npy", "shown.npy"])
def test_a_damaged_file_is_named_and_refused(tmp_path, damage, name):
    logits(tmp_path / "a", teacher=Teacher())
    file = tmp_path / "a" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=rf"{file} is damaged .*; delete {tmp_path / 'a'}"):
        logits(tmp_path / "a")
    assert file.exists()  # nothing is thrown away unasked


def test_no_bit_of_the_description_can_flip_unseen(tmp_path):
    logits(tmp_path, teacher=Teacher())
    file = tmp_path / "answers.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 5):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
        with pytest.raises(BadInput, match=r"is damaged|there, .* now"):
            logits(tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"answers\.json is damaged"):
        logits(tmp_path)
    (tmp_path / "shown.npy").unlink()
    file.write_bytes(whole)
    with pytest.raises(BadInput, match=r"shown\.npy is damaged"):
        logits(tmp_path)


@pytest.mark.parametrize("dies_at", [0, 3, 9])
def test_a_run_that_is_stopped_leaves_no_answers_and_the_next_goes_on(tmp_path, dies_at):
    stopped, next_one = Teacher(dies_at=dies_at), Teacher()
    with pytest.raises(KeyboardInterrupt):
        logits(tmp_path / "a", teacher=stopped)
    assert not (tmp_path / "a").exists()
    for file in (tmp_path / "a.part").glob("*.npy"):  # a torn row, of some columns
        if file.name != "index.npy" and dies_at == 3:
            file.write_bytes(file.read_bytes() + b"x" * (5 if file.name < "t" else 7))
    np.testing.assert_array_equal(logits(tmp_path / "a", teacher=next_one), EXPECTED)
    assert next_one.asked == list(range(dies_at, SIZE))
    np.testing.assert_array_equal(logits(tmp_path / "a"), EXPECTED)


def test_kill_9_leaves_no_answers_and_the_next_goes_on(tmp_path):
    code = (
        "import os, signal, sys; from kdjax.teachers import answers; from tests.teachers import test_answers as t\n"
        "def dies(first):\n"
        "    for number, chunk in enumerate(t.Teacher()(first)):\n"
        "        if number == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield chunk\n"
        "answers.stored(sys.argv[1], t.KEY, t.SOURCE, dies)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "a").exists()
    teacher = Teacher()
    np.testing.assert_array_equal(logits(tmp_path / "a", teacher=teacher), EXPECTED)
    assert teacher.asked == list(range(6, SIZE))


def test_a_full_disk_is_said_and_the_next_run_goes_on_behind_the_last_row(tmp_path):
    def full(first):
        for number, chunk in enumerate(Teacher()(first)):
            if number == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield chunk

    with pytest.raises(NotSaved, match=rf"{tmp_path / 'a'}: cannot be written \(No space left on device\)"):
        logits(tmp_path / "a", teacher=full)
    teacher = Teacher()
    np.testing.assert_array_equal(logits(tmp_path / "a", teacher=teacher), EXPECTED)
    assert teacher.asked == list(range(6, SIZE))


def test_a_key_without_finite_numbers_is_refused(tmp_path):
    with pytest.raises(Diverged, match="key: temperature is nan"):
        logits(tmp_path / "a", teacher=Teacher(), key={**KEY, "temperature": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_stop_at_any_rename_is_mended(tmp_path, monkeypatch, call):
    calls, real = [], os.replace

    def stops(source, target):
        calls.append(target)
        if len(calls) == call:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stops)
        with pytest.raises(KeyboardInterrupt):
            logits(tmp_path / "a", teacher=Teacher())
    assert not (tmp_path / "a").exists()
    np.testing.assert_array_equal(logits(tmp_path / "a", teacher=Teacher()), EXPECTED)
    assert sorted(os.listdir(tmp_path / "a")) == ["answers.json", "classes.npy", "index.npy", "shown.npy",
                                                  "teacher_logits.npy"]  # fmt: skip


def test_what_an_unfinished_run_left_of_other_answers_is_not_used(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        logits(tmp_path / "a", teacher=Teacher(dies_at=6), key={**KEY, "teacher": "other"})
    teacher = Teacher(dies_at=6)
    with pytest.raises(KeyboardInterrupt):
        logits(tmp_path / "a", teacher=teacher)
    assert teacher.asked == list(range(6))
    (tmp_path / "a.part" / "begun.json").write_text("{")
    teacher = Teacher()
    np.testing.assert_array_equal(logits(tmp_path / "a", teacher=teacher), EXPECTED)
    assert teacher.asked == list(range(SIZE))


def test_processes_that_start_together_compute_once(tmp_path):
    teachers, started = [Teacher(), Teacher()], threading.Barrier(2)

    def ask(teacher):
        started.wait()
        np.testing.assert_array_equal(logits(tmp_path / "a", teacher=teacher), EXPECTED)

    threads = [threading.Thread(target=ask, args=(teacher,)) for teacher in teachers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(teacher.asked) for teacher in teachers) == [0, SIZE]


def test_other_files_are_left_alone(tmp_path):
    for folder in (tmp_path / "mine", tmp_path / "a.part"):
        folder.mkdir()
        (folder / "thesis.npy").write_text("x")
    with pytest.raises(BadInput, match="mine holds something else"):
        logits(tmp_path / "mine", teacher=Teacher())
    with pytest.raises(BadInput, match=r"a\.part holds thesis\.npy"):
        logits(tmp_path / "a", teacher=Teacher())
    with pytest.raises(BadInput, match="cannot be written"):
        logits(tmp_path / "mine" / "thesis.npy" / "a", teacher=Teacher())
    (tmp_path / "empty").mkdir()
    np.testing.assert_array_equal(logits(tmp_path / "empty", teacher=Teacher()), EXPECTED)


def test_a_teacher_that_stops_early_and_an_index_that_fits_not_are_refused(tmp_path):
    with pytest.raises(BadInput, match="compute yielded 9 rows; accepted: 12"):
        logits(tmp_path / "a", teacher=Teacher(SOURCE.select(np.arange(9))))
    for index in (np.arange(5), np.zeros(SIZE, int)):
        with pytest.raises(BadInput, match=r"index has .* accepted: 12"):
            logits(tmp_path / "b", teacher=Teacher(), index=index)


def test_several_teachers_and_a_set_that_is_streamed(tmp_path):
    """`[N, T, K]` beside images that are decoded when a batch asks for them; the batch has the right rows of both."""
    records = [(png(pixels(i)).getvalue(), i % CLASSES) for i in range(SIZE)]
    stream = Stream(lambda at: [records[i] for i in at], np.arange(SIZE), (6, 5, 1), CLASSES, "tiny/train")
    both = np.stack([EXPECTED, -EXPECTED], axis=1)

    def compute(first):
        yield {"inputs": unit_interval(stream[np.arange(first, SIZE)]["inputs"]), "teacher_logits": both[first:]}

    found = logits(tmp_path, stream, compute)
    source = stream.with_column("teacher_logits", found).select(np.array([8, 1, 4]))
    batch = take(source, np.array([2, 0], np.int32), np.ones(2, np.float32))
    np.testing.assert_array_equal(batch["teacher_logits"], both[[4, 8]])
    np.testing.assert_array_equal(batch["inputs"], unit_interval(SOURCE.arrays["inputs"][[4, 8]]))
    with pytest.raises(BadInput, match="another image"):
        logits(tmp_path, stream.select(np.arange(SIZE)[::-1]))


def test_the_description_can_be_read_by_people(tmp_path):
    logits(tmp_path, teacher=Teacher())
    described = json.loads((tmp_path / "answers.json").read_text())
    assert described["key"] == KEY
    assert described["files"]["teacher_logits.npy"]["bytes"] == (tmp_path / "teacher_logits.npy").stat().st_size
    np.testing.assert_array_equal(np.load(tmp_path / "teacher_logits.npy"), EXPECTED)

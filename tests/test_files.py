"""What is written is whole or not there, finite, and by one process at a time."""

import errno
import fcntl
import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from kdjax import files
from kdjax.types import BadInput, Diverged


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_no_json_holds_a_number_that_is_none(bad):
    with pytest.raises(Diverged, match=r"here: teacher\.1\.nll is -?(nan|inf)"):
        files.to_json({"teacher": [{"nll": 1.0}, {"nll": bad}]}, "here")


def test_what_is_finite_is_written_as_json_writes_it():
    value = {"a": [1, 2.5, None, "nan"], "b": {"c": True}}
    assert files.to_json(value, "here", indent=2) == json.dumps(value, indent=2)


class Full:
    """A file that takes half of what it is given."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def fill_disk(monkeypatch):
    opened = files.Path.open
    monkeypatch.setattr(files.Path, "open", lambda path, mode: Full(opened(path, mode)))


def test_a_file_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_text("before")
    fill_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_whole(file, "after")
    assert error.value.filename == str(file)
    monkeypatch.undo()
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a": "before"}


def test_a_line_that_does_not_fit_is_not_there_in_part(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("before\n")
    fill_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left") as error:
        files.append_line(tmp_path / "a", "line")
    assert error.value.filename == str(tmp_path / "a")
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "before\n"


HOLD = """
import sys, time
from pathlib import Path
from kdjax.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_and_not_by_a_dead_one(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(BadInput, match=rf"process {other.pid} on .* is running in it"), files.locked(tmp_path):
        pass
    other.kill()
    other.communicate()
    with files.locked(tmp_path):
        assert (tmp_path / files.LOCK).exists()
    with files.locked(tmp_path):  # let go of at the end
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with caplog.at_level(logging.WARNING), files.locked(tmp_path):
        pass
    assert "its file system has no locks (No locks available): start no second run in it" in caplog.text

"""What a run writes while it goes: metrics.jsonl, TensorBoard events, and how long each epoch took."""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from kdjax.files import append_line, to_json, write_whole

# Made when the module is loaded: a type checker does not see them.
_event, _SessionLog = (getattr(event_pb2, name) for name in ("Event", "SessionLog"))


class Recorder:
    """The rows of all runs of one working directory, one JSON object a line: `{"run": ..., "epoch": ..., ...}`."""

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        self.workdir = Path(workdir)
        self.file, self.clock = self.workdir / "metrics.jsonl", self.workdir / "seconds.jsonl"
        # Written here and not by a thread, where a full disk would be nobody's error.
        self._events: dict[str, EventsWriter] = {}

    def begin(self, run: str, done: int) -> None:
        """Start or resume a run after `done` epochs: rows beyond them, or cut short by a kill, are dropped."""
        rows = [row for row in self.rows() if row["run"] != run or row["epoch"] <= done]
        write_whole(self.file, "".join(json.dumps(row) + "\n" for row in rows))
        folder = (self.workdir / "tensorboard" / run).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._events[run] = EventsWriter(str(folder / "events"))
        # TensorBoard then hides what an earlier process wrote from this step on.
        self._events[run].write_event(_event(step=done + 1, session_log=_SessionLog(status=_SessionLog.START)))
        self._begun = time.perf_counter()

    def write(self, run: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Append one epoch's metrics; refuses a number that is not finite."""
        row = to_json({"run": run, "epoch": epoch, **metrics}, f"{run}, epoch {epoch}")
        append_line(self.file, row)
        for name, value in metrics.items():
            # TensorBoard would replace what it does not take as a name, and say so every time.
            summary = scalar(re.sub(r"[^\w./-]", "_", name), value)
            self._events[run].write_event(_event(wall_time=time.time(), step=epoch, summary=summary))
        self._events[run].flush()
        now = time.perf_counter()  # in a file of its own: a run that goes on has the metrics of one never killed
        append_line(self.clock, json.dumps({"run": run, "seconds": now - self._begun}))
        self._begun = now

    def end(self, run: str) -> None:
        """Close a run's events."""
        self._events.pop(run).close()

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows written so far."""
        return _lines(self.file)

    def seconds(self, run: str) -> float | None:
        """Of an epoch of a run, with its scores on validation images: the median, since the first one compiles.

        None where nothing was trained.
        """
        found = [row["seconds"] for row in _lines(self.clock) if row["run"] == run]
        return median(found) if found else None


def _lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the line that a kill cut short
            continue
    return rows

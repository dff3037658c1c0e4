"""What a run writes while it goes: metrics.jsonl, and TensorBoard events."""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
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
        self.file = self.workdir / "metrics.jsonl"
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

    def write(self, run: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Append one epoch's metrics; refuses a number that is not finite."""
        row = to_json({"run": run, "epoch": epoch, **metrics}, f"{run}, epoch {epoch}")
        append_line(self.file, row)
        for name, value in metrics.items():
            # TensorBoard would replace what it does not take as a name, and say so every time.
            summary = scalar(re.sub(r"[^\w./-]", "_", name), value)
            self._events[run].write_event(_event(wall_time=time.time(), step=epoch, summary=summary))
        self._events[run].flush()

    def end(self, run: str) -> None:
        """Close a run's events."""
        self._events.pop(run).close()

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows written so far."""
        rows = []
        for line in self.file.read_text().splitlines() if self.file.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
        return rows

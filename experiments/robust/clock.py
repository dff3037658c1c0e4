"""How long each epoch took."""

import json
import time
from collections.abc import Mapping
from statistics import median

from kdjax.files import append_line
from kdjax.training.record import Recorder


class Clock(Recorder):
    """A recorder that writes seconds.jsonl too: each epoch's seconds, with its scores on validation images."""

    def begin(self, run: str, done: int) -> None:
        """As a recorder."""
        super().begin(run, done)
        self._begun = time.perf_counter()

    def write(self, run: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """As a recorder, and a line of seconds.jsonl."""
        super().write(run, epoch, metrics)
        now = time.perf_counter()
        append_line(self.workdir / "seconds.jsonl", json.dumps({"run": run, "seconds": now - self._begun}))
        self._begun = now

    def seconds(self, run: str) -> float | None:
        """Of an epoch of a run, the median: the first one compiles. None where nothing was trained."""
        file = self.workdir / "seconds.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = [row["seconds"] for row in map(json.loads, lines) if row["run"] == run]
        return median(found) if found else None

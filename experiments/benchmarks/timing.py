"""What benchmarks of speed share: processes that wait while others work, and rounds in which they alternate."""

import json
import subprocess
import sys
from statistics import median
from typing import Any

from kdjax.types import BadInput


class Worker:
    """A process that does one job when told and answers with its seconds.

    `module`: the file beside this one that it runs; `spec`: what that is told at its start.
    """

    def __init__(self, module: str, spec: dict[str, Any]) -> None:
        command = [sys.executable, "-m", f"experiments.benchmarks.{module}", json.dumps(spec)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, job: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(job, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise BadInput(f"the worker for {job!r} ended; its error is above")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def rounds(workers: dict[str, Worker], jobs: dict[str, list[str]], count: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every job by every worker that has it, `count` times, alternating."""
    seconds: dict[str, dict[str, list[float]]] = {job: {name: [] for name in names} for job, names in jobs.items()}
    for job, names in jobs.items():
        for name in names:  # compile and warm up
            workers[name](job)
        for _ in range(count):
            for name in names:
                seconds[job][name].append(workers[name](job))
    return seconds


def cell(values: list[float]) -> str:
    """Median and range, in seconds."""
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def ratio(peer: list[float], ours: list[float]) -> str:
    """How many times longer the peer takes: the median of the rounds' ratios."""
    return f"{median(p / o for p, o in zip(peer, ours, strict=True)):.2f}"

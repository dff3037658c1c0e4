"""Client, server or both are killed at random moments and started again, until every image has its answer."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from kdjax.teachers.paid import Paid
from kdjax.types import BadInput

VICTIMS = ("client", "server", "both")


class Books(NamedTuple):
    """Images and requests that both sides say were paid, and what was killed."""

    client: int
    server: int
    client_requests: int
    server_requests: int
    killed: tuple[str, ...]


class Server:
    """A server's process: a command that listens at an address."""

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self._command, self._url, self._log = command, url, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 120.0) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(httpx.TransportError):
                httpx.get(f"{self._url}/health").raise_for_status()
                return
            time.sleep(0.02)
        raise BadInput(f"the server did not answer; see {self._log}")

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)


def client(spec: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A client's process."""
    return subprocess.Popen([sys.executable, "-m", "experiments.benchmarks.service_worker", json.dumps(spec)])


def answered(ledger: Path, what: str = "COALESCE(SUM(images), 0)") -> int:
    """Images in a server's ledger, read from outside; or another sum."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=10)) as books:
        return books.execute(f"SELECT {what} FROM answers").fetchone()[0]


def survive(server: Server, ledger: Path, spec: dict[str, Any], moments: int, rng: np.random.Generator) -> Books:
    """Ask about a pool through so many kills; the moments are spread over the whole of it.

    Args:
        server: that runs.
        ledger: its file.
        spec: of the client.
        moments: kills.
        rng: of the moments.

    Raises:
        BadInput: a client that ended otherwise than by our kill.
    """
    pool = len(np.load(spec["pool"], mmap_mode="r"))
    before, requests_before, killed = answered(ledger), answered(ledger, "COUNT(*)"), []
    asking = client(spec)
    for number, target in enumerate(np.sort(rng.uniform(0, 0.95 * pool, moments))):
        while answered(ledger) - before < target and asking.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        if asking.poll() is not None:
            break
        killed.append(VICTIMS[number % len(VICTIMS)])
        if killed[-1] != "server":
            asking.kill()
            asking.wait()
        if killed[-1] != "client":
            server.kill()
            server.start()
        if killed[-1] != "server":
            asking = client(spec)
    if asking.wait() != 0:
        raise BadInput(f"the client ended with {asking.returncode}; its error is above")
    paid = Paid(Path(spec["ledger"]))
    requests, images, _ = paid.totals()
    open_ones = len(paid.waiting())
    paid.close()
    if open_ones:
        raise BadInput(f"{open_ones} requests are open in the client's ledger; accepted: none")
    served = answered(ledger, "COUNT(*)") - requests_before
    return Books(images, answered(ledger) - before, requests, served, tuple(killed))

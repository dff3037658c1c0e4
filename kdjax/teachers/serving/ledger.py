"""The server's books: every answer that was paid, kept by the request that it answered, so that a repeat is free."""

import secrets
import sqlite3
import threading
import time
from pathlib import Path
from typing import NamedTuple

from kdjax.types import BadInput

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  who TEXT NOT NULL, request TEXT NOT NULL, at REAL NOT NULL, images INTEGER NOT NULL, policy TEXT NOT NULL,
  model TEXT NOT NULL, price REAL NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL,
  digest BLOB NOT NULL, answer BLOB NOT NULL, flagged INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (who, request)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS secrets (only INTEGER PRIMARY KEY CHECK (only = 0), secret BLOB NOT NULL);
"""


class Entry(NamedTuple):
    """One paid answer: whose, to which request, of how many images, by which policy and model, and at what price.

    `digest` is of the request's body, `answer` what was sent; `received` is the body's length in bytes; `flagged` how
    many of the images a detector flags.
    """

    who: str
    request: str
    images: int
    policy: str
    model: str
    price: float
    received: int
    digest: bytes
    answer: bytes
    flagged: int = 0


class Total(NamedTuple):
    """What one client has had of one policy."""

    who: str
    policy: str
    requests: int
    images: int
    price: float
    received: int
    sent: int
    flagged: int


class Ledger:
    """An SQLite file in WAL mode. What is added is there after a kill, whole, or is not there.

    It may be used from several threads.

    Attributes:
        secret: 32 bytes that were drawn when the file was made.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            BadInput: it is no ledger, or not to be written.
        """
        self._lock = threading.Lock()
        try:
            self._open(path)
        except sqlite3.Error as error:
            raise BadInput(f"{path}: {error}; accepted: a service's ledger, or no file.") from None

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)
        if "flagged" not in {column[1] for column in self._db.execute("PRAGMA table_info(answers)")}:  # an older file
            self._db.execute("ALTER TABLE answers ADD COLUMN flagged INTEGER NOT NULL DEFAULT 0")
        self._db.execute("INSERT OR IGNORE INTO secrets VALUES (0, ?)", (secrets.token_bytes(32),))
        self.secret: bytes = self._db.execute("SELECT secret FROM secrets").fetchone()[0]

    def find(self, who: str, request: str) -> tuple[bytes, bytes] | None:
        """The digest of a paid request and its answer."""
        with self._lock:
            return self._db.execute(
                "SELECT digest, answer FROM answers WHERE who = ? AND request = ?", (who, request)
            ).fetchone()

    def add(self, entry: Entry) -> None:
        """Charge and keep an answer, in one transaction.

        Raises:
            sqlite3.IntegrityError: the request has an answer.
        """
        columns = {**entry._asdict(), "at": time.time(), "sent": len(entry.answer)}
        names = ", ".join(columns)
        with self._lock:
            self._db.execute(
                f"INSERT INTO answers ({names}) VALUES ({', '.join('?' * len(columns))})", tuple(columns.values())
            )

    def spent(self, who: str) -> int:
        """Images answered to a client."""
        with self._lock:
            return self._db.execute("SELECT COALESCE(SUM(images), 0) FROM answers WHERE who = ?", (who,)).fetchone()[0]

    def price(self, who: str) -> float:
        """What a client's answers cost, each at the price of its day."""
        with self._lock:
            return self._db.execute("SELECT TOTAL(price) FROM answers WHERE who = ?", (who,)).fetchone()[0]

    def flagged(self) -> dict[str, int]:
        """Images flagged by client."""
        with self._lock:
            return dict(self._db.execute("SELECT who, SUM(flagged) FROM answers GROUP BY who").fetchall())

    def totals(self) -> list[Total]:
        """By client and policy."""
        sums = "COUNT(*), SUM(images), SUM(price), SUM(received), SUM(sent), SUM(flagged)"
        with self._lock:
            rows = self._db.execute(f"SELECT who, policy, {sums} FROM answers GROUP BY who, policy ORDER BY 1, 2")
            return [Total(*row) for row in rows.fetchall()]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

"""The client's books: what was asked of a service, what that cost, and every answer, in one SQLite file."""

import json
import secrets
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.files import NotSaved
from kdjax.types import BadInput

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
  id TEXT PRIMARY KEY, images INTEGER NOT NULL, sent REAL NOT NULL, answered REAL, price REAL,
  body BLOB, asked BLOB NOT NULL, fault TEXT
);
CREATE TABLE IF NOT EXISTS said (number INTEGER PRIMARY KEY, asked BLOB NOT NULL, answers BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS places (
  image INTEGER NOT NULL, said INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (image, said, row)
) WITHOUT ROWID;
"""
"""`said` has a row for each request: what was asked, a `_ROW` for each image, and the answers, side by side. `places`
says where in them an image may stand, by a part of its digest: rows in no order cost less where they are short."""

_ROW = struct.Struct("<32sq")

Asked = tuple[bytes, int]
"""An image's digest, and the how-manieth time it is asked about; 0 where one answer serves for all times."""


class Request(NamedTuple):
    """Some images in one body, by what they are asked for."""

    id: str
    asked: tuple[Asked, ...]
    body: bytes


class Paid:
    """A file of requests and answers; it may be used from several threads.

    A request is written down before it is sent, body and all, and its answers together with its price: after a kill,
    those without an answer are sent again, and the service, which knows their ids, charges none of them twice. Ids are
    the file's own, for its fact `ledger` is drawn at random: two files of one key are two accounts of what it paid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=0.2)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # two clients would each send what the other waits for
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            # Bodies pass through the log: at 32 MB instead of 4 it is copied an eighth as often.
            self._db.execute("PRAGMA wal_autocheckpoint=8000")
            self._db.execute("PRAGMA secure_delete=OFF")  # zeros over a body that is settled are one more body to write
            if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
                self._db.close()
                raise BadInput(f"{path}: a file of an older kdjax, which reads it; accepted: another file, or none.")
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('ledger', ?)", (json.dumps(secrets.token_hex(16)),))
            # No other process writes to the file: what is in memory is what is in it.
            self._facts, self._spent = self._read_facts(), self._images()
        except (sqlite3.Error, OSError) as error:
            raise BadInput(f"{path}: {error}; accepted: a file of yours that no other client holds, or none.") from None

    @contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:  # SQLite itself ends one for which there is no room
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise NotSaved(str(self.path), str(error)) from error
                raise

    def _read_facts(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, value FROM facts").fetchall())

    def _images(self) -> int:
        """Of all requests, answered or not."""
        return self._db.execute("SELECT COALESCE(SUM(images), 0) FROM requests").fetchone()[0]

    def bind(self, facts: dict[str, Any]) -> None:
        """Make the file one service's own, or find that it is.

        Raises:
            BadInput: it holds answers of another model, policy, or shape.
        """
        with self._whole() as db:
            for name, value in facts.items():
                db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
            there = self._read_facts()
        self._facts = there
        told = [f"{n} {there[n]} there, {json.dumps(v)} now" for n, v in facts.items() if there[n] != json.dumps(v)]
        if told:
            raise BadInput(
                f"{self.path} holds answers that are not this service's: {'; '.join(told)}; accepted: another file."
            )

    def fact(self, name: str) -> Any:
        """A fact, or None."""
        return json.loads(self._facts.get(name, "null"))

    def known(self, images: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers that there are to some images, each as it was said the first time that has one."""
        first = dict[bytes, tuple[int, bytes]]()
        for (image, when), answer in self._answers_to(images):
            if image not in first or when < first[image][0]:
                first[image] = when, answer
        return {image: answer for image, (_, answer) in first.items()}

    def told(self, asked: Sequence[Asked]) -> dict[Asked, bytes]:
        """The answers that there are to images at those very times of asking."""
        wanted = set(asked)
        return {one: answer for one, answer in self._answers_to([image for image, _ in wanted]) if one in wanted}

    def _answers_to(self, images: Sequence[bytes]) -> Iterator[tuple[Asked, bytes]]:
        """All that was answered to some images."""
        wanted = set(images)
        with self._lock:
            among = "SELECT said, row FROM places WHERE image IN (SELECT value FROM json_each(?))"
            places = self._db.execute(among, (_short(list(wanted)),)).fetchall()
            among = "SELECT number, asked, answers FROM said WHERE number IN (SELECT value FROM json_each(?))"
            rows = self._db.execute(among, (json.dumps(list({number for number, _ in places})),)).fetchall()
        said = {number: (asked, answers) for number, asked, answers in rows}
        for number, row in places:
            asked, answers = said[number]
            image, time = _ROW.unpack_from(asked, row * _ROW.size)
            if image in wanted:
                size = len(answers) * _ROW.size // len(asked)
                yield (image, time), answers[row * size : (row + 1) * size]

    def open(self, request: Request, budget: int) -> None:
        """Write down that a request is about to be sent.

        Args:
            request: a new one, or one that waits for its answer.
            budget: the most images that may ever be asked through this file; 0 for no limit.

        Raises:
            BadInput: it is over the budget, or its answer was at fault before.
        """
        with self._whole() as db:
            before = db.execute("SELECT fault FROM requests WHERE id = ?", (request.id,)).fetchone()
            if before is not None:
                if before[0]:
                    raise BadInput(before[0])
                return
            if budget and self._spent + len(request.asked) > budget:
                raise BadInput(
                    f"budget={budget}: {self._spent} images are paid, and {len(request.asked)} more are needed; "
                    "accepted: a larger budget. What is paid is kept."
                )
            asked = json.dumps([[image.hex(), when] for image, when in request.asked])
            db.execute(
                "INSERT INTO requests (id, images, sent, body, asked) VALUES (?, ?, ?, ?, ?)",
                (request.id, len(request.asked), time.time(), request.body, asked),
            )
            self._spent += len(request.asked)  # also where the disk fails: rather too many than too few

    def settle(self, request: Request, answers: bytes, price: float) -> None:
        """Write down answers, as many bytes for each image, and what they cost, whole or not at all."""
        asked = b"".join([_ROW.pack(*one) for one in request.asked])
        images = _short([image for image, _ in request.asked])
        with self._whole() as db:
            number = db.execute("INSERT INTO said (asked, answers) VALUES (?, ?)", (asked, answers)).lastrowid
            db.execute("INSERT INTO places SELECT value, ?, key FROM json_each(?)", (number, images))
            self._answered(db, request.id, price)

    def fault(self, request: Request, message: str, price: float) -> None:
        """Write down a paid answer that cannot be used; it is not asked again."""
        with self._whole() as db:
            self._answered(db, request.id, price)
            db.execute("UPDATE requests SET fault = ? WHERE id = ?", (message, request.id))

    @staticmethod
    def _answered(db: sqlite3.Connection, request: str, price: float) -> None:
        values = (time.time(), price, request)
        db.execute("UPDATE requests SET answered = ?, price = ?, body = NULL, asked = '' WHERE id = ?", values)

    def withdraw(self, request: Request) -> None:
        """Forget a request that the service refused and did not charge."""
        with self._lock:
            with self._whole() as db:
                db.execute("DELETE FROM requests WHERE id = ? AND answered IS NULL", (request.id,))
            self._spent = self._images()

    def waiting(self) -> list[Request]:
        """Requests without an answer: a kill came between, and the service may have charged them."""
        with self._lock:
            rows = self._db.execute("SELECT id, asked, body FROM requests WHERE answered IS NULL ORDER BY sent")
            return [
                Request(id, tuple((bytes.fromhex(image), when) for image, when in json.loads(asked)), body)
                for id, asked, body in rows.fetchall()
            ]

    def totals(self) -> tuple[int, int, float]:
        """Requests that were answered, their images, and their price."""
        query = "SELECT COUNT(*), COALESCE(SUM(images), 0), TOTAL(price) FROM requests WHERE answered > 0"
        with self._lock:
            return self._db.execute(query).fetchone()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


def _short(images: Sequence[bytes]) -> str:
    """Parts of digests as numbers, in JSON: one statement then reads or writes many of them."""
    return json.dumps([int.from_bytes(image[:7], "big") for image in images])

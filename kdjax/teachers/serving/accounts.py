"""Who may ask: keys, budgets and rates."""

import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdjax import spec
from kdjax.teachers.serving.ledger import Ledger
from kdjax.teachers.serving.wire import Refused
from kdjax.types import BadInput

VISIBLE = re.compile(r"[\x21-\x7e]+")
"""What a key, or a request's id, is made of: nothing else fits in every header."""


@dataclass
class Account:
    """A client: images that it may ask in all, images a second (0: any), and what it has had.

    `held` are images of answers that are being made; `credit` is what its rate leaves, below 0 in debt, as of `since`.
    """

    name: str
    budget: int
    rate: float = 0.0
    spent: int = 0
    held: int = 0
    credit: float = 0.0
    since: float = 0.0


class Accounts:
    """Clients by their keys. An image is asked for once: held while its answer is made, then spent or let go."""

    def __init__(
        self, clients: dict[str, Account], ledger: Ledger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._by_key = {_hidden(key): account for key, account in clients.items()}
        self._lock, self._clock = threading.Lock(), clock
        for account in clients.values():
            account.spent, account.credit, account.since = ledger.spent(account.name), account.rate, clock()

    def who(self, key: str) -> Account:
        """The client whose key this is.

        Raises:
            Refused: 401.
        """
        if not key:
            raise Refused(401, "no_key", "no key; accepted: Authorization: Bearer KEY.")
        found = self._by_key.get(_hidden(key))
        if found is None:
            raise Refused(401, "wrong_key", "no client has this key.")
        return found

    @contextmanager
    def hold(self, account: Account, images: int) -> Iterator[None]:
        """Within it, so many images are held; at its end they are spent, or after an exception let go.

        Raises:
            Refused: 402 beyond the budget, by one image or more; 429 faster than the rate.
        """
        with self._lock:
            left = account.budget - account.spent - account.held
            if images > left:
                raise Refused(402, "spent_budget", f"{images} images asked; {left} of {account.budget} are left.")
            if account.rate:
                now = self._clock()
                account.credit = min(account.rate, account.credit + account.rate * (now - account.since))
                account.since = now
                if account.credit <= 0:
                    wait = -account.credit / account.rate
                    raise Refused(
                        429, "rate", f"faster than {account.rate:g} images a second.", retry_after=max(wait, 1e-3)
                    )
                account.credit -= images  # into debt, so that a request larger than a second's images is served too
            account.held += images
        try:
            yield
        except BaseException:
            with self._lock:
                account.held -= images
            raise
        with self._lock:
            account.held -= images
            account.spent += images


def clients(text: str, file: Path, *, flag: str = "keys") -> dict[str, Account]:
    """Accounts by key, from `alice(budget=1000, rate=50), bob(budget=10)`; keys are drawn once and kept in a file.

    Args:
        text: names, each with its budget in images, and images a second if these are limited.
        file: names and keys as JSON, which the owner alone may read.
        flag: for messages.

    Raises:
        BadInput: another text, or a file that is damaged.
    """
    found: dict[str, Account] = {}
    for call in spec.calls(text, flag=flag):
        given = call.keywords
        budget, rate = given.get("budget", -1), given.get("rate", 0)
        fits = type(budget) is int and budget >= 0 and isinstance(rate, int | float) and rate >= 0
        if call.args or given.keys() - {"budget", "rate"} or not fits or call.name in found:
            raise call.error(
                f"read {call!r}; accepted: {call.name}(budget=IMAGES, rate=IMAGES_A_SECOND), each name once"
            )
        found[call.name] = Account(call.name, int(budget), float(rate))
    try:
        keys = json.loads(file.read_text()) if file.exists() else {}
        kept = {name: str(keys[name]) for name in keys}
        if len(set(kept.values())) < len(kept) or not all(VISIBLE.fullmatch(key) for key in kept.values()):
            raise ValueError("a key is another's too, or has other characters than visible ASCII")
    except (ValueError, TypeError) as error:
        raise BadInput(f"{file} is damaged ({error}); accepted: names and keys, or no file.") from None
    if new := {name: secrets.token_urlsafe(24) for name in found if name not in kept}:
        kept |= new
        part = file.with_name(f".{file.name}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            json.dump(kept, opened, indent=2)
        part.replace(file)  # a kill leaves the old file, or the new one
    return {kept[name]: account for name, account in found.items()}


def _hidden(key: str) -> str:
    """Keys are compared by digests, whose comparison tells nothing of the key in its time."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()

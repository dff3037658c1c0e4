"""A service that watches for questions that lie close together, client by client.

nearby(share=0.001, most=0, neighbours=10, last=1000)
"""

import sys
import threading
import typing
from collections import Counter
from typing import NamedTuple

import numpy as np

from kdjax import spec
from kdjax.spec import Family
from kdjax.teachers.serving.duplicates import Nearby, calibrated
from kdjax.teachers.serving.ledger import Ledger
from kdjax.teachers.serving.wire import Refused
from kdjax.types import BadInput


class Rule(NamedTuple):
    """What is flagged, and what follows.

    Attributes:
        share: of honest images that may be flagged, by which the threshold is set.
        most: flags after which a client is refused; 0 for never.
        neighbours, last: of a `Nearby`.
    """

    share: float
    most: int
    neighbours: int
    last: int


def nearby(share: float = 0.001, most: int = 0, neighbours: int = 10, last: int = 1000) -> Rule:
    """Flag an image whose mean distance to the nearest that its client asked before is below a threshold.

    Raises:
        BadInput: a share outside [0, 1), a negative number of flags, fewer remembered than neighbours.
    """
    if not 0 <= share < 1 or most < 0 or not 1 <= neighbours <= last:
        raise BadInput(
            f"share={share}, most={most}, neighbours={neighbours}, last={last}; accepted: a share from 0, below 1; "
            "flags from 0; neighbours from 1, no more than last."
        )
    return Rule(share, most, neighbours, last)


def rule(text: str, *, flag: str = "detect") -> Rule:
    """The rule that an expression names.

    Raises:
        BadInput: an unknown name, or a setting that does not fit.

    >>> rule("nearby(most=100)").most
    100
    """
    call = spec.call(text, flag=flag)
    made = RULES.resolve(call, varying=False)
    try:
        return made()
    except BadInput as error:
        raise call.error(str(error)) from None


RULES = Family(
    sys.modules[__name__],
    accepts=lambda function: typing.get_type_hints(function).get("return") is Rule and function is not rule,
)
"""The rules by name."""


class Monitor:
    """Counts by client what a rule flags, and refuses whom it is too much of. Safe to use from several threads.

    Counts are kept in the ledger, and outlive the process. Memories of questions do not: after a start each client's is
    empty.

    Attributes:
        threshold: in pixels' units, L2.
    """

    def __init__(self, found: Rule, honest: np.ndarray, ledger: Ledger) -> None:
        """Set the threshold by honest images `[N, ...]` in [0, 1].

        Raises:
            BadInput: too few of them.
        """
        self.rule = found
        self.threshold = calibrated(honest, share=found.share, neighbours=found.neighbours, last=found.last)
        self._lock, self._locks = threading.Lock(), dict[str, threading.Lock]()
        self._memories = dict[str, Nearby]()
        self._flags = Counter(ledger.flagged())

    def admit(self, who: str) -> None:
        """Let a client ask.

        Raises:
            Refused: 403, after too many flags.
        """
        with self._lock:
            flags = self._flags[who]
        if self.rule.most and flags >= self.rule.most:
            raise Refused(
                403, "near_duplicates",
                f"{flags} images asked were near earlier ones; accepted: fewer than {self.rule.most}. Answers that are "
                "paid are sent again.",
            )  # fmt: skip

    def look(self, who: str, images: np.ndarray) -> int:
        """How many of the images that a client asks are flagged; all are remembered."""
        with self._lock:
            mine = self._locks.setdefault(who, threading.Lock())
            memory = self._memories.setdefault(who, self.fresh())
        with mine:  # one client's questions have an order; other clients do not wait
            found = int(memory(images).sum())
        with self._lock:
            self._flags[who] += found
        return found

    def fresh(self) -> Nearby:
        """A detector that has seen nothing."""
        return Nearby(self.threshold, neighbours=self.rule.neighbours, last=self.rule.last)

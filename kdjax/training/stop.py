"""Signals that ask a run to stop: it saves first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(SystemExit):
    """A signal stopped the run; the state is on disk and the same command goes on from it.

    The exit code is a shell's for that signal: 143 after SIGTERM, 130 after Ctrl-C.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.message = message


class Stop:
    """True once a signal has asked to stop; `name` says which."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return bool(self.number)

    @property
    def name(self) -> str:
        """In the words of a message."""
        return "Ctrl-C" if self.number == signal.SIGINT else "SIGTERM"

    def take(self, number: int, frame: Any) -> None:
        """Note a signal. A second Ctrl-C is the system's own, and ends the process at once."""
        del frame
        self.number = self.number or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def until_stopped() -> Iterator[Stop]:
    """Within this context SIGTERM and Ctrl-C are noted instead of ending the process, so that the loop can save."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield stop
        return
    # A shell starts background commands with Ctrl-C ignored, and so it stays.
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.take) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

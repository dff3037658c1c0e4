"""Signals are noted, once; a second Ctrl-C ends the process, and what a shell ignores stays ignored."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from kdjax.training.stop import until_stopped


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_is_noted_and_the_handlers_come_back(number, name):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with until_stopped() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert (stop.number, stop.name) == (number, name)
    assert {n: signal.getsignal(n) for n in before} == before


def test_sigterm_twice_is_sigterm_once():
    with until_stopped() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM


def test_a_second_ctrl_c_ends_the_process_at_once():
    script = """
import os, signal, time
from kdjax.training.stop import until_stopped
with until_stopped():
    os.kill(os.getpid(), signal.SIGINT)
    print("noted", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "noted\n", "")


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with until_stopped() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_only_asks():
    found = []
    thread = threading.Thread(target=lambda: found.append(until_stopped().__enter__()))
    thread.start()
    thread.join()
    assert not found[0]

"""Strictness for every test: two CPU devices, and no silent broadcasting between ranks."""

import gc
import os
import signal
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compilation of programs that then run for a millisecond. Processes that tests start
# inherit both: a resumed run is bit for bit the same only if it is compiled the same.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Where each operation stood in Python is written into every program, at a fifteenth of the time, and nobody reads it.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# XLA's older emitters compile in two thirds of the time, and one part of a program in less than many.
# It ends a process that sets a flag it does not know.
if version("jaxlib").startswith("0.10."):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"

# A shell that starts the tests in the background ignores Ctrl-C, and so would every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """A fixed PRNG key."""
    return jax.random.key(0)


def pytest_collection_finish():
    """What was imported stays: for the collector to look at it at every trace took a twelfth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

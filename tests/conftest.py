"""Strictness for every test: two CPU devices, and no silent broadcasting between ranks."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time is compilation of programs that then run for a millisecond.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key():
    """A fixed PRNG key."""
    return jax.random.key(0)

"""How much memory a device has left, and how many members of a population fit into it."""

from pathlib import Path
from typing import Any

import jax

from kdjax.types import PyTree

SHARE = 0.5
"""The part of the free memory that a plan may use: data, metrics and fragmentation need the rest."""


def free_bytes(device: Any) -> int:
    """Bytes that can still be allocated on a device; on the host, its share of the available memory.

    The host's number is the smaller of the machine's `MemAvailable` and what the process's control group allows.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    free = 8 * 2**30  # where the system says nothing
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0) // jax.local_device_count()


def tree_bytes(tree: PyTree) -> int:
    """Bytes of a tree's arrays, or of what its shapes stand for."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if hasattr(leaf.dtype, "itemsize"))


def members_that_fit(state_bytes: int, step_bytes: int, free: int) -> int:
    """How many members one device takes at a time, at least 1.

    members = SHARE * free / (3 * state + step)

    The state counts three times: before an epoch (kept for members that do not end it well), after it, and in transit.

    Args:
        state_bytes: of one member's parameters, model and optimizer state.
        step_bytes: scratch memory of one member's compiled step, as XLA reports it.
        free: bytes free on the device.

    >>> members_that_fit(100, 200, 5000)
    5
    """
    return max(int(SHARE * free / (3 * state_bytes + step_bytes)), 1)

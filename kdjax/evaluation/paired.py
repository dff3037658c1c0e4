"""Comparisons over the same seeds."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from kdjax.types import BadInput


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, level: float = 0.95
) -> dict[str, float]:
    """Mean of a - b over paired runs, with its Student-t confidence interval.

    mean(d) +- t_{(1 + level)/2, n-1} * sd(d) / sqrt(n),  d_i = a_i - b_i,  sd with n - 1.

    Args:
        a, b: one number per seed, in the same order of seeds.
        level: coverage of the interval.

    Returns:
        `mean`, `low`, `high`, and `n`.

    Raises:
        BadInput: unequal lengths, fewer than two pairs (one says nothing about spread), a number that is not finite,
            or a level outside (0, 1).

    >>> d = paired_difference([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    >>> round(d["mean"], 6), round(d["low"], 4), round(d["high"], 4)
    (2.0, -0.4841, 4.4841)
    """
    if len(a) != len(b) or len(a) < 2:
        raise BadInput(f"a has {len(a)} runs and b has {len(b)}: accepted are as many of both, and at least 2.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInput(f"a={list(a)} and b={list(b)}; accepted: finite numbers, one per run")
    if not 0 < level < 1:
        raise BadInput(f"level={level}; accepted: above 0 and below 1, such as 0.95")
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    half = stdtrit(len(d) - 1, (1 + level) / 2) * d.std(ddof=1) / np.sqrt(len(d))
    return {
        "mean": float(d.mean()),
        "low": float(d.mean() - half),
        "high": float(d.mean() + half),
        "n": len(d),
    }

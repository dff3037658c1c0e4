"""Metrics as (sum, count), so that any grouping of examples gives the same mean."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.types import AnyArray, Metrics

Sums = dict[str, tuple[Array, Array]]
"""Metric name to (sum over real examples, number of real examples); with a leading axis, one pair per step."""


def reduce(per_example: Metrics, mask: AnyArray, *, axis_name: str | None = None) -> Sums:
    """Sum each metric over the real examples of a batch, and over devices when `axis_name` is given.

    A metric with weights counts its weights, so that its mean is over the examples that it speaks of.

    >>> sums = reduce({"loss": jnp.array([1.0, 3.0, 100.0])}, jnp.array([1.0, 1.0, 0.0]))
    >>> float(sums["loss"][0]), float(sums["loss"][1])
    (4.0, 2.0)
    """
    sums: Sums = {}
    for name, metric in per_example.items():
        values, weights = metric if isinstance(metric, tuple) else (metric, jnp.ones_like(metric))
        kept = jnp.where(mask > 0, weights, 0)
        sums[name] = (jnp.sum(jnp.where(kept > 0, values * kept, 0)), jnp.sum(kept))
    return jax.lax.psum(sums, axis_name) if axis_name else sums


def add(total: dict[str, tuple[float, float]], sums: Sums) -> dict[str, tuple[float, float]]:
    """Add one call's sums (of one step, or of many on a leading axis) to host totals, in float64."""
    new = dict(total)
    for name, (s, c) in sums.items():
        old = total.get(name, (0.0, 0.0))
        new[name] = (
            old[0] + float(np.sum(np.asarray(s, np.float64))),
            old[1] + float(np.sum(np.asarray(c, np.float64))),
        )
    return new


def means(total: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Totals to means; a metric that saw no example is left out.

    >>> means({"loss": (4.0, 2.0), "hard": (0.0, 0.0)})
    {'loss': 2.0}
    """
    return {name: s / c for name, (s, c) in total.items() if c}


def first_not_finite(sums: Sums) -> tuple[int, str] | None:
    """The first step (on the leading axis) whose sum is NaN or infinite, and the metric's name; None if all is well.

    >>> first_not_finite({"loss": (jnp.array([1.0, jnp.nan, jnp.nan]), jnp.ones(3))})
    (1, 'loss')
    """
    found = None
    for name, (s, _) in sums.items():
        bad = np.flatnonzero(~np.isfinite(np.atleast_1d(np.asarray(s))))
        if bad.size and (found is None or bad[0] < found[0]):
            found = (int(bad[0]), name)
    return found

"""Batch statistics of real rows alone: no layer counts the rows that pad a batch, or only one device's part of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from kdjax import axis
from kdjax.types import BadInput


class BatchMean(nn.Module):
    """The mean of each channel over everything else, `[B, ..., C]` to `[C]`; within `real_rows`, over these."""

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        return jnp.mean(x, tuple(range(x.ndim - 1)), where=mask)


def real_rows(mask: Array | None) -> AbstractContextManager[None]:
    """Within this context every `BatchNorm` and `BatchMean` of a Linen module counts real rows alone, of all devices.

    So a batch of n rows, padded to m and cut into any number of parts, gives the statistics, running averages and
    gradients of the n rows alone. A layer need not know: the mask is handed to it where it is called.

    Args:
        mask: `[B]`, above 0 for a real row; None where all are.

    Raises:
        BadInput: when such a layer is called on an array whose first axis is not the batch's.
    """
    if mask is None and axis.batch_axis() is None:
        return nullcontext()

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, nn.BatchNorm | BatchMean):
            return call(*args, **kwargs)
        x, *rest = args
        kwargs = dict(kwargs)
        own = kwargs.pop("mask", None)
        found = statistics(lambda x, mask: call(x, *rest, **kwargs, mask=mask), x, mask, own)
        return axis.own(len(x))(found) if isinstance(module, nn.BatchNorm) else found

    return nn.intercept_methods(intercept)


def statistics(call: Callable[[Array, Array], Any], x: Array, mask: Array | None, own: Array | None = None) -> Any:
    """`call(x, mask)` on the rows of all devices, `mask` being True where a row is real, and `own` does not forbid it.

    Args:
        call: a layer that takes a mask which broadcasts to x.
        x: `[B, ...]`, this device's rows.
        mask: `[B]`, or None.
        own: the layer's own mask, broadcasting to x, or None.

    Raises:
        BadInput: x has other rows than the mask.
    """
    mask = jnp.ones(len(x)) if mask is None else mask
    if len(mask) != len(x):
        raise BadInput(
            f"a batch statistic of {len(x)} rows in a batch of {len(mask)}; accepted: the batch's axis first"
        )
    real = mask.reshape(-1, *[1] * (x.ndim - 1)) > 0
    if own is not None:
        real = jnp.broadcast_to(real & (own > 0), x.shape)
    return call(*axis.whole((x, real)))

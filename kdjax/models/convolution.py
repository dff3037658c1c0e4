"""Convolutions whose slopes are fast on a CPU: in the images where strided or in a loop, in the kernel where not."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from kdjax.types import BadInput

_PARTS = 8


def in_parts(x: Array, kernel: Array, *args: Any, most: int = _PARTS, **keywords: Any) -> Array:
    """`jax.lax.conv_general_dilated`, for `nn.Conv`, with slopes that are fast on a CPU.

    The slope in the kernel sums over all pixels of all images, and XLA's CPU backend is the faster the fewer it has to
    sum at once: here every eighth image is a part, and the parts' slopes are added. On two CPU cores a training step of
    ResNet-20 takes 0.9 of the time, of WRN-16-2 0.8. The slope in the images is told in an order of axes that XLA's CPU
    backend computes fast in loops too (`_exchanged`). The numbers are XLA's; so is everything on other devices.

    Args:
        x: `[B, ...]`, images. kernel, args, keywords: as `jax.lax.conv_general_dilated` takes them.
        most: parts of a batch.
    """
    convolve = partial(jax.lax.conv_general_dilated, **keywords)
    parts = math.gcd(len(x), most)
    value = jax.custom_jvp(lambda x, kernel: convolve(x, kernel, *args))

    def slope(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
        (x, kernel), (dx, dkernel) = primals, tangents
        y = value(x, kernel)

        def plain(x: Array, kernel: Array) -> Array:
            return convolve(x, kernel, *args)

        def parted(x: Array, dkernel: Array) -> Array:
            # Neighbours lie in different parts, so that a batch split over devices is split within each part too.
            images = x.reshape(-1, parts, *x.shape[1:])
            each = [plain(images[:, part], dkernel) for part in range(parts)]
            return jnp.stack(each, 1).reshape(y.shape)

        def exchanged(dx: Array, kernel: Array) -> Array:
            return _exchanged(dx, kernel, *args, **keywords)

        along = jnp.zeros_like(y)
        if not isinstance(dx, SymbolicZero):
            # A GPU's library knows the slope by the order of axes in which JAX writes it.
            along = jax.lax.platform_dependent(dx, kernel, cpu=exchanged, default=plain)
        if not isinstance(dkernel, SymbolicZero):
            along += jax.lax.platform_dependent(x, dkernel, cpu=parted, default=plain)
        return y, along

    value.defjvp(slope, symbolic_zeros=True)
    return value(x, kernel)


in_order = partial(in_parts, most=1)
"""The same with the batch in one part: for kernels of one pixel, or in groups."""


def _exchanged(x: Array, kernel: Array, *args: Any, **keywords: Any) -> Array:
    """The same convolution of a kernel whose channels were exchanged, and are called so.

    Reverse mode exchanges them once more: the slope then names the kernel's axes in the order of the value. XLA's CPU
    backend puts them into that order itself, but not inside of a loop, and convolves 10 times slower with another one.
    An attack of ten steps on ResNet-8 takes 0.2 of the time.
    """
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, keywords["dimension_numbers"])
    features, channels, *sides = numbers.rhs_spec
    keywords |= {"dimension_numbers": numbers._replace(rhs_spec=(channels, features, *sides))}
    return jax.lax.conv_general_dilated(x, jnp.swapaxes(kernel, features, channels), *args, **keywords)


class StridedConv(nn.Module):
    """`nn.Conv` with a square kernel whose side is a multiple of its stride; same parameters, same numbers.

    XLA's CPU backend spreads the gradient of a strided convolution out with zeros before it convolves. Here the slope
    in the input is written as one matrix product over blocks of stride x stride pixels instead, which has no zeros;
    the value and the slope in the kernel stay XLA's, which are the faster there. On two CPU cores 20 steps of PGD on
    `FastCNN` take 0.55 of the time. Other devices take XLA's convolution throughout.

    Attributes:
        features: output channels.
        size: side of the kernel.
        stride: step in both directions.
        padding: zeros on each side.
    """

    features: int
    size: int
    stride: int
    padding: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w features"]:
        if self.size % self.stride:
            raise BadInput(f"size={self.size}, stride={self.stride}: accepted are sizes that the stride divides.")
        shape = (self.size, self.size, x.shape[-1], self.features)
        # In float32 where JAX makes float64, and computed in the wider of the two, as `nn.Conv` does.
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias)
        return _convolve(x, kernel, self.stride, self.padding) + bias.reshape(1, 1, 1, -1)


def _plain(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, *_written(stride, padding), dimension_numbers=_ORDER)


_ORDER = ("NHWC", "HWIO", "NHWC")


def _written(stride: int, padding: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    return (stride, stride), [(padding, padding)] * 2


def _by_blocks(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """The same convolution: pixels of a block become channels, shifted blocks more channels, then one product."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    s, n, (*_, channels, features) = stride, len(kernel) // stride, kernel.shape
    h, w = ((side - len(kernel)) // s + 1 for side in x.shape[1:3])
    rows, columns = h + n - 1, w + n - 1
    blocks = x[:, : rows * s, : columns * s].reshape(len(x), rows, s, columns, s, channels)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), rows, columns, s * s * channels)
    shifted = [blocks[:, i : i + h, j : j + w] for i in range(n) for j in range(n)]
    weights = kernel.reshape(n, s, n, s, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return jnp.concatenate(shifted, -1) @ weights.reshape(-1, features)


# A rule for tangents and not for cotangents, here as above: it serves forward and reverse mode, and every mixture.
_convolve = jax.custom_jvp(_plain, nondiff_argnums=(2, 3))


@_convolve.defjvp
def _slope(
    stride: int, padding: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    blocks, plain = (partial(form, stride=stride, padding=padding) for form in (_by_blocks, _plain))
    thin = x.shape[-1] == 1  # one channel is too thin for XLA's convolution on a CPU
    value = (
        jax.lax.platform_dependent(x, kernel, cpu=blocks, default=plain)
        if thin
        else _convolve(x, kernel, stride, padding)
    )
    return value, jax.lax.platform_dependent(dx, kernel, cpu=blocks, default=plain) + plain(x, dkernel)

"""A network that makes images of noise."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.create import from_linen
from kdjax.models.layers import TORCH, conv, norm
from kdjax.types import BadInput, Model, Outputs


class Generator(nn.Module):
    """A dense layer to a quarter of the sides, then twice: double the sides, 3 x 3 convolutions, BatchNorm, leaky ReLU.

    A last BatchNorm, without scale and shift, makes each channel of the outputs as wide as tanh is steep.

    Reference:
        `GeneratorA` of the code released with Truong, Maini, Walls, Papernot, Data-Free Model Extraction, CVPR 2021.

    Attributes:
        image_shape: height, width and channels; sides that 4 does not divide are cut from longer ones.
        width: channels of the last hidden layer; those before have twice as many.
    """

    image_shape: tuple[int, int, int]
    width: int = 64

    @nn.compact
    def __call__(self, noise: Float[Array, "batch size"], *, train: bool) -> Outputs:
        height, width, channels = self.image_shape
        rows, columns = -(-height // 4), -(-width // 4)
        x = nn.Dense(rows * columns * 2 * self.width, kernel_init=TORCH, name="dense")(noise)
        x = norm(x.reshape(-1, rows, columns, 2 * self.width), "batch", train=train, name="norm0")
        for number, features in ((1, 2 * self.width), (2, self.width)):
            x = conv(features, 3, name=f"conv{number}", bias=True, init=TORCH)(_doubled(x))
            x = jax.nn.leaky_relu(norm(x, "batch", train=train, name=f"norm{number}"), 0.2)
        x = conv(channels, 3, name="conv3", bias=True, init=TORCH)(x[:, :height, :width])
        last = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, use_bias=False, use_scale=False, name="norm3")
        return Outputs(last(x))


def generator(image_shape: tuple[int, int, int], *, noise: int = 256, width: int = 64) -> Model:
    """A `Generator` as a model: its inputs are noise `[B, noise]`, its logits what `pixels` makes images of.

    Args:
        image_shape: height, width and channels of its images.
        noise: numbers that an image is made of.
        width: of the network.

    Raises:
        BadInput: a number below 1.

    >>> generator((8, 8, 1), noise=16, width=4).input_shape
    (16,)
    """
    if len(image_shape) != 3 or min(*image_shape, noise, width) < 1:
        raise BadInput(f"generator of {image_shape}, noise={noise}, width={width}; accepted: numbers from 1.")
    return from_linen(Generator(image_shape, width), (noise,))


def pixels(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """A generator's logits as images in [0, 1]: (1 + tanh h) / 2."""
    return (1 + jnp.tanh(logits)) / 2


def _doubled(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
    """Every pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)

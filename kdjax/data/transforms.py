"""What makes one data set into another domain, and what gives domains one shape: pure functions of images, on the host.

    transform(image, index, number) -> image

- `image`: float32 `[batch, height, width, channels]` in [0, 1], and so is the result, of the same shape.
- `index`: int `[batch]`, each example's place in its data set: whatever is drawn is a function of it, so that an image
  looks the same in every batch, epoch and run.
- `number`: what stands in brackets, as 45 in `rotate(45)`.

`resize` and `recolour` are no such transforms: they bring images of several domains to one shape.
"""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Integer
from scipy import ndimage

from kdjax.spec import Call, Family, call
from kdjax.types import BadInput

Images = Float32[np.ndarray, "batch height width channels"]
Index = Integer[np.ndarray, " batch"]
Transform = Callable[[np.ndarray, np.ndarray], np.ndarray]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""How much red, green and blue add to grey: ITU-R BT.601."""


def invert(image: Images, index: Index) -> Images:
    """Black for white: 1 - x.

    >>> invert(np.full((1, 1, 1, 1), 0.25, np.float32), np.array([0])).item()
    0.75
    """
    return 1 - image


def rotate(image: Images, index: Index, number: float) -> Images:
    """Turned counter-clockwise about the centre by `number` degrees, bilinear; what is uncovered becomes 0.

    >>> corner = np.array([[0, 1], [0, 0]], np.float32)[None, :, :, None]
    >>> rotate(corner, np.array([0]), 90.0)[0, :, :, 0].round(3).tolist()  # top right goes to top left
    [[1.0, 0.0], [0.0, 0.0]]
    """
    turned = ndimage.rotate(image, number, axes=(2, 1), reshape=False, order=1)
    return np.clip(turned, 0, 1)


def blur_noise(image: Images, index: Index, number: float = 0.2) -> Images:
    """Blurred, then noisy: clip(gaussian(x) + number·n, 0, 1) with n standard normal, drawn from each example's index.

    The blur's standard deviation is 1/28 of the height: one pixel of MNIST.

    >>> grey = np.full((2, 4, 4, 1), 0.5, np.float32)
    >>> both, second = (blur_noise(grey[:len(i)], np.array(i)) for i in ([3, 7], [7]))
    >>> bool((both[1] == second[0]).all()), bool((both[0] == both[1]).any())
    (True, False)
    """
    width = image.shape[1] / 28
    blurred = ndimage.gaussian_filter(image, (0, width, width, 0))
    shape = image.shape[1:]
    noise = [np.random.default_rng(int(i)).standard_normal(shape, np.float32) for i in index]
    return np.clip(blurred + np.float32(number) * np.stack(noise), 0, 1)


def resize(image: Images, size: int) -> Float32[np.ndarray, "batch size size channels"]:
    """To `size` x `size` pixels, bilinear, proportions not kept; averaged over where it shrinks.

    >>> resize(np.ones((2, 8, 6, 3), np.float32), 4).shape
    (2, 4, 4, 3)
    """
    if size < 1:
        raise BadInput(f"size={size}; accepted: at least 1 pixel")
    batch, height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    resized = jax.image.resize(jnp.asarray(image), (batch, size, size, channels), "linear")
    return np.clip(np.asarray(resized), 0, 1)


def recolour(image: Images, channels: int) -> Float32[np.ndarray, "batch height width {channels}"]:
    """To 1 channel, 0.299 red + 0.587 green + 0.114 blue, or to 3, grey thrice; alike stays as it is.

    >>> red = np.array([1, 0, 0], np.float32).reshape(1, 1, 1, 3)
    >>> grey = recolour(red, 1)
    >>> round(grey.item(), 3), bool((recolour(grey, 3) == grey).all()), recolour(red, 3) is red
    (0.299, True, True)
    """
    now = image.shape[-1]
    if now == channels:
        return image
    if (now, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (now, channels) == (3, 1):
        return (image @ LUMA)[..., None]
    raise BadInput(f"channels={channels} for images of {now}; accepted: 1 (grey) or 3 (colour) for images of 1 or 3")


TRANSFORMS = Family(sys.modules[__name__], first=("image", "index"))
"""The transforms by name."""


def resolve(value: str | Call) -> Transform:
    """The transform that `invert`, `rotate(45)` or `blur_noise(0.3)` stands for, its number bound.

    Raises: BadInput: a name that does not exist, a number that is missing or not wanted.

    >>> resolve("invert")(np.zeros((1, 1, 1, 1), np.float32), np.array([0])).item()
    1.0
    """
    return TRANSFORMS.resolve(call(value, flag="transform"), given=("image", "index"), varying=False)

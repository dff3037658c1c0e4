"""The space in which an attack moves: `encode` an image into it, `decode` a point of it into an image.

    image = decode(encode(image, origin), origin)    for images that the space can express

A space keeps the box by itself where its decode does; its projection, if any, acts on points.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Space(NamedTuple):
    """`encode(image, origin) -> point` and `decode(point, origin) -> image`, `origin` being the clean image."""

    encode: Callable[[Array, Array], Array]
    decode: Callable[[Array, Array], Array]


def _encode_pixels(image: Array, origin: Array) -> Array:
    return image


pixels = Space(_encode_pixels, _encode_pixels)
"""The image itself."""


def _decode_clipped(point: Array, origin: Array) -> Array:
    return jnp.clip(point, 0, 1)


clipped = Space(_encode_pixels, _decode_clipped)
"""Points may leave the box, images do not; a pixel that left has no slope."""

# Keeps arctanh finite at 0 and 1; the original's 1.999999 / 2.
_NEARLY = 0.9999995


def _encode_tanh(image: Array, origin: Array) -> Array:
    return jnp.arctanh((2 * image - 1) * _NEARLY)


def _decode_tanh(point: Array, origin: Array) -> Array:
    return jnp.tanh(point) / 2 + 0.5


tanh_box = Space(_encode_tanh, _decode_tanh)
"""x = tanh(w) / 2 + 1/2: every w is an image in [0, 1]. Pixels at 0 and 1 get vanishing slopes, so that coordinate-wise
attacks leave it out on images with flat backgrounds.

Reference: Carlini, Wagner (2017), section V.B; Chen et al., ZOO (2017), section 3.2."""


def coarse(height: int, width: int) -> Space:
    """A small modifier, enlarged: x = clip(x0 + resize(m), 0, 1) with m `[B, height, width, C]`, bilinear.

    Reference:
        Chen et al., ZOO (2017), section 3.4, attack-space dimension reduction.
    """

    def resize(x: Array, shape: tuple[int, ...]) -> Array:
        return jax.image.resize(x, (x.shape[0], *shape, x.shape[-1]), "bilinear")

    def encode(image: Array, origin: Array) -> Array:
        return resize(image - origin, (height, width))

    def decode(point: Array, origin: Array) -> Array:
        return jnp.clip(origin + resize(point, origin.shape[1:3]), 0, 1)

    return Space(encode, decode)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InSpace:
    """An objective as a function of a space's points."""

    objective: Any
    origin: Any
    space: Space = dataclasses.field(metadata={"static": True})

    def __call__(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> tuple[Array, Array]:
        return self.objective(self.space.decode(image, self.origin), key=key, where=where)

    def logits(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array:
        """The victim's answer to the image of a point."""
        return self.objective.logits(self.space.decode(image, self.origin), key=key, where=where)

    @property
    def data(self) -> Mapping[str, Array]:
        """What answers are scored by."""
        return self.objective.data

    @property
    def white_box(self) -> bool:
        """Whether gradients may be taken."""
        return self.objective.white_box

"""Augmentation as a pure function of keys: the same keys, images and settings give the same views again.

    f(key, image, mask=None, **own) -> image

- `key`: one key per image, `[batch]`, or a single one, of which each image takes its part by its row. With
  `kdjax.data.views.keys(key, index, epoch)`, `key` being a run's, an example's view does not depend on the batch, row,
  step or device it lies in, and a teacher that is shown the same keys sees it too.
- `image`: `[batch, height, width, channels]`, any range.
- `mask`: `[batch]`, 1 for a real row and 0 for one that pads the batch; only what mixes examples looks at it.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import axis
from kdjax.types import BadInput

Images = Float[Array, "batch height width channels"]
Mask = Float[Array, " batch"] | None


def random_shift(key: Array, image: Images, mask: Mask = None, *, pixels: int = 2) -> Images:
    """Each image moved by its own whole number of pixels along each axis; what is uncovered becomes 0.

    `out[b, i, j] = image[b, i - dy, j - dx]` with dy and dx uniform on -pixels..pixels, independent over b. The same
    thing is called a random crop of the size of the image after padding by `pixels`.

    Args:
        key: one per image, or one for all.
        image: images, any range.
        pixels: the largest shift, at least 0; 0 changes nothing.

    Raises:
        BadInput: `pixels` is negative or not below the height and the width.

    >>> image = jnp.ones((2, 8, 8, 1))
    >>> random_shift(jax.random.key(0), image).shape
    (2, 8, 8, 1)
    """
    size = image.shape[1:]
    if not 0 <= pixels < min(size[:2]):
        raise BadInput(f"pixels={pixels}; accepted: 0 to {min(size[:2]) - 1} for images of shape {tuple(size)}")
    padded = jnp.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    start = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2 * pixels + 1))(_each(key, image))
    # One dynamic slice per image took the least time of five ways on CPU at [128, 28, 28, 1]: 1.5x less than gathering,
    # 2.8x less than selecting among shifted copies, 5x less than multiplying by one-hot matrices.
    return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), size))(padded, start)


def random_flip(key: Array, image: Images, mask: Mask = None) -> Images:
    """Each image, or with probability 1/2 its mirror image, left for right.

    Args:
        key: one per image, or one for all.
        image: images, any range.
    """
    flip = jax.vmap(jax.random.bernoulli)(_each(key, image))
    return jnp.where(flip[:, None, None, None], image[:, :, ::-1], image)


def crop_and_flip(key: Array, image: Images, mask: Mask = None, *, pixels: int = 4) -> Images:
    """The usual augmentation of CIFAR: padded by 4 black pixels, cropped to its size at random, mirrored or not.

    Args:
        key: one per image, or one for all.
        image: images of [0, 1], before any normalisation, so that 0 is black.
        pixels: padding on each side.

    Raises:
        BadInput: as for `random_shift`.

    Reference:
        He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    """
    return in_turn(partial(random_shift, pixels=pixels), random_flip)(key, image, mask)


def mixup(key: Array, image: Images, mask: Mask = None) -> Images:
    """Each image mixed with the next real row's, the last with the first: a·x_b + (1-a)·x_{b+1}, a uniform on [0, 1].

    Labels stay as they were, and are wrong for the mixture: it is for learning from a live teacher alone (no weight on
    labels), who is shown the same mixture. Unlike the others' views, a mixture depends on the batch: on who comes next,
    be it on another device.

    Args:
        key: one per image, or one for all.
        image: images, any range.
        mask: which rows are real; padding comes after all of these. None: all are.

    Reference:
        Zhang, Cisse, Dauphin, Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018; with a uniform
        coefficient and a teacher who sees the mixture, Beyer et al., Knowledge distillation: A good teacher is patient
        and consistent, CVPR 2022 (function matching).
    """
    own = jax.vmap(lambda k: jax.random.uniform(k, dtype=image.dtype))(_each(key, image))[:, None, None, None]
    everyone, real = axis.whole((image, jnp.ones(len(image)) if mask is None else mask))
    following = jnp.where((jnp.roll(real, -1) > 0)[:, None, None, None], jnp.roll(everyone, -1, axis=0), everyone[:1])
    return own * image + (1 - own) * axis.own(len(image))(following)


def in_turn(*augments: Callable[..., Array]) -> Callable[..., Array]:
    """Several augmentations as one, the first first, each with keys of its own.

    >>> view = in_turn(crop_and_flip, mixup)(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
    >>> view.shape
    (2, 8, 8, 3)
    """

    def augment(key: Array, image: Array, mask: Mask = None) -> Array:
        keys = _each(key, image)
        for place, one in enumerate(augments):
            image = one(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place), image, mask)
        return image

    return augment


def _each(key: Array, image: Array) -> Array:
    """One key per image."""
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(image)))
    if key.shape != image.shape[:1]:
        raise BadInput(f"key has shape {key.shape} and image {image.shape}: accepted are one key per image, or one key")
    return key

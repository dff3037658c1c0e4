"""A vision transformer."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.layers import normalized
from kdjax.types import Outputs

SMALL = nn.initializers.truncated_normal(0.02)
layer_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)


class EncoderBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))` with GELU and four times the width between."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        y = layer_norm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, kernel_init=SMALL, name="attention")(y, y)
        y = nn.Dense(4 * x.shape[-1], kernel_init=SMALL, name="dense1")(layer_norm(name="norm2")(x))
        return x + nn.Dense(x.shape[-1], kernel_init=SMALL, name="dense2")(jax.nn.gelu(y, approximate=False))


class ViT(nn.Module):
    """Patches and a class token through encoder blocks; the class token, normalised, is the embedding.

    Features: `stem [B, 1 + patches, width]`, tokens with their places; `block1`, `block2` ...; `embedding [B, width]`.

    Reference:
        Dosovitskiy et al., An image is worth 16 x 16 words, ICLR 2021, equations 1 to 4; Touvron et al., Training
        data-efficient image transformers and distillation through attention, ICML 2021, table 1 ("tiny").

    Attributes:
        num_classes: number of logits.
        patch: side of a patch; height and width must be multiples of it.
        width: numbers in a token.
        depth: number of blocks.
        heads: number of attention heads.
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    patch: int = 4
    width: int = 192
    depth: int = 12
    heads: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        x = normalized(image, self.mean, self.std, least=self.patch, multiple=self.patch)
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, strides=self.patch, padding="VALID", kernel_init=SMALL, name="stem_conv")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = jnp.asarray(self.param("token", SMALL, (1, 1, self.width)))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], 1)
        features = {"stem": (x := x + self.param("places", SMALL, (1, *x.shape[1:])))}
        for number in range(1, self.depth + 1):
            features[f"block{number}"] = x = EncoderBlock(self.heads, name=f"block{number}")(x)
        features["embedding"] = x = layer_norm(name="last_norm")(x)[:, 0]
        return Outputs(jnp.asarray(nn.Dense(self.num_classes, kernel_init=SMALL, name="logits")(x)), features)

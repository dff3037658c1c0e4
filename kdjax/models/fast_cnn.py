"""The small network on which fast adversarial training on MNIST is measured."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.convolution import StridedConv
from kdjax.models.dropout import Dropout
from kdjax.models.layers import normalized
from kdjax.types import Outputs


class FastCNN(nn.Module):
    """Convolutions of 4 x 4 with stride 2 and ReLU, one dense layer with ReLU, then logits.

    With hidden (16, 32, 100) on 28 x 28 images: 166,406 parameters, the network of Wong, Rice, Kolter, Fast is better
    than free: revisiting adversarial training, ICLR 2020 (their MNIST experiments).

    Features: `block1`, `block2` ..., each `[B, h, w, channels]` after its ReLU, and as `block1_pre` ... before it;
    `embedding [B, hidden[-1]]`.

    Attributes:
        hidden: channels of the convolutions, then the width of the dense layer.
        num_classes: number of logits.
        dropout: rate on the embedding.
        input_dropout: rate on the pixels.
        mean, std: for every channel, to normalise images with.
    """

    hidden: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0
    input_dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        *convolutions, width = self.hidden
        x = normalized(image, self.mean, self.std, least=2 ** len(convolutions))
        x = Dropout(self.input_dropout)(x, train=train)
        features = {}
        for number, channels in enumerate(convolutions, start=1):
            features[f"block{number}_pre"] = x = StridedConv(channels, 4, 2, 1, name=f"conv{number}")(x)
            features[f"block{number}"] = x = jax.nn.relu(x)
        x = jax.nn.relu(nn.Dense(width, name="dense")(x.reshape(x.shape[0], -1)))
        features["embedding"] = x
        x = Dropout(self.dropout)(x, train=train)
        return Outputs(nn.Dense(self.num_classes, name="logits")(x), features)

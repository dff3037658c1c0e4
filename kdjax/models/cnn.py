"""A small convolutional network without pooling or normalisation."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.dropout import Dropout
from kdjax.models.layers import normalized
from kdjax.types import Outputs


class CNN(nn.Module):
    """Blocks of 3 x 3 convolution with stride 2 and ReLU, each halving height and width; then one dense layer.

    Strides, because they are fast on every device. On two CPU cores the gradient at [128, 28, 28, 1] with channels
    16, 32 took 9 ms; with average pooling instead 29 ms, with max pooling 83 ms.

    Features: `block1`, `block2` ..., each `[B, h, w, channels]` after its ReLU, and as `block1_pre` ... before it;
    `embedding`, the last after its ReLU, flattened.

    Attributes:
        hidden: channels of the blocks.
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
        x = normalized(image, self.mean, self.std, least=1)
        x = Dropout(self.input_dropout)(x, train=train)
        features = {}
        for number, channels in enumerate(self.hidden, start=1):
            features[f"block{number}_pre"] = x = nn.Conv(channels, (3, 3), strides=2, name=f"conv{number}")(x)
            features[f"block{number}"] = x = jax.nn.relu(x)
        features["embedding"] = x = x.reshape(x.shape[0], -1)
        x = Dropout(self.dropout)(x, train=train)
        return Outputs(nn.Dense(self.num_classes, name="logits")(x), features)

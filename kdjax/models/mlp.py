"""Fully connected networks: 784-1200-1200-10 and 784-20-10 of the MNIST notebook, 784-800-800-10 of Hinton et al."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.dropout import Dropout
from kdjax.models.layers import normalized
from kdjax.types import Outputs


class MLP(nn.Module):
    """`logits = W_n relu(drop(W_{n-1} ... relu(drop(W_1 drop(x)))))`, each layer with a bias.

    Dropout stands before the ReLU. Its factor m is never negative, so `relu(m z) = m relu(z)`: the same network as with
    dropout after the ReLU.

    Features: `hidden1`, `hidden2` ..., each `[B, width]` after its ReLU, and as `hidden1_pre` ... before it;
    `embedding`, the last after its ReLU.

    Attributes:
        hidden: widths of the hidden layers.
        num_classes: number of logits.
        dropout: rate in every hidden layer.
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
    def __call__(self, inputs: Float[Array, "batch ..."], *, train: bool) -> Outputs:
        x = normalized(inputs, self.mean, self.std, least=1)
        x = x.reshape(x.shape[0], -1)
        x = Dropout(self.input_dropout)(x, train=train)
        features = {}
        for number, width in enumerate(self.hidden, start=1):
            x = Dropout(self.dropout)(nn.Dense(width, name=f"dense{number}")(x), train=train)
            features[f"hidden{number}_pre"] = x
            features[f"hidden{number}"] = x = jax.nn.relu(x)
        features["embedding"] = x
        return Outputs(jnp.asarray(nn.Dense(self.num_classes, name="logits")(x)), features)

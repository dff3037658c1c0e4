"""LeNet-5 in today's form."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.layers import TORCH, classifier, normalized
from kdjax.types import Outputs


class LeNet(nn.Module):
    """Two 5 x 5 convolutions, each with ReLU and averages over 2 x 2, then dense layers of 120 and 84, then logits.

    Images smaller than 32 x 32 stand in a frame of zeros of that size, as MNIST's do in the paper. ReLU takes the place
    of tanh, a softmax that of distances to fixed codes; every map of the second convolution sees all of the first's.

    Features: `block1`, `block2`, after the averages; `hidden`, the 120; `embedding`, the 84.

    Reference:
        LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proceedings of the
        IEEE 1998, figure 2.

    Attributes:
        num_classes: number of logits.
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        x = normalized(image, self.mean, self.std, least=1)
        frame = [(missing // 2, missing - missing // 2) for missing in (max(32 - side, 0) for side in x.shape[1:3])]
        x = jnp.pad(x, ((0, 0), *frame, (0, 0)))
        features = {}
        for number, channels in enumerate((6, 16), start=1):
            x = nn.Conv(channels, (5, 5), padding="VALID", kernel_init=TORCH, name=f"conv{number}")(x)
            features[f"block{number}"] = x = nn.avg_pool(jax.nn.relu(x), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for number, (name, width) in enumerate((("hidden", 120), ("embedding", 84)), start=1):
            features[name] = x = jax.nn.relu(nn.Dense(width, kernel_init=TORCH, name=f"dense{number}")(x))
        return Outputs(classifier(self.num_classes)(x), features)

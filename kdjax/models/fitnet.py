"""The maxout networks with which FitNets introduced hints on MNIST."""

from typing import NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.layers import TORCH, classifier, max_pool, normalized
from kdjax.types import Outputs


class Layer(NamedTuple):
    """A maxout layer: channels, side of the kernel, zeros on each side, side and step of the maximum that follows."""

    channels: int
    size: int
    padding: int = 0
    pool: int = 1
    step: int = 1


TEACHER = (Layer(48, 8, 0, 4, 2), Layer(48, 8, 3, 4, 2), Layer(24, 5, 3, 2, 2))
"""Goodfellow et al.'s network for MNIST."""

STUDENT = (
    *(Layer(16, 5), Layer(16, 3, 0, 4, 2)),
    *(Layer(16, 5, 3), Layer(16, 3, 0, 4, 2)),
    *(Layer(12, 3, 3), Layer(12, 3, 0, 2, 2)),
)
"""Deeper and thinner. Its `block4` has the height and width of the teacher's `block2`, its hint."""


class Maxout(nn.Module):
    """Convolutions whose channels are the largest of `pieces` linear maps, then a maximum over windows; logits.

    Windows that stand over the edge count. Weights begin as PyTorch's; the released code begins within 0.005 of zero
    and bounds the norms of kernels, which is left to the optimizer here.

    Features: `block1`, `block2` ..., after the maximum over windows; `embedding`, the last one flattened.

    Reference:
        Romero, Ballas, Kahou, Chassang, Gatta, Bengio, FitNets: hints for thin deep nets, ICLR 2015, section 3.3;
        Goodfellow, Warde-Farley, Mirza, Courville, Bengio, Maxout networks, ICML 2013. The released configuration of
        the student has 4 pieces in its last two layers.

    Attributes:
        num_classes: number of logits.
        layers: the convolutions.
        pieces: number of linear maps behind every channel.
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    layers: tuple[Layer, ...]
    pieces: int = 2
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        x = normalized(image, self.mean, self.std, least=28)
        features = {}
        for number, layer in enumerate(self.layers, start=1):
            maps = nn.Conv(
                layer.channels * self.pieces,
                (layer.size, layer.size),
                padding=layer.padding,
                kernel_init=TORCH,
                name=f"conv{number}",
            )(x)
            x = maps.reshape(*maps.shape[:3], layer.channels, self.pieces).max(-1)
            over = -(x.shape[1] - layer.pool) % layer.step
            features[f"block{number}"] = x = max_pool(x, layer.pool, layer.step, padding=(0, over))
        features["embedding"] = x = x.reshape(x.shape[0], -1)
        return Outputs(classifier(self.num_classes)(x), features)

"""MobileNetV2 as published, and as distillation on CIFAR uses it."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.dropout import Dropout
from kdjax.models.layers import classifier, conv, norm, normalized, pooled
from kdjax.types import Outputs


class Inverted(nn.Module):
    """1 x 1 convolution to more channels, 3 x 3 by channel, 1 x 1 to fewer; added to the input where shapes agree.

    `project`: where only the channels differ, the input is added through a 1 x 1 convolution and normalisation.
    """

    width: int
    inner: int
    stride: int
    expand: bool
    six: bool
    norm: str
    project: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        activation = jax.nn.relu6 if self.six else jax.nn.relu
        y = x
        if self.expand:
            y = conv(self.inner, 1, name="conv1")(y)
            y = activation(norm(y, self.norm, train=train, name="norm1"))
        y = conv(self.inner, 3, self.stride, groups=self.inner, name="conv2")(y)
        y = activation(norm(y, self.norm, train=train, name="norm2"))
        y = norm(conv(self.width, 1, name="conv3")(y), self.norm, train=train, name="norm3")
        if self.project and self.stride == 1 and x.shape != y.shape:
            x = norm(conv(self.width, 1, name="shortcut_conv")(x), self.norm, train=train, name="shortcut_norm")
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Inverted residual blocks with linear outputs; a 1 x 1 convolution to 1280 channels; the mean over pixels.

    `cifar` is the form of the published tables of CIFAR-100: the stage of 24 channels keeps the size, so that the whole
    shrinks images 16 times and not 32, its ReLU is not cut at 6, and the first block has its 1 x 1 convolution too.
    `full` is the student of adversarial distillation on CIFAR: the stem keeps the size as well, so that the whole
    shrinks images 8 times, and blocks whose channels alone change are added to their inputs.

    Features: `stem`; `block1` ... `block17`; `stage1` ... `stage4`, the outputs with 24, 32, 96 and 320 channels (times
    the width), which no ReLU follows; `embedding`.

    Reference:
        Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2, CVPR 2018, table 2; Tian, Krishnan, Isola, Contrastive
        representation distillation, ICLR 2020 (half the width).

    Attributes:
        num_classes: number of logits.
        width: factor of all channels but the last 1280.
        cifar: the form for 32 x 32 images.
        full: with `cifar`, the larger form.
        dropout: rate on the embedding; 0.2 in torchvision.
        norm: "batch" or "group".
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    width: float = 1.0
    cifar: bool = False
    full: bool = False
    dropout: float = 0.0
    norm: str = "batch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        # Factor inside the blocks, channels, number of blocks, stride, stage that ends there.
        stages = [
            (1, 16, 1, 1, None),
            (6, 24, 2, 1 if self.cifar else 2, 1),
            (6, 32, 3, 2, 2),
            (6, 64, 4, 2, None),
            (6, 96, 3, 1, 3),
            (6, 160, 3, 2, None),
            (6, 320, 1, 1, 4),
        ]
        activation = jax.nn.relu if self.cifar else jax.nn.relu6
        x = normalized(image, self.mean, self.std, least=8 if self.full else 16 if self.cifar else 32)
        x = conv(int(32 * self.width), 3, 1 if self.full else 2, name="stem_conv")(x)
        features = {"stem": (x := activation(norm(x, self.norm, train=train, name="stem_norm")))}
        number = 0
        for factor, channels, count, first, stage in stages:
            for stride in (first,) + (1,) * (count - 1):
                number += 1
                expand = factor > 1 or self.cifar
                width, inner = int(channels * self.width), factor * x.shape[-1]
                block = Inverted(
                    width, inner, stride, expand, not self.cifar, self.norm, self.full, name=f"block{number}"
                )
                features[f"block{number}"] = x = block(x, train=train)
            if stage:
                features[f"stage{stage}"] = x
        x = norm(conv(1280, 1, name="last_conv")(x), self.norm, train=train, name="last_norm")
        features["embedding"] = x = pooled(activation(x))
        return Outputs(classifier(self.num_classes)(Dropout(self.dropout)(x, train=train)), features)

"""ShuffleNet V1 and V2 as distillation on CIFAR uses them: a 1 x 1 convolution of 24 channels as the stem."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models import layers
from kdjax.models.layers import TORCH, classifier, norm, normalized, pooled, relu, shuffled
from kdjax.types import Outputs

conv = functools.partial(layers.conv, init=TORCH)


class GroupedUnit(nn.Module):
    """V1: grouped 1 x 1 convolution, shuffle, 3 x 3 by channel, grouped 1 x 1; returns it before and after the ReLU.

    With stride 2 it stands beside the input's averages over 3 x 3, otherwise it is added to the input.
    """

    width: int
    stride: int
    groups: int
    norm: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        width = self.width - (x.shape[-1] if self.stride == 2 else 0)
        inner = width // 4
        # The stem's 24 channels are too few to divide.
        first = 1 if x.shape[-1] == 24 else self.groups
        y = conv(inner, 1, groups=first, name="conv1")(x)
        y = shuffled(relu(norm(y, self.norm, train=train, name="norm1")), first)
        y = conv(inner, 3, self.stride, groups=inner, name="conv2")(y)
        y = relu(norm(y, self.norm, train=train, name="norm2"))
        y = norm(conv(width, 1, groups=self.groups, name="conv3")(y), self.norm, train=train, name="norm3")
        if self.stride == 2:
            # The zeros around the image count.
            mean = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
            before = jnp.concatenate([y, mean], -1)
        else:
            before = x + y
        return before, relu(before)


class SplitUnit(nn.Module):
    """V2: half of the channels pass, the others take 1 x 1, 3 x 3 by channel and 1 x 1; then both are shuffled.

    With stride 2 both halves see all channels, the first through 3 x 3 by channel and 1 x 1. Returns it before and
    after the last ReLU.
    """

    width: int
    stride: int
    norm: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        def normed(y: Array, name: str) -> Array:
            return norm(y, self.norm, train=train, name=name)

        inner = self.width // 2
        if self.stride == 2:
            left = conv(x.shape[-1], 3, 2, groups=x.shape[-1], name="left_conv1")(x)
            left = conv(inner, 1, name="left_conv2")(normed(left, "left_norm1"))
            left, right = normed(left, "left_norm2"), x
        else:
            left, right = x[..., :inner], x[..., inner:]
        y = relu(normed(conv(inner, 1, name="conv1")(right), "norm1"))
        y = normed(conv(inner, 3, self.stride, groups=inner, name="conv2")(y), "norm2")
        y = normed(conv(inner, 1, name="conv3")(y), "norm3")
        # The half that passes has seen a ReLU before: a second one changes nothing.
        before = shuffled(jnp.concatenate([left, y], -1), 2)
        return before, relu(before)


class ShuffleNet(nn.Module):
    """Three stages of shuffle units, each beginning with stride 2; for V2 a further 1 x 1 convolution; the mean.

    Features: `stem`; `block1`, `block2` ...; `stage1` ... `stage3`, and as `stage1_pre` ... before the ReLU;
    `embedding`.

    Reference:
        Zhang, Zhou, Lin, Sun, ShuffleNet, CVPR 2018; Ma, Zhang, Zheng, Sun, ShuffleNet V2, ECCV 2018; Tian, Krishnan,
        Isola, Contrastive representation distillation, ICLR 2020 (the forms for 32 x 32 images).

    Attributes:
        num_classes: number of logits.
        widths: channels of every stage.
        groups: of V1's 1 x 1 convolutions; None is V2.
        blocks: number of units in every stage.
        last: channels of the last convolution; 0: no such convolution.
        norm: "batch" or "group".
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    widths: tuple[int, ...]
    groups: int | None
    blocks: tuple[int, ...] = (4, 8, 4)
    last: int = 0
    norm: str = "batch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        x = normalized(image, self.mean, self.std, least=2 ** len(self.blocks))
        x = conv(24, 1, name="stem_conv")(x)
        features = {"stem": (x := relu(norm(x, self.norm, train=train, name="stem_norm")))}
        number, before = 0, x
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for stride in (2,) + (1,) * (count - 1):
                name = f"block{(number := number + 1)}"
                if self.groups is None:
                    unit = SplitUnit(width, stride, self.norm, name=name)
                else:
                    unit = GroupedUnit(width, stride, self.groups, self.norm, name=name)
                before, x = unit(x, train=train)
                features[name] = x
            features[f"stage{stage}"], features[f"stage{stage}_pre"] = x, before
        if self.last:
            x = conv(self.last, 1, name="last_conv")(x)
            x = relu(norm(x, self.norm, train=train, name="last_norm"))
        features["embedding"] = x = pooled(x)
        return Outputs(classifier(self.num_classes)(x), features)

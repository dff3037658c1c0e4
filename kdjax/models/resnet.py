"""Residual networks of CIFAR and of ImageNet."""

from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.layers import classifier, conv, max_pool, norm, normalized, pooled, relu
from kdjax.types import Outputs


class Residual(nn.Module):
    """`relu(x + f(x))`; returns it before and after the ReLU.

    f is two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1 to four times the width. Where shapes differ, x passes a
    1 x 1 convolution and normalisation. The stride of a bottleneck is in its 3 x 3 convolution, as in torchvision.
    """

    width: int
    stride: int
    bottleneck: bool
    norm: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        # Size, stride and factor of the width.
        layers = [(1, 1, 1), (3, self.stride, 1), (1, 1, 4)] if self.bottleneck else [(3, self.stride, 1), (3, 1, 1)]
        y = x
        for number, (size, stride, factor) in enumerate(layers, start=1):
            y = y if number == 1 else relu(y)
            y = conv(self.width * factor, size, stride, name=f"conv{number}")(y)
            y = norm(y, self.norm, train=train, name=f"norm{number}")
        if x.shape != y.shape:
            x = conv(y.shape[-1], 1, self.stride, name="shortcut_conv")(x)
            x = norm(x, self.norm, train=train, name="shortcut_norm")
        return x + y, relu(x + y)


class ResNet(nn.Module):
    """Stages of residual blocks, each but the first halving height and width; then the mean over pixels.

    With 16 channels in the stem and widths 16, 32, 64: the networks of CIFAR in the form of contrastive representation
    distillation's code, whose shortcuts are 1 x 1 convolutions where He et al. pad with zeros.

    Features: `stem`; `block1`, `block2` ... after every block; `stage1`, `stage2` ... after every stage, and as
    `stage1_pre` ... before the ReLU; `embedding`.

    Reference:
        He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016; Tian, Krishnan, Isola,
        Contrastive representation distillation, ICLR 2020 (widths 32, 64, 128, 256: "x4").

    Attributes:
        num_classes: number of logits.
        blocks: number of blocks in every stage.
        widths: channels of every stage, a quarter of its outputs' in a bottleneck.
        stem: channels of the first convolution.
        bottleneck: blocks of three convolutions instead of two.
        imagenet_stem: 7 x 7 with stride 2, then a maximum over 3 x 3 with stride 2, instead of 3 x 3 with stride 1.
        norm: "batch" or "group".
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int = 64
    bottleneck: bool = False
    imagenet_stem: bool = False
    norm: str = "batch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        least = 2 ** (len(self.blocks) - 1) * (4 if self.imagenet_stem else 1)
        x = normalized(image, self.mean, self.std, least=least)
        size, stride = (7, 2) if self.imagenet_stem else (3, 1)
        x = conv(self.stem, size, stride, name="stem_conv")(x)
        x = relu(norm(x, self.norm, train=train, name="stem_norm"))
        features = {"stem": x}
        if self.imagenet_stem:
            x = max_pool(x, 3, 2, padding=(1, 1))
        block, before = 0, x
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for stride in (1 if stage == 1 else 2,) + (1,) * (count - 1):
                block += 1
                before, x = Residual(width, stride, self.bottleneck, self.norm, name=f"block{block}")(x, train=train)
                features[f"block{block}"] = x
            features[f"stage{stage}"], features[f"stage{stage}_pre"] = x, before
        features["embedding"] = x = pooled(x)
        return Outputs(classifier(self.num_classes)(x), features)

"""VGG for small images: one dense layer in place of three."""

from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.layers import classifier, conv, max_pool, norm, normalized, pooled, relu
from kdjax.types import Outputs


class VGG(nn.Module):
    """Five stages of 3 x 3 convolutions with normalisation and ReLU, a maximum over 2 x 2 between them; the mean.

    The maximum before the last stage is taken of images of 64 pixels or more, and left out of smaller ones: the form of
    contrastive representation distillation's code.

    Features: `stem`, after the first stage; `stage1` ... `stage4`, after the others, and as `stage1_pre` ... before
    the last ReLU; `block1`, `block2` ... after every convolution's ReLU; `embedding`. None has passed the maximum.

    Reference:
        Simonyan, Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015; Tian,
        Krishnan, Isola, Contrastive representation distillation, ICLR 2020 (five convolutions: "VGG8").

    Attributes:
        num_classes: number of logits.
        blocks: number of convolutions in every stage.
        widths: channels of every stage.
        norm: "batch" or "group".
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: str = "batch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        x = normalized(image, self.mean, self.std, least=2 ** (len(self.blocks) - 2))
        pools = len(self.blocks) - (1 if image.shape[1] >= 64 else 2)
        features, block, before = {}, 0, x
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            x = max_pool(x, 2, 2) if 0 < stage <= pools else x
            for _ in range(count):
                block += 1
                x = conv(width, 3, bias=True, name=f"conv{block}")(x)
                before = norm(x, self.norm, train=train, name=f"norm{block}")
                features[f"block{block}"] = x = relu(before)
            features |= {f"stage{stage}": x, f"stage{stage}_pre": before} if stage else {"stem": x}
        features["embedding"] = x = pooled(x)
        return Outputs(classifier(self.num_classes)(x), features)

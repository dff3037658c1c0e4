"""Residual networks with normalisation and ReLU before every convolution: wide ResNets, and ResNet-18 for CIFAR."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from kdjax.models.dropout import Dropout
from kdjax.models.layers import classifier, conv, norm, normalized, pooled, relu
from kdjax.types import Outputs


class PreActivation(nn.Module):
    """`x + f(x)`; returns what stands before its first ReLU, then the sum.

    f is twice normalisation, ReLU and a 3 x 3 convolution. Where shapes differ, x is what the first ReLU leaves, or
    with `raw` what came, through a convolution of `WideResNet`'s `shortcut`.
    """

    width: int
    stride: int
    dropout: float
    norm: str
    raw: bool = False
    deepmind: bool = False
    shortcut: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        activation, same = jax.nn.silu if self.deepmind else relu, self.deepmind
        before = norm(x, self.norm, train=train, name="norm1")
        active = activation(before)
        y = conv(self.width, 3, self.stride, name="conv1", same=same)(active)
        y = activation(norm(y, self.norm, train=train, name="norm2"))
        y = conv(self.width, 3, name="conv2")(Dropout(self.dropout)(y, train=train))
        if x.shape != y.shape:
            x = x if self.raw else active
            x = conv(self.width, self.shortcut, self.stride, name="shortcut_conv", same=same)(x)
        return before, x + y


class WideResNet(nn.Module):
    """Stages of pre-activation blocks, each but the first halving height and width; normalisation, ReLU, the mean.

    WRN-d-k has 16 channels in the stem, widths 16 k, 32 k, 64 k and (d - 4) / 6 blocks in every stage; pre-activation
    ResNet-18 has 64 in the stem, widths 64, 128, 256, 512 and 2 blocks. Robust networks have forms of their own: `raw`
    shortcuts, no normalisation and no ReLU before the mean (`last`), DeepMind's (`deepmind`).

    Features: `stem`; `block1`, `block2` ... and `stage1`, `stage2` ..., sums that no ReLU has seen; `stage1_pre` ...,
    what the next normalisation makes of them, before its ReLU; `embedding`.

    Reference:
        He, Zhang, Ren, Sun, Identity mappings in deep residual networks, ECCV 2016; Zagoruyko, Komodakis, Wide
        residual networks, BMVC 2016; Wong, Rice, Kolter, Fast is better than free, ICLR 2020 (`raw`, not `last`);
        Gowal, Qin, Uesato, Mann, Kohli, Uncovering the limits of adversarial training, 2020 (`deepmind`).

    Attributes:
        num_classes: number of logits.
        blocks: number of blocks in every stage.
        widths: channels of every stage.
        stem: channels of the first convolution.
        dropout: rate between the two convolutions of every block.
        raw: shortcuts read what enters a block, and not what its first normalisation and ReLU make of it.
        last: whether normalisation and ReLU stand before the mean.
        deepmind: SiLU, x sigmoid(x), in the place of ReLU, and strided convolutions padded as XLA's "SAME".
        shortcut: side of the shortcuts' convolution.
        norm: "batch" or "group".
        mean, std: for every channel, to normalise images with.
    """

    num_classes: int
    blocks: int
    widths: tuple[int, ...]
    stem: int = 16
    dropout: float = 0.0
    raw: bool = False
    last: bool = True
    deepmind: bool = False
    shortcut: int = 1
    norm: str = "batch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channels"], *, train: bool) -> Outputs:
        x = normalized(image, self.mean, self.std, least=2 ** (len(self.widths) - 1))
        features = {"stem": (x := conv(self.stem, 3, name="stem_conv")(x))}
        form = {"raw": self.raw, "deepmind": self.deepmind, "shortcut": self.shortcut}
        for number in range(len(self.widths) * self.blocks):
            stage, place = divmod(number, self.blocks)
            stride, name = 2 if place == 0 and stage > 0 else 1, f"block{number + 1}"
            block = PreActivation(self.widths[stage], stride, self.dropout, self.norm, **form, name=name)
            before, x = block(x, train=train)
            if place == 0 and stage > 0:
                features[f"stage{stage}_pre"] = before
            features[name] = features[f"stage{stage + 1}"] = x
        if self.last:
            x = norm(x, self.norm, train=train, name="last_norm")
        features[f"stage{len(self.widths)}_pre"] = x
        activation = jax.nn.silu if self.deepmind else relu
        features["embedding"] = x = pooled(activation(x) if self.last else x)
        return Outputs(classifier(self.num_classes)(x), features)

"""The fusion that stands between a student's stages and a teacher's in knowledge review; thrown away afterwards."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from kdjax.models.connect.sizes import nearest
from kdjax.models.layers import TORCH
from kdjax.types import BadInput

START = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Fusion(nn.Module):
    """Attention-based fusion of several stages of the student, from the deepest to the shallowest.

    With s_i the student's stage i and r_{i+1} what was handed up from the deeper one (nothing at the deepest):

    x_i = norm(1 x 1 convolution(s_i))                             to m channels
    (a, b) = sigmoid(1 x 1 convolution([x_i, up(r_{i+1})]))        two numbers per pixel, between 0 and 1 each
    r_i = up(a x_i + b up(r_{i+1}))                                at the teacher's height and width
    f_i = norm(3 x 3 convolution(r_i))                             to the teacher's channels

    `up` shows the nearest pixel. m is the deepest stage's number of channels, `widest` at most. Vectors are maps of one
    pixel, on which a 3 x 3 convolution is a 1 x 1: so the pooled embedding is the deepest stage of the paper's own
    settings, and an MLP's layers can be fused too.

    Called with a layer or a tuple of layers, shallow to deep, on both sides. Returns `(f_1 ..), (t_1 ..), {}`, all
    `[B, H, W, C]` in the teacher's sizes, for `losses.feature.review` level by level.

    Raises:
        BadInput: other numbers of layers on the two sides; a layer that is neither maps nor vectors.

    Reference:
        Chen, Liu, Zhao, Jia, Distilling Knowledge via Knowledge Review, CVPR 2021, sections 3.2 and 3.3 (figure 3a);
        normalisation, initial weights and the order of sizes as in the released code, which gives the two attention
        weights a sigmoid each, so that they need not sum to 1.
    """

    widest: int = 512

    @nn.compact
    def __call__(self, student: Any, teacher: Any, *, train: bool) -> tuple[Any, Any, dict[str, Array]]:
        ours, theirs = _stages("student", student), _stages("teacher", teacher)
        if len(ours) != len(theirs):
            raise BadInput(
                f"{len(ours)} layers of the student against {len(theirs)}: accepted are as many on each side"
            )
        middle = min(self.widest, ours[-1].shape[-1])

        def normed(x: Array, number: int) -> Array:
            name = f"{'in' if number % 2 else 'out'}_norm{(number + 1) // 2}"
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)(x)

        fused: list[Array] = []
        above: Array | None = None
        for level in range(len(ours), 0, -1):
            x, wanted = ours[level - 1], theirs[level - 1]
            x = normed(nn.Dense(middle, use_bias=False, kernel_init=START, name=f"in{level}")(x), 2 * level - 1)
            if above is not None:
                above = nearest(above, x.shape[1:3])
                both = jnp.concatenate([x, above], -1)
                weight = jax.nn.sigmoid(nn.Dense(2, kernel_init=TORCH, name=f"attention{level}")(both))
                x = x * weight[..., :1] + above * weight[..., 1:]
            above = x = nearest(x, wanted.shape[1:3])
            side = 1 if x.shape[1:3] == (1, 1) else 3
            out = nn.Conv(wanted.shape[-1], (side, side), use_bias=False, kernel_init=START, name=f"out{level}")
            fused.append(normed(out(x), 2 * level))
        return tuple(reversed(fused)), theirs, {}


def _stages(side: str, layers: Any) -> tuple[Array, ...]:
    """Every layer as a map."""
    found = layers if isinstance(layers, tuple) else (layers,)
    for x in found:
        if x.ndim not in (2, 4):
            raise BadInput(f"a layer of the {side} has shape {x.shape}: accepted are maps [B, H, W, C] and [B, C]")
    return tuple(x if x.ndim == 4 else x[:, None, None] for x in found)

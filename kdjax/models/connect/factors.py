"""What stands between two layers in factor transfer: a paraphraser, its decoder, a translator."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from kdjax.models.connect.sizes import pooled, same_size

LEARNED = "learned"
"""The collection, a part of the model's state, that holds a paraphraser which learned before."""


class Convolutions(nn.Module):
    """3 x 3 convolutions, linear maps for vectors and tokens, each with leaky ReLU of slope 0.1."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for number, width in enumerate(self.widths, start=1):
            name = f"layer{number}"
            layer = nn.Conv(width, (3, 3), name=name) if x.ndim == 4 else nn.Dense(width, name=name)
            x = jax.nn.leaky_relu(layer(x), 0.1)
        return x


class Factors(nn.Module):
    """The teacher's factor and the student's translation, of `rate` times the teacher's channels.

    The paraphraser (three layers) makes the factor, a decoder (three) the teacher's layer of it again; both learn from
    the mean squared error of that alone, keyword `reconstruction [B]`. The student's loss sends the factor no gradient.
    The larger of the two factors is averaged to the smaller.

    The paper trains the paraphraser first, on the teacher alone, then holds it fast. With `learned` it is such a one:
    its numbers lie in the state's collection `LEARNED`, where neither gradient nor weight decay reaches them, and there
    is no decoder. Without it the paraphraser learns beside the student, which the paper does not do.

    Reference:
        Kim, Park, Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018,
        sections 3.1 and 3.2 and figure 2; without normalisation, as in the code of Tian et al., Contrastive
        Representation Distillation, ICLR 2020.
    """

    rate: float = 0.5
    learned: bool = False

    @nn.compact
    def __call__(self, student: Array, teacher: Array, *, train: bool) -> tuple[Array, Array, dict[str, Any]]:
        if student.ndim != teacher.ndim:
            student, teacher = pooled(student), pooled(teacher)
        channels = teacher.shape[-1]
        factors = max(int(channels * self.rate), 1)
        widths, keywords = (channels, factors, factors), {}
        if self.learned:
            paraphraser = Convolutions(widths, parent=None)
            numbers = self.variable(
                LEARNED, "paraphraser", lambda: paraphraser.init(self.make_rng("params"), teacher)["params"]
            )
            factor = paraphraser.apply({"params": numbers.value}, teacher)
        else:
            factor = Convolutions(widths, name="paraphraser")(teacher)
            back = Convolutions((factors, channels, channels), name="decoder")(factor)
            keywords["reconstruction"] = jnp.mean((back - teacher) ** 2, axis=tuple(range(1, teacher.ndim)))
        translator = Convolutions((student.shape[-1], factors, factors), name="translator")
        return *same_size(translator(student), jax.lax.stop_gradient(factor)), keywords  # pyright: ignore[reportReturnType,reportArgumentType]

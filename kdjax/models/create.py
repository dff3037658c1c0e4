"""A network by name, as two pure functions. Flax stays behind this border."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.models.cnn import CNN
from kdjax.models.fast_cnn import FastCNN
from kdjax.models.mlp import MLP
from kdjax.types import BadInput, Model, Outputs, PyTree, nearest

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN, "fast_cnn": FastCNN}


def names() -> tuple[str, ...]:
    """Every name that `create` knows."""
    return tuple(sorted(MODELS))


def create(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    hidden: tuple[int, ...],
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> Model:
    """A network by name.

    Args:
        name: one of `names()`.
        num_classes: number of logits, at least 2.
        image_shape: height, width and channels.
        hidden: widths of an MLP's hidden layers; channels of a CNN's blocks; of a fast CNN the last is a dense width.
        dropout: rate in the hidden layers of an MLP, on the embedding of a CNN; in [0, 1).
        input_dropout: rate on the pixels; in [0, 1).

    Returns:
        A `Model`. Parameters are created in float32; images are used as they are, in [0, 1], without normalisation.

    Raises:
        BadInput: an argument cannot be used. From `apply`: images of another shape or of integers; dropout while
            training without a key.

    >>> model = create("mlp", num_classes=10, image_shape=(28, 28, 1), hidden=(20,))
    >>> parameter_count(model.init(jax.random.key(0))[0])
    15910
    """
    if name not in MODELS:
        raise BadInput(f"name={name!r} is no model; accepted: {', '.join(names())}{nearest(name, MODELS)}")
    if num_classes < 2:
        raise BadInput(f"num_classes={num_classes}; accepted: at least 2")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise BadInput(f"image_shape={image_shape}; accepted: (height, width, channels), each at least 1")
    if not hidden or min(hidden) < 1:
        raise BadInput(f"hidden={hidden}; accepted: one or more positive widths, such as (1200, 1200)")
    for argument, rate in (("dropout", dropout), ("input_dropout", input_dropout)):
        if not 0 <= rate < 1:
            raise BadInput(f"{argument}={rate}; accepted: a rate in [0, 1)")
    module = MODELS[name](hidden=tuple(hidden), num_classes=num_classes, dropout=dropout, input_dropout=input_dropout)
    return from_linen(module, image_shape, needs_key=max(dropout, input_dropout) > 0)


def from_linen(module: nn.Module, image_shape: tuple[int, int, int], *, needs_key: bool = False) -> Model:
    """Any Linen module called as `module(image, train=...) -> Outputs`, as a `Model`.

    Collections besides `params` (`batch_stats` ...) are the model state: `apply` updates them when training, and
    otherwise returns them as they came.

    Args:
        module: the network.
        image_shape: height, width and channels.
        needs_key: whether training draws random numbers, so that a missing key is refused with a clear message.
    """

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = module.init({"params": key}, jnp.zeros((1, *image_shape)), train=False)
        return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}

    def apply(variables: PyTree, image: jax.Array, *, train: bool, key: jax.Array | None) -> tuple[Outputs, PyTree]:
        if image.shape[1:] != image_shape or not jnp.issubdtype(image.dtype, jnp.floating):
            raise BadInput(
                f"image is {image.dtype} of shape {image.shape}; accepted: floats in [0, 1], [B, *{image_shape}]"
            )
        if train and needs_key and key is None:
            raise BadInput("key=None while training with dropout; accepted: a PRNG key")
        state = {name: tree for name, tree in variables.items() if name != "params"}
        rngs = {} if key is None else {"dropout": key}
        if not train or not state:
            return module.apply(variables, image, train=train, rngs=rngs), state  # pyright: ignore[reportReturnType]
        return module.apply(variables, image, train=True, rngs=rngs, mutable=list(state))  # pyright: ignore[reportReturnType]

    return Model(init, apply)


def parameter_count(params: PyTree) -> int:
    """How many numbers the parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

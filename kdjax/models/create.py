"""A network by name, as two pure functions. Flax stays behind this border."""

import inspect
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from kdjax.models.layers import check_moments
from kdjax.models.padding import real_rows
from kdjax.models.zoo import MODELS, WITH_WIDTHS
from kdjax.types import BadInput, Model, Outputs, PyTree, nearest

NORMS = ("batch", "group")
"""What `norm` can be."""

_OF_VARIABLES = (
    errors.ScopeCollectionNotFound, errors.ScopeParamNotFoundError, errors.ScopeParamShapeError,
    errors.ScopeVariableNotFoundError,
)  # fmt: skip
"""What Flax says of variables that do not fit a network. Its other errors are faults of the network itself."""

_UNSET: dict[str, Any] = {
    "hidden": (), "dropout": 0.0, "input_dropout": 0.0, "norm": None, "mean": None, "std": None,
}  # fmt: skip


@runtime_checkable
class Like(Protocol):
    """Examples that a network must fit."""

    @property
    def num_classes(self) -> int: ...

    def image_shape(self) -> tuple[int, int, int]: ...


def names() -> tuple[str, ...]:
    """The networks that take widths, `hidden`."""
    return tuple(sorted(WITH_WIDTHS))


def all_names() -> tuple[str, ...]:
    """Every name that `create` knows."""
    return tuple(sorted(MODELS))


def accepts(name: str) -> frozenset[str]:
    """Which of `create`'s optional arguments a network takes; the others must stay as they are.

    Raises:
        BadInput: a name that is no network's.

    >>> sorted(accepts("wrn_16_2")), sorted(accepts("lenet"))
    (['dropout', 'mean', 'norm', 'std'], ['mean', 'std'])
    """
    if name not in MODELS:
        raise BadInput(f"name={name!r} is no model; accepted: {', '.join(all_names())}{nearest(name, MODELS)}")
    return frozenset(_UNSET).intersection(inspect.signature(MODELS[name]).parameters)


def create(
    name: str,
    *,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    like: Like | None = None,
    hidden: tuple[int, ...] = (),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    norm: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Model:
    """A network by name.

    An argument that the network does not take is refused unless it has its default; `accepts` tells.

    Args:
        name: one of `all_names()`.
        num_classes: number of logits, at least 2.
        image_shape: height, width and channels.
        like: examples that the network must fit, instead of these two.
        hidden: for the networks of `names()`, which need it: widths of an MLP's hidden layers; channels of a CNN's
            blocks; of a fast CNN the last is a dense width.
        dropout: rate in the hidden layers of an MLP, on the embedding of a CNN or a MobileNet, in the blocks of a wide
            ResNet; in [0, 1).
        input_dropout: rate on the pixels; in [0, 1).
        norm: "batch", where nothing is said, or "group".
        mean, std: a number per channel, for the network to normalise images with, of images in [0, 1] as they are
            themselves: mean in [0, 1], std in (0, 1]. Else images are used as they are.

    Returns:
        A `Model`. Parameters are created in float32; images are in [0, 1].

    Raises:
        BadInput: an argument cannot be used. From `init` and `apply`: images too small for the network. From `apply`:
            images of another shape or of integers; dropout while training without a key.

    >>> model = create("mlp", num_classes=10, image_shape=(28, 28, 1), hidden=(20,))
    >>> parameter_count(model.init(jax.random.key(0))[0])
    15910
    """
    if like is not None and num_classes is None and image_shape is None:
        num_classes, image_shape = like.num_classes, like.image_shape()
    if num_classes is None or image_shape is None:
        raise BadInput(f"num_classes={num_classes}, image_shape={image_shape}; accepted: both, or like=EXAMPLES alone")
    given: dict[str, Any] = {
        "hidden": tuple(hidden), "dropout": dropout, "input_dropout": input_dropout,
        "norm": norm, "mean": mean, "std": std,
    }  # fmt: skip
    taken = accepts(name)
    given = {argument: value for argument, value in given.items() if value != _UNSET[argument]}
    for argument in given.keys() - taken:
        raise BadInput(f"{argument}={given[argument]!r} for {name}; accepted besides: {', '.join(sorted(taken))}")
    if num_classes < 2:
        raise BadInput(f"num_classes={num_classes}; accepted: at least 2")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise BadInput(f"image_shape={image_shape}; accepted: (height, width, channels), each at least 1")
    if "hidden" in taken and (not hidden or min(hidden) < 1):
        raise BadInput(f"hidden={hidden}; accepted: one or more positive widths, such as (1200, 1200)")
    for argument, rate in (("dropout", dropout), ("input_dropout", input_dropout)):
        if not 0 <= rate < 1:
            raise BadInput(f"{argument}={rate}; accepted: a rate in [0, 1)")
    if norm not in (None, *NORMS):
        raise BadInput(f"norm={norm!r}; accepted: {', '.join(NORMS)}")
    check_moments(mean, std, image_shape[2])
    module = MODELS[name](num_classes=num_classes, **given)
    return from_linen(module, image_shape, needs_key=max(dropout, input_dropout) > 0)


def from_linen(module: nn.Module, input_shape: tuple[int, ...], *, needs_key: bool = False) -> Model:
    """Any Linen module called as `module(image, train=...) -> Outputs`, as a `Model`.

    Collections besides `params` (`batch_stats` ...) are the model state: `apply` updates them when training, and
    otherwise returns them as they came. Every `flax.linen.BatchNorm` in the module counts real rows alone (`padding`).

    Args:
        module: the network.
        input_shape: of one example: height, width and channels of an image; the columns of a table's row.
        needs_key: whether training draws random numbers, so that a missing key is refused with a clear message.
    """

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = module.init({"params": key}, jnp.zeros((1, *input_shape)), train=False)
        return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}

    def apply(
        variables: PyTree, inputs: jax.Array, *, train: bool, key: jax.Array | None, mask: jax.Array | None = None
    ) -> tuple[Outputs, PyTree]:
        if inputs.shape[1:] != input_shape or not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise BadInput(f"inputs are {inputs.dtype} of shape {inputs.shape}; accepted: floats, [B, *{input_shape}]")
        if train and needs_key and key is None:
            raise BadInput("key=None while training with dropout; accepted: a PRNG key")
        state = {name: tree for name, tree in variables.items() if name != "params"}
        rngs = {} if key is None else {"dropout": key}
        try:
            if not train or not state:
                return module.apply(variables, inputs, train=train, rngs=rngs), state  # pyright: ignore[reportReturnType]
            with real_rows(mask):
                return module.apply(variables, inputs, train=True, rngs=rngs, mutable=list(state))  # pyright: ignore[reportReturnType]
        except _OF_VARIABLES as error:
            why = str(error).partition(" (http")[0]
            raise BadInput(f"variables of another network: {why} Accepted: this network's own.") from None

    return Model(init, apply, input_shape)


def parameter_count(params: PyTree) -> int:
    """How many numbers the parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

"""Flax NNX modules as two pure functions: split before the border, merged behind it, so that nothing else sees NNX."""

import zlib
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx, traverse_util

from kdjax import axis
from kdjax.models.padding import statistics
from kdjax.types import BadInput, Model, Outputs, PyTree


def as_outputs(result: Any) -> Outputs:
    """What a module returned, as `Outputs`: an array is the logits."""
    return result if isinstance(result, Outputs) else Outputs(result)


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module], outputs: Callable[[Any], Outputs] = as_outputs) -> Model:
    """An NNX module, called as `module(image)`, as a `Model`.

    Its `nnx.Param`s become the parameters and its other variables (`nnx.BatchStat` ...) the model state, both as nested
    dicts of arrays. `train` chooses `module.train()` or `module.eval()`. Random streams are no state: every call seeds
    each of them afresh from `key`, so a call is a function of its arguments and a checkpoint holds no keys.

    Args:
        build: makes the module from its random streams, such as `lambda rngs: Net(10, rngs=rngs)`.
        outputs: turns what the module returns into `Outputs`; the default takes logits or `Outputs`.

    Returns:
        A `Model`; its `apply` raises BadInput if a module with random streams is trained without a key.
    """

    def split(module: nnx.Module) -> tuple[nnx.GraphDef, Any, Any, Any]:
        return nnx.split(module, nnx.Param, nnx.Not(nnx.RngState), ...)  # pyright: ignore[reportReturnType]

    graph, like_params, like_state, like_rngs = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        _, params, state, _ = split(build(nnx.Rngs(key)))
        return _to_dict(params), _to_dict(state)

    def apply(
        variables: PyTree, image: jax.Array, *, train: bool, key: jax.Array | None, mask: jax.Array | None = None
    ) -> tuple[Outputs, PyTree]:
        if train and key is None and nnx.to_flat_state(like_rngs):
            raise BadInput("key=None while training a module with random streams; accepted: a PRNG key")
        state = {name: tree for name, tree in variables.items() if name != "params"}
        rngs = _seeded(like_rngs, jax.random.key(0) if key is None else key)
        module = nnx.merge(graph, _to_state(like_params, variables["params"]), _to_state(like_state, state), rngs)
        (module.train if train else module.eval)()
        if train:
            _count_real_rows(module, mask)
        result = outputs(module(image))  # pyright: ignore[reportCallIssue]
        return result, _to_dict(split(module)[2]) if train else state

    return Model(init, apply)


def _count_real_rows(module: nnx.Module, mask: jax.Array | None) -> None:
    """Make every BatchNorm in a module count real rows alone, of all devices that the batch lies over."""

    class RealRows(nnx.BatchNorm):
        def __call__(self, x: jax.Array, *args: Any, mask: jax.Array | None = None, **keywords: Any) -> jax.Array:
            layer = super().__call__
            found = statistics(lambda x, real: layer(x, *args, mask=real, **keywords), x, batch_mask, mask)
            return axis.own(len(x))(found)

    batch_mask = mask
    for _, node in nnx.iter_graph(module):
        # NNX has no hook around a layer's call; the module is a copy that was merged for this call alone.
        if type(node) is nnx.BatchNorm:
            node.__class__ = RealRows


def _to_dict(state: Any) -> PyTree:
    """An NNX state as nested dicts of arrays. Keys are text, also for places in lists: checkpoints know no others."""
    flat = {tuple(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}
    return traverse_util.unflatten_dict(flat)


def _to_state(like: Any, tree: PyTree) -> Any:
    """The NNX state of the form `like` with the arrays of `tree`."""
    flat = traverse_util.flatten_dict(tree)
    found = [(path, variable.replace(flat[tuple(map(str, path))])) for path, variable in nnx.to_flat_state(like)]
    return nnx.from_flat_state(found)


def _seeded(like: Any, key: jax.Array) -> Any:
    """Random streams that start from `key`, each on its own: two dropout layers must not draw the same mask."""

    def seed(path: tuple[Any, ...], variable: Any) -> Any:
        if not isinstance(variable, nnx.RngKey):
            return variable.replace(jax.numpy.zeros(variable.shape, variable.dtype))
        own = jax.random.fold_in(key, zlib.crc32("/".join(map(str, path)).encode()))
        return variable.replace(jax.random.split(own, variable.shape) if variable.shape else own)

    return nnx.from_flat_state([(path, seed(path, variable)) for path, variable in nnx.to_flat_state(like)])

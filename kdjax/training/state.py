"""Make a `TrainState`."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.types import Model, PyTree, TrainState

MEMORY = "memory"
"""The collection of `model_state` that losses remember examples in. No model reads it, and it is made from the global
batch: it is the same on all devices without averaging, and may lie split over them (`training.parallel`)."""


Init = Callable[[Array], tuple[PyTree, PyTree]]


def initializer(model: Model) -> Init:
    """The model's `init`, compiled: who makes several states of a model keeps one."""

    @jax.jit
    def init(key: Array) -> tuple[PyTree, PyTree]:
        # A weakly typed leaf would be a strongly typed one after its first update, and the second step compile again.
        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), model.init(key))

    return init


def create_state(
    model: Model,
    tx: optax.GradientTransformation,
    key: Array,
    *,
    hparams: Mapping[str, float],
    frozen: PyTree = None,
    init: Init | None = None,
) -> TrainState:
    """Initialise a model and its optimizer.

    Args:
        model: the pure functions to train.
        tx: an Optax transformation of *unit* learning rate (see `training.optimizers`).
        key: PRNG key; one half initialises the parameters, the other drives the steps.
        hparams: scalars that are traced, `learning_rate` at least.
        frozen: what the step reads and never writes, for instance teachers' variables.
        init: the model's `initializer`, where several states are made of it.

    Returns:
        A state at step 0 whose arrays are its own: donating it destroys nothing of the caller's.
    """
    init_key, run_key = jax.random.split(key)
    params, model_state = (init or initializer(model))(init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
        key=run_key,
        hparams={name: jnp.asarray(value, jnp.float32) for name, value in hparams.items()},
        frozen=frozen,
    )


def variables(state: TrainState) -> PyTree:
    """The state's `{"params": ..., **model_state}` without memories, as an `ApplyFn` takes them."""
    return {"params": state.params, **{name: tree for name, tree in state.model_state.items() if name != MEMORY}}


def separate(states: TrainState) -> tuple[dict[str, PyTree], tuple[Array, PyTree]]:
    """A population's state in two: what every member has of its own, and `(step, frozen)`, which all share."""
    names = ("params", "model_state", "opt_state", "key", "hparams")
    return {name: getattr(states, name) for name in names}, (states.step, states.frozen)


def unite(own: Mapping[str, PyTree], shared: tuple[Array, PyTree]) -> TrainState:
    """The inverse of `separate`."""
    return TrainState(step=shared[0], frozen=shared[1], **own)

"""Make a `TrainState`, and take networks out of it."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.training.optimizers import UnitRate
from kdjax.training.update import Update, updates_of
from kdjax.types import STUDENT, BadInput, Model, Networks, PyTree, TrainState

RATE = "learning_rate"
"""The hyper-parameter that multiplies the updates of an optimizer of unit rate."""


Begin = Callable[[Array], Any]
"""What a network begins as, `key -> (params, model_state)`, or a memory, `key -> memory`."""
Init = Callable[[Array], tuple[dict[str, PyTree], dict[str, PyTree], dict[str, PyTree]]]
"""`key -> (params, model_state, memory)`, each by name."""


def compiled(begin: Begin) -> Begin:
    """What a network or a memory begins as, as one program.

    A weakly typed leaf would be a strongly typed one after its first update, and the second step compile again.
    """
    return jax.jit(lambda key: jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), begin(key)))


def initializer(model: Model | Networks, program: Callable[[Begin], Begin] = compiled) -> Init:
    """What all networks and memories begin as: who makes several states of a model keeps one.

    Args:
        model: the networks.
        program: makes one's program; a study keeps those of networks that several of its models share.

    Raises:
        BadInput: no model.
    """
    networks = Networks({STUDENT: model.init}) if isinstance(model, Model) else model
    if not isinstance(networks, Networks):
        raise BadInput(f"model is a {type(model).__name__}; accepted: a Model, or Networks, such as a lesson's model")
    begins, remembers = (
        {name: program(one) for name, one in each.items()} for each in (networks.init, networks.memory)
    )

    def init(key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], dict[str, PyTree]]:
        def named(name: str) -> Array:
            # By name and not by number: one more network or memory then changes no other's first values.
            return key if name == STUDENT else jax.random.fold_in(key, zlib.crc32(name.encode()))

        found = {name: begin(named(name)) for name, begin in begins.items()}
        memory = {name: begin(named(f"memory/{name}")) for name, begin in remembers.items()}
        params, states = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
        return params, states, memory

    return init


def create_state(
    model: Model | Networks,
    tx: optax.GradientTransformation | Sequence[Update],
    key: Array,
    *,
    hparams: Mapping[str, float] | None = None,
    frozen: PyTree = None,
    init: Init | None = None,
) -> TrainState:
    """Initialise networks, memories and optimizers.

    Args:
        model: the network to train, which is called `student`; or several by name, with what losses remember.
        tx: an Optax transformation, or the updates of a step. One of `training.optimizers` has unit rate and needs
            `learning_rate` among the hyper-parameters; Optax's own has its rate in it.
        key: PRNG key; one half initialises the parameters, the other drives the steps.
        hparams: scalars that are traced.
        frozen: what the step reads and never writes, for instance teachers' variables.
        init: the model's `initializer`, where several states are made of it.

    Returns:
        A state at step 0 whose arrays are its own: donating it destroys nothing of the caller's.

    Raises:
        BadInput: a learning rate for an optimizer that has its own, or none for one of unit rate; an update of a
            network that there is not.
    """
    updates, hparams = updates_of(tx), dict(hparams or {})
    traced = [isinstance(u.tx, UnitRate) for u in updates]
    if any(traced) and RATE not in hparams:
        raise BadInput(f"hparams has {sorted(hparams)}: accepted is one with {RATE}, for an optimizer of unit rate")
    if RATE in hparams and not any(traced):
        raise BadInput(
            f"hparams has {RATE}={hparams[RATE]} and the optimizer its own rate, so both would multiply updates; "
            f"accepted: no {RATE}, or an optimizer of training.optimizers, whose rate is 1"
        )
    init_key, run_key = jax.random.split(key)
    params, model_state, memory = (init or initializer(model))(init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=tuple(u.tx.init(u.moved(params)) for u in updates),
        key=run_key,
        hparams={name: jnp.asarray(value, jnp.float32) for name, value in hparams.items()},
        frozen=frozen,
        memory=memory,
    )


def need(state: TrainState, name: str) -> Any:
    """A hyper-parameter of the state.

    Raises:
        BadInput: there is none of this name.
    """
    if name not in state.hparams:
        raise BadInput(f"hparams has {sorted(state.hparams)}: accepted is one with {name}")
    return state.hparams[name]


def variables(state: TrainState, network: str = STUDENT) -> PyTree:
    """A network's `{"params": ..., **model_state}`, as its `ApplyFn` takes them."""
    return {"params": state.params[network], **state.model_state[network]}


def separate(states: TrainState) -> tuple[dict[str, PyTree], tuple[Array, PyTree]]:
    """A population's state in two: what every member has of its own, and `(step, frozen)`, which all share."""
    names = ("params", "model_state", "opt_state", "key", "hparams", "memory")
    return {name: getattr(states, name) for name in names}, (states.step, states.frozen)


def unite(own: Mapping[str, PyTree], shared: tuple[Array, PyTree]) -> TrainState:
    """The inverse of `separate`."""
    return TrainState(step=shared[0], frozen=shared[1], **own)

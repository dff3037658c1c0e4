"""What networks begin as, each function compiled but once for all methods."""

import functools

import jax


def begun(networks, run, key):
    """The parameters, states and memories of networks, each made by `run` of its function."""
    found = {name: run(one, key) for name, one in networks.init.items()}
    memory = {name: run(one, key) for name, one in networks.memory.items()}
    return *({name: pair[i] for name, pair in found.items()} for i in (0, 1)), memory


@functools.partial(jax.jit, static_argnums=0)
def first(init, key):
    """`init(key)`, compiled once for each function."""
    return init(key)


def initializer(networks):
    """In the place of `training.state.initializer`, which compiles all networks as one program."""
    return functools.partial(begun, networks, first)

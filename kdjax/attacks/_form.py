"""The form of an attack's loop inside a compiled program: a loop on the device, or its steps one after another.

XLA's CPU backend puts the axes of a convolution into the one order that it computes fast, but not inside of a loop.
There a step of an attack on a network of such convolutions costs 5 to 12 times what it costs outside; parts of a loop
that are unrolled cost as much, since they lie inside of it too. The convolutions of `kdjax.models` name their axes in
that order, slopes included, and are as fast in the loop, which compiles in a fraction of the time.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.extend import core

UNROLLED = 50
"""The most steps that are written one after another: each takes a second or so to compile."""

State = TypeVar("State")


def on_cpu() -> bool:
    """Whether arrays that are made here lie on a CPU: `jax.default_device`, which need not be the default backend's."""
    return all(device.platform == "cpu" for device in jax.numpy.zeros(()).devices())


def repeated(
    steps: int,
    body: Callable[..., State],
    going: Callable[[State], Any],
    state: State,
    *arguments: Any,
) -> State:
    """`state = body(state, number, *arguments)`, `steps` times or until nobody goes on.

    A loop on the device; where the program is for a CPU and a step convolves in an order of axes that is slow in loops,
    its steps one after another, up to `UNROLLED` of them. The platform is that for which the program is lowered, its
    mesh's, and not this process's default.

    Args:
        steps: at most so many.
        body: one step; `number` is traced in a loop.
        going: `state -> bool`, whether anybody does.
        state: at first.
        arguments: what steps read.
    """

    def looped(state: State, *arguments: Any) -> State:
        return jax.lax.while_loop(
            lambda c: (c[0] < steps) & going(c[1]),
            lambda c: (c[0] + 1, body(c[1], c[0], *arguments)),
            (jax.numpy.asarray(0), state),
        )[1]

    def unrolled(state: State, *arguments: Any) -> State:
        for number in range(steps):
            state = body(state, jax.numpy.asarray(number), *arguments)
        return state

    if steps > UNROLLED or not convolves_out_of_order(body, state, jax.numpy.asarray(0), *arguments):
        return looped(state, *arguments)
    return jax.lax.platform_dependent(state, *arguments, cpu=unrolled, default=looped)


def convolves_out_of_order(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function convolves on a CPU with axes in another order than images NHWC, kernels HWIO."""
    for eqn in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if eqn.primitive.name == "conv_general_dilated":
            inputs, kernel, outputs = eqn.params["dimension_numbers"]
            last = len(inputs) - 1
            sides = tuple(range(1, last))
            ordered = (0, last, *sides), (last, last - 1, *range(last - 1)), (0, last, *sides)
            if (tuple(inputs), tuple(kernel), tuple(outputs)) != ordered:
                return True
    return False


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Those of a program and of all that it calls on a CPU."""
    for eqn in jaxpr.eqns:
        yield eqn
        parts: Any = list(eqn.params.values())
        if platforms := eqn.params.get("branches_platforms"):  # of `jax.lax.platform_dependent`; None: all others
            own = [number for number, names in enumerate(platforms) if names and "cpu" in names]
            parts = eqn.params["branches"][own[0] if own else platforms.index(None)]
        for inner in jax.tree.leaves(parts, is_leaf=_is_program):
            if _is_program(inner):
                yield from _equations(inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner)


def _is_program(value: Any) -> bool:
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)

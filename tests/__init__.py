"""The tests; `checked` is how they check the annotations of what works on arrays, as `pyproject.toml` says."""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_made: dict[Any, Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(function)`, made once of functions that are checked alike.

    A function within another is defined anew whenever the outer one runs, and to make its checks takes longer than to
    trace it. What jaxtyping hands over has the function's signature and none of its body, so that names and annotations
    say all; defaults are looked at when checks are made.
    """
    code = function.__code__
    alike = (
        function.__module__,
        function.__qualname__,
        (code.co_posonlyargcount, code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_varnames),
        tuple(function.__annotations__.items()),
    )
    if function.__defaults__ or function.__kwdefaults__:
        return beartype(function)
    try:
        found = _made.get(alike)
    except TypeError:  # an annotation that is not hashable
        return beartype(function)
    if found is None:
        found = _made[alike] = beartype(function)
    return found

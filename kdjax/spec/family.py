"""The public functions of some modules, by the names that can be typed."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kdjax.spec.expression import Expression, Value, is_number
from kdjax.spec.formula import Call
from kdjax.spec.varying import Schedule, Set
from kdjax.types import BadInput, nearest

Function = Callable[..., Any]

_EMPTY = inspect.Parameter.empty

_FITS: dict[Any, tuple[str, Callable[[Value], bool]]] = {
    bool: ("True or False", lambda v: isinstance(v, bool)),
    int: ("a whole number", lambda v: isinstance(v, Set) or (isinstance(v, int) and not isinstance(v, bool))),
    float: ("a number", lambda v: is_number(v) or isinstance(v, Schedule | Set)),
    str: ("a name or a string", lambda v: isinstance(v, str)),
    tuple: ("a tuple", lambda v: isinstance(v, tuple)),
    tuple[int, ...]: ("a tuple of whole numbers", lambda v: isinstance(v, tuple) and all(type(x) is int for x in v)),
    Sequence: ("a tuple", lambda v: isinstance(v, tuple)),
}
"""What can be typed for a parameter, by the type that its signature asks for."""


class Family:
    """Functions that calls name.

    Args:
        modules: whose public functions, defined there, belong to it.
        first: their first parameters, if only those that begin with these belong.
        accepts: whether a function belongs, if not all do.
        dotted: whether names begin with their module's: `response.kl`, not `kl`.
        parts: parameters for which a call of another family stands: `pgd(start=gaussian(0.001))`.

    >>> import textwrap
    >>> family = Family(textwrap, first=("text", "width"))
    >>> family.names()
    ['fill', 'shorten', 'wrap']
    >>> family.resolve(Call("fill", (8,)), given=("text",))("one two three")
    'one two\\nthree'
    """

    def __init__(
        self,
        *modules: types.ModuleType,
        first: Iterable[str] = (),
        accepts: Callable[[Function], bool] = lambda function: True,
        dotted: bool = False,
        parts: Mapping[str, "Family"] = types.MappingProxyType({}),
    ) -> None:
        first, self.functions, self.parts = list(first), dict[str, Function](), parts
        for module in modules:
            short = f"{module.__name__.rpartition('.')[2]}." if dotted else ""
            for name, function in inspect.getmembers(module, inspect.isfunction):
                own = not name.startswith("_") and function.__module__ == module.__name__
                if own and list(inspect.signature(function).parameters)[: len(first)] == first and accepts(function):
                    if f"{short}{name}" in self.functions:
                        raise BadInput(f"read {short}{name} in two modules; accepted: each name once, or dotted=True")
                    self.functions[f"{short}{name}"] = function

    def names(self) -> list[str]:
        """The names that can be typed, sorted."""
        return sorted(self.functions)

    def find(self, call: Call) -> Function:
        """The function that a call names.

        Raises:
            BadInput: there is none; the message lists all names and guesses.
        """
        if call.name not in self.functions:
            ends = [name for name in self.names() if name.endswith(f".{call.name}")]
            near = f"; did you mean {' or '.join(ends)}?" if ends else nearest(call.name, self.names())
            raise call.error(f"read the name {call.name}; accepted: {', '.join(self.names())}{near}")
        return self.functions[call.name]

    def parameters(self, call: Call, *, given: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
        """The parameters that may be typed for the function that a call names, in their order.

        Args:
            call: of which the name counts.
            given: parameters that are no part of the call.
        """
        return {n: p for n, p in inspect.signature(self.find(call)).parameters.items() if n not in set(given)}

    def resolve(self, call: Call, *, given: Iterable[str] = (), varying: bool = True) -> functools.partial[Any]:
        """The function that a call names, with the call's arguments bound (`bind`)."""
        return functools.partial(self.find(call), **self.bind(call, given=given, varying=varying))

    def bind(
        self, call: Call, *, given: Iterable[str] = (), beside: Function | None = None, varying: bool = True
    ) -> dict[str, Value]:
        """The arguments of a call, by the parameters of the function that it names.

        Positional arguments fill the parameters that may be typed, in their order; those that take keywords alone too.
        For a parameter that is a string, a bare name is one. A schedule or a set may stand for a number: `fill` it
        before the function is called.

        Args:
            call: `pgd(0.1, steps=40)`.
            given: parameters that are handed over later, with each call of the function.
            beside: its parameters too may be typed, whatever the function, after the function's own.
            varying: whether a schedule or a set may stand for a number.

        Raises:
            BadInput: an unknown name or keyword, too many arguments, one twice, missing or of the wrong type.
        """
        own, given = self.parameters(call, given=given), list(given)
        more = inspect.signature(beside).parameters if beside else {}
        ordered = [n for n, p in own.items() if _typable(p) or n in self.parts]
        named = [*ordered, *more]
        anything = any(p.kind is p.VAR_KEYWORD for p in own.values())
        takes = f"{call.name} takes {', '.join(named)}" if named else f"{call.name} takes no arguments"
        if len(call.args) > len(named):
            raise call.error(f"read {len(call.args)} arguments of {call.name}; accepted: {takes}")
        bound = dict(zip(named, call.args, strict=False))
        for key, value in call.kwargs:
            if key in given:
                raise call.error(f"read {key}={value!r}, which is given with each call; accepted: {takes}")
            if key not in named and not anything:
                raise call.error(f"read {key}={value!r}; accepted: {takes}{nearest(key, named)}")
            if key in bound:
                raise call.error(f"read {key} twice in {call!r}; accepted: each argument once")
            bound[key] = value
        if missing := [n for n in ordered if n not in bound and own[n].default is _EMPTY]:
            raise call.error(f"read {call!r} without {', '.join(missing)}; accepted: {takes}")
        for key, value in bound.items():
            if not varying and isinstance(value, Schedule | Set):
                raise call.error(f"read {key}={value!r} of {call.name}; accepted: one value")
        known = {**own, **more}
        return {key: self._given(call, known.get(key), key, value) for key, value in bound.items()}

    def _given(self, call: Call, parameter: inspect.Parameter | None, key: str, value: Value) -> Value:
        """The value as the function takes it."""
        if key not in self.parts or value is None:
            return _checked(call, parameter, value) if parameter else value
        if not isinstance(value, Call):
            accepted = ", ".join(self.parts[key].names())
            raise call.error(f"read {key}={value!r} of {call.name}; accepted: {accepted}")
        return self.parts[key].resolve(value, varying=False)()


def _typable(parameter: inspect.Parameter) -> bool:
    """Whether a text can say a parameter's value: `oracle: Oracle | None = None` is for Python alone."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return False
    return _EMPTY in (parameter.default, parameter.annotation) or bool(_wanted(parameter)[0])


def _checked(call: Call, parameter: inspect.Parameter, value: Value) -> Value:
    """The value as the parameter wants it."""
    kinds, choices, optional = _wanted(parameter)
    if str in kinds and isinstance(value, Call) and not (value.args or value.kwargs):
        value = value.name
    if parameter.annotation is _EMPTY and parameter.default in (_EMPTY, None):
        return value
    if value is None and optional:
        return value
    told = [kind for kind in kinds if not (kind is str and choices) and not (kind is int and float in kinds)]
    words = [_FITS[kind][0] for kind in told]
    words += [repr(c) for c in choices] + ["None"] * optional
    typed = isinstance(value, Expression | str | int | float | tuple) or value is None
    fits = value in choices if choices and isinstance(value, str) else any(_FITS[kind][1](value) for kind in kinds)
    if typed and not fits:
        wanted = " or ".join(words) if kinds else "it cannot be typed"
        near = nearest(value, choices) if isinstance(value, str) else ""
        raise call.error(f"read {parameter.name}={value!r} of {call.name}; accepted: {wanted}{near}")
    # 45 stands for 45.0, as it does in Python's own signatures.
    return float(value) if isinstance(value, int) and float in kinds and not {int, bool} & set(kinds) else value


def _wanted(parameter: inspect.Parameter) -> tuple[list[Any], list[str], bool]:
    """The types that can be typed for a parameter, the strings if only some will do, and whether None will."""
    kinds: list[Any] = []
    choices: list[str] = []
    optional = parameter.default is None
    members = [parameter.annotation]
    while members:
        member = members.pop(0)
        origin = typing.get_origin(member)
        if origin in (typing.Union, types.UnionType):
            members += typing.get_args(member)
        elif origin is typing.Literal:
            choices += typing.get_args(member)
            kinds.append(str)
        elif member is None or member is types.NoneType:
            optional = True
        elif member in _FITS or origin in _FITS:
            kinds.append(member if member in _FITS else origin)
    if not kinds and type(parameter.default) in _FITS:
        kinds = [type(parameter.default)]
    return list(dict.fromkeys(kinds)), choices, optional

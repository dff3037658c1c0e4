"""What is compiled is held by who uses it: nothing remembers for ever what a function once was, by the function."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTIONS = {
    "Callable",
    "ApplyFn",
    "LossFn",
    "Model",
    "Networks",
    "Victim",
    "Objective",
    "Scored",
    "Attack",
    "Begin",
    "Init",
}
"""Annotations of what is, or holds, a function: two that do the same are two keys, and a key is never let go."""


def keys(function):
    """The parameters that a decorator of a function keeps results or programs by."""
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    for decorator in function.decorator_list:
        words = {
            node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in ast.walk(decorator)
        }
        if words & {"cache", "lru_cache"}:
            yield from parameters
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg in ("static_argnums", "static_argnames"):
                static = ast.literal_eval(keyword.value)
                static = static if isinstance(static, tuple | list) else (static,)
                yield from (p for place, p in enumerate(parameters) if place in static or p.arg in static)


def found(source):
    """Functions of a module that are kept by functions."""
    for function in ast.parse(source).body:
        for parameter in keys(function) if isinstance(function, ast.FunctionDef) else ():
            said = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(parameter)}
            if parameter.annotation is None or said & FUNCTIONS:
                yield function.name


def test_no_module_remembers_by_a_function():
    files = [f for folder in ("kdjax", "experiments") for f in (ROOT / folder).rglob("*.py")]
    assert {str(f.relative_to(ROOT)): names for f in files if (names := list(found(f.read_text())))} == {}
    assert (
        sum(1 for f in files for g in ast.parse(f.read_text()).body if isinstance(g, ast.FunctionDef) for _ in keys(g))
        > 5
    )


def test_the_rule_can_fail():
    kept = "@functools.cache\ndef a(apply: ApplyFn) -> int: ..."
    static = "@partial(jax.jit, static_argnums=1)\ndef b(x: Array, model: Model) -> Array: ..."
    named = '@jax.jit(static_argnames=("f",))\ndef c(x: Array, *, f: Callable[..., Array]) -> Array: ...'
    fine = "@functools.cache\ndef d(norm: str) -> int: ..."
    assert [list(found(source)) for source in (kept, static, named, fine)] == [["a"], ["b"], ["c"], []]

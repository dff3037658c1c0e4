"""Attacks and objectives by name, for flags: the public functions of `named` and `objectives`."""

import inspect
from collections.abc import Callable
from typing import Any

from kdjax.attacks import boundary, named, objectives
from kdjax.types import Attack, BadInput, nearest


def attacks() -> dict[str, Callable[..., Attack]]:
    """Every attack that has a name: the public functions of `named`, and those that are no product."""
    products = {n: f for n, f in vars(named).items() if inspect.isfunction(f) and f.__module__ == named.__name__}
    found = {n: f for n, f in products.items() if not n.startswith("_")}
    return dict(sorted({**found, "hop_skip_jump": boundary.hop_skip_jump}.items()))


OBJECTIVES: dict[str, Callable[..., objectives.Scored]] = {
    "cross_entropy": objectives.cross_entropy,
    "dlr": objectives.dlr,
    "margin": objectives.margin,
}
"""Objectives of labels alone."""


def attack(name: str, **settings: Any) -> Attack:
    """The attack called `name`, with some of its keywords.

    Raises:
        BadInput: a name or a keyword that does not exist; the message lists those that do.
    """
    known = attacks()
    if name not in known:
        raise BadInput(f"attack {name!r}: accepted are {', '.join(known)}{nearest(name, known)}")
    accepted = inspect.signature(known[name]).parameters
    for key in settings:
        if key not in accepted:
            raise BadInput(
                f"{key!r} is no setting of {name}; accepted are {', '.join(accepted)}{nearest(key, accepted)}"
            )
    return known[name](**settings)


def objective_of(name: str) -> str:
    """The objective that an attack's paper uses."""
    return named.OBJECTIVES.get(name, "cross_entropy")


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value:key=value` as a name and its settings; 8/255 is a number.

    >>> parse("pgd:steps=20:random_start=true:norm=l2:epsilon=51/255")
    ('pgd', {'steps': 20, 'random_start': True, 'norm': 'l2', 'epsilon': 0.2})

    Raises:
        BadInput: a part that is not key=value.
    """
    name, *parts = text.split(":")
    settings: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise BadInput(f"{part!r} in {text!r}: accepted is name:key=value:key=value, such as pgd:steps=20.")
        settings[key] = _value(value)
    return name, settings


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "+" in text:
        return tuple(_value(part) for part in text.split("+"))
    for kind in (int, float, _quotient):
        try:
            return kind(text)
        except (ValueError, ZeroDivisionError):
            continue
    return text


def _quotient(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under)

"""Attacks from flags: `pgd:steps=40:random_start=true` becomes an attack with its objective, or one clear error."""

import inspect
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kdjax.attacks import catalogue
from kdjax.attacks.objectives import Scored
from kdjax.data.source import Examples
from kdjax.types import Attack, BadInput, nearest

# What a colon-separated setting can be, by the type that an attack's signature asks for.
KINDS: dict[type, Callable[[Any], bool]] = {
    bool: lambda v: isinstance(v, bool),
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    str: lambda v: isinstance(v, str),
    tuple: lambda v: isinstance(v, tuple) and all(isinstance(x, int) for x in v),
}


class Named(NamedTuple):
    """An attack as it was typed: `text`, its `name` and `settings`, and the objective that it makes small."""

    text: str
    name: str
    settings: dict[str, Any]
    objective: Callable[..., Scored]

    def make(self, **more: Any) -> Attack:
        """The attack; of further settings, such as epsilon, it takes those that it has."""
        accepted = _accepted(self.name)
        return catalogue.attack(self.name, **{**{k: v for k, v in more.items() if k in accepted}, **self.settings})

    @property
    def has_epsilon(self) -> bool:
        """Whether it searches a ball of given radius; others look for the nearest image that fools."""
        return "epsilon" in _accepted(self.name)


def named(text: str, *, flag: str, fixed: tuple[str, ...] = ()) -> Named:
    """Read `name:key=value:key=value`; the key `objective` replaces that of the attack's paper.

    Args:
        text: as typed.
        flag: that it was typed for, for messages.
        fixed: settings that have a flag of their own, and may not be typed here.

    Raises:
        BadInput: an unknown attack, setting or objective, or a value that does not fit.
    """
    try:
        name, settings = catalogue.parse(text)
        objective = settings.pop("objective", None)
        if name not in catalogue.attacks():
            catalogue.attack(name)  # refuses it with the list of those that exist
        objective = catalogue.objective_of(name) if objective is None else str(objective)
        if objective not in catalogue.OBJECTIVES:
            near = nearest(objective, catalogue.OBJECTIVES)
            raise BadInput(f"objective={objective}: accepted are {', '.join(catalogue.OBJECTIVES)}{near}")
        accepted = _accepted(name)
        for key, value in settings.items():
            if key in fixed:
                raise BadInput(f"{key} is set for all attacks at once; accepted: --{key} or --{key}s.")
            if key in accepted and not any(KINDS[kind](value) for kind in accepted[key]):
                wanted = " or ".join(kind.__name__ for kind in accepted[key]) or "nothing that can be typed"
                raise BadInput(f"{key}={value}: accepted is {wanted}.")
            if not isinstance(value, str | bool | tuple) and not 0 <= value < float("inf"):
                raise BadInput(f"{key}={value}: accepted are numbers that are not negative.")
        if settings.get("steps") == 0:
            raise BadInput("steps=0: accepted are 1 or more.")
        found = Named(text, name, settings, catalogue.OBJECTIVES[objective])
        found.make(image_shape=(1, 1, 1))
    except BadInput as error:
        raise BadInput(f"--{flag}: {text!r}: {error}") from None
    return found


def several(text: str, *, flag: str, fixed: tuple[str, ...] = ()) -> list[Named]:
    """Read a comma-separated list of attacks.

    Raises:
        BadInput: none, or one that is typed twice, or as `named`.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise BadInput(f"--{flag}={text}: accepted are one or more attacks, each once, such as fgsm,pgd:steps=40.")
    return [named(part, flag=flag, fixed=fixed) for part in parts]


def _accepted(name: str) -> dict[str, list[type]]:
    """An attack's settings, each with the types of values that can be typed for it."""
    found = {}
    for key, parameter in inspect.signature(catalogue.attacks()[name]).parameters.items():
        members = typing.get_args(parameter.annotation) or (parameter.annotation,)
        if typing.get_origin(parameter.annotation) is tuple:
            members = (tuple,)
        found[key] = [kind for m in members if (kind := typing.get_origin(m) or m) in KINDS]
    return found


def first(source: Examples, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images `[N, H, W, C]`, float32 in [0, 1], and their labels `[N]`; all where there are fewer."""
    rows = source[np.arange(min(count, len(source)))]
    image = rows["image"]
    return image / np.float32(255) if image.dtype == np.uint8 else image, rows["label"]

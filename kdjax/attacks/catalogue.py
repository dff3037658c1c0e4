"""Attacks and objectives by name: the public functions of `named`, and those that are no product."""

import typing
from collections.abc import Callable

from kdjax.attacks import autoattack, boundary, named, objectives, starts
from kdjax.spec import Family
from kdjax.types import Attack

STARTS = Family(starts)
"""Where an attack may begin: `pgd(start=gaussian(0.001))`."""

ATTACKS = Family(
    named,
    boundary,
    autoattack,
    accepts=lambda function: typing.get_type_hints(function).get("return") is Attack,
    parts={"start": STARTS},
)
"""Every attack that has a name."""

OBJECTIVES: dict[str, Callable[..., objectives.Scored]] = {
    "cross_entropy": objectives.cross_entropy,
    "dlr": objectives.dlr,
    "margin": objectives.margin,
}
"""Objectives of labels alone."""


def objective_of(name: str) -> str:
    """The objective that an attack's paper uses."""
    return named.OBJECTIVES.get(name, "cross_entropy")

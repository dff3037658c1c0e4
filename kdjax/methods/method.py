"""What a method is, and the methods by the name that a flag gives: `crd`, `review(weight=5)`, `adaad + igdm`."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdjax import spec
from kdjax.methods import distillation, robust, robust_distillation, two_teachers
from kdjax.methods.climbing import at, strength
from kdjax.methods.formulas import Method as Method
from kdjax.spec import Call, Family, Formula, Weighted
from kdjax.types import BadInput


def _family(*modules) -> Family:
    return Family(*modules, accepts=lambda function: function.__annotations__.get("return") is Method)


FAMILY = _family(distillation)
"""The distillation methods by name."""

ROBUST = _family(robust, robust_distillation, two_teachers)
"""The methods that attack their images, by name."""

METHODS = _family(distillation, robust, robust_distillation, two_teachers)
"""All methods by name."""


def method(text: str | Call | Formula, *, flag: str = "method") -> Method:
    """The method that a text names, with the numbers that the text gives it, or a sum of methods.

    Args:
        text: such as `kd`, `kd(temperature=2)`, `review(weight=5)` or `adaad + igdm`.
        flag: what messages call it.

    Raises:
        BadInput: a name or a keyword that there is not; the message lists those that there are. Methods that attack in
            two ways, or in stages.

    >>> method("kd(alpha=0.5)").expression
    0.5*response.kl(temperature=4.0) + 0.5*labels
    """
    named = spec.formula(text, flag=flag)
    parts = [(weight, _made(call)) for weight, call in named.terms]
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    attacks = list(dict.fromkeys(one.attack for _, one in parts if one.attack))
    if len(attacks) > 1 or any(one.first for _, one in parts):
        raise BadInput(f"{flag}={named}: methods attack in several ways, or in stages; accepted: one attack, one stage")
    whole = Formula(tuple(term for weight, one in parts for term in (weight * one.expression).terms))
    others = tuple(dict.fromkeys(other for _, one in parts for other in one.others))
    return Method(whole, attack=attacks[0] if attacks else None, others=others)


def bound(call: Call) -> dict[str, Any]:
    """The arguments of a method's call, those of its attack's strength among them.

    Raises:
        BadInput: a name or a keyword that there is not.
    """
    return METHODS.bind(call, beside=strength if call.name in ROBUST.functions else None)


def _made(call: Call) -> Method:
    """The method that a call names; what is wrong with a part of it is shown where the call was read."""
    own = bound(call)
    typed = {key: own.pop(key) for key in inspect.signature(strength).parameters if key in own}
    try:
        one = at(METHODS.find(call)(**own), typed)
    except BadInput as error:
        raise call.error(f"{call.name}: {error}") from None
    here = lambda part: replace(part, place=call.place)  # noqa: E731
    _refuse_a_set_of_many_places(call, own, one)
    terms = tuple(Weighted(weight, here(part)) for weight, part in one.expression.terms)
    return one._replace(expression=Formula(terms), attack=one.attack and here(one.attack))


def _refuse_a_set_of_many_places(call: Call, typed: Mapping[str, Any], made: Method) -> None:
    """Each place of a set is an axis of its own, and most members of such a sweep would not be the method."""
    parts = [made.expression, *filter(None, [made.attack])]
    for key, value in typed.items():
        places = [place for part in parts for place, found in spec.sets(part).items() if found is value]
        if len(places) > 1:
            accepted = "one number, or a --loss with a set in each place"
            raise call.error(f"{call.name}: {key}={value} stands in {' and in '.join(places)}; accepted: {accepted}")

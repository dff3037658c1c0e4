"""What robust methods are made of: attacks that climb a loss, a paper's form and its code's, and schedules."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from kdjax.attacks.catalogue import ATTACKS
from kdjax.methods.formulas import Method, Number, attacked, gaussian, labels, pgd, response
from kdjax.spec import Call, Schedule, linear
from kdjax.spec import steps as piecewise
from kdjax.types import BadInput

EPSILON = 8 / 255
"""The radius, where nothing is said."""
STEPS = 10

Form = Literal["paper", "release"]

on_labels = labels(student=attacked)
"""Cross-entropy of attacked images."""


def climb(objective: Call, *, uniform: bool = False) -> Call:
    """PGD that makes an objective large, at the strength where nothing is said."""
    begin = {"random_start": True} if uniform else {"start": gaussian(0.001)}
    return pgd(epsilon=EPSILON, steps=STEPS, objective=objective, **begin)


def strength(epsilon: Number = EPSILON, steps: int = STEPS, step_size: Number | None = None) -> None:
    """What can be typed for the attack of every method: `rslad(epsilon=0.1, steps=20)`.

    Args:
        epsilon: the radius, in pixel units.
        steps: how many.
        step_size: of each; 2.5 epsilon / steps where none is given, 2/255 of 8/255 in ten.
    """


def at(one: Method, settings: Mapping[str, Any]) -> Method:
    """The same method under an attack of another strength.

    Raises:
        BadInput: a method that attacks no image, or a setting that its attack does not have.
    """
    if not settings:
        return one
    taken = ATTACKS.parameters(one.attack).keys() if one.attack else ()
    if unknown := [key for key in settings if key not in taken]:
        accepted = ", ".join(key for key in inspect.signature(strength).parameters if key in taken) or "none"
        raise BadInput(f"read {unknown[0]}={settings[unknown[0]]!r}; accepted of its attack: {accepted}")
    typed = {key: value for key, value in settings.items() if value is not None}
    return one._replace(attack=one.attack and Call(one.attack.name)(**{**one.attack.keywords, **typed}))


def is_release(form: Form) -> bool:
    """Whether the code's form is asked for, and not the paper's."""
    if form not in ("paper", "release"):
        raise BadInput(f"form={form!r}; accepted: paper, release")
    return form == "release"


def divergence(form: Form) -> Call:
    """KL summed over classes, or its mean over them, which much code takes."""
    return response.mean_kl if is_release(form) else response.kl


def trusted(power: Number, begin: float) -> Number:
    """The power of a teacher's confidence: 0, which trusts it wholly, until a share of the run is over.

    Raises:
        BadInput: a schedule, of the power too unless it begins at once.
    """
    typed = {"begin": begin, "power": power} if begin else {"begin": begin}
    _refuse_schedules("the power is 0 until a share of the run is over", "a number", typed)
    if isinstance(begin, int | float) and not 0 <= begin < 1:
        raise BadInput(f"begin={begin:g}; accepted: a share of the run, from 0 to below 1")
    return piecewise((0.0, power), (begin,)) if begin else power


def rising(**typed: Number) -> Number:
    """A weight that rises in a straight line from 0 to a number, over the run.

    Args:
        typed: the number, by the argument's name.

    Raises:
        BadInput: a schedule: the weight follows one already.
    """
    _refuse_schedules("the weight rises from 0 over the run", "a number or a set of numbers", typed)
    return linear(0.0, *typed.values())


def _refuse_schedules(already: str, accepted: str, typed: Mapping[str, Number]) -> None:
    for name, value in typed.items():
        if isinstance(value, Schedule):
            raise BadInput(f"{name}={value!r}: {already}; accepted: {accepted}, or a --loss with a schedule of its own")


def falling(rate: float) -> Number:
    """A rate of MTARD's authors: a tenth of it after 215, 260 and 285 of 300 epochs."""
    return piecewise((rate, rate / 10, rate / 100, rate / 1000), (215 / 300, 260 / 300, 285 / 300))

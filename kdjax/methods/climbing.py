"""What robust methods are made of: attacks that climb a loss, a paper's form and its code's, and schedules."""

from typing import Literal

from kdjax.methods.formulas import Number, attacked, gaussian, labels, pgd, response
from kdjax.spec import Call
from kdjax.spec import steps as piecewise
from kdjax.types import BadInput

EPSILON = 8 / 255
"""The radius, where nothing is said."""

Form = Literal["paper", "release"]

on_labels = labels(student=attacked)
"""Cross-entropy of attacked images."""


def climb(objective: Call, epsilon: Number, steps: int, step_size: Number | None, *, uniform: bool = False) -> Call:
    """PGD that makes an objective large; steps of 2.5 epsilon / steps, 2/255 of 8/255 in ten, where none is given."""
    begin = {"random_start": True} if uniform else {"start": gaussian(0.001)}
    length = {} if step_size is None else {"step_size": step_size}
    return pgd(epsilon=epsilon, steps=steps, objective=objective, **begin, **length)


def is_release(form: Form) -> bool:
    """Whether the code's form is asked for, and not the paper's."""
    if form not in ("paper", "release"):
        raise BadInput(f"form={form!r}; accepted: paper, release")
    return form == "release"


def divergence(form: Form) -> Call:
    """KL summed over classes, or its mean over them, which much code takes."""
    return response.mean_kl if is_release(form) else response.kl


def trusted(power: Number, begin: float) -> Number:
    """The power of a teacher's confidence: 0, which trusts it wholly, until a share of the run is over."""
    return piecewise((0.0, power), (begin,)) if begin else power


def falling(rate: float) -> Number:
    """A rate of MTARD's authors: a tenth of it after 215, 260 and 285 of 300 epochs."""
    return piecewise((rate, rate / 10, rate / 100, rate / 1000), (215 / 300, 260 / 300, 285 / 300))

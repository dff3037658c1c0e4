"""Weights that sum to 1, as methods have them."""

from kdjax.methods.formulas import Number
from kdjax.spec import Call, Formula, Schedule
from kdjax.types import BadInput


def complement(alpha: Number) -> Number:
    """1 - alpha, as it is written; of a schedule a schedule.

    Raises:
        BadInput: a number that is not from 0 to 1, or a set, of which both weights would vary alone.
    """
    if isinstance(alpha, Schedule):
        return alpha.complement()
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        accepted = "a number from 0 to 1 or a schedule, or a --loss with a weight of its own for each"
        raise BadInput(f"alpha={alpha!r}: 1 - alpha weighs the rest; accepted: {accepted}")
    return round(1 - alpha, 12)


def mixed(alpha: Number, first: Call, second: Call) -> Formula:
    """alpha first + (1 - alpha) second, without what has no weight.

    Raises:
        BadInput: as `complement`.
    """
    left = complement(alpha)
    if alpha in (0, 1):
        return 1.0 * (first if alpha else second)
    return alpha * first + left * second


def rest(*weights: float) -> float:
    """What is left of 1.

    Raises:
        BadInput: nothing is, or one is a set or a schedule.
    """
    if not all(isinstance(weight, int | float) for weight in weights):
        raise BadInput(f"weights {weights}: the labels have what is left of 1; accepted: a number each")
    left = round(1 - sum(weights), 12)
    if not (min(weights) >= 0 and left >= 0):
        raise BadInput(f"weights {weights} leave {left} to the labels; accepted: from 0 up, 1 together at most")
    return left


def squared(temperature: Number) -> float:
    """t^2 as a weight.

    Raises:
        BadInput: a set or a schedule.
    """
    if not isinstance(temperature, int | float):
        raise BadInput(f"temperature={temperature!r}: its square is a weight in the release; accepted: a number")
    return float(temperature) ** 2

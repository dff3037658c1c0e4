"""The numbers of an expression, each named by its place.

- A call's own place is its text without numbers, schedules and sets: `feature.hint(block2, block4)`, `response.kl`.
  It does not change when terms are added behind it. The second call of the same text is `response.kl#2`.
- A term's weight is `.weight` behind that; a keyword's number `.KEY`; a positional one `.0`, `.1` ...
- Inside tuples, schedules and calls that are arguments it goes on: `fixed.shares.0`, `response.kl.temperature.start`.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdjax.spec.expression import Value, is_number, plain
from kdjax.spec.formula import Call, Formula, Weighted
from kdjax.spec.varying import Schedule, Set, Varying, grid
from kdjax.types import BadInput, nearest

See = Callable[[str, Value], Value]


def numbers(expression: Value, *, name: str = "") -> dict[str, Any]:
    """All numbers by place, those of schedules among them; not those of sets.

    They are as typed: make them float32 before they are traced, so that 4 and 4.0 are one program.

    Args:
        expression: a value of the grammar.
        name: what all places begin with: needed where the expression is a number itself.

    >>> response = Call("response.kl", (), (("temperature", 4),))
    >>> numbers(0.9 * response + 100 * Call("feature.hint", (Call("block2"), Call("block4"))))
    {'response.kl.weight': 0.9, 'response.kl.temperature': 4, 'feature.hint(block2, block4).weight': 100}
    """
    return _collect(expression, name, is_number)


def labels(formula: Formula) -> list[str]:
    """The place of each term's call, which its numbers' places begin with.

    >>> labels(Call("a", (), (("x", 1),)) + 2 * Call("a"))
    ['a', 'a#2']
    """
    calls: Counter[str] = Counter()
    return [_label(term.call, "", calls) for term in formula.terms]


def schedules(expression: Value, *, name: str = "") -> dict[str, Schedule]:
    """All schedules by place; one that another holds belongs to that one."""
    found: dict[str, Schedule] = {}

    def see(place: str, value: Value) -> Value:
        if not isinstance(value, Schedule):
            return value
        found[place] = value
        return 0  # what is no schedule any more has no parts

    _visit(expression, name, see)
    return found


def sets(expression: Value, *, name: str = "") -> dict[str, Set]:
    """All sets by place."""
    return _collect(expression, name, lambda value: isinstance(value, Set))


def fill(expression: Value, values: Mapping[str, Any], *, name: str = "") -> Value:
    """The expression with other numbers in some places, where numbers, schedules or sets stood.

    Values may be traced: `fill(e, {place: s.at(fraction) for place, s in schedules(e).items()})` is the expression at a
    moment of the run.

    Args:
        expression: a value of the grammar.
        values: by place, as `numbers`, `schedules` or `sets` name them with the same `name`.
        name: what all places begin with.

    Raises:
        BadInput: a place that the expression does not have, or a value that is no number.
    """
    known: list[str] = []

    def see(place: str, value: Value) -> Value:
        known.append(place)
        return plain(values[place]) if place in values else value

    for place, value in values.items():
        if not is_number(value):
            raise BadInput(f"{place}={value!r}; accepted: a number")
    filled = _visit(expression, name, see)
    for place in values:
        if place not in known:
            raise BadInput(f"read the place {place!r}; accepted: {', '.join(known)}{nearest(place, known)}")
    return filled


def extremes(expression: Value) -> list[Value]:
    """The expression with plain numbers: at both ends of its sets, and there wherever one of its schedules begins,
    ends, is least or greatest.

    >>> extremes(Call("f", (grid(2, 1), 3)))
    [f(1, 3), f(2, 3)]
    """
    found, varied = list[Value](), sets(expression)
    for end in (min, max):
        ends = {n: end(one.numbers if isinstance(one, grid) else one.parts().values()) for n, one in varied.items()}
        filled = fill(expression, ends)
        along = schedules(filled)
        for x in sorted({0.0, 1.0, *(x for one in along.values() for x in one.extremes)}):
            moment = fill(filled, {place: float(one.at(x)) for place, one in along.items()})
            found += [] if moment in found else [moment]
    return found


def points(found: Mapping[str, Set], *, sample: int = 0, seed: int = 0) -> list[dict[str, float | int]]:
    """The members of a population, each what `fill` takes: all combinations, or so many drawn, no two alike.

    Args:
        found: sets by place.
        sample: how many to draw; 0 takes all combinations of grids.
        seed: the same seed draws the same members.

    Raises:
        BadInput: no sample of a range, or a larger one than there are combinations.
    """
    if sample < 0:
        raise BadInput(f"sample={sample}; accepted: 0 or more")
    rng = np.random.default_rng(seed)
    ranges = [f"{place}={x!r}" for place, x in found.items() if not isinstance(x, grid)]
    if ranges and not sample:
        raise BadInput(f"sample={sample}: {', '.join(ranges)} must be drawn; accepted: 1 or more, or grids alone")
    if ranges:
        return [{place: x.sample(rng) for place, x in found.items()} for _ in range(sample)]
    grids = {place: x.values() for place, x in found.items() if isinstance(x, grid)}
    every = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    if sample > len(every):
        raise BadInput(f"sample={sample}; accepted: up to {len(every)}, as many as the grids have combinations")
    return [every[i] for i in rng.choice(len(every), sample, replace=False)] if sample else every


def _collect(expression: Value, name: str, wanted: Callable[[Value], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def see(place: str, value: Value) -> Value:
        if wanted(value):
            found[place] = value
        return value

    _visit(expression, name, see)
    return found


def _visit(expression: Value, name: str, see: See) -> Value:
    """The expression with what `see` makes of each number, schedule and set."""
    calls: Counter[str] = Counter()
    if isinstance(expression, tuple):
        return tuple(_labelled(v, name, see, calls, f"{i}") for i, v in enumerate(expression))
    return _labelled(expression, name, see, calls, "")


def _labelled(value: Value, place: str, see: See, calls: Counter[str], otherwise: str) -> Value:
    """A value whose calls begin places of their own."""
    if isinstance(value, Formula):
        return Formula(tuple(_term(term, place, see, calls) for term in value.terms))
    if isinstance(value, Call):
        return _arguments(value, _label(value, place, calls), see)
    return _inside(value, _join(place, otherwise), see)


def _term(term: Weighted, place: str, see: See, calls: Counter[str]) -> Weighted:
    own = _label(term.call, place, calls)
    return Weighted(_inside(term.weight, _join(own, "weight"), see), _arguments(term.call, own, see))


def _arguments(call: Call, place: str, see: See) -> Call:
    args = tuple(_inside(value, _join(place, str(i)), see) for i, value in enumerate(call.args))
    kwargs = tuple((key, _inside(value, _join(place, key), see)) for key, value in call.kwargs)
    return Call(call.name, args, kwargs, call.place)


def _inside(value: Value, place: str, see: See) -> Value:
    """A value that stands at a place."""
    if isinstance(value, Formula):
        return _labelled(value, place, see, Counter(), "")
    if isinstance(value, Call):
        return _arguments(value, place, see)
    if isinstance(value, tuple):
        return tuple(_inside(part, _join(place, str(i)), see) for i, part in enumerate(value))
    if not is_number(value) and not isinstance(value, Varying):
        return value
    seen = see(place, value)
    if isinstance(value, Schedule) and seen is value:
        return value.with_parts(*(_inside(part, _join(place, key), see) for key, part in value.parts().items()))
    return seen


def _label(call: Call, place: str, calls: Counter[str]) -> str:
    text = repr(_bare(call))
    calls[text] += 1
    return _join(place, text if calls[text] == 1 else f"{text}#{calls[text]}")


def _bare(value: Value) -> Value:
    """A value without its numbers, schedules and sets; of a difference the minus stays."""
    if isinstance(value, tuple):
        return tuple(_bare(part) for part in value if not _numeric(part))
    if isinstance(value, Formula):
        signs = (-1 if isinstance(weight, int | float) and weight < 0 else 1 for weight, _ in value.terms)
        return Formula(tuple(Weighted(sign, _bare(call)) for sign, (_, call) in zip(signs, value.terms, strict=True)))
    if isinstance(value, Call):
        kwargs = tuple((key, _bare(part)) for key, part in value.kwargs if not _numeric(part))
        return Call(value.name, _bare(value.args), kwargs)
    return value


def _numeric(value: Value) -> bool:
    if isinstance(value, tuple) and value:
        return all(map(_numeric, value))
    return is_number(value) or isinstance(value, Varying)


def _join(*parts: str) -> str:
    return ".".join(filter(None, parts))

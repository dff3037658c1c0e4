"""Layers as an expression names them: `block2`, `(block1, block2)`, `every(2) + embedding`, `pairs((1, 2), (2, 4))`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from kdjax.models.connect.connectors import numbered
from kdjax.recipes import layer_maps
from kdjax.recipes.comparisons import Comparison
from kdjax.spec import Call, Family, Formula
from kdjax.types import BadInput, nearest

MAPS = Family(layer_maps, first=("student", "teacher"))
STAGES, MIDDLE, FINAL = "stages", "middle", "final"
ACCEPTED = (
    "a layer, two (the student's, the teacher's), or a map: every(2), offset(2), reverse(2), first, last, "
    "pairs((1, 2), (2, 4)), stages, middle, final, with layers by name added: every(2) + embedding"
)
PAIRS = "pairs"

Names = tuple[str, ...]


class Shown(NamedTuple):
    """The names of all layers of the student and of the teacher."""

    student: Sequence[str]
    teacher: Sequence[str]


class Layers(NamedTuple):
    """What a call compares: the student's and the teacher's layers of each term, and the numbered pairs of its map."""

    terms: tuple[tuple[Names, Names], ...]
    numbers: tuple[tuple[int, int], ...] = ()


def layers_of(call: Call, row: Comparison, shown: Shown) -> Layers:
    """The layers that a loss compares, term by term.

    Raises:
        BadInput: layers that a network does not have, or other than the loss compares.
    """
    if not call.args:
        if row.least > 1 or row.couples:
            return Layers(((("embedding",), ("embedding",)),))
        raise call.error(f"{call.name} names no layer; accepted: {call.name}(...) with {ACCEPTED}")
    given = list(call.args)
    if len(given) > 2:
        raise call.error(f"read {len(given)} layers of {call.name}; accepted: {ACCEPTED}")
    own, theirs = given[0], given[-1]
    if len(given) == 1 and _is_map(own):
        named, numbers = _mapped(call, own, shown)
        return Layers(_grouped(call, row, named, shown), numbers)
    sides = _names(call, own), _names(call, theirs)
    fewest, most = row.layers
    if len(sides[0]) != len(sides[1]) or not fewest <= len(sides[0]) <= most:
        wanted = "one layer" if most == 1 else f"{fewest} layers" if most == fewest else "one layer or more, as many"
        raise call.error(f"{call.name} compares {wanted} on each side; read {len(sides[0])} and {len(sides[1])}")
    for network, read, names in zip(("student", "teacher"), sides, shown, strict=True):
        for name in read:
            if name not in names:
                near = nearest(name, names)
                raise call.error(
                    f"{call.name}: the {network} has no layer {name!r}; accepted: {', '.join(names)}{near}"
                )
    return Layers((sides,))


def mapped(call: Call, shown: Shown) -> tuple[tuple[int, int], ...]:
    """The numbered pairs of a map alone.

    Raises:
        BadInput: no map, or layers that a network does not have.
    """
    return _mapped(call, call, shown)[1]


def _is_map(value: object) -> bool:
    words = (*MAPS.names(), PAIRS, STAGES, MIDDLE, FINAL)
    return isinstance(value, Formula) or (isinstance(value, Call) and value.name in words)


def _names(call: Call, value: object) -> Names:
    parts = value if isinstance(value, tuple) else (value,)
    found = tuple(part if isinstance(part, str) else getattr(part, "name", "") for part in parts)
    if not all(found) or any(isinstance(part, Call) and (part.args or part.kwargs) for part in parts):
        raise call.error(f"read the layers {value!r} of {call.name}; accepted: {ACCEPTED}")
    return found


def _mapped(call: Call, value: object, shown: Shown) -> tuple[list[tuple[str, str]], tuple[tuple[int, int], ...]]:
    calls = [term.call for term in value.terms] if isinstance(value, Formula) else [value]
    counted = Shown(numbered(shown.student), numbered(shown.teacher))
    named: list[tuple[str, str]] = []
    numbers: tuple[tuple[int, int], ...] = ()
    for one in calls:
        if not isinstance(one, Call):
            raise call.error(f"read {one!r}; accepted: {ACCEPTED}")
        if one.name in (STAGES, MIDDLE, FINAL):
            found = _stages(one, shown, counted)
            place = {STAGES: slice(None), MIDDLE: slice(len(found) // 2, len(found) // 2 + 1), FINAL: slice(-1, None)}
            named += found[place[one.name]]
            continue
        if _is_map(one):
            if numbers:
                raise call.error(f"read two maps in {value!r}; accepted: one, and layers by name")
            numbers = _numbers(one, counted)
            named += [(counted.student[m - 1], counted.teacher[g - 1]) for m, g in numbers]
            continue
        (name,) = _names(call, one)
        if not all(name in names for names in shown):
            both = [n for n in shown.student if n in shown.teacher]
            raise call.error(f"{name} is no map and no layer of both networks; accepted layers: {', '.join(both)}")
        named.append((name, name))
    return named, numbers


def _stages(one: Call, shown: Shown, counted: Shown) -> list[tuple[str, str]]:
    """All stages that both networks have; without stages their numbered layers, evenly: g(m) = round(m N / M)."""
    if one.args or one.kwargs:
        raise one.error(f"read {one!r}; accepted: {one.name}, which takes no arguments")
    both = [n for n in shown.student if n in shown.teacher and n.startswith("stage") and n[5:].isdigit()]
    if both:
        return [(name, name) for name in both]
    own, theirs = counted
    if not own or len(theirs) < len(own):
        raise one.error(f"{one.name}: the student has {len(own)} layers to count and the teacher {len(theirs)}")
    return [(name, theirs[round(m * len(theirs) / len(own)) - 1]) for m, name in enumerate(own, start=1)]


def _numbers(one: Call, counted: Shown) -> tuple[tuple[int, int], ...]:
    student, teacher = len(counted.student), len(counted.teacher)
    if one.name != PAIRS:
        try:
            return MAPS.resolve(one, given=("student", "teacher"))(student, teacher)
        except BadInput as error:
            raise (error if one.place is None or "column" in str(error) else one.error(str(error))) from None
    found = [pair for pair in one.args if isinstance(pair, tuple) and len(pair) == 2]
    if len(found) < len(one.args) or not found or not all(isinstance(x, int) for pair in found for x in pair):
        raise one.error(f"read {one!r}; accepted: pairs((1, 2), (2, 4)), the student's layer first")
    try:
        return layer_maps.within(PAIRS, student, teacher, found)
    except BadInput as error:
        raise one.error(str(error)) from None


def _grouped(
    call: Call, row: Comparison, named: list[tuple[str, str]], shown: Shown
) -> tuple[tuple[Names, Names], ...]:
    """The pairs of a map as terms."""
    if row.before_relu:
        named = [(_before_relu(a, shown.student), _before_relu(b, shown.teacher)) for a, b in named]
    if row.between == "all":
        return (tuple(zip(*named, strict=True)),)  # pyright: ignore[reportReturnType]
    if row.between == "neighbours":
        if named[:1] == [("stage1", "stage1")] and all("stem" in names for names in shown):
            named = [("stem", "stem"), *named]  # the first stage too is flowed into
        if len(named) < 2:
            raise call.error(f"{call.name} stands between two layers and is given one pair; accepted: two or more")
        return tuple(((a, c), (b, d)) for (a, b), (c, d) in pairwise(named))
    return tuple(((a,), (b,)) for a, b in named)


def _before_relu(name: str, names: Sequence[str]) -> str:
    return f"{name}_pre" if f"{name}_pre" in names else name

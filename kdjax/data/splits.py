"""One grammar for every split flag, which is TFDS's own: `train`, `train[:50000]`, `train[80%:]`, `train[-100:]`."""

import re
from collections.abc import Callable

from kdjax.types import BadInput

ACCEPTED = 'a split such as "train", "test", "train[:50000]", "train[80%:]", "train[10:20]", or "" for none'

_SPEC = re.compile(
    r"(?P<base>[A-Za-z_][\w.-]*)(?P<cut>\[\s*(?P<start>-?\d[\d_]*%?)?\s*:\s*(?P<stop>-?\d[\d_]*%?)?\s*\])?"
)


def parse(spec: str) -> tuple[str, Callable[[int], slice]]:
    """A split flag as the name of a split and a function from that split's length to what is taken of it.

    Percentages are rounded to the nearest example and a negative bound counts from the end, as in TFDS, so
    `train[:80%]` and `train[80%:]` never overlap and miss nothing.

    Args:
        spec: the flag's text; "" means none, and takes nothing of the split "".

    Returns:
        `(base, cut)`, where `cut(length)` is a slice with both bounds between 0 and `length`.

    Raises:
        BadInput: `spec` does not follow the grammar; or, from `cut`, a bound lies outside the split or nothing is left.

    >>> base, cut = parse("train[80%:]")
    >>> base, cut(1437)
    ('train', slice(1150, 1437, None))
    """
    if spec == "":
        return "", lambda length: slice(0, 0)
    found = _SPEC.fullmatch(spec.strip())
    if found is None:
        joined = ' ("+" is not supported: load the two splits apart)' if "+" in spec else ""
        raise BadInput(f"split={spec!r} cannot be read{joined}; accepted: {ACCEPTED}")

    def cut(length: int) -> slice:
        start = _bound(spec, found["start"], length, default=0)
        stop = _bound(spec, found["stop"], length, default=length)
        if start >= stop:
            raise BadInput(
                f"split={spec!r} is an empty split: it takes examples {start} to {stop} of {length}; "
                f"accepted: a first example below the last"
            )
        return slice(start, stop)

    return found["base"], cut


def _bound(spec: str, text: str | None, length: int, *, default: int) -> int:
    """One bound of a slice as a count of examples from the start of the split."""
    if not text:
        return default
    value, limit = int(text.rstrip("%")), 100 if text.endswith("%") else length
    if abs(value) > limit:
        unit = "%" if text.endswith("%") else f" (the split has {length} examples)"
        raise BadInput(f"split={spec!r}: the bound {text} is out of range; accepted: at most {limit}{unit}")
    if text.endswith("%"):
        # `-0%` and `-0` are the start in TFDS too: the sign of zero says nothing.
        value = round(value * length / 100)
    return value + length if value < 0 else value

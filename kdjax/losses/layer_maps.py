"""Which of the teacher's layers teaches which of the student's: g(m) for m = 1 .. M."""

from kdjax.types import BadInput

_ACCEPTED = "every:K (g(m) = K m), offset:K (K (m - 1) + 1), first (m), last (N - M + m), or pairs such as 1=2,2=4"


def stages(text: str) -> tuple[str, tuple[str, ...]]:
    """A layer map and the names of stages that both networks have, which are written after it: `every:2+embedding`.

    Args:
        text: a map for `layer_map` or none, and names such as `stem`, `stage1`, `embedding`, `logits`, joined by plus
            signs; of a word that could be either, such as `first`, the map.

    Returns:
        The map, empty where there is none, and the names.

    Raises:
        BadInput: an empty part, more than one map, a map that is not the first part, a name twice.

    >>> stages("every:2+embedding+logits"), stages("stage1+stage2")
    (('every:2', ('embedding', 'logits')), ('', ('stage1', 'stage2')))
    """
    parts = text.split("+")
    names = tuple(part for part in parts if part.isidentifier() and part not in ("first", "last"))
    maps = [part for part in parts if part not in names]
    if "" in parts or len(maps) > 1 or maps != parts[: len(maps)] or len(set(names)) < len(names):
        raise BadInput(
            f"layers={text!r}: accepted are a map and after it names of stages, joined by +; a map is {_ACCEPTED}"
        )
    return "".join(maps), names


def layer_map(text: str, *, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Pairs `(m, g(m))` of a student's and a teacher's layers, both counted from 1.

    Args:
        text: `every:K`, with g(m) = K m ("the student learns every K-th layer"); `offset:K`, g(m) = K (m - 1) + 1;
            `first`, g(m) = m; `last`, g(m) = N - M + m; `reverse:K`, every K-th layer in the wrong order, a control;
            or the pairs themselves, `1=2,2=4,3=6`.
        student: M, how many layers the student has.
        teacher: N, how many the teacher has.

    Returns:
        The pairs, in the student's order.

    Raises:
        BadInput: another text, or a layer that a network does not have.

    Reference:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020, section 3.2
        (uniform g(m) = K m); Sun et al., Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019,
        section 3.2 (skip and last).

    >>> layer_map("every:2", student=3, teacher=6)
    ((1, 2), (2, 4), (3, 6))
    >>> layer_map("last", student=3, teacher=6)
    ((1, 4), (2, 5), (3, 6))
    """
    kind, _, number = text.partition(":")
    layers = range(1, student + 1)
    try:
        step = int(number) if number else 0
        if "=" in text:
            found = tuple((int(m), int(g)) for m, _, g in (part.partition("=") for part in text.split(",")))
        elif kind in ("every", "offset", "reverse") and step > 0:
            at = {
                "every": lambda m: step * m,
                "offset": lambda m: step * (m - 1) + 1,
                "reverse": lambda m: step * (student + 1 - m),
            }[kind]
            found = tuple((m, at(m)) for m in layers)
        elif text in ("first", "last"):
            found = tuple((m, m if text == "first" else teacher - student + m) for m in layers)
        else:
            raise ValueError
    except ValueError:
        raise BadInput(f"layers={text!r}: accepted are {_ACCEPTED}") from None
    if len({m for m, _ in found}) < len(found):
        raise BadInput(f"layers={text!r} names a layer of the student twice; accepted is each at most once")
    for m, g in found:
        if not (1 <= m <= student and 1 <= g <= teacher):
            raise BadInput(
                f"layers={text!r} pairs layer {m} of the student with {g} of the teacher; accepted are 1 to {student} "
                f"and 1 to {teacher}"
            )
    return found

"""Which of the teacher's layers teaches which of the student's: g(m) for m = 1 .. M.

    f(student, teacher, ...) -> ((m, g(m)), ...)

- `student`, `teacher`: how many layers each has, M and N, both counted from 1.

Reference: Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020, section
3.2 (uniform, g(m) = K m); Sun et al., Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019, section
3.2 (skip and last).
"""

from kdjax.types import BadInput

Map = tuple[tuple[int, int], ...]


def every(student: int, teacher: int, step: int) -> Map:
    """g(m) = K m: the student learns every K-th layer.

    >>> every(3, 6, 2)
    ((1, 2), (2, 4), (3, 6))
    """
    return _checked("every", student, teacher, [(m, step * m) for m in range(1, student + 1)], step)


def offset(student: int, teacher: int, step: int) -> Map:
    """g(m) = K (m - 1) + 1.

    >>> offset(3, 6, 2)
    ((1, 1), (2, 3), (3, 5))
    """
    return _checked("offset", student, teacher, [(m, step * (m - 1) + 1) for m in range(1, student + 1)], step)


def reverse(student: int, teacher: int, step: int) -> Map:
    """g(m) = K (M + 1 - m): every K-th layer in the wrong order, a control.

    >>> reverse(3, 6, 2)
    ((1, 6), (2, 4), (3, 2))
    """
    return _checked("reverse", student, teacher, [(m, step * (student + 1 - m)) for m in range(1, student + 1)], step)


def first(student: int, teacher: int) -> Map:
    """g(m) = m.

    >>> first(2, 6)
    ((1, 1), (2, 2))
    """
    return _checked("first", student, teacher, [(m, m) for m in range(1, student + 1)])


def last(student: int, teacher: int) -> Map:
    """g(m) = N - M + m.

    >>> last(2, 6)
    ((1, 5), (2, 6))
    """
    return _checked("last", student, teacher, [(m, teacher - student + m) for m in range(1, student + 1)])


def _checked(name: str, student: int, teacher: int, found: list[tuple[int, int]], step: int = 1) -> Map:
    if step < 1:
        raise BadInput(f"step={step} of {name}; accepted: 1 or more")
    return within(name, student, teacher, found)


def within(name: str, student: int, teacher: int, found: list[tuple[int, int]]) -> Map:
    """The pairs, if both networks have the layers and none of the student's is named twice.

    Raises:
        BadInput: they do not.
    """
    if len({m for m, _ in found}) < len(found):
        raise BadInput(f"{name} names a layer of the student twice; accepted is each at most once")
    for m, g in found:
        if not (1 <= m <= student and 1 <= g <= teacher):
            raise BadInput(
                f"{name} pairs layer {m} of the student with {g} of the teacher; accepted are 1 to {student} and 1 to "
                f"{teacher}"
            )
    return tuple(found)

"""How well a student matches its teacher, which is not the same as how well it does."""

import numpy as np
from scipy.special import log_softmax

from kdjax.evaluation.answers import checked
from kdjax.types import BadInput


def fidelity(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Top-1 agreement and predictive KL(teacher || student) at temperature 1, mean over examples.

    Args:
        student: logits `[N, K]`, finite, or -inf for a class that is ruled out.
        teacher: the same, for the same examples and classes. What it rules out adds nothing.

    Returns:
        `agreement` in [0, 1] and `teacher_kl` in nats, finite both.

    Raises:
        BadInput: shapes that differ, rows that are not numbers, or a class that the student rules out and the teacher
            does not: the divergence is infinite.

    >>> z, v = np.zeros((1, 2)), np.array([[np.log(9.0), 0.0]])
    >>> {k: round(x, 7) for k, x in fidelity(z, v).items()}
    {'agreement': 1.0, 'teacher_kl': 0.3680642}

    Reference:
        Stanton, Izmailov, Kirichenko, Alemi, Wilson, Does Knowledge Distillation Really Work?, NeurIPS 2021, section 3.
    """
    student, teacher = checked(student, "student"), checked(teacher, "teacher")
    if student.shape != teacher.shape:
        raise BadInput(f"student has shape {student.shape} and teacher {teacher.shape}; accepted: the same, [N, K]")
    log_q, log_p = log_softmax(student, axis=-1), log_softmax(teacher, axis=-1)
    p = np.exp(log_p)
    possible = p > 0
    endless = (possible & np.isneginf(log_q)).any(-1)
    if endless.any():
        raise BadInput(
            f"student rules out what teacher does not in {endless.sum()} of {len(student)} examples, the first is row "
            f"{endless.argmax()}: the divergence is infinite; accepted: finite logits of the student there"
        )
    log_q, log_p = (np.where(possible, x, 0) for x in (log_q, log_p))
    kl = np.sum(p * (log_p - log_q), -1)
    return {
        "agreement": float(np.mean(student.argmax(-1) == teacher.argmax(-1))),
        "teacher_kl": float(np.mean(kl)),
    }

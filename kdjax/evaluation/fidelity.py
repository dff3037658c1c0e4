"""How well a student matches its teacher, which is not the same as how well it does."""

import numpy as np
from scipy.special import log_softmax


def fidelity(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Top-1 agreement and predictive KL(teacher || student) at temperature 1, mean over examples.

    Args:
        student: logits `[N, K]`.
        teacher: logits `[N, K]`.

    Returns:
        `agreement` in [0, 1] and `teacher_kl` in nats.

    >>> z, v = np.zeros((1, 2)), np.array([[np.log(9.0), 0.0]])
    >>> {k: round(x, 7) for k, x in fidelity(z, v).items()}
    {'agreement': 1.0, 'teacher_kl': 0.3680642}

    Reference:
        Stanton, Izmailov, Kirichenko, Alemi, Wilson, Does Knowledge Distillation Really Work?, NeurIPS 2021, section 3.
    """
    log_q, log_p = (log_softmax(x.astype(np.float64), axis=-1) for x in (student, teacher))
    kl = np.sum(np.exp(log_p) * (log_p - log_q), -1)
    return {
        "agreement": float(np.mean(student.argmax(-1) == teacher.argmax(-1))),
        "teacher_kl": float(np.mean(kl)),
    }

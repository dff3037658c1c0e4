"""Learning from a robust teacher T and a naturally trained one, N, under attack.

The words are those of `robust_distillation`, and so are the strength of the attack and `form`; `natural` is the
folder of the run that trained N, where a command looks for it.
"""

from kdjax.methods.climbing import Form, climb, divergence, falling, is_release, on_labels, trusted
from kdjax.methods.formulas import (
    Method,
    Number,
    attacked,
    clean,
    confidence,
    doubt,
    entropy_balance,
    progress,
    response,
    student,
    teacher,
)
from kdjax.methods.formulas import natural as naturally
from kdjax.methods.shares import rest, squared


def iad_ii(
    robust: float = 0.5,
    plain: float = 0.25,
    temperature: float = 1.0,
    power: Number = 0.1,
    begin: float = 40 / 200,
    form: Form = "paper",
    natural: str = "",
) -> Method:
    """(1 - a1 - a2) CE(S(x'), y) + a1 [w t^2 KL(p_T(x) || p_S(x')) + (1 - w) KL(p_S(x) || p_S(x'))]
    + a2 t^2 KL(p_N(x) || p_S(x')), w = p_T(x')_y^power, N a naturally trained teacher; x' makes CE(S(x'), y) large.

    Args:
        robust, plain: a1 and a2.
        temperature: t.
        power: beta.
        begin: the share of the run before which w = 1.
        form: the release multiplies KL(p_S(x) || p_S(x')) by t^2 too, though its temperature is 1.

    Reference: Zhu et al., ICLR 2022, equation 7.
    """
    trust, scale = trusted(power, begin), squared(temperature) if is_release(form) else 1.0
    taught = response.kl(
        student=attacked, teacher=clean, temperature=temperature, times=confidence(teacher(attacked), power=trust)
    )
    own = response.kl(
        student=attacked, teacher=student(clean), temperature=1.0, times=doubt(teacher(attacked), power=trust)
    )
    also = response.kl(student=attacked, teacher=naturally(clean), temperature=temperature)
    parts = robust * taught + robust * scale * own + plain * also
    return Method(
        rest(robust, plain) * on_labels + parts,
        attack=climb(on_labels, uniform=True),
        others=(("natural", natural),),
    )


def akd2(
    robust: float = 0.5,
    plain: float = 0.25,
    temperature: Number = 1.0,
    natural: str = "",
) -> Method:
    """(1 - a1 - a2) CE(S(x'), y) + a1 t^2 KL(p_T(x') || p_S(x')) + a2 t^2 KL(p_N(x') || p_S(x')), N a naturally trained
    teacher; x' makes CE(S(x'), y) large.

    Args:
        robust, plain: a1 and a2.
        temperature: t.

    Reference: Chen, Zhang, Liu, Chang, Wang, Robust Overfitting may be mitigated by Properly Learned Smoothening,
    ICLR 2021, section 3.1.
    """
    taught = response.kl(student=attacked, teacher=attacked, temperature=temperature)
    also = response.kl(student=attacked, teacher=naturally(attacked), temperature=temperature)
    return Method(
        rest(robust, plain) * on_labels + robust * taught + plain * also,
        attack=climb(on_labels, uniform=True),
        others=(("natural", natural),),
    )


def mtard(
    rate: Number | None = None,
    form: Form = "paper",
    natural: str = "",
) -> Method:
    """w_T KL(p_T(x') || p_S(x')) + w_N KL(p_N(x) || p_S(x)), N a naturally trained teacher; x' makes
    CE(S(x'), y) large.

    In each step w_k <- w_k - r (w_k - R_k), R_k being the share of term k in what is left of both losses, each divided
    by what it was at first; then the step is made. Both begin at 1/2.

    Args:
        rate: r; 0.025, times 0.1 after 215, 260 and 285 of 300 epochs, where nothing is said.
        form: the release takes the mean over classes.

    Reference: Zhao, Wang, Wei, Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation, ECCV 2022,
    equations 5 to 9.
    """
    kl, together = divergence(form), progress(rate=falling(0.025) if rate is None else rate)
    robust = kl(student=attacked, teacher=attacked, temperature=1.0, shared=together)
    plain = kl(teacher=naturally(clean), temperature=1.0, shared=together)
    return Method(1.0 * robust + 1.0 * plain, attack=climb(on_labels), others=(("natural", natural),))


def b_mtard(
    rate: Number | None = None,
    temperature_rate: Number | None = None,
    form: Form = "paper",
    natural: str = "",
) -> Method:
    """`mtard` between teachers of one entropy: w_T KL(q_T(x') || p_S(x')) + w_N KL(q_N(x) || p_S(x)), q_k the softmax
    of the teacher's logits / T_k; x' makes CE(S(x'), y) large.

    After each step T_k <- T_k - h sign(H_k / H_j - 1), from 1 to 10, H being the batch's mean entropies of q_T(x') and
    q_N(x); the surer teacher becomes the softer one. w as in `mtard`. The student's answers stay at temperature 1.

    Args:
        rate: r of `mtard`.
        temperature_rate: h; 0.001, times 0.1 after 215, 260 and 285 of 300 epochs, where nothing is said.
        form: the release takes the mean over classes.

    Reference: Zhao, Wang, Wei, Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial
    Distillation, IEEE TPAMI 2024; bounds, rates and the order of a step are its released code's.
    """
    kl, together = divergence(form), progress(rate=falling(0.025) if rate is None else rate)
    softened = entropy_balance(rate=falling(0.001) if temperature_rate is None else temperature_rate)
    robust = kl(student=attacked, teacher=attacked, temperature=1.0, shared=together, teacher_temperature=softened)
    plain = kl(teacher=naturally(clean), temperature=1.0, shared=together, teacher_temperature=softened)
    return Method(1.0 * robust + 1.0 * plain, attack=climb(on_labels), others=(("natural", natural),))

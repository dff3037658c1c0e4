"""Learning from a teacher under attack: each one expression and one attack, with its paper.

x is an image and x' what the attack makes of it; S is the student and T the teacher; p_S, p_T are their softmax, at a
temperature t where one is written; KL(a || b) is `response.kl(student=b, teacher=a)`, with its t^2. The weights are the
papers', for CIFAR-10 at epsilon 8/255 where nothing else is said. They stand here and nowhere else.

All but IGDM can be typed with `epsilon`, `steps` and `step_size` of their attack (`climbing.strength`). It is made
against the student in evaluation mode, as deployed. The code of ARD, IAD and AKD2 makes it in training mode, so that
running averages of BatchNorm see attacked images eleven times a step: that is not repeated here.

`form="release"` is the released code where its loss is another than the paper's. `response.mean_kl` there is the mean
over classes that `torch.nn.KLDivLoss()` takes, a tenth of the sum on ten classes, and so a tenth of the learning rate.
"""

from kdjax.methods.climbing import Form, climb, divergence, falling, is_release, on_labels, rising, trusted
from kdjax.methods.formulas import (
    Method,
    Number,
    attacked,
    certainty,
    class_risk,
    clean,
    confidence,
    doubt,
    labels,
    linearized,
    mirrored,
    response,
    student,
    teacher,
    uncertainty,
)
from kdjax.methods.shares import mixed


def ard(
    alpha: Number = 1.0,
    temperature: Number = 30.0,
    form: Form = "paper",
) -> Method:
    """alpha t^2 KL(p_T(x) || p_S(x')) + (1 - alpha) CE(S(x), y); x' makes CE(S(x'), y) large.

    Args:
        alpha, temperature: 1 and 30 in the released command.
        form: the release takes the mean over classes.

    Reference: Goldblum, Fowl, Feizi, Goldstein, Adversarially Robust Distillation, AAAI 2020, equation 4.
    """
    taught = divergence(form)(student=attacked, teacher=clean, temperature=temperature)
    return Method(mixed(alpha, taught, labels), attack=climb(on_labels, uniform=True))


def iad_i(
    temperature: Number = 1.0,
    power: Number = 0.1,
    begin: float = 60 / 200,
    form: Form = "paper",
) -> Method:
    """w t^2 KL(p_T(x) || p_S(x')) + (1 - w) KL(p_S(x) || p_S(x')), w = p_T(x')_y^power; x' makes CE(S(x'), y) large.

    Args:
        temperature: t, of the teacher's term.
        power: beta.
        begin: the share of the run before which w = 1.
        form: the release does not weigh the teacher's term, and lets the gradient through p_S(x).

    Reference: Zhu, Yao, Han, Zhang, Liu, Niu, Zhou, Xu, Yang, Reliable Adversarial Distillation with Unreliable
    Teachers, ICLR 2022, equation 6.
    """
    released, trust = is_release(form), trusted(power, begin)
    weighed = {} if released else {"times": confidence(teacher(attacked), power=trust)}
    through = {"stop": False} if released else {}
    taught = response.kl(student=attacked, teacher=clean, temperature=temperature, **weighed)
    wary = doubt(teacher(attacked), power=trust)
    own = response.kl(student=attacked, teacher=student(clean), temperature=1.0, times=wary, **through)
    return Method(1.0 * taught + 1.0 * own, attack=climb(on_labels, uniform=True))


def rslad(
    alpha: Number = 5 / 6,
    form: Form = "paper",
) -> Method:
    """alpha KL(p_T(x) || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x)), no labels; x' makes KL(p_T(x) || p_S(x')) large.

    Args:
        alpha: 5/6.
        form: the release takes the mean over classes.

    Reference: Zi, Zhao, Ma, Jiang, Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student
    Better, ICCV 2021, equation 5.
    """
    apart = response.kl(student=attacked, teacher=clean, temperature=1.0)
    kl = divergence(form)
    taught = kl(student=attacked, teacher=clean, temperature=1.0), kl(temperature=1.0)
    return Method(mixed(alpha, *taught), attack=climb(apart))


def adaad(
    alpha: Number = 1.0,
    form: Form = "paper",
) -> Method:
    """alpha KL(p_T(x') || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x)); x' makes KL(p_T(x') || p_S(x')) large.

    The attack's slope passes through both networks.

    Args:
        alpha: 1.
        form: the release takes the mean over classes on CIFAR-10, the sum on CIFAR-100.

    Reference: Huang, Chen, Wang, Lu, Cheng, Wang, Boosting Accuracy and Robustness of Student Models via Adaptive
    Adversarial Distillation, CVPR 2023, equations 5 and 6.
    """
    apart = response.kl(student=attacked, teacher=attacked, temperature=1.0)
    kl = divergence(form)
    taught = kl(student=attacked, teacher=attacked, temperature=1.0), kl(temperature=1.0)
    return Method(mixed(alpha, *taught), attack=climb(apart))


def adaiad(
    power: Number = 0.1,
    form: Form = "paper",
) -> Method:
    """w KL(p_T(x') || p_S(x')) + (1 - w) KL(p_S(x) || p_S(x')), w = p_T(x')_y^power; x' as AdaAD's.

    Args:
        power: beta.
        form: the release does not weigh the teacher's term and takes it at temperature 30, with its t^2.

    Reference: Huang et al., CVPR 2023, section 4.
    """
    released = is_release(form)
    weighed = {} if released else {"times": confidence(teacher(attacked), power=power)}
    taught = response.kl(student=attacked, teacher=attacked, temperature=30.0 if released else 1.0, **weighed)
    own = response.kl(
        student=attacked, teacher=student(clean), temperature=1.0, times=doubt(teacher(attacked), power=power)
    )
    apart = response.kl(student=attacked, teacher=attacked, temperature=1.0)
    return Method(1.0 * taught + 1.0 * own, attack=climb(apart))


def absld(
    alpha: Number = 5 / 6,
    rate: Number | None = None,
    form: Form = "paper",
) -> Method:
    """RSLAD with softer answers for classes that the student knows: alpha KL(q'(x) || p_S(x')) + (1 - alpha)
    KL(q(x) || p_S(x)), q = softmax(T(x) / T_y), q' = softmax(T(x) / T'_y); x' makes KL(q'(x) || p_S(x')) large.

    After each pass over the data set T_c <- T_c - r (R_c - mean R) / max |R - mean R|, from 0.5 to 5, R_c being the
    mean cross-entropy of the student's answers to images of class c: to clean ones for T, to attacked ones for T'.

    Args:
        alpha: 5/6.
        rate: r; 0.1, times 0.1 after 215, 260 and 285 of 300 epochs, where nothing is said.
        form: the release takes the mean over classes in its losses and the sum over a class's images in R_c; and it
            divides both answers by T_y T'_y, since their rows share memory there.

    Reference: Zhao, Wang, Wei, Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, NeurIPS
    2024, and its released code, whose bounds and rates these are.
    """
    own = {"released": True} if is_release(form) else {}
    kl, softened = divergence(form), class_risk(rate=falling(0.1) if rate is None else rate, **own)
    taught = (
        kl(student=attacked, teacher=clean, temperature=1.0, teacher_temperature=softened),
        kl(temperature=1.0, teacher_temperature=softened),
    )
    # The attack takes the temperatures of the first term.
    apart = response.kl(student=attacked, teacher=clean, temperature=1.0, teacher_temperature=class_risk)
    return Method(mixed(alpha, *taught), attack=climb(apart))


def saad(
    scale: Number = 5.0,
    gradients: Number = 1.0,
    plain: float = 0.0,
) -> Method:
    """w [KL(p_T(x') || p_S(x')) + a (share of the run) IGDM] + b (1 - w_n) KL(p_T(x) || p_S(x)), w = s (H - min H).

    H is the entropy of p_T(x'), w_n is w brought to 0 to 1; x' makes KL(softmax(T(x) + e_y <dT_y/dx, d>) || p_S(x'))
    large.

    The attack asks the teacher for one slope a batch; it looks at the batch's least and greatest entropy. The code
    multiplies the change that this slope foretells by a number, here 1, which makes it the teacher's own tangent.

    Args:
        scale: s.
        gradients: a of `igdm`: 1 on CIFAR-10, 10 on CIFAR-100.
        plain: b: 0 on CIFAR-10.

    Reference: the code released with Lee et al., Sample-wise Adaptive Adversarial Distillation, TMLR 2026.
    """
    hard = uncertainty(teacher(attacked), scale=scale)
    apart = attacked - mirrored
    terms = 1.0 * response.kl(student=attacked, teacher=attacked, temperature=1.0, times=hard)
    terms += rising(gradients=gradients) * response.kl(student=apart, teacher=apart, temperature=1.0, times=hard)
    if plain:
        terms += plain * response.kl(temperature=1.0, times=certainty(teacher(attacked)))
    far = response.kl(student=attacked, teacher=linearized, temperature=1.0)
    return Method(terms, attack=climb(far))


def igdm(weight: Number = 1.0) -> Method:
    """a (share of the run) KL(softmax(T(x + d) - T(x - d)) || softmax(S(x + d) - S(x - d))), d = x' - x.

    It is added to another method, whose x' it takes: `adaad + igdm`. x - d is not clipped to [0, 1].

    Args:
        weight: a, 1 on CIFAR-10 and 10 on CIFAR-100 where SAAD's code adds it.

    Reference: Lee, Kim, Kim, Cho, Indirect Gradient Matching for Adversarial Robust Distillation, ICLR 2025,
    equation 8.
    """
    apart = attacked - mirrored
    return Method(rising(weight=weight) * response.kl(student=apart, teacher=apart, temperature=1.0))

"""Learning that resists attacks, with a teacher or without: each one expression and one attack, with its paper.

x is an image and x' what the attack makes of it; S is the student and T the teacher; p_S, p_T are their softmax, at a
temperature t where one is written; KL(a || b) is `response.kl(student=b, teacher=a)`, with its t^2. The weights are the
papers', for CIFAR-10 at epsilon 8/255 where nothing else is said. They stand here and nowhere else.

Attacks are made against the student in evaluation mode, as deployed. ARD's, IAD's and AKD2's code makes them in
training mode, so that running averages of BatchNorm see attacked images eleven times a step: that is not repeated here.

`form="release"` is the released code where its loss is another than the paper's. `response.mean_kl` there is the mean
over classes that `torch.nn.KLDivLoss()` takes, a tenth of the sum on ten classes, and so a tenth of the learning rate.
"""

from typing import Literal

from kdjax.methods.formulas import (
    Method,
    Number,
    attacked,
    clean,
    confidence,
    doubt,
    foretold,
    gaussian,
    labels,
    mirrored,
    pgd,
    progress,
    response,
    student,
    sureness,
    teacher,
    unsureness,
)  # fmt: skip
from kdjax.methods.formulas import fgsm_rs as one_step
from kdjax.methods.formulas import natural as naturally
from kdjax.spec import Call, Formula, linear
from kdjax.spec import steps as piecewise
from kdjax.types import BadInput

EPSILON = 8 / 255
Form = Literal["paper", "release"]


def _climb(objective: Call, epsilon: Number, steps: int, step_size: Number | None, *, uniform: bool = False) -> Call:
    """PGD that makes an objective large; steps of 2.5 epsilon / steps, 2/255 of 8/255 in ten, where none is given."""
    begin = {"random_start": True} if uniform else {"start": gaussian(0.001)}
    length = {} if step_size is None else {"step_size": step_size}
    return pgd(epsilon=epsilon, steps=steps, objective=objective, **begin, **length)


def _released(form: Form) -> bool:
    if form not in ("paper", "release"):
        raise BadInput(f"form={form!r}; accepted: paper, release")
    return form == "release"


def _divergence(form: Form) -> Call:
    return response.mean_kl if _released(form) else response.kl


def _mixed(alpha: Number, first: Call, second: Call) -> Formula:
    """alpha first + (1 - alpha) second, without what has no weight.

    Raises:
        BadInput: no plain number from 0 to 1.
    """
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise BadInput(f"alpha={alpha!r}: 1 - alpha weighs the rest; accepted: a number from 0 to 1, or a --loss")
    if alpha in (0, 1):
        return 1.0 * (first if alpha else second)
    return alpha * first + round(1 - alpha, 12) * second


_on_labels = labels(student=attacked)
"""Cross-entropy of attacked images."""


def pgd_at(epsilon: Number = EPSILON, steps: int = 10, step_size: Number | None = None) -> Method:
    """CE(S(x'), y), x' of that same loss.

    Reference: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
    ICLR 2018, equation 2.1.
    """
    return Method(1.0 * _on_labels, attack=_climb(_on_labels, epsilon, steps, step_size, uniform=True))


def fgsm_rs(epsilon: Number = EPSILON, step_size: Number | None = None) -> Method:
    """CE(S(x'), y), x' of one step of 1.25 epsilon from a uniform start.

    Reference: Wong, Rice, Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020, algorithm 3.
    """
    length = {} if step_size is None else {"step_size": step_size}
    return Method(1.0 * _on_labels, attack=one_step(epsilon=epsilon, objective=_on_labels, **length))


def trades(beta: Number = 6.0, epsilon: Number = EPSILON, steps: int = 10, step_size: Number | None = None) -> Method:
    """CE(S(x), y) + beta KL(p_S(x) || p_S(x')), with gradient on both sides; x' makes the same KL large.

    Args:
        beta: 1 / lambda, 6 on CIFAR-10 and 1 on MNIST (at 0.3, 40 steps of 0.01).
        epsilon, steps, step_size: of the attack.

    Reference: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and
    Accuracy, ICML 2019, equation 5 and the released code (`KLDivLoss(log_softmax(S(x')), softmax(S(x)))`).
    """
    apart = response.kl(student=attacked, teacher=student(clean), temperature=1.0)
    both = response.kl(student=attacked, teacher=student(clean), temperature=1.0, stop=False)
    return Method(1.0 * labels + beta * both, attack=_climb(apart, epsilon, steps, step_size))


def mart(weight: Number = 5.0, epsilon: Number = EPSILON, steps: int = 10, step_size: Number | None = None) -> Method:
    """BCE(S(x'), y) + weight (1 - p_S(x)_y) KL(p_S(x) || p_S(x')), with gradient everywhere; x' makes CE(S(x'), y)
    large.

    Reference: Wang, Zou, Yi, Bailey, Ma, Gu, Improving Adversarial Robustness Requires Revisiting Misclassified
    Examples, ICLR 2020, equation 12.
    """
    apart = response.kl(
        student=attacked, teacher=student(clean), temperature=1.0, stop=False, times=doubt(student(clean))
    )
    hard = response.boosted_cross_entropy(student=attacked)
    return Method(1.0 * hard + weight * apart, attack=_climb(_on_labels, epsilon, steps, step_size))


def ard(
    alpha: float = 1.0,
    temperature: Number = 30.0,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    form: Form = "paper",
) -> Method:
    """alpha t^2 KL(p_T(x) || p_S(x')) + (1 - alpha) CE(S(x), y); x' makes CE(S(x'), y) large.

    Args:
        alpha, temperature: 1 and 30 in the released command.
        epsilon, steps, step_size: of the attack, from a uniform start.
        form: the release takes the mean over classes.

    Reference: Goldblum, Fowl, Feizi, Goldstein, Adversarially Robust Distillation, AAAI 2020, equation 4.
    """
    taught = _divergence(form)(student=attacked, teacher=clean, temperature=temperature)
    return Method(_mixed(alpha, taught, labels), attack=_climb(_on_labels, epsilon, steps, step_size, uniform=True))


def _trusted(power: Number, begin: float) -> Number:
    """The power of a teacher's confidence: 0, which trusts it wholly, until a share of the run is over."""
    return piecewise((0.0, power), (begin,)) if begin else power


def iad_i(
    temperature: Number = 1.0,
    power: Number = 0.1,
    begin: float = 60 / 200,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    form: Form = "paper",
) -> Method:
    """w t^2 KL(p_T(x) || p_S(x')) + (1 - w) KL(p_S(x) || p_S(x')), w = p_T(x')_y^power; x' makes CE(S(x'), y) large.

    Args:
        temperature: t, of the teacher's term.
        power: beta.
        begin: the share of the run before which w = 1.
        epsilon, steps, step_size: of the attack, from a uniform start.
        form: the release does not weigh the teacher's term, and lets the gradient through p_S(x).

    Reference: Zhu, Yao, Han, Zhang, Liu, Niu, Zhou, Xu, Yang, Reliable Adversarial Distillation with Unreliable
    Teachers, ICLR 2022, equation 6.
    """
    released, trust = _released(form), _trusted(power, begin)
    weighed = {} if released else {"times": confidence(teacher(attacked), power=trust)}
    through = {"stop": False} if released else {}
    taught = response.kl(student=attacked, teacher=clean, temperature=temperature, **weighed)
    wary = doubt(teacher(attacked), power=trust)
    own = response.kl(student=attacked, teacher=student(clean), temperature=1.0, times=wary, **through)
    return Method(1.0 * taught + 1.0 * own, attack=_climb(_on_labels, epsilon, steps, step_size, uniform=True))


def iad_ii(
    robust: float = 0.5,
    plain: float = 0.25,
    temperature: float = 1.0,
    power: Number = 0.1,
    begin: float = 40 / 200,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
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
        epsilon, steps, step_size: of the attack, from a uniform start.
        form: the release multiplies KL(p_S(x) || p_S(x')) by t^2 too, though its temperature is 1.
        natural: the folder of the run that trained N, where a command looks for it.

    Reference: Zhu et al., ICLR 2022, equation 7.
    """
    trust, scale = _trusted(power, begin), temperature**2 if _released(form) else 1.0
    taught = response.kl(
        student=attacked, teacher=clean, temperature=temperature, times=confidence(teacher(attacked), power=trust)
    )
    own = response.kl(
        student=attacked, teacher=student(clean), temperature=1.0, times=doubt(teacher(attacked), power=trust)
    )
    also = response.kl(student=attacked, teacher=naturally(clean), temperature=temperature)
    parts = robust * taught + robust * scale * own + plain * also
    return Method(
        _rest(robust, plain) * _on_labels + parts,
        attack=_climb(_on_labels, epsilon, steps, step_size, uniform=True),
        others=(("natural", natural),),
    )


def akd2(
    robust: float = 0.5,
    plain: float = 0.25,
    temperature: Number = 1.0,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    natural: str = "",
) -> Method:
    """(1 - a1 - a2) CE(S(x'), y) + a1 t^2 KL(p_T(x') || p_S(x')) + a2 t^2 KL(p_N(x') || p_S(x')), N a naturally trained
    teacher; x' makes CE(S(x'), y) large.

    Args:
        robust, plain: a1 and a2.
        temperature: t.
        epsilon, steps, step_size: of the attack, from a uniform start.
        natural: the folder of the run that trained N, where a command looks for it.

    Reference: Chen, Zhang, Liu, Chang, Wang, Robust Overfitting may be mitigated by Properly Learned Smoothening,
    ICLR 2021, section 3.1.
    """
    taught = response.kl(student=attacked, teacher=attacked, temperature=temperature)
    also = response.kl(student=attacked, teacher=naturally(attacked), temperature=temperature)
    return Method(
        _rest(robust, plain) * _on_labels + robust * taught + plain * also,
        attack=_climb(_on_labels, epsilon, steps, step_size, uniform=True),
        others=(("natural", natural),),
    )


def _rest(*weights: float) -> float:
    """What is left of 1.

    Raises:
        BadInput: nothing is.
    """
    left = round(1 - sum(weights), 12)
    if not (min(weights) >= 0 and left >= 0):
        raise BadInput(f"weights {weights} leave {left} to the labels; accepted: from 0 up, 1 together at most")
    return left


def rslad(
    alpha: float = 5 / 6,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    form: Form = "paper",
) -> Method:
    """alpha KL(p_T(x) || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x)), no labels; x' makes KL(p_T(x) || p_S(x')) large.

    Args:
        alpha: 5/6.
        epsilon, steps, step_size: of the attack.
        form: the release takes the mean over classes.

    Reference: Zi, Zhao, Ma, Jiang, Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student
    Better, ICCV 2021, equation 5.
    """
    apart = response.kl(student=attacked, teacher=clean, temperature=1.0)
    kl = _divergence(form)
    taught = kl(student=attacked, teacher=clean, temperature=1.0), kl(temperature=1.0)
    return Method(_mixed(alpha, *taught), attack=_climb(apart, epsilon, steps, step_size))


def adaad(
    alpha: float = 1.0,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    form: Form = "paper",
) -> Method:
    """alpha KL(p_T(x') || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x)); x' makes KL(p_T(x') || p_S(x')) large.

    The attack's slope passes through both networks.

    Args:
        alpha: 1.
        epsilon, steps, step_size: of the attack.
        form: the release takes the mean over classes on CIFAR-10, the sum on CIFAR-100.

    Reference: Huang, Chen, Wang, Lu, Cheng, Wang, Boosting Accuracy and Robustness of Student Models via Adaptive
    Adversarial Distillation, CVPR 2023, equations 5 and 6.
    """
    apart = response.kl(student=attacked, teacher=attacked, temperature=1.0)
    kl = _divergence(form)
    taught = kl(student=attacked, teacher=attacked, temperature=1.0), kl(temperature=1.0)
    return Method(_mixed(alpha, *taught), attack=_climb(apart, epsilon, steps, step_size))


def adaiad(
    power: Number = 0.1,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    form: Form = "paper",
) -> Method:
    """w KL(p_T(x') || p_S(x')) + (1 - w) KL(p_S(x) || p_S(x')), w = p_T(x')_y^power; x' as AdaAD's.

    Args:
        power: beta.
        epsilon, steps, step_size: of the attack.
        form: the release does not weigh the teacher's term and takes it at temperature 30, with its t^2.

    Reference: Huang et al., CVPR 2023, section 4.
    """
    released = _released(form)
    weighed = {} if released else {"times": confidence(teacher(attacked), power=power)}
    taught = response.kl(student=attacked, teacher=attacked, temperature=30.0 if released else 1.0, **weighed)
    own = response.kl(
        student=attacked, teacher=student(clean), temperature=1.0, times=doubt(teacher(attacked), power=power)
    )
    apart = response.kl(student=attacked, teacher=attacked, temperature=1.0)
    return Method(1.0 * taught + 1.0 * own, attack=_climb(apart, epsilon, steps, step_size))


def mtard(
    rate: Number | None = None,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
    form: Form = "paper",
    natural: str = "",
) -> Method:
    """w_T KL(p_T(x') || p_S(x')) + w_N KL(p_N(x) || p_S(x)), N a naturally trained teacher; x' makes
    CE(S(x'), y) large.

    In each step w_k <- w_k - r (w_k - R_k), R_k being the share of term k in what is left of both losses, each divided
    by what it was at first; then the step is made. Both begin at 1/2.

    Args:
        rate: r; 0.025, times 0.1 after 215, 260 and 285 of 300 epochs, where nothing is said.
        epsilon, steps, step_size: of the attack.
        form: the release takes the mean over classes.
        natural: the folder of the run that trained N, where a command looks for it.

    Reference: Zhao, Wang, Wei, Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation, ECCV 2022,
    equations 5 to 9.
    """
    falling = piecewise((0.025, 0.0025, 0.00025, 0.000025), (215 / 300, 260 / 300, 285 / 300))
    kl, together = _divergence(form), progress(rate=falling if rate is None else rate)
    robust = kl(student=attacked, teacher=attacked, temperature=1.0, shared=together)
    plain = kl(teacher=naturally(clean), temperature=1.0, shared=together)
    return Method(
        1.0 * robust + 1.0 * plain, attack=_climb(_on_labels, epsilon, steps, step_size), others=(("natural", natural),)
    )


def saad(
    scale: Number = 5.0,
    gradients: Number = 1.0,
    plain: float = 0.0,
    epsilon: Number = EPSILON,
    steps: int = 10,
    step_size: Number | None = None,
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
        epsilon, steps, step_size: of the attack.

    Reference: the code released with Lee et al., Sample-wise Adaptive Adversarial Distillation, TMLR 2026.
    """
    hard = unsureness(teacher(attacked), scale=scale)
    apart = attacked - mirrored
    terms = 1.0 * response.kl(student=attacked, teacher=attacked, temperature=1.0, times=hard)
    terms += linear(0.0, gradients) * response.kl(student=apart, teacher=apart, temperature=1.0, times=hard)
    if plain:
        terms += plain * response.kl(temperature=1.0, times=sureness(teacher(attacked)))
    far = response.kl(student=attacked, teacher=foretold, temperature=1.0)
    return Method(terms, attack=_climb(far, epsilon, steps, step_size))


def igdm(weight: Number = 1.0) -> Method:
    """a (share of the run) KL(softmax(T(x + d) - T(x - d)) || softmax(S(x + d) - S(x - d))), d = x' - x.

    It is added to another method, whose x' it takes: `adaad + igdm`. x - d is not clipped to [0, 1].

    Args:
        weight: a, 1 on CIFAR-10 and 10 on CIFAR-100 where SAAD's code adds it.

    Reference: Lee, Kim, Kim, Cho, Indirect Gradient Matching for Adversarial Robust Distillation, ICLR 2025,
    equation 8.
    """
    apart = attacked - mirrored
    return Method(linear(0.0, weight) * response.kl(student=apart, teacher=apart, temperature=1.0))

"""Learning that resists attacks without a teacher: each one expression and one attack, with its paper.

x is an image and x' what the attack makes of it; S is the network and p_S its softmax; KL(a || b) is
`response.kl(student=b, teacher=a)`. The weights are the papers', for CIFAR-10 at epsilon 8/255 where nothing else is
said. They stand here and nowhere else.

All can be typed with `epsilon`, `steps` and `step_size` of their attack (`climbing.strength`). It is made against the
network in evaluation mode, as deployed.
"""

from kdjax.methods.climbing import EPSILON, climb, on_labels
from kdjax.methods.formulas import Method, Number, attacked, clean, doubt, labels, response, student
from kdjax.methods.formulas import fgsm_rs as one_step


def pgd_at() -> Method:
    """CE(S(x'), y), x' of that same loss.

    Reference: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
    ICLR 2018, equation 2.1.
    """
    return Method(1.0 * on_labels, attack=climb(on_labels, uniform=True))


def fgsm_rs() -> Method:
    """CE(S(x'), y), x' of one step of 1.25 epsilon from a uniform start.

    Reference: Wong, Rice, Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020, algorithm 3.
    """
    return Method(1.0 * on_labels, attack=one_step(epsilon=EPSILON, objective=on_labels))


def trades(beta: Number = 6.0) -> Method:
    """CE(S(x), y) + beta KL(p_S(x) || p_S(x')), with gradient on both sides; x' makes the same KL large.

    Args:
        beta: 1 / lambda, 6 on CIFAR-10 and 1 on MNIST (at 0.3, 40 steps of 0.01).

    Reference: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and
    Accuracy, ICML 2019, equation 5 and the released code (`KLDivLoss(log_softmax(S(x')), softmax(S(x)))`).
    """
    apart = response.kl(student=attacked, teacher=student(clean), temperature=1.0)
    both = response.kl(student=attacked, teacher=student(clean), temperature=1.0, stop=False)
    return Method(1.0 * labels + beta * both, attack=climb(apart))


def mart(weight: Number = 5.0) -> Method:
    """BCE(S(x'), y) + weight (1 - p_S(x)_y) KL(p_S(x) || p_S(x')), with gradient everywhere; x' makes CE(S(x'), y)
    large.

    Reference: Wang, Zou, Yi, Bailey, Ma, Gu, Improving Adversarial Robustness Requires Revisiting Misclassified
    Examples, ICLR 2020, equation 12.
    """
    apart = response.kl(
        student=attacked, teacher=student(clean), temperature=1.0, stop=False, times=doubt(student(clean))
    )
    hard = response.boosted_cross_entropy(student=attacked)
    return Method(1.0 * hard + weight * apart, attack=climb(on_labels))

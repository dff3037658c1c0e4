"""The field's attacks, each one expression of the algebra, with its paper.

Every function returns an `Attack`. Images are in [0, 1]; `epsilon` and step sizes are in pixel units. An objective
decides what the attack is against and whether it is targeted; `OBJECTIVES` names the papers' choices.

Every function raises `BadInput` for a setting that would disarm its attack or was meant in other units: a step, rate or
constant that is not above 0, a share outside (0, 1], a length above that of the whole image space.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array

from kdjax.attacks import _settings, oracles, projections, sampling, search, spaces, squares, starts, transforms
from kdjax.attacks._rows import Keep
from kdjax.attacks._settings import Number, Radius
from kdjax.attacks.apgd import scale_by_apgd
from kdjax.attacks.combine import then
from kdjax.attacks.deepfool import nearest_boundary
from kdjax.attacks.descend import descend
from kdjax.attacks.iterate import iterate, on_plateau, on_success
from kdjax.attacks.penalty import nearest, search_weight
from kdjax.types import Adversarial, Attack, BadInput, Objective, Oracle

OBJECTIVES: dict[str, str] = dict.fromkeys(
    ("cw", "deepfool", "fab", "hop_skip_jump", "noise", "spsa", "square", "standard", "zoo"), "margin"
)
"""The objective of each attack's paper, where it is not `cross_entropy`."""


def fgsm(epsilon: Radius = 0.1, *, norm: str = "linf") -> Attack:
    """x - epsilon sign(grad f), clipped to [0, 1]; norm l2: the unit slope instead of its sign. sign(0) = 0.

    Reference:
        Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4.
    """
    return descend(epsilon, epsilon, steps=1, norm=norm)


def r_fgsm(epsilon: Radius = 0.1, *, alpha: Radius | None = None) -> Attack:
    """x' = x + alpha sign(N(0, I)), then a step of epsilon - alpha; alpha = epsilon / 2 by default, and below epsilon.

    Reference:
        Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, Ensemble Adversarial Training: Attacks and Defenses,
        ICLR 2018, equation 7.
    """
    first = epsilon / 2 if alpha is None else alpha
    if isinstance(epsilon, Tracer) or isinstance(first, Tracer):
        # Nobody can refuse it here, so that it is seen in the result.
        epsilon = epsilon if alpha is None else jnp.where(first < epsilon, epsilon, jnp.nan)
    elif alpha is not None and not np.all(np.less(alpha, epsilon)):
        raise BadInput(f"alpha={alpha}: accepted are pixel units, 0 or more and below epsilon={epsilon}.")
    return iterate(
        oracles.autodiff(),
        optax.chain(optax.scale_by_sign(), optax.scale(-(epsilon - first))),
        projections.ball("linf", epsilon),
        steps=1,
        start=starts.signed(first),
    )


def fgsm_rs(epsilon: Radius = 0.1, *, step_size: Radius | None = None) -> Attack:
    """One step from a uniform start in the ball, which may leave the box; what is returned does not.

    The slope is taken at the start as drawn, as in the paper's code. Were it clipped first, a step of 1.25 epsilon
    would take every pixel of a black background to 0 or to epsilon, and training on such images ends in catastrophic
    overfitting: on MNIST at 0.3 with 96 % under FGSM and 3 % under PGD.

    Args:
        epsilon: radius, linf.
        step_size: 1.25 epsilon by default.

    Reference:
        Wong, Rice, Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020, algorithm 3.
    """
    _settings.require_step(step_size)
    return iterate(
        oracles.autodiff(),
        optax.chain(optax.scale_by_sign(), optax.scale(-(1.25 * epsilon if step_size is None else step_size))),
        projections.ball("linf", epsilon),
        steps=1,
        start=starts.uniform("linf", epsilon),
        start_projection=projections.linf(epsilon),
    )


def bim(epsilon: Radius = 0.1, *, steps: int = 10, step_size: Radius | None = None) -> Attack:
    """FGSM in steps of epsilon / steps by default, projected each time.

    Reference:
        Kurakin, Goodfellow, Bengio, Adversarial Examples in the Physical World, ICLR 2017 workshop, section 2.2.
    """
    _settings.require_count("steps", steps)
    if step_size is None:
        return descend(epsilon, epsilon / steps, steps=steps, norm="linf")
    return pgd(epsilon, steps=steps, step_size=step_size)


def pgd(
    epsilon: Radius = 0.1,
    *,
    steps: int = 40,
    step_size: Radius | None = None,
    norm: str = "linf",
    random_start: bool = False,
    start: starts.Start | None = None,
    oracle: Oracle | None = None,
    keep: Keep = "last",
) -> Attack:
    """Projected gradient descent: the steepest step of the norm, then the ball, then the box.

    Args:
        epsilon: radius.
        steps: how many.
        step_size: 2.5 epsilon / steps by default, the papers' rule of thumb.
        norm: linf or l2.
        random_start: begin uniformly in the ball.
        start: begin there instead, `starts.gaussian(0.001)`, in the ball and not in the box, as released code does; the
            first step leads back into the box.
        oracle: autodiff by default; with finite differences, PGD of a black box.
        keep: the last image, as published, or the one of lowest value.

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
        ICLR 2018, section 2.1.
    """
    _settings.require_count("steps", steps)
    if start is not None and random_start:
        raise BadInput("random_start=True and a start: accepted is one or the other.")
    drawn = starts.uniform(norm, epsilon) if random_start else start
    settle = projections.within(norm, epsilon) if start is not None else None
    more = [] if step_size is None else [transforms.no_longer("step_size", step_size, norm)]
    length = 2.5 * epsilon / steps if step_size is None else step_size
    return descend(
        epsilon, length, *more, steps=steps, norm=norm, start=drawn, start_projection=settle, oracle=oracle, keep=keep
    )


def mi_fgsm(
    epsilon: Radius = 0.1,
    *,
    steps: int = 10,
    decay: Number = 1.0,
    diverse: Number = 0.0,
    kernel: int = 1,
    norm: str = "linf",
) -> Attack:
    """Momentum: g <- decay g + grad / ||grad||_1, step epsilon / steps along its sign, or its unit vector in l2.

    Args:
        epsilon: radius.
        steps: how many.
        decay: mu.
        diverse: DI's probability of looking at a resized and padded image; 0 for never.
        kernel: side of TI's Gaussian blur of the slope, odd; 1 for none.
        norm: linf or l2.

    Reference:
        Dong, Liao, Pang, Su, Zhu, Hu, Li, Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1. DI: Xie
        et al., CVPR 2019. TI: Dong et al., CVPR 2019.
    """
    _settings.require_count("steps", steps)
    _settings.require_not_negative("decay", decay)
    _settings.require_share("diverse", diverse, zero=True)
    _settings.require_odd("kernel", kernel)
    oracle = oracles.autodiff()
    if isinstance(diverse, Tracer) or diverse > 0:
        oracle = oracles.seen_through(oracle, oracles.resize_and_pad(diverse))
    blur = [transforms.smooth(kernel, kernel / 5)] if kernel > 1 else []
    momentum = [transforms.normalize(1), optax.trace(decay), transforms.steepest(norm)]
    return iterate(
        oracle,
        optax.chain(*blur, *momentum, optax.scale(-epsilon / steps)),
        projections.ball(norm, epsilon),
        steps=steps,
    )


def apgd(
    epsilon: Radius = 0.1,
    *,
    steps: int = 100,
    norm: str = "linf",
    random_start: bool = True,
    windows: str = "released",
) -> Attack:
    """Auto-PGD, parameter-free; with cross-entropy, DLR, or targeted DLR as its objective.

    Args:
        epsilon: radius.
        steps: how many.
        norm: linf or l2.
        random_start: begin uniformly in the ball.
        windows: when progress is judged, `released` or `paper`; at 100 steps they are the same (`apgd.checkpoints`).

    Reference:
        Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
        ICML 2020, algorithm 1.
    """
    _settings.require_count("steps", steps)
    threat = projections.ball(norm, epsilon)
    return iterate(
        oracles.autodiff(),
        scale_by_apgd(threat, epsilon=epsilon, norm=norm, steps=steps, windows=windows),
        threat,
        steps=steps,
        start=starts.uniform(norm, epsilon) if random_start else None,
        stop=on_success(),
        keep="value",
    )


def deepfool(*, steps: int = 50, overshoot: Number = 0.02, norm: str = "l2", candidates: int = 10) -> Attack:
    """Step over the nearest linearised boundary, and 2 % farther, until the class changes.

    Args:
        steps: at most so many.
        overshoot: how much farther, above 0.
        norm: of the step, l2 or linf.
        candidates: classes considered, the label's and those of the largest other logits; bounds memory.

    Reference:
        Moosavi-Dezfooli, Fawzi, Frossard, DeepFool, CVPR 2016, algorithm 2.
    """
    _settings.require_positive("overshoot", overshoot)
    return iterate(
        nearest_boundary(norm, candidates=candidates),
        optax.scale(-(1 + overshoot)),
        steps=steps,
        space=spaces.clipped,
        stop=on_success(),
        keep="distance",
    )


def cw(
    *, steps: int = 1000, learning_rate: Number = 1e-2, search_steps: int = 9, initial_weight: Number = 1e-3
) -> Attack:
    """Carlini and Wagner's L2: Adam in tanh space on |x - x0|^2 + c f(x), binary search on c. Objective: `margin`.

    Reference:
        Carlini, Wagner, Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017, section VI.A.
    """
    _settings.require_count("steps", steps)
    _require_search(learning_rate, search_steps, initial_weight)
    inner = iterate(
        oracles.autodiff(),
        optax.chain(optax.scale_by_adam(), optax.scale(-learning_rate)),
        steps=steps,
        space=spaces.tanh_box,
        stop=on_plateau(max(steps // 10, 1)),
        keep="distance",
    )
    return search_weight(lambda c: nearest(inner, c), steps=search_steps, initial=initial_weight)


def zoo(
    *,
    update: str = "adam",
    steps: int = 3000,
    coordinates: int = 128,
    learning_rate: Number = 1e-2,
    h: Number = 1e-4,
    search_steps: int = 9,
    initial_weight: Number = 1e-2,
    box: str = "clip",
    importance: bool = False,
    sides: tuple[int, ...] = (),
    reset: bool = True,
    budget: int | None = None,
    chunk: int | None = None,
    oracle: Oracle | None = None,
) -> Attack:
    """Zeroth-order optimisation: coordinate differences, an update for each coordinate, |x - x0|^2 + c f(x).

    One step costs 2 `coordinates` + 1 queries: the paper counts coordinates, we count model evaluations. Objective:
    `margin`, whose logit differences are the paper's differences of log-probabilities.

    Args:
        update: adam, newton, or hybrid (Newton where the curvature is not negative).
        steps: most steps at each c; an example stops where 100 steps gained nothing.
        coordinates: looked at in each step.
        learning_rate: eta.
        h: half the distance of a difference.
        search_steps: constants c tried.
        initial_weight: the first c.
        box: clip (the authors' choice for MNIST) or tanh.
        importance: prefer coordinates where the modifier is large nearby.
        sides: sides of coarse modifiers, coarse to fine, up to the image's, `steps` shared among them; empty: pixels.
        reset: forget moments at the first success.
        budget: most queries per example and c.
        chunk: probes per example evaluated at once.
        oracle: another source of slopes; ZOO with autodiff is white-box coordinate-free Adam.

    Reference:
        Chen, Zhang, Sharma, Yi, Hsieh, ZOO: Zeroth Order Optimization Based Black-box Attacks to Deep Neural Networks
        without Training Substitute Models, AISec 2017, algorithms 1 to 3.
    """
    updates = {
        "adam": transforms.coordinate_adam,
        "newton": transforms.coordinate_newton,
        "hybrid": transforms.newton_or_adam,
    }
    if update not in updates:
        raise BadInput(f"update={update!r}: accepted are {', '.join(updates)}.")
    if box not in ("clip", "tanh"):
        raise BadInput(f"box={box!r}: accepted are clip, tanh.")
    _settings.require_count("steps", steps)
    _settings.require_count("coordinates", coordinates)
    for side in sides:
        _settings.require_count("sides", side)
    _require_search(learning_rate, search_steps, initial_weight)
    moved = transforms.fresh_after_success(updates[update]()) if reset else updates[update]()
    # Not where the attack is made: a rate that is traced would be negated in whichever trace asks first, and kept.
    tx = optax.chain(moved, optax.scale(-learning_rate))

    def stage(side: int, image_shape: tuple[int, ...]) -> Attack:
        shape = (side, side, image_shape[2]) if side else image_shape
        sample = sampling.important(coordinates, shape) if importance else sampling.uniform(coordinates)
        size = min(coordinates, math.prod(shape))
        plain = spaces.tanh_box if box == "tanh" else spaces.pixels
        return iterate(
            oracle or oracles.coordinates(sample, size, h=h, curvature=update != "adam", chunk=chunk),
            tx,
            projections.box() if box == "clip" and not side else None,
            steps=max(steps // max(len(sides), 1), 1),
            space=spaces.coarse(side, side) if side else plain,
            stop=on_plateau(100),
            keep="distance",
            budget=budget,
        )

    @functools.cache  # one attack, and so one program, for all images of a shape
    def made(image_shape: tuple[int, ...]) -> Attack:
        stages = [stage(side, image_shape) for side in sides or (0,)]

        def at(weight: Array) -> Attack:
            return functools.reduce(functools.partial(then, by="distance"), [nearest(one, weight) for one in stages])

        return search_weight(at, steps=search_steps, initial=initial_weight)

    made((1, 1, 1))  # what is refused whatever the image is refused here

    def attack(
        objective: Objective, key: Array, image: Array, start: Array | None = None, *, where: Array | None = None
    ) -> Adversarial:
        if sides and max(sides) > max(image.shape[1:3]):
            raise BadInput(f"sides={sides}: accepted are sides up to the image's, {max(image.shape[1:3])}.")
        return made(image.shape[1:])(objective, key, image, start, where=where)

    return attack


def nes(
    epsilon: Radius = 0.1, *, steps: int = 200, samples: int = 50, sigma: Number = 1e-3, norm: str = "linf",
    step_size: Radius | None = None, budget: int | None = None, chunk: int | None = None,
) -> Attack:  # fmt: skip
    """PGD on slopes of natural evolution strategies, stopping when fooled; in l2 along the slope's unit vector.

    Reference:
        Ilyas, Engstrom, Athalye, Lin, Black-box Adversarial Attacks with Limited Queries and Information, ICML 2018.
        In l2: Ilyas, Engstrom, Madry, Prior Convictions: Black-Box Adversarial Attacks with Bandits and Priors, ICLR
        2019.
    """
    more = [] if step_size is None else [transforms.no_longer("step_size", step_size, norm)]
    length = epsilon / 10 if step_size is None else step_size
    return iterate(
        oracles.nes(samples, sigma=sigma, chunk=chunk),
        optax.chain(transforms.steepest(norm), optax.scale(-length), *more),
        projections.ball(norm, epsilon),
        steps=steps,
        stop=on_success(),
        keep="value",
        budget=budget,
    )


def spsa(
    epsilon: Radius = 0.1, *, steps: int = 100, samples: int = 128, delta: Number = 0.01, learning_rate: Number = 0.01,
    norm: str = "linf", budget: int | None = None, chunk: int | None = None,
) -> Attack:  # fmt: skip
    """Adam on slopes of simultaneous perturbation, projected to the ball of linf or l2, stopping when fooled.

    Reference:
        Uesato, O'Donoghue, van den Oord, Kohli, Adversarial Risk and the Dangers of Evaluating Against Weak Attacks,
        ICML 2018.
    """
    _settings.require_positive("learning_rate", learning_rate)
    return iterate(
        oracles.spsa(samples, delta=delta, chunk=chunk),
        optax.chain(optax.scale_by_adam(), optax.scale(-learning_rate)),
        projections.ball(norm, epsilon),
        steps=steps,
        stop=on_success(),
        keep="value",
        budget=budget,
    )


def square(epsilon: Radius = 0.1, *, queries: int = 5000, norm: str = "linf", share: Number | None = None) -> Attack:
    """Random search over squares at the edge of the ball, stopping when fooled.

    In linf a square may lie anywhere in the image, as in the paper's algorithm 2. The released code, and AutoAttack's
    copy, draw its corner from 0 to h - s - 1, so that the last row and column keep the stripes of the start for ever;
    this one was 4 to 12 points stronger on two of three networks, and as strong on the third.

    Args:
        epsilon: radius.
        queries: budget per example.
        norm: linf or l2.
        share: of the pixels that a proposal changes at first; 0.8 in linf and 0.1 in l2, the authors' choices.

    Reference:
        Andriushchenko, Croce, Flammarion, Hein, Square Attack, ECCV 2020.
    """
    if norm not in ("linf", "l2"):
        raise BadInput(f"norm={norm!r}: accepted are linf, l2.")
    flat = norm == "linf"
    start = starts.stripes(epsilon) if flat else squares.tiles(epsilon)
    wanted = (0.8 if flat else 0.1) if share is None else share
    propose = squares.squares(epsilon, share=wanted) if flat else squares.trades(epsilon, share=wanted)
    return search.random_search(propose, projections.ball(norm, epsilon), queries=queries, start=start)


def _require_search(learning_rate: Number, search_steps: int, initial_weight: Number) -> None:
    _settings.require_positive("learning_rate", learning_rate)
    _settings.require_count("search_steps", search_steps)
    _settings.require_positive("initial_weight", initial_weight)


def noise(epsilon: Radius = 0.1, *, queries: int = 100, norm: str = "linf") -> Attack:
    """Uniform draws from the ball: what chance alone breaks, the control of every other attack."""
    draw = starts.uniform(norm, epsilon)
    return search.random_search(search.anywhere(draw), projections.ball(norm, epsilon), queries=queries, start=draw)

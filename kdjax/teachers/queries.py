"""What a thief asks next: `strategy(known, count, rng) -> Chosen`, pure functions of what is known so far.

    random      uncertainty      k_centre      adaptive      jacobian(step=0.1)      noise(grain=4)

Answers are bought in rounds. Before the first there is no surrogate, and whoever would look at one draws at random.
"""

import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, softmax

from kdjax.data.source import unit_interval
from kdjax.spec import Family
from kdjax.types import BadInput


class Surrogate(NamedTuple):
    """The clone so far: `logits(images [N, ...]) -> [N, K]`, and `slope(images, classes [N])`, that of each class's
    logarithmic probability, `[N, ...]`."""

    logits: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray]


class Known(NamedTuple):
    """All that a strategy looks at.

    Attributes:
        pool: images that may be asked about, `[P, H, W, C]`, uint8 or float32 in [0, 1].
        classes: of the pool, by labels of its own, `[P]`; all 0 where there are none.
        images: asked so far, in order, `[Q, H, W, C]`.
        rows: their places in the pool, -1 for an image that was made, `[Q]`.
        answers: of the victim to them, as logits, `[Q, K]`.
        surrogate: trained on these; None before the first round.
    """

    pool: np.ndarray
    classes: Int[np.ndarray, " pool"]
    images: np.ndarray
    rows: Int[np.ndarray, " asked"]
    answers: Float[np.ndarray, "asked classes"]
    surrogate: Surrogate | None = None


class Chosen(NamedTuple):
    """The next questions: images as the pool stores its own, and their places in it, -1 for one that was made."""

    images: np.ndarray
    rows: Int[np.ndarray, " count"]


def random(known: Known, count: int, rng: np.random.Generator) -> Chosen:
    """Uniformly, without replacement.

    Reference:
        Orekondy, Schiele, Fritz, Knockoff Nets: Stealing Functionality of Black-Box Models, CVPR 2019, section 4.1.1.
    """
    return _from_pool(known, rng.permutation(_left(known, count))[:count])


def uncertainty(known: Known, count: int, rng: np.random.Generator) -> Chosen:
    """The images of the pool at which the surrogate's entropy, -Σ q log q, is largest.

    Reference:
        Pal, Gupta, Shukla, Kanade, Shevade, Ganapathy, ActiveThief: Model Extraction Using Active Learning and
        Unannotated Public Data, AAAI 2020, section 4.
    """
    if known.surrogate is None:
        return random(known, count, rng)
    left = _left(known, count)
    log_q = log_softmax(known.surrogate.logits(known.pool[left]).astype(np.float64), axis=-1)
    entropy = -(np.exp(log_q) * log_q).sum(-1)
    return _from_pool(known, left[np.argsort(-entropy, kind="stable")[:count]])


def k_centre(known: Known, count: int, rng: np.random.Generator) -> Chosen:
    """One after another the image whose answer is farthest from all that are asked: argmax_i min_j ||q_i - q_j||_2.

    q are the surrogate's probabilities, of the pool and of what was asked.

    Reference:
        Sener, Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018, algorithm 1;
        on probabilities: Pal et al., ActiveThief, AAAI 2020, section 4.
    """
    if known.surrogate is None:
        return random(known, count, rng)
    left = _left(known, count)
    at = softmax(known.surrogate.logits(known.pool[left]).astype(np.float64), axis=-1)
    far = np.full(len(left), np.inf)
    for centre in softmax(known.surrogate.logits(known.images).astype(np.float64), axis=-1):
        far = np.minimum(far, ((at - centre) ** 2).sum(-1))
    taken = np.empty(count, np.int64)
    for number in range(count):
        taken[number] = far.argmax()
        far = np.minimum(far, ((at - at[taken[number]]) ** 2).sum(-1))
        far[taken[number]] = -1
    return _from_pool(known, left[taken])


def adaptive(known: Known, count: int, rng: np.random.Generator) -> Chosen:
    """A gradient bandit over the pool's classes: pi = softmax(H), H_z += (r - r̄) (1 - pi_z) / N_z for the class z of a
    question and -(r - r̄) pi / N_z for every other.

    r = certainty + diversity + loss: the gap of the victim's two largest probabilities; Σ_k max(0, p_k - p̄_k), p̄ the
    mean of the answers before; and the surrogate's cross-entropy to the answer, over the largest so far. r̄ is the mean
    reward before, N_z the number of questions of class z. H is computed over all that was asked, and a round is drawn
    from one pi, where the paper draws image by image.

    Reference:
        Orekondy, Schiele, Fritz, Knockoff Nets, CVPR 2019, section 4.1.2.
    """
    actions = np.unique(known.classes)
    if len(actions) < 2:
        raise BadInput(f"adaptive chooses among a pool's classes, which has {len(actions)}; accepted: 2 or more.")
    left = _left(known, count)
    shuffled = {z: rng.permutation(left[known.classes[left] == z]).tolist() for z in actions}
    odds = dict(zip(actions, preferences(known, actions), strict=True))
    rows = list[int]()
    while len(rows) < count:
        open_ = [z for z in actions if shuffled[z]]
        share = np.array([odds[z] for z in open_])
        rows.append(shuffled[open_[rng.choice(len(open_), p=share / share.sum())]].pop())
    return _from_pool(known, np.array(rows))


def preferences(known: Known, actions: Int[np.ndarray, " actions"]) -> Float[np.ndarray, " actions"]:
    """The bandit's pi after all that was asked; see `adaptive`."""
    height = np.zeros(len(actions))
    if known.surrogate is None or not len(known.images):
        return softmax(height)
    p = softmax(known.answers.astype(np.float64), axis=-1)
    top = np.sort(p, axis=-1)
    before = np.cumsum(p, axis=0) - p
    mean = before / np.maximum(np.arange(len(p)), 1)[:, None]
    mean[0] = p[0]  # nothing was before: nothing is new
    loss = -(p * log_softmax(known.surrogate.logits(known.images).astype(np.float64), axis=-1)).sum(-1)
    loss = loss / np.maximum(np.maximum.accumulate(loss), 1e-12)
    reward = top[:, -1] - top[:, -2] + np.maximum(p - mean, 0).sum(-1) + loss
    drawn, total = np.zeros(len(actions)), 0.0
    for number, (row, r) in enumerate(zip(known.rows, reward, strict=True)):
        z = np.searchsorted(actions, known.classes[row])
        drawn[z] += 1
        pi = softmax(height)
        height += (r - (total / number if number else r)) * ((np.arange(len(actions)) == z) - pi) / drawn[z]
        total += r
    return softmax(height)


def jacobian(known: Known, count: int, rng: np.random.Generator, *, step: float = 0.1) -> Chosen:
    """x + step sign(d log q_y(x) / dx), y the victim's answer to x, of images x that were asked: `count` of them, drawn
    by a reservoir. The first round is drawn from the pool.

    Reference:
        Papernot, McDaniel, Goodfellow, Jha, Celik, Swami, Practical Black-Box Attacks against Machine Learning,
        ASIACCS 2017, algorithm 1 and section 4.2; the reservoir: appendix of its arXiv version.
    """
    if known.surrogate is None:
        return random(known, count, rng)
    if count > len(known.images):
        raise BadInput(f"jacobian makes one image of each of {len(known.images)}, not {count}; accepted: budgets that "
                       "at most double from round to round.")  # fmt: skip
    if not step > 0:
        raise BadInput(f"jacobian: step={step}; accepted: above 0, in pixel units.")
    seeds = reservoir(len(known.images), count, rng)
    image = unit_interval(known.images[seeds])
    slope = known.surrogate.slope(image, known.answers[seeds].argmax(-1))
    moved = np.clip(image + np.float32(step) * np.sign(slope), 0, 1)
    return Chosen(_stored(moved, known.pool.dtype), np.full(count, -1))


def reservoir(total: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, " count"]:
    """`count` of `total` places, each as likely: place i > count replaces one kept with probability count / i.

    Reference:
        Vitter, Random Sampling with a Reservoir, ACM TOMS 11 (1985), algorithm R.
    """
    kept = np.arange(count)
    for place in range(count, total):
        slot = rng.integers(place + 1)
        if slot < count:
            kept[slot] = place
    return kept


def noise(
    known: Known, count: int, rng: np.random.Generator, *, kind: Literal["bernoulli", "uniform"] = "bernoulli",
    grain: int = 1,
) -> Chosen:  # fmt: skip
    """Images of squares of `grain` pixels: white with a probability that each image draws in [0, 1], or of any grey.

    Reference:
        Roberts, Prabhu, McAteer, Model Weight Theft With Just Noise Inputs: The Curious Case of the Petulant Attacker,
        arXiv 1912.08987; the probability of each image is ours.
    """
    height, width, channels = known.pool.shape[1:]
    if not 1 <= grain <= max(height, width):
        raise BadInput(f"noise: grain={grain}; accepted: 1 to {max(height, width)} pixels.")
    made = np.empty((count, height, width, channels), known.pool.dtype)
    coarse = (-(-height // grain), -(-width // grain), channels)
    for at in range(0, count, 4096):  # a million images of doubles would not fit
        part = made[at : at + 4096]
        drawn = rng.random((len(part), *coarse), np.float32)
        if kind == "bernoulli":
            drawn = (drawn < rng.random((len(part), 1, 1, 1), np.float32)).astype(np.float32)
        part[...] = _stored(drawn.repeat(grain, 1).repeat(grain, 2)[:, :height, :width], made.dtype)
    return Chosen(made, np.full(count, -1))


def _left(known: Known, count: int) -> Int[np.ndarray, " left"]:
    """The pool's rows that were not asked."""
    left = np.setdiff1d(np.arange(len(known.pool)), known.rows)
    if len(left) < count:
        raise BadInput(f"{count} more images are asked for, and the pool has {len(left)} left; accepted: fewer.")
    return left


def _from_pool(known: Known, rows: np.ndarray) -> Chosen:
    return Chosen(known.pool[rows], rows)


def _stored(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Images in [0, 1] as the pool stores its own: a service takes what a file can hold."""
    return np.round(image * 255).astype(np.uint8) if dtype == np.uint8 else image.astype(np.float32)


STRATEGIES = Family(sys.modules[__name__], first=("known", "count", "rng"))
"""The strategies by name."""

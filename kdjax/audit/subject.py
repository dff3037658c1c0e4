"""What is audited, against which threat, and with how much work."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks.projections import require_radius
from kdjax.attacks.victims import Victim, look_like_probabilities
from kdjax.types import BadInput


@dataclass(frozen=True)
class Threat:
    """What the attacker may do and knows: the record without which a robust accuracy means nothing.

    Attributes:
        norm: linf or l2.
        epsilon: radius, in pixel units.
        low, high: the box of pixels.
        knowledge: what the attacker knows, such as `white box`.
        adaptive: how the attacks were fitted to this defence, or why that is not needed; empty: nobody has said.
    """

    norm: str = "linf"
    epsilon: float = 0.3
    low: float = 0.0
    high: float = 1.0
    knowledge: str = "white box"
    adaptive: str = ""

    def fingerprint(self, **more: Any) -> str:
        """A hash of the record and of whatever else makes the evaluation repeatable."""
        text = json.dumps({**asdict(self), **more}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Sizes:
    """How much work goes into the checks; the defaults are the literature's.

    Attributes:
        steps: of the plain attack, PGD on cross-entropy without restarts.
        long_steps: of the run that shows convergence.
        sweep_steps: at every radius of the sweep.
        restarts: random starts.
        apgd_steps: of APGD, for each objective and target.
        targets: most classes attacked by targeted APGD.
        queries: of the Square attack, per example.
        draws: random points per example.
        draw_examples: examples that get them, of those that stood the plain attack.
        hard_iterations: of the hard-label attack, about 130 queries each.
        hard_examples: that the hard-label attack and C&W are run on.
        cw_steps: of C&W, for each of 5 constants.
        points: examples looked at for slopes, loss landscapes.
        grid: side of a landscape, odd.
    """

    steps: int = 40
    long_steps: int = 160
    sweep_steps: int = 100
    restarts: int = 20
    apgd_steps: int = 100
    targets: int = 9
    queries: int = 5000
    draws: int = 10_000
    draw_examples: int = 100
    hard_iterations: int = 40
    hard_examples: int = 30
    cw_steps: int = 200
    points: int = 50
    grid: int = 21

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 2:
                raise BadInput(f"{name}={value}: accepted are 2 or more.")


SMALL = Sizes(
    steps=10, long_steps=20, sweep_steps=20, restarts=3, apgd_steps=10, targets=2, queries=50, draws=50,
    draw_examples=10, hard_iterations=3, hard_examples=5, cw_steps=20, points=10, grid=5,
)  # fmt: skip
"""For a look at whether everything runs."""


@dataclass(frozen=True)
class Subject:
    """A network with the examples and the threat that it is judged by.

    Attributes:
        victim: the defended network, as logits; one on the host only answers (`answers.audit_answers`).
        image: `[N, H, W, C]` in [0, 1].
        label: `[N]`.
        threat: norm and radius.
        twin: the same network without the defence, trained on the same data; several checks need it.
        seed: of every draw.
        chunk: examples at once.
    """

    victim: Victim
    image: np.ndarray
    label: np.ndarray
    threat: Threat
    twin: Victim | None = None
    seed: int = 0
    chunk: int = 256

    def __post_init__(self) -> None:
        if self.threat.norm not in ("linf", "l2"):
            raise BadInput(f"norm={self.threat.norm!r}: accepted are linf, l2.")
        require_radius("epsilon", self.threat.epsilon, self.threat.norm, self.image[:1].size or None, zero=False)
        if (self.threat.low, self.threat.high) != (0, 1):
            raise BadInput(f"box [{self.threat.low}, {self.threat.high}]: accepted is [0, 1]; scale inside the model.")
        if len(self.image) != len(self.label) or self.image.ndim != 4 or not len(self.image):
            raise BadInput(
                f"image {self.image.shape} and label {self.label.shape}: accepted are [N, H, W, C] and [N], N from 1."
            )
        if not (self.victim.white_box or self.victim.on_host):
            raise BadInput(
                "the victim is a black box; accepted: one whose gradients may be taken, since most checks do."
            )


@jax.jit
def forward(victim: Victim, image: Array, key: Array, where: Array) -> Array:
    """Scores, compiled once for each kind of victim; one that is paid is asked about the rows `where` alone."""
    return victim(image, key=key, where=where)


def scores(subject: Subject, victim: Victim, image: np.ndarray, *, draw: int = 0) -> np.ndarray:
    """A victim's answers to any number of images, `[N, K]`; `draw` numbers the draws of a random one."""
    key = jax.random.fold_in(jax.random.key(subject.seed), draw)
    parts = [
        forward(victim, jnp.asarray(image[rows]), key, jnp.asarray(asked))[: asked.sum()]
        for rows, asked in chunks(subject, len(image))
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def chunks(subject: Subject, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of each chunk and which of them are asked for; all chunks have one shape, that of the whole set's."""
    size = chunk_size(subject)
    places = [np.arange(at, at + size) for at in range(0, count, size)]
    return [(np.minimum(rows, count - 1), rows < count) for rows in places]


def chunk_size(subject: Subject) -> int:
    """Examples at once: the set cut into equal parts."""
    parts = -(-len(subject.image) // subject.chunk)
    return -(-len(subject.image) // parts)


def as_logits(victim: Victim, answers: np.ndarray) -> Victim:
    """The victim itself, or its logarithms where it answers with probabilities."""
    return Victim(victim, _log, victim.white_box) if look_like_probabilities(answers) else victim


def _log(victim: Any, image: Array, key: Array | None, where: Array | None) -> Array:
    return jnp.log(jnp.maximum(victim(image, key=key, where=where), 1e-30))

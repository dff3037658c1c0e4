"""A defence that remembers: questions that lie close together come from somebody who searches, not from users.

detector = Nearby(calibrated(honest images, share=0.001))
detector(images)           # [N] bool, in the order of asking; detector.asked, detector.flagged count
"""

import numpy as np
from jaxtyping import Bool, Float

from kdjax.types import BadInput

BLOCK = 1000


class Nearby:
    """Flags a question whose mean L2 distance to the nearest earlier ones is below a threshold.

    Attributes:
        asked, flagged: questions so far.

    Reference:
        Chen, Carlini, Wagner, Stateful Detection of Black-Box Adversarial Attacks, SPAI 2020. There distances are
        between learned codes, and the memory is emptied when an account is closed; here they are of pixels.
    """

    def __init__(self, threshold: float, *, neighbours: int = 10, last: int = 10000) -> None:
        """An empty memory.

        Args:
            threshold: in pixels' units, L2; see `calibrated`.
            neighbours: how many nearest ones are averaged. As long as fewer were asked nothing is flagged.
            last: questions that are remembered.
        """
        if not threshold >= 0 or neighbours < 1 or last < neighbours:
            raise BadInput(
                f"threshold={threshold}, neighbours={neighbours}, last={last}; accepted: 0 or more, 1 or more, and no "
                "fewer than neighbours."
            )
        self._threshold, self._neighbours, self._last = threshold, neighbours, last
        self._memory = np.empty((0, 0), np.float32)
        self.asked = self.flagged = 0

    def __call__(self, images: np.ndarray) -> Bool[np.ndarray, " batch"]:
        """Which of some images `[N, ...]` in [0, 1], in the order of asking, are flagged; all are remembered."""
        rows = images.reshape(len(images), -1).astype(np.float32)
        found = np.concatenate([self._block(rows[at : at + BLOCK]) for at in range(0, len(rows), BLOCK)] or [[]]) > 0
        self.asked, self.flagged = self.asked + len(found), self.flagged + int(found.sum())
        return found

    def _block(self, rows: np.ndarray) -> np.ndarray:
        before = self._memory if len(self._memory) else rows[:0]
        distance = nearness(rows, before, self._neighbours, self._last)
        self._memory = np.concatenate([before, rows])[-self._last :]
        return distance < self._threshold


def nearness(
    rows: Float[np.ndarray, "batch pixels"], before: Float[np.ndarray, "memory pixels"], neighbours: int, last: int
) -> Float[np.ndarray, " batch"]:
    """Each row's mean distance to the nearest of the `last` that came before it; infinite where there are fewer than
    `neighbours`."""
    every = np.concatenate([before, rows])
    squares = (every.astype(np.float64) ** 2).sum(-1)
    own = squares[len(before) :]
    apart = np.sqrt(np.maximum(own[:, None] + squares - 2 * (rows @ every.T).astype(np.float64), 0))
    place, at = np.arange(len(every)), len(before) + np.arange(len(rows))[:, None]
    apart[(place >= at) | (place < at - last)] = np.inf
    if apart.shape[1] < neighbours:
        return np.full(len(rows), np.inf)
    return np.partition(apart, neighbours - 1, axis=-1)[:, :neighbours].mean(-1)


def calibrated(images: np.ndarray, *, share: float = 0.001, neighbours: int = 10, last: int = 10000) -> float:
    """The threshold at which so large a share of honest images, asked in this order, would be flagged."""
    if not 0 <= share < 1 or len(images) <= neighbours:
        raise BadInput(f"share={share} of {len(images)} images; accepted: from 0, below 1, of more than {neighbours}.")
    rows, found = images.reshape(len(images), -1).astype(np.float32), []
    for at in range(0, len(rows), BLOCK):
        found.append(nearness(rows[at : at + BLOCK], rows[max(0, at - last) : at], neighbours, last))
    distance = np.sort(np.concatenate(found))
    return float(distance[int(share * len(distance))])

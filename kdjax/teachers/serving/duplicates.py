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
        # A ring: question number n lies at place n modulo `last`.
        self._memory = np.empty((0, 0), np.float32)
        self._squares = np.empty(0, np.float32)
        self.asked = self.flagged = 0

    def __call__(self, images: np.ndarray) -> Bool[np.ndarray, " batch"]:
        """Which of some images `[N, ...]` in [0, 1], in the order of asking, are flagged; all are remembered."""
        # The mean of the nearest is no less than the nearest, and that is found faster.
        found = self._blocks(images, below=self._threshold) < self._threshold
        self.flagged += int(found.sum())
        return found

    def nearness(self, images: np.ndarray) -> Float[np.ndarray, " batch"]:
        """Each image's mean distance to the nearest of the `last` that came before it; infinite where there are fewer
        than `neighbours`. All are remembered."""
        return self._blocks(images, below=np.inf)

    def _blocks(self, images: np.ndarray, *, below: float) -> np.ndarray:
        rows, size = images.reshape(len(images), -1).astype(np.float32), min(BLOCK, self._last)
        return np.concatenate([self._block(rows[at : at + size], below) for at in range(0, len(rows), size)] or [[]])

    def _block(self, rows: np.ndarray, below: float) -> np.ndarray:
        """The mean distances; infinite also where the nearest is not below a bound."""
        squares, number, there = (rows**2).sum(-1), np.arange(len(rows)), min(self.asked, self._last)
        before = self._memory[:there] if there else rows[:0]
        apart = np.empty((len(rows), there + len(rows)), np.float32)
        for part, own, also in ((apart[:, :there], before, self._squares[:there]), (apart[:, there:], rows, squares)):
            np.matmul(rows, own.T, out=part)
            part *= -2
            part += squares[:, None] + also
        apart[:, there:][number[:, None] <= number] = np.inf
        places = (self.asked + number) % self._last
        if (lost := places < there).any():  # a question no longer sees what those before it have replaced
            replaced = number[lost]
            later = number[:, None] > replaced
            apart[:, places[lost]] = np.where(later, np.inf, apart[:, places[lost]])
        self._keep(rows, squares, places)
        self.asked += len(rows)
        found = np.full(len(rows), np.inf)
        near = apart.min(-1) < below**2
        if near.any() and apart.shape[1] >= self._neighbours:
            nearest = np.partition(apart[near], self._neighbours - 1, axis=-1)[:, : self._neighbours]
            found[near] = np.sqrt(np.maximum(nearest.astype(np.float64), 0)).mean(-1)
        return found

    def _keep(self, rows: np.ndarray, squares: np.ndarray, places: np.ndarray) -> None:
        wanted = min(self.asked + len(rows), self._last)
        if wanted > len(self._memory):  # twice as much at a time, so that few copies are made
            room = min(self._last, max(wanted, 2 * len(self._memory)))
            memory, known = np.empty((room, rows.shape[1]), np.float32), np.empty(room, np.float32)
            if len(self._memory):
                memory[: len(self._memory)], known[: len(self._memory)] = self._memory, self._squares
            self._memory, self._squares = memory, known
        self._memory[places], self._squares[places] = rows, squares


def calibrated(images: np.ndarray, *, share: float = 0.001, neighbours: int = 10, last: int = 10000) -> float:
    """The threshold at which so large a share of honest images, asked in this order, would be flagged."""
    if not 0 <= share < 1 or len(images) <= neighbours:
        raise BadInput(f"share={share} of {len(images)} images; accepted: from 0, below 1, of more than {neighbours}.")
    distance = np.sort(Nearby(0.0, neighbours=neighbours, last=last).nearness(images))
    return float(distance[int(share * len(distance))])

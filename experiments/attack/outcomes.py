"""What attacks did to one network: scored one by one, and the worst of them for each example."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kdjax.attacks.run import Attacked
from kdjax.attacks.victims import Victim
from kdjax.evaluation.answers import decided
from kdjax.evaluation.classification import classification
from kdjax.study.attacks import Scores


class Case(NamedTuple):
    """One network under attack: the images with their labels, its clean answers, and the answers wanted, if any."""

    victim: Victim
    image: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    target: np.ndarray | None

    def hit(self, logits: np.ndarray) -> np.ndarray:
        """Whether an answer is what the attacker wants, `[N]`."""
        top = decided(logits)
        return top != self.label if self.target is None else top == self.target


class Outcome(NamedTuple):
    """What an attack did, and the network's answers to it `[N, K]`."""

    found: Attacked
    logits: np.ndarray


def worst_case(case: Case, done: Mapping[Any, Outcome], epsilon: float, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Answers and images where each example is what the first attack made of it that succeeds within the radius."""
    logits, image = case.logits.copy(), case.image.copy()
    for (_, at), one in done.items():
        inside = one.found.distance[norm] <= epsilon + 1e-6
        take = inside & case.hit(one.logits) & ~case.hit(logits) & (at in (None, epsilon))
        logits[take], image[take] = one.logits[take], one.found.image[take]
    return logits, image


def kept(case: Case, done: Mapping[Any, Outcome], epsilon: float, norm: str) -> np.ndarray:
    """The images of the worst case; of those that nobody fooled with, the first attack's within the radius."""
    logits, image = worst_case(case, done, epsilon, norm)
    left = ~case.hit(logits)
    for (_, at), one in done.items():
        take = left & (one.found.distance[norm] <= epsilon + 1e-6) & (at in (None, epsilon))
        image[take] = one.found.image[take]
        left = left & ~take
    return image


def row(attack: str, epsilon: float | None) -> str:
    """A row's name."""
    return attack if epsilon is None else f"{attack}, {epsilon:g}"


def scores(case: Case, logits: np.ndarray, found: Attacked | None = None) -> Scores:
    """A row's numbers."""
    found_scores = classification(logits, case.label)
    hit = case.hit(logits)
    result: Scores = {("F1" if c == "f1" else c): found_scores[c] for c in ("accuracy", "precision", "recall", "f1")}
    result["success"] = float(hit.mean())
    if found is not None:
        some = hit.any()
        result |= {n: float(found.distance[n.lower()][hit].mean()) if some else None for n in ("linf", "L2")}
        known = found.first_success[found.first_success >= 0]
        result |= {
            "queries": float(found.queries.mean()),
            "first success": float(np.median(known)) if len(known) else None,
        }
    return result

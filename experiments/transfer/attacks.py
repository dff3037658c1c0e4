"""What attacks do to a victim: images made on another network, questions alone, and questions that begin at those."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdjax.attacks.run import Attacked, run
from kdjax.attacks.sweep import at_radius
from kdjax.attacks.victims import queries_only, white_box
from kdjax.evaluation.answers import decided
from kdjax.study.attacks import Named
from kdjax.study.compare import Arm, Done
from kdjax.study.extraction import Extractor, Victim, asked
from kdjax.study.train import predict
from kdjax.types import Attack, Model

Curve = dict[str, list[float]]
"""Points of a curve: `queries` over all attacked images together, `success` of them."""
CAPS = np.unique(np.geomspace(1, 1e6, 50).astype(int))
"""Queries for an image at which an attack's curve has points, the same for all seeds."""


def share(who: np.ndarray) -> float:
    """The mean of booleans, 0 of none: a network may be right on no image."""
    return float(who.mean()) if len(who) else 0.0


class Judged(NamedTuple):
    """What a victim answers: whether it was right on the clean image, and whether it is wrong on the other, `[N]`."""

    right: np.ndarray
    fooled: np.ndarray

    @property
    def conditional(self) -> float:
        """Share of fooled among those that it classifies rightly."""
        return share(self.fooled[self.right])

    @property
    def unconditional(self) -> float:
        """Share of wrong answers, of images that it never classified rightly too."""
        return share(self.fooled)


class Attacks:
    """Images with their labels, a norm, and attacks that are compiled once for all radii and seeds."""

    def __init__(self, image: np.ndarray, label: np.ndarray, norm: str) -> None:
        self.image, self.label, self.norm = image, label, norm
        self._made: dict[str, Callable[[float], Attack]] = {}

    def attack(self, one: Named, epsilon: float) -> Attack:
        """An attack at a radius."""
        if one.text not in self._made:
            if one.has("epsilon"):
                self._made[one.text] = at_radius(lambda e: one.make(epsilon=e, norm=self.norm))
            else:
                plain = one.make(norm=self.norm)
                self._made[one.text] = lambda epsilon: plain
        return self._made[one.text](epsilon)

    def wrong(self, done: Done, model: Model, name: str, image: np.ndarray) -> np.ndarray:
        """Where a network's answer is not the label."""
        said = predict(done.study, model, done.weights(name), asked(image, done.study.test.num_classes))
        return decided(said) != self.label[: len(image)]

    def right(self, done: Done, model: Model, name: str) -> np.ndarray:
        """Where a network classifies the clean image rightly; once a seed."""
        return ~done.once(("clean", name), lambda: self.wrong(done, model, name, self.image))

    def made_on(self, done: Done, model: Model, name: str, one: Named, epsilon: float) -> np.ndarray:
        """What an attack makes of all images, seeing through one network; once a seed."""

        def make() -> np.ndarray:
            victim = white_box(model, done.weights(name))
            attack = one.repeated(self.attack(one, epsilon))
            found = run(
                attack, victim, self.image, self.label, objective=one.objective, seed=done.seed, on_device=False
            )
            return found.image

        return done.once(("made", name, one.text, epsilon), make)

    def judged(
        self, done: Done, victim: tuple[Model, str], maker: tuple[Model, str], one: Named, epsilon: float
    ) -> Judged:
        """How a victim takes the images that an attack made on another network, or on itself."""
        image = self.made_on(done, *maker, one, epsilon)
        return Judged(self.right(done, *victim), self.wrong(done, *victim, image))

    def asks(
        self, done: Done, victim: tuple[Model, str], one: Named, epsilon: float, most: int, start: np.ndarray | None
    ) -> Attacked:
        """An attack that only asks, on the first images."""
        model, name = victim
        only = queries_only(white_box(model, done.weights(name)))
        begun = None if start is None else start[:most]
        return run(
            self.attack(one, epsilon), only, self.image[:most], self.label[:most], objective=one.objective, start=begun,
            seed=done.seed, chunk=min(most, 64), on_device=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is trained and attacked: victims with their arms and surrogates, and the attacks."""

    attacks: Attacks
    victims: list[Victim]
    thieves: dict[tuple[str, str], tuple[Extractor, list[Arm]]]
    made: list[Named]
    queried: list[Named]
    begun: list[Named]

    def surrogates(self, victim: Victim) -> dict[str, tuple[Extractor, list[Arm]]]:
        """By the network's text."""
        return {name: found for (of, name), found in self.thieves.items() if of == victim.name}


def called(one: Named, epsilon: float, maker: str, victim: str) -> str:
    """A row's name: an attack at a radius, on whom it was made, and whom it should fool."""
    return f"{one.text}, {epsilon:g}: {maker} to {victim}"


def by_caps(found: Attacked, right: np.ndarray, *, paid: int = 0) -> Curve:
    """Success against all queries together, of one run under every cap on an image's queries.

    Args:
        found: of an attack that stops where it succeeds.
        right: images that count.
        paid: queries before the first of these.
    """
    spent, first = found.queries[right], found.first_success[right]
    caps = CAPS[: np.searchsorted(CAPS, spent.max(initial=1)) + 1]
    return {
        "queries": [float(paid + np.minimum(spent, cap).sum()) for cap in caps],
        "success": [share((first >= 0) & (first <= cap)) for cap in caps],
    }


def within_radius(found: Attacked, right: np.ndarray, epsilon: float, norm: str) -> Curve:
    """The one point of an attack that looks for the nearest image: what it found inside the ball, at all it asked."""
    inside = found.success & (found.distance[norm] <= epsilon + 1e-6)
    return {"queries": [float(found.queries[right].sum())], "success": [share(inside[right])]}


def joined(curves: Sequence[Curve]) -> Curve:
    """Points of several curves, in order of queries."""
    points = sorted(zip(*([x for c in curves for x in c[key]] for key in ("queries", "success")), strict=True))
    return {"queries": [x for x, _ in points], "success": [y for _, y in points]}

"""What a network is worth: clean, under attacks, class by class; what its teacher says of the attacked images; cost."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from kdjax.attacks.run import run
from kdjax.attacks.victims import Victim, white_box
from kdjax.evaluation.answers import decided
from kdjax.evaluation.classification import by_class, classification
from kdjax.files import append_line, to_json
from kdjax.study import compare
from kdjax.study.attacks import Named, answers
from kdjax.study.compare import Arm, Done, Row, Scores
from kdjax.study.showing import Timer, size
from kdjax.teachers.answers import checksum
from kdjax.types import Attack, Model, PyTree


class Attackers(NamedTuple):
    """Attacks, made once for all networks, and the images that they attack."""

    named: Sequence[Named]
    attacks: Sequence[Attack]
    image: np.ndarray
    label: np.ndarray
    chunk: int

    def attacked(self, one: Named, attack: Attack, victim: Victim) -> np.ndarray:
        """What an attack makes of the images, `[N, H, W, C]`."""
        return run(attack, victim, self.image, self.label, objective=one.objective, chunk=self.chunk).image

    def scores(self, victim: Victim, teacher: Victim) -> Scores:
        """By attack: what the network says of the attacked images, and what its teacher says of them.

        `ATTACK` alone is the accuracy. `teacher's entropy`: of its answers to all attacked images, mean, in nats. `fool
        teacher`: of the images that fool the network, the share that fools the teacher too; None where none does.
        """
        found: Scores = {}
        for one, attack in zip(self.named, self.attacks, strict=True):
            image = self.attacked(one, attack, victim)
            logits, theirs = answers(victim, image), answers(teacher, image)
            fooled, log_p = decided(logits) != self.label, log_softmax(theirs.astype(np.float64), axis=-1)
            scored = classification(logits, self.label)
            found[one.text] = scored["accuracy"]
            found |= {f"{one.text}: {name}": scored[name] for name in ("recall", "f1")}
            found[f"{one.text}: by class"] = by_class(logits, self.label)
            found[f"{one.text}: teacher's entropy"] = float((np.exp(log_p) * -log_p).sum(-1).mean())
            too = (decided(theirs) != self.label)[fooled]
            found[f"{one.text}: fool teacher"] = float(too.mean()) if len(too) else None
        return found


def attackers(named: Sequence[Named], epsilon: float, image: np.ndarray, label: np.ndarray, chunk: int) -> Attackers:
    """The attacks at one radius."""
    return Attackers(named, [one.repeated(one.make(epsilon=epsilon)) for one in named], image, label, chunk)


def robustness(model: Model, by: Attackers) -> Callable[[PyTree], float]:
    """Of a network's variables, the accuracy that the worst of all attacks leaves on the images."""

    def left(weights: PyTree) -> float:
        victim = white_box(model.apply, weights)
        each = [answers(victim, by.attacked(*one, victim)) for one in zip(by.named, by.attacks, strict=True)]
        return float(np.mean(np.all([decided(logits) == by.label for logits in each], axis=0)))

    return left


def row(arm: Arm, teacher: Arm, by: Attackers, workdir: Path, timers: Mapping[Model, Timer]) -> Row:
    """An arm's line: its last epoch and, behind the word `best`, the epoch that its `choose` preferred.

    Args:
        arm: whose network is scored.
        teacher: the arm of the teacher, which is asked about the images that attack it.
        by: the attacks.
        workdir: of the run, where scores are kept.
        timers: of the networks, one for all arms of each.
    """
    model, theirs = arm.answers or arm.model, teacher.answers or teacher.model
    assert isinstance(model, Model)
    assert isinstance(theirs, Model)

    def of(done: Done) -> Scores:
        asked = white_box(theirs, done.weights(teacher.name))
        own, file, test = done.trained[arm.name], workdir / "scores.jsonl", done.study.test

        def last() -> Scores:
            clean = by_class(done.test(arm.name), test.labels())
            spent = timers[model].milliseconds(own.weights, by.image[:1])
            return {"by class": clean, "bytes": size(own.weights), "ms an image": spent, **robust(own.weights)}

        def robust(weights: PyTree) -> Scores:
            return by.scores(white_box(model, weights), asked)

        key = f"{arm.name}, seed {done.seed}, {checksum((own.weights, asked.variables))}"
        found = {**compare.score(done, arm.name), "checksum": checksum(own.weights), **once(file, key, last)}
        if own.best is not None:
            best = once(file, f"{key}, best {checksum(own.best)}", lambda: robust(own.best))
            clean = compare.predict(done.study, model, own.best, test)
            found |= {f"best: {name}": x for name, x in {"accuracy": accuracy(clean, test.labels()), **best}.items()}
        return {**found, "seconds an epoch": done.seconds(arm.name)}

    return Row(tuple(dict.fromkeys((arm.name, teacher.name))), of)


def accuracy(logits: np.ndarray, label: np.ndarray) -> float:
    """The share of right answers."""
    return float((decided(logits) == label).mean())


def once(file: Path, key: str, make: Callable[[], Scores]) -> Scores:
    """What is measured once, and read where the same command goes on after a kill."""
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            known = json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut short
            continue
        if known["key"] == key:
            return known["scores"]
    scores = make()
    append_line(file, to_json({"key": key, "scores": scores}, file.name))
    return scores

"""The audit of a victim that only answers: what can be found out by asking, and what would need its gradients."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from kdjax.attacks import boundary, named, objectives
from kdjax.audit import comparisons, conduct
from kdjax.audit.attacking import AttackResult, attack_examples, climb
from kdjax.audit.finding import Finding, skipped
from kdjax.audit.subject import Sizes, Subject, scores

BLIND = {
    "E1": "iterative beats single step",
    "E2": "white box beats black box",
    "E3": "unbounded attack wins",
    "E4": "accuracy falls with the radius",
    "E5": "random search finds nothing more",
    "E6": "converged",
    "E7": "restarts",
    "E8": "loss and step size",
    "E9": "gradients are alive",
    "E10": "logits are not saturated",
    "E13": "differences agree with derivatives",
    "E14": "the gradient leads upwards",
    "E15": "transfer from the twin is weaker",
    "E16": "hard-label attack is farther",
    "E18": "targeted and untargeted",
    "E20": "clean accuracy, and without the defence",
    "E21": "no overfitting to one attack",
    "E23": "no optimisation at inference",
}
"""Checks that compare with an attack which follows gradients, or look inside."""


def audit_answers(subject: Subject, sizes: Sizes, *, claim: float | None = None) -> Iterator[Finding]:
    """Every check of the audit, those that need gradients SKIPPED: no image is asked that no check needs.

    The worst case is over random points, Square, HopSkipJump on some of the examples and, where there is a twin or a
    surrogate to see through, PGD on that.
    """
    logits = scores(subject, subject.victim, subject.image)
    yield conduct.answers_are_logits(logits)
    yield conduct.determinism(logits, scores(subject, subject.victim, subject.image, draw=1))
    threat = replace(subject.threat, knowledge="answers alone")
    yield conduct.threat_is_recorded(threat, **asdict(sizes), seed=subject.seed, examples=len(subject.label))
    right = logits.argmax(-1) == subject.label
    norm, radius = subject.threat.norm, subject.threat.epsilon
    done: dict[str, AttackResult] = {}
    standing = {"nothing": right}
    if subject.twin is not None:
        image = climb(subject, objectives.margin, steps=sizes.steps, victim=subject.twin)[0].image
        fooled = scores(subject, subject.victim, image).argmax(-1) != subject.label
        done["transfer"] = AttackResult(fooled, image, 0.0, 0.0, 0.0)
        standing["transfer, margin"] = right & ~fooled
    attacks = {
        "random": named.noise(radius, queries=min(sizes.draws, sizes.queries), norm=norm),
        "Square on the rest": named.square(radius, queries=sizes.queries, norm=norm),
    }
    for name, attack in attacks.items():
        left = comparisons.together(standing)
        done[name] = attack_examples(subject, attack, objectives.margin, where=left)
        standing[name] = left & ~done[name].broken
    few = np.zeros(len(right), bool)
    few[np.flatnonzero(comparisons.together(standing))[: sizes.hard_examples]] = True
    hard = boundary.hop_skip_jump(iterations=sizes.hard_iterations)
    done["HopSkipJump"] = found = attack_examples(subject, hard, objectives.margin, where=few, limit=False)
    away = (found.image - subject.image).reshape(len(right), -1)
    length = np.abs(away).max(-1) if norm == "linf" else np.linalg.norm(away, axis=-1)
    standing["HopSkipJump"] = right & ~(few & found.broken & (length <= radius))
    yield comparisons.worst_case(standing, claim=claim)
    yield conduct.attacks_are_valid(done, epsilon=radius)
    for id, title in BLIND.items():
        yield skipped(id, title, "the network only answers, and this check needs its gradients")

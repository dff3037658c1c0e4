"""The audit: attacks run once, and every check that reads them."""

import functools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks import autoattack, boundary, named, objectives, projections, search, starts
from kdjax.attacks.combine import within
from kdjax.attacks.victims import Victim
from kdjax.audit import comparisons, conduct, slopes
from kdjax.audit.answers import audit_answers
from kdjax.audit.attacking import AttackResult, Goal, attack_examples, climb
from kdjax.audit.finding import Finding
from kdjax.audit.subject import Sizes, Subject, as_logits, scores
from kdjax.types import Attack

RULE = (
    "These checks are neither necessary nor sufficient: a defence that passes all of them may still be broken by "
    "an attack "
    "that was made for it, and an honest one may be flagged (Carlini et al., On Evaluating Adversarial Robustness, "
    "2019)."
)
"""What every report of the audit says."""

CHECKS = tuple(f"E{number}" for number in range(1, 24))
"""Ids of all checks."""


def audit(
    subject: Subject, sizes: Sizes | None = None, *, claim: float | None = None,
    training_attack: tuple[str, Attack, Goal] | None = None,
) -> Iterator[Finding]:  # fmt: skip
    """Every check E1 to E23, as each is done; attacks are run once and shared.

    Args:
        subject: network, examples, threat, and the undefended twin if there is one.
        sizes: how much work; the literature's by default.
        claim: robust accuracy that somebody claims, in [0, 1].
        training_attack: name, attack and objective that the network was trained with; the plain PGD stands for it.

    A victim on the host only answers: what needs gradients is SKIPPED (`audit_answers`).
    """
    sizes = sizes or Sizes()
    if subject.victim.on_host:
        yield from audit_answers(subject, sizes, claim=claim)
        return
    answers = scores(subject, subject.victim, subject.image)
    yield conduct.answers_are_logits(answers)
    subject = replace(subject, victim=as_logits(subject.victim, answers))
    logits = scores(subject, subject.victim, subject.image)
    again = scores(subject, subject.victim, subject.image, draw=1)
    yield conduct.no_optimisation_inside(subject)
    yield conduct.threat_is_recorded(subject.threat, **asdict(sizes), seed=subject.seed, examples=len(subject.label))

    right = logits.argmax(-1) == subject.label
    clean, count = float(right.mean()), len(right)
    chance = float(np.bincount(subject.label).max() / count)
    radius, norm = subject.threat.epsilon, subject.threat.norm
    done: dict[str, AttackResult] = {}

    def standing(name: str, found: AttackResult) -> np.ndarray:
        done[name] = found
        return right & ~found.broken

    def pgd(name: str, goal: Goal, **how: Any) -> np.ndarray:
        return standing(name, climb(subject, goal, **{"steps": sizes.steps, **how})[0])

    # The gradient.
    ce = PLAIN
    plain = pgd("PGD", ce)
    averaged = {}
    if conduct.randomised(logits, again):
        averaged = {"PGD, EOT": pgd("PGD, EOT", ce, draws=conduct.EOT_DRAWS)}
    yield conduct.determinism(logits, again, plain=plain, averaged=averaged.get("PGD, EOT"))
    yield slopes.gradient_health(slopes.gradients(subject, ce))
    deviation = float(logits.std()) or 1.0
    unit = pgd("PGD on unit deviation", divided(ce, deviation))
    means = float(plain.mean()), float(unit.mean())
    yield slopes.logit_gap(logits, rescaled=means)
    yield slopes.differences_agree(subject)
    yield slopes.landscape(subject, right, points=sizes.points, grid=sizes.grid)

    # Gradient attacks against each other.
    single = pgd("FGSM", ce, steps=1, step_size=radius)
    yield comparisons.iterative_beats_single_step(single, plain)
    radii, half = sweep_radii(subject)
    curves = [
        [float((right & ~climb(subject, goal, steps=sizes.sweep_steps, radius=r)[0].broken).mean()) for r in radii]
        for goal in (ce, objectives.margin)
    ]
    yield comparisons.unbounded_attack_wins(
        radii, *curves, half=half, clean=clean, chance=chance, examples=count
    )  # fmt: skip
    yield comparisons.falls_with_radius([0.0, *radii], [clean, *curves[0]], examples=count)
    found, course = climb(subject, ce, steps=sizes.long_steps, step_size=2.5 * radius / sizes.steps, whole=True)
    long = standing("PGD, long", found)
    yield comparisons.converges(
        [-v for v in course.value], course.broken, clean=clean, steps=sizes.steps, examples=count
    )  # fmt: skip
    starts_ = [right]
    for n in range(sizes.restarts):  # each on whom those before left
        starts_.append(pgd(f"PGD, start {n}", ce, random_start=n, where=np.logical_and.reduce(starts_)))
    starts_ = starts_[1:]
    yield comparisons.restarts_change_little(starts_)
    variants = {
        f"{name}, step {scale:g}": pgd(f"{name}, step {scale:g}", goal, step_size=scale * radius)
        for name, goal in losses(logits.shape[-1]).items()
        for scale in (0.5, 0.1, 2.5 / sizes.steps)
    }
    yield comparisons.losses_agree(plain, variants)

    # White against black.
    apgd = _attack("apgd", radius, norm, sizes.apgd_steps)
    goals = {"cross-entropy": ce, "margin": objectives.margin if logits.shape[-1] < 3 else objectives.dlr}
    white = {
        f"APGD, {n}": standing(f"APGD, {n}", attack_examples(subject, apgd, g, where=right)) for n, g in goals.items()
    }
    black: dict[str, np.ndarray] = {}
    if subject.twin is not None:
        goals = {"transfer": ce, "transfer, margin": objectives.margin}
        black = {n: right & transfer(subject, subject.twin, goal, sizes.steps) for n, goal in goals.items()}
    yield comparisons.transfer_is_weaker(plain, black.get("transfer"))
    near, far, queries = hard_label(subject, right, sizes)
    if norm == "linf":
        square = _attack("square", radius, norm, sizes.queries)
        left = np.logical_and.reduce([right, *white.values()])
        # Whom the white box broke, the black box need not break too.
        name = "Square on the rest"
        black[name] = standing(name, attack_examples(subject, square, objectives.margin, where=left))
    else:
        black["HopSkipJump"] = right.copy()
        black["HopSkipJump"][np.flatnonzero(right)[: sizes.hard_examples]] = far > radius
    yield comparisons.white_beats_black(comparisons.together(white), black)
    yield comparisons.hard_label_is_farther(near, far, queries=queries)
    sloped = {"PGD": plain, **averaged, "long": long, **{str(n): s for n, s in enumerate(starts_)}, **variants, **white}
    stood = comparisons.together(sloped)
    rows = np.flatnonzero(stood)[: sizes.draw_examples]
    looked, unharmed = np.zeros(count, bool), right.copy()
    looked[rows] = True
    if len(rows):
        few = replace(subject, image=subject.image[rows], label=subject.label[rows])
        done["random"] = attack_examples(few, _attack("random", radius, norm, sizes.draws), objectives.margin)
        unharmed[rows] = ~done["random"].broken
    yield comparisons.random_finds_nothing(stood, looked, unharmed, draws=sizes.draws)

    # All together.
    aimed, targets = targeted(subject, right, logits, sizes, done)
    yield comparisons.targets_change_little(comparisons.together(white), aimed, targets=targets)
    strong = {**white, **({} if aimed is None else {"APGD, targeted": aimed}), **black}
    if norm == "linf":
        # With it, the worst case is no better than AutoAttack's.
        fab, left = _fab(radius, sizes.apgd_steps, sizes.targets), comparisons.together(strong)
        name = "FAB-T on the rest"
        strong[name] = standing(name, attack_examples(subject, fab, objectives.margin, where=left))
    every = {"FGSM": single, "PGD": plain, **averaged, "PGD, long": long, "PGD, restarts": comparisons.together(
        {str(n): s for n, s in enumerate(starts_)}), **variants, **strong}  # fmt: skip
    yield comparisons.worst_case(every, claim=claim)
    twin: dict[str, Any] = {"twin_clean": None, "twin": None, "twin_unbounded": None}
    if subject.twin is not None:
        known = scores(subject, subject.twin, subject.image).argmax(-1) == subject.label
        bounded, unbounded = (
            known & ~climb(subject, ce, victim=subject.twin, steps=sizes.sweep_steps, radius=r)[0].broken
            for r in (radius, radii[-1])
        )
        twin = {"twin_clean": float(known.mean()), "twin": bounded, "twin_unbounded": float(unbounded.mean())}
    yield comparisons.ablation(clean, plain, chance=chance, **twin)
    name, trained = "PGD, standing for the training attack", plain
    if training_attack is not None:
        name, attack, goal = training_attack
        trained = standing(name, attack_examples(subject, attack, goal, where=right))
    yield comparisons.training_attack_is_not_overfitted(trained, comparisons.together(strong), name=name)
    yield conduct.attacks_are_valid(done, epsilon=radius)


def sweep_radii(subject: Subject) -> tuple[list[float], float]:
    """Nine radii at most, up to that of the whole box, and the radius at which every image can be made grey."""
    unit = 1.0 if subject.threat.norm == "linf" else float(np.sqrt(subject.image[0].size))
    epsilon = subject.threat.epsilon
    some = {round(share * epsilon, 6) for share in (0.25, 0.5, 0.75, 1, 1.5, 2) if share * epsilon < unit}
    return sorted(some | {round(share * unit, 6) for share in (0.5, 0.75, 1)}), 0.5 * unit


def losses(classes: int) -> dict[str, Goal]:
    """The losses of E8: cross-entropy of logits / t, margin, and DLR where there are 3 classes."""
    found = {f"logits / {t:g}": divided(objectives.cross_entropy, t) for t in (10.0, 100.0)}
    found |= {"cross-entropy": PLAIN, "margin": objectives.margin}
    return found | ({"DLR": objectives.dlr} if classes > 2 else {})


def divided(goal: Goal, by: float) -> Goal:
    """An objective on logits divided by a number."""
    return lambda victim, label, **more: goal(objectives.divided(victim, by), label, **more)


# Divided by 1, so that one program serves every scale.
PLAIN = divided(objectives.cross_entropy, 1.0)


def transfer(subject: Subject, twin: Victim, goal: Goal, steps: int) -> np.ndarray:
    """Who is classified rightly after PGD on the twin."""
    image = climb(subject, goal, steps=steps, victim=twin)[0].image
    return scores(subject, subject.victim, image).argmax(-1) == subject.label


def hard_label(subject: Subject, right: np.ndarray, sizes: Sizes) -> tuple[np.ndarray, np.ndarray, int]:
    """L2 distances that C&W and HopSkipJump reach on the first examples that are classified rightly, and queries."""
    rows = np.flatnonzero(right)[: sizes.hard_examples]
    if not len(rows):
        return np.zeros(0), np.zeros(0), 0
    few = replace(subject, image=subject.image[rows], label=subject.label[rows])
    attacks = (_attack("cw", 0.0, "l2", sizes.cw_steps), _attack("boundary", 0.0, "l2", sizes.hard_iterations))
    distance = []
    for attack in attacks:
        found = attack_examples(few, attack, objectives.margin, limit=False)
        far = np.linalg.norm((found.image - few.image).reshape(len(rows), -1), axis=-1)
        distance.append(np.where(found.broken, far, np.inf))
    return distance[0], distance[1], boundary.cost(sizes.hard_iterations, subject.image[0].size)


def targeted(
    subject: Subject, right: np.ndarray, logits: np.ndarray, sizes: Sizes, done: dict[str, AttackResult]
) -> tuple[np.ndarray | None, int]:
    """Who stands targeted APGD, target by target, likeliest first; and how many targets that were."""
    classes = logits.shape[-1]
    if classes < 4:
        return None, 0
    masked = np.where(np.arange(classes)[None] == subject.label[:, None], -np.inf, logits)
    order = np.argsort(-masked, axis=-1)
    left, count = right.copy(), min(sizes.targets, classes - 1)
    apgd = _attack("apgd", subject.threat.epsilon, subject.threat.norm, sizes.apgd_steps)
    for number in range(count):
        found = attack_examples(subject, apgd, objectives.dlr, where=left, target=order[:, number])
        done[f"APGD, target {number + 1}"] = found
        left = left & ~found.broken
    return left, count


@functools.cache
def _attack(kind: str, epsilon: float, norm: str, count: int) -> Attack:
    """One attack object for each setting, so that its programs are compiled once however many networks are audited."""
    if kind == "random":
        draw, threat = _inside_or_edge(norm, epsilon), projections.ball(norm, epsilon)
        return search.random_search(search.anywhere(draw), threat, queries=count, start=draw)
    return {
        "apgd": lambda: named.apgd(epsilon, steps=count, norm=norm),
        "square": lambda: named.square(epsilon, queries=count),
        "cw": lambda: named.cw(steps=count, search_steps=5, learning_rate=0.05, initial_weight=0.1),
        "boundary": lambda: boundary.hop_skip_jump(iterations=count, probes=PROBES),
    }[kind]()


@functools.cache
def _fab(epsilon: float, steps: int, targets: int) -> Attack:
    return within(autoattack.fab(steps=steps, targets=targets), epsilon)


PROBES = 100
"""Decisions of the hard-label attack for one slope."""


def _inside_or_edge(norm: str, epsilon: float) -> starts.Start:
    """Half uniform in the ball; half corners of the linf ball, or points of the l2 ball's surface."""
    inside = starts.uniform(norm, epsilon)
    # From far outside, the projection leads to the surface.
    edge = starts.signed(epsilon) if norm == "linf" else starts.uniform(norm, 1e3 * epsilon)

    def draw(key: Array, image: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key), edge(key, image), inside(key, image))

    return draw

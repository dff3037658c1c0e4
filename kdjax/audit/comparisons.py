"""Checks that compare attacks with attacks: E1 to E8, E15 to E18, E20, E21.

They read who stands, `[N]` bool: classified rightly and not broken. a() is the share that stands, robust
accuracy.

Reference:
    Carlini, Athalye, Papernot, Brendel, Rauber, Tsipras, Goodfellow, Madry, Kurakin, On Evaluating Adversarial
    Robustness, 2019; Athalye, Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from kdjax.audit.finding import FAIL, FAR, FLAG, PASS, POINT, Finding, grade, margin, skipped, worst


def share(who: np.ndarray) -> float:
    """The share of True."""
    return float(np.mean(who))


def percent(x: float) -> str:
    """A share as text.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * x:.1f} %"


def together(standing: Mapping[str, np.ndarray]) -> np.ndarray:
    """Who stands against every one of several attacks."""
    return np.logical_and.reduce(list(standing.values()))


def iterative_beats_single_step(single: np.ndarray, iterated: np.ndarray) -> Finding:
    """E1: what one step breaks, many steps break."""
    only = share(~single & iterated)
    verdict = grade(only, POINT, FAR)
    return Finding(
        "E1", "iterative beats single step", verdict,
        f"a(PGD) {percent(share(iterated))}, a(FGSM) {percent(share(single))}; FGSM alone breaks {percent(only)} "
        f"of the "
        "examples (flag above 1 %, fail above 10 %)",
        remedy(verdict, "PGD is stuck: more steps, smaller steps, random starts; look at E9, E10, E14."),
        {"pgd": share(iterated), "fgsm": share(single), "fgsm_only": only},
    )  # fmt: skip


def white_beats_black(white: np.ndarray, black: Mapping[str, np.ndarray]) -> Finding:
    """E2: an attacker who sees the gradients does not lose to one who does not."""
    if not black:
        return skipped("E2", "white box beats black box", "no black-box attack was run")
    only = share(white & ~together(black))
    verdict = grade(only, POINT, FAR)
    each = ", ".join(f"a({name}) {percent(share(standing))}" for name, standing in black.items())
    return Finding(
        "E2", "white box beats black box", verdict,
        f"a(APGD on cross-entropy and margins) {percent(share(white))}, {each}; {percent(only)} of the examples are "
        "broken by the black box alone (flag above 1 %, fail above 10 %)",
        remedy(verdict, "Gradients mislead: report the black-box attack too, and find out what hides the gradient "
                       "(E9, E13)."),
        {"white": share(white), "black_only": only, **{name: share(s) for name, s in black.items()}},
    )  # fmt: skip


def unbounded_attack_wins(
    radii: list[float], plain: list[float], margins: list[float], *, half: float, clean: float, chance: float,
    examples: int,
) -> Finding:  # fmt: skip
    """E3: with a radius that reaches grey, no more than chance may be left.

    Args:
        radii: of the sweep, rising.
        plain: a() at each, by PGD on cross-entropy.
        margins: the same by PGD on the margin.
        half: the radius at which every image can be made grey.
        clean: accuracy without attack.
        chance: accuracy of the best constant answer.
        examples: how many these are shares of.
    """
    series = {
        "radius": radii,
        "cross_entropy": plain,
        "margin": margins,
        "half": half,
        "clean": clean,
        "chance": chance,
    }
    bound = chance + margin(examples)
    left = max(a for radius, a in zip(radii, plain, strict=True) if radius >= half)
    numbers = {"left": left, "bound": bound, "clean": clean}
    if clean <= bound:
        return Finding(
            "E3", "unbounded attack wins", FAIL,
            f"trivial: clean accuracy {percent(clean)} is that of a constant answer ({percent(chance)} + margin), so "
            "robust accuracy says nothing",
            "Audit a network that classifies.", numbers, series,
        )  # fmt: skip
    verdict = grade(left, bound, bound)
    return Finding(
        "E3", "unbounded attack wins", verdict,
        f"at radii from {half:.3g} on, where any image can be made grey, PGD leaves a() {percent(left)} (fail above "
        f"chance + margin, {percent(bound)})",
        remedy(verdict, "The attack does not work, whatever it reports at the threat's radius: fix the attack "
                       "first (E8, E9)."),
        numbers, series,
    )  # fmt: skip


def falls_with_radius(radii: list[float], plain: list[float], *, examples: int) -> Finding:
    """E4: a larger ball holds every smaller one."""
    rises = [b - a for a, b in pairwise(plain)]
    rise = max(0.0, *rises)
    verdict = grade(rise, margin(examples), max(FAR, margin(examples)))
    return Finding(
        "E4", "accuracy falls with the radius", verdict,
        f"over {len(radii)} radii a(PGD) rises by at most {percent(rise)} from one to the next (flag above the margin, "
        f"{percent(margin(examples))})",
        remedy(verdict, "The attack gets lost in large balls: more steps, other step sizes, restarts."),
        {"rise": rise},
    )  # fmt: skip


def random_finds_nothing(stood: np.ndarray, looked_at: np.ndarray, random: np.ndarray, *, draws: int) -> Finding:
    """E5: random points break none of the examples that stood every gradient attack."""
    count, hits = int(looked_at.sum()), int((looked_at & ~random).sum())
    title = "random search finds nothing more"
    if not count:
        return Finding("E5", title, PASS, "the gradient attacks left no example to search", numbers={"hits": 0})
    rate = hits / count
    verdict = PASS if not hits else grade(rate, 0.0, POINT)
    return Finding(
        "E5", title, verdict,
        f"{draws} random points each, inside and in the corners of the ball, break {hits} of {count} examples that "
        f"stood every gradient attack ({percent(share(stood))} do) (flag: any, fail above 1 %)",
        remedy(verdict, "The gradient leads nowhere: look at E9, E13, E14; do not report the gradient attack alone."),
        {"hits": hits, "looked_at": count, "rate": rate},
    )  # fmt: skip


def converges(loss: list[float], broken: list[float], *, clean: float, steps: int, examples: int) -> Finding:
    """E6: twice the steps change nothing.

    Args:
        loss: mean over the examples, of the best image after each step.
        broken: share of all examples broken after each step, those that were wrong from the start included.
        clean: accuracy without attack.
        steps: of the plain attack, whose number is at stake.
        examples: how many.
    """
    standing = [1 - b for b in broken]
    last = len(loss)
    gains = {n: standing[n - 1] - standing[min(2 * n, last) - 1] for n in {steps, last // 2} if n < last}
    drop = max(gains.values(), default=0.0)
    before, after = loss[last // 2 - 1], loss[-1]
    rise = (after - before) / max(abs(before), 1e-12)
    # Where hardly anyone is left, a loss that still rises is of no interest.
    counts = standing[-1] > margin(examples)
    verdict = worst(grade(drop, POINT, FAR), FLAG if counts and rise > POINT else PASS)
    marks = sorted({n for n in (10, 20, 40, 80, 160) if n <= last} | {last})
    return Finding(
        "E6", "converged", verdict,
        f"doubling the steps ({', '.join(f'{n} to {min(2 * n, last)}' for n in sorted(gains))}) lowers a() by at most "
        f"{percent(drop)}, and the loss rises by {percent(rise)} in the second half of {last} steps (flag above 1 % "
        "each, the second where examples stand; fail above 10 %)",
        remedy(verdict, "More steps, until neither moves."),
        {"drop": drop, "loss_rise": rise, **{f"a_{n}": min(clean, standing[n - 1]) for n in marks}},
        {"loss": loss, "accuracy": [min(clean, s) for s in standing]},
    )  # fmt: skip


def restarts_change_little(standing: list[np.ndarray]) -> Finding:
    """E7: many random starts break little more than one; `standing` start by start."""
    curve = [share(np.logical_and.reduce(standing[: n + 1])) for n in range(len(standing))]
    drop = curve[0] - curve[-1]
    verdict = grade(drop, 2 * POINT, FAR)
    return Finding(
        "E7", "restarts", verdict,
        f"{len(curve)} random starts instead of 1 lower a() from {percent(curve[0])} to {percent(curve[-1])} (flag "
        "above 2 points, fail above 10)",
        remedy(verdict, "Report with many restarts; a rough loss surface hides examples from single runs."),
        {"drop": drop, "one": curve[0], "all": curve[-1]}, {"accuracy": curve},
    )  # fmt: skip


def losses_agree(plain: np.ndarray, others: Mapping[str, np.ndarray]) -> Finding:
    """E8: no other loss, step size or scale of the logits makes PGD much stronger; names are `loss, step size`."""
    name = min(others, key=lambda n: share(others[n]))
    drop = share(plain) - share(others[name])
    verdict = grade(drop, 2 * POINT, FAR)
    return Finding(
        "E8", "loss and step size", verdict,
        f"PGD on cross-entropy leaves a() {percent(share(plain))}; the best of {len(others)} variants ({name}) "
        f"{percent(share(others[name]))}, {percent(drop)} lower (flag above 2 points, fail above 10)",
        remedy(verdict, "The scale of the logits masks the gradient: attack margins, DLR or divided logits, and "
                       "report that."),
        {"plain": share(plain), "best": share(others[name]), "drop": drop},
        {"accuracy": {n: share(s) for n, s in others.items()}, "best": name},
    )  # fmt: skip


def transfer_is_weaker(
    plain: np.ndarray, transferred: np.ndarray | None, *, twin: str = "the undefended twin"
) -> Finding:
    """E15: images made on the undefended twin, or on a surrogate of it, break less than those made on the network
    itself."""
    if transferred is None:
        return skipped("E15", "transfer from the twin is weaker", "no undefended twin was given")
    gap = share(plain) - share(transferred)
    verdict = grade(gap, POINT, FAR)
    return Finding(
        "E15", "transfer from the twin is weaker", verdict,
        f"a(PGD) {percent(share(plain))}, a(images made on {twin}) {percent(share(transferred))} "
        f"(flag where "
        "transfer is stronger by 1 point, fail by 10)",
        remedy(verdict, f"The network hides its own gradient and nothing else: attack through {twin} as well."),
        {"white": share(plain), "transfer": share(transferred), "gap": gap},
    )  # fmt: skip


def hard_label_is_farther(gradient: np.ndarray, decisions: np.ndarray, *, queries: int) -> Finding:
    """E16: an attack that sees decisions alone finds no nearer images; L2 distances, infinite where it failed."""
    title = "hard-label attack is farther"
    if not len(gradient):
        return skipped("E16", title, "no example is classified rightly")
    near, far = float(np.median(gradient)), float(np.median(decisions))
    # Known for honest networks too: those trained against linf on MNIST hide their L2 gradients (Schott et al., 2019).
    # Both come near the least distance from above, and neither reaches it: 5 % tell nothing.
    verdict = grade(near, 1.05 * far) if np.isfinite(near) else FLAG if np.isfinite(far) else PASS
    return Finding(
        "E16", title, verdict,
        f"median L2 distance over {len(gradient)} examples: C&W {near:.3g}, HopSkipJump with {queries} decisions "
        f"{far:.3g} (flag where the second is smaller by 5 %)",
        remedy(verdict, "Gradients mislead in L2: add a decision-based attack to the set."),
        {"gradient": near, "decisions": far},
    )  # fmt: skip


def worst_case(standing: Mapping[str, np.ndarray], *, claim: float | None) -> Finding:
    """E17: an example counts only if it stands every attack; the mean over examples of the worst over attacks."""
    name = min(standing, key=lambda n: share(standing[n]))
    single, left = share(standing[name]), share(together(standing))
    each = {n: share(s) for n, s in standing.items()}
    count = len(standing[name])
    verdict = grade(single - left, POINT)
    text = f"the best single attack ({name}) {percent(single)}, {percent(single - left)} higher (flag above 1 point)"
    if claim is not None:
        verdict = worst(verdict, FAIL if left < claim - margin(count) else PASS)
        text += f"; claimed {percent(claim)} (fail where the claim is above by more than {percent(margin(count))})"
    return Finding(
        "E17", "worst case per example", verdict,
        f"over {len(standing)} attacks a() is {percent(left)}; {text}",
        remedy(verdict, "Report the worst case per example, not the lowest mean of one attack."),
        {"worst_case": left, "best_single": single, "excess": single - left}, {"accuracy": each},
    )  # fmt: skip


def targets_change_little(untargeted: np.ndarray, targeted: np.ndarray | None, *, targets: int) -> Finding:
    """E18: aiming at single classes is not much stronger than at any."""
    title = "targeted and untargeted"
    if targeted is None:
        return skipped("E18", title, "targeted DLR needs 4 classes")
    gap = share(untargeted) - share(targeted)
    bound = max(2 * POINT, margin(len(untargeted)))
    verdict = grade(gap, bound, max(FAR, bound))
    return Finding(
        "E18", title, verdict,
        f"a(APGD untargeted) {percent(share(untargeted))}, a(APGD at {targets} targets) {percent(share(targeted))} "
        f"(flag "
        f"where targets are stronger by the margin, {percent(bound)})",
        remedy(verdict, "Report the targeted attack: the untargeted loss has bad optima."),
        {"untargeted": share(untargeted), "targeted": share(targeted), "gap": gap},
    )  # fmt: skip


def ablation(
    clean: float, plain: np.ndarray, *, twin_clean: float | None, twin: np.ndarray | None, twin_unbounded: float | None,
    chance: float,
) -> Finding:  # fmt: skip
    """E20: without the defence the same attack must succeed, else the attack is at fault."""
    title = "clean accuracy, and without the defence"
    if twin is None or twin_clean is None or twin_unbounded is None:
        return skipped("E20", title, f"clean accuracy {percent(clean)}; no undefended twin was given")
    bound = chance + margin(len(plain))
    attack_works = twin_unbounded <= bound
    gains = share(plain) > share(twin)
    verdict = FAIL if not attack_works else PASS if gains else FLAG
    return Finding(
        "E20", title, verdict,
        f"clean {percent(clean)}, twin {percent(twin_clean)}; a(PGD) {percent(share(plain))}, twin "
        f"{percent(share(twin))}, "
        f"twin without bound {percent(twin_unbounded)} (fail: the last above {percent(bound)}; flag: the defence gains "
        "nothing)",
        remedy(verdict, "Fix the attack." if not attack_works else "The defence adds no robustness at this radius."),
        {"clean": clean, "twin_clean": twin_clean, "pgd": share(plain), "twin_pgd": share(twin),
         "twin_unbounded": twin_unbounded},
    )  # fmt: skip


def training_attack_is_not_overfitted(trained: np.ndarray, strongest: np.ndarray, *, name: str) -> Finding:
    """E21: a set of strong attacks does not take much from what the training attack left."""
    drop = share(trained) - share(strongest)
    verdict = grade(drop, FAR, 3 * FAR)
    return Finding(
        "E21", "no overfitting to one attack", verdict,
        f"a({name}) {percent(share(trained))}, a(APGD, targeted APGD and Square together) {percent(share(strongest))} "
        "(flag above 10 points lower, fail above 30)",
        remedy(verdict, "The network learned the attack, not robustness: train with stronger or random-start attacks."),
        {"training_attack": share(trained), "strongest": share(strongest), "drop": drop},
    )  # fmt: skip


def remedy(verdict: str, text: str) -> str:
    """The remedy, unless all is well."""
    return "" if verdict == PASS else text

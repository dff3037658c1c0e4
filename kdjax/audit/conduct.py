"""Checks of what the network and the evaluation do: E11, E12, E19, E22, E23."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.attacks.victims import look_like_probabilities
from kdjax.audit.attacking import AttackResult
from kdjax.audit.comparisons import percent, remedy
from kdjax.audit.finding import FAIL, FLAG, PASS, Finding, grade
from kdjax.audit.subject import Subject, Threat

EOT_DRAWS = 10
"""Slopes that an attack on a randomised network averages."""

MULTIPLICATIONS = ("dot_general", "conv_general_dilated")
"""What takes the time of a network, and of a gradient."""

LAYOUT = {
    "transpose", "reshape", "convert_element_type", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "copy",
    "copy_p", "stop_gradient", "optimization_barrier", "slice", "pad",
}  # fmt: skip
"""Operations through which a weight remains that weight."""


def apart(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How far two answers to the same question, `[N, K]` each, are from each other."""
    largest = float(np.max(np.abs(first - second)))
    return {
        "largest_difference": largest,
        "relative": largest / max(float(np.std(first)), 1e-30),
        "changed": float(np.mean(first.argmax(-1) != second.argmax(-1))),
    }


def randomised(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two answers differ by more than the order of additions, which some convolution kernels change."""
    found = apart(first, second)
    return found["relative"] > 1e-4 or found["changed"] > 0


def determinism(
    first: np.ndarray, second: np.ndarray, *, plain: np.ndarray | None = None, averaged: np.ndarray | None = None
) -> Finding:
    """E11: asked twice, the network answers the same; `[N, K]` each.

    Args:
        first, second: logits of two forward passes.
        plain: who stands PGD on single slopes; for a network that is randomised.
        averaged: who stands PGD on the mean of several, expectation over transformation.
    """
    found = apart(first, second)
    verdict = FLAG if randomised(first, second) else PASS
    note = ""
    if plain is not None and averaged is not None:
        found |= {"pgd": float(np.mean(plain)), "pgd_eot": float(np.mean(averaged))}
        note = f"; a(PGD) {percent(found['pgd'])}, a(PGD on the mean of {EOT_DRAWS} slopes) {percent(found['pgd_eot'])}"
    return Finding(
        "E11", "deterministic", verdict,
        f"two forward passes differ by at most {found['largest_difference']:.2g}, {found['relative']:.2g} of the "
        f"logits' deviation (flag above 1e-4), and in {percent(found['changed'])} of the decisions (flag: any){note}",
        remedy(verdict, "A randomised defence: judge it by its mean answer, and by attacks on the expectation "
                       "(oracles.eot); the number above is part of the worst case."),
        found,
    )  # fmt: skip


def answers_are_logits(answers: np.ndarray) -> Finding:
    """E12: rows that lie in [0, 1] and sum to 1 are probabilities, whose slopes vanish."""
    probabilities = look_like_probabilities(answers)
    verdict = FLAG if probabilities else PASS
    return Finding(
        "E12", "answers are logits", verdict,
        f"rows sum to {float(answers.sum(-1).min()):.4g} up to {float(answers.sum(-1).max()):.4g} and run from "
        f"{float(answers.min()):.3g} to {float(answers.max()):.3g} (flag: in [0, 1] with sum 1)",
        remedy(verdict, "Give the logits; this audit took logarithms, which end at the smallest float32."),
        {"probabilities": float(probabilities)},
    )  # fmt: skip


def attacks_are_valid(results: Mapping[str, AttackResult], *, epsilon: float, labels_known: bool = True) -> Finding:
    """E19: every image lies in the ball and in the box, and what counts as broken is broken when asked again.

    The second question puts the examples in reverse order, so that a network in training mode, whose batch statistics
    make an answer hang on its neighbours, does not pass. Networks here are pure functions: nothing can be updated.
    """
    excess = max(s.excess for s in results.values())
    outside = max(s.outside for s in results.values())
    name = max(results, key=lambda n: results[n].unconfirmed)
    false = results[name].unconfirmed
    slack = 1e-6 + 1e-5 * epsilon  # a norm of float32 numbers
    verdict = FAIL if excess > slack or outside > 0 else grade(false, 0.0, 0.01)
    return Finding(
        "E19", "attacks are valid", verdict,
        f"over {len(results)} attacks: at most {excess:.2g} outside the ball and {outside:.2g} outside the box "
        f"(fail above "
        f"{slack:.1g} and 0); {percent(false)} of claimed successes not confirmed when asked again ({name}; flag: "
        f"any, fail "
        "above 1 %)",
        remedy(verdict, "Project, clip, and judge in evaluation mode, or by the mean answer of a randomised network."),
        {"excess": excess, "outside": outside, "unconfirmed": false},
    )  # fmt: skip


def threat_is_recorded(threat: Threat, **more: Any) -> Finding:
    """E22: norm, radius, box, knowledge and adaptation are on record, under one hash with everything else."""
    record = asdict(threat)
    missing = [name for name, value in record.items() if value == "" or value is None]
    verdict = FLAG if missing else PASS
    note = ", ".join(f"{name} {value}" for name, value in record.items() if name not in missing)
    return Finding(
        "E22", "threat model on record", verdict,
        f"{note}; missing: {', '.join(missing) or 'nothing'} (flag: any); hash {threat.fingerprint(**more)}",
        remedy(verdict, "Say how the attacks were fitted to this defence, or why that is not needed (adaptive)."),
        {"missing": float(len(missing))},
    )  # fmt: skip


def no_optimisation_inside(subject: Subject) -> Finding:
    """E23: the forward pass has no loop around multiplications, and multiplies by each weight once.

    A gradient step inside uses a weight forwards and backwards; weights tied on purpose are flagged as well.
    """
    leaves, tree = jax.tree.flatten(subject.victim)
    image = jnp.asarray(subject.image[:1])

    def answer(leaves: list[Any], image: Any, key: Any) -> Any:
        return tree.unflatten(leaves)(image, key=key)

    program = jax.make_jaxpr(answer)(leaves, image, jax.random.key(0))
    uses = [0] * len(leaves)
    names = {variable: index for index, variable in enumerate(program.jaxpr.invars[: len(leaves)])}
    loops, outside = _walk(program.jaxpr, names, uses)
    again = sum(count > 1 for count in uses)
    verdict = FLAG if loops or again or outside else PASS
    return Finding(
        "E23", "no optimisation at inference", verdict,
        f"the traced forward pass has {loops} loops around multiplications, {again} of {len(leaves)} weights that "
        f"are multiplied by "
        f"more than once, {outside} calls out of the program (flag: any)",
        remedy(verdict, "The network may optimise while it answers: an attack must be fitted to that loop."),
        {"loops": loops, "repeated": again, "outside": outside},
    )  # fmt: skip


def _walk(program: Any, names: dict[Any, int], uses: list[int]) -> tuple[int, int]:
    """Loops around multiplications and calls to the host; counts in `uses` how often each weight is multiplied by."""
    loops = outside = 0
    for equation in program.eqns:
        kind = equation.primitive.name
        weights = [names.get(v) if not hasattr(v, "val") else None for v in equation.invars]
        if kind in MULTIPLICATIONS:
            for weight in {w for w in weights if w is not None}:
                uses[weight] += 1
        elif kind in LAYOUT and weights and weights[0] is not None:
            names[equation.outvars[0]] = weights[0]
        outside += "callback" in kind
        for inner in _inside(equation.params):
            if kind in ("while", "scan"):
                loops += _multiplies(inner)
            # Operands of loops and branches come last and in order; whatever comes before them is no weight.
            shared = dict(zip(inner.invars[::-1], weights[::-1], strict=False))
            found = _walk(inner, {v: w for v, w in shared.items() if w is not None}, uses)
            loops, outside = loops + found[0], outside + found[1]
    return loops, outside


def _inside(parameters: Mapping[str, Any]) -> Iterator[Any]:
    """Programs within an operation's parameters."""
    for value in parameters.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _multiplies(program: Any) -> bool:
    return any(
        e.primitive.name in MULTIPLICATIONS or any(_multiplies(inner) for inner in _inside(e.params))
        for e in program.eqns
    )

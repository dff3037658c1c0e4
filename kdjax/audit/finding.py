"""What one check found, and how a number becomes a verdict."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

PASS, FLAG, FAIL, SKIPPED = "PASS", "FLAG", "FAIL", "SKIPPED"

POINT = 0.01
"""One point of accuracy, or one example in a hundred."""

FAR = 0.10
"""Ten points: where two evaluations of one network differ by more, one of them is wrong."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        id: E1 to E23.
        title: what is asked of the evaluation.
        verdict: PASS; FLAG, a symptom to look into; FAIL, the plain evaluation cannot be believed; or SKIPPED.
        text: what was measured, and the threshold; for SKIPPED the reason.
        remedy: what to do; empty for PASS.
        numbers: what the verdict rests on.
        series: curves and grids for figures.
    """

    id: str
    title: str
    verdict: str
    text: str
    remedy: str = ""
    numbers: dict[str, float | int] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)


def record(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it: None for what is NaN or infinite, which a check may well find.

    Half of the examples may stand an attack, whose median distance is then infinite; a gradient may be NaN.

    >>> record(Finding("E16", "farther", "PASS", "", numbers={"near": 0.5, "far": math.inf}))["numbers"]
    {'near': 0.5, 'far': None}
    """
    return _finite(asdict(finding))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def grade(number: float, flag: float, fail: float = math.inf) -> str:
    """PASS up to `flag`, FLAG up to `fail`, else FAIL. What is not a number fails.

    >>> grade(0.01, 0.01, 0.1), grade(0.05, 0.01, 0.1), grade(0.2, 0.01, 0.1), grade(float("nan"), 1.0)
    ('PASS', 'FLAG', 'FAIL', 'FAIL')
    """
    return PASS if number <= flag else FLAG if number <= fail else FAIL


def margin(examples: int) -> float:
    """Twice the largest standard error of a share of so many examples: 2 sqrt(0.25 / n).

    >>> round(margin(500), 4)
    0.0447
    """
    return 2 * math.sqrt(0.25 / examples)


def worst(*verdicts: str) -> str:
    """The gravest of several verdicts.

    >>> worst("PASS", "FAIL", "FLAG")
    'FAIL'
    """
    return max(verdicts, key=(SKIPPED, PASS, FLAG, FAIL).index)


def skipped(id: str, title: str, reason: str) -> Finding:
    """A check that cannot apply, and why."""
    return Finding(id, title, SKIPPED, reason)

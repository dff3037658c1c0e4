"""The tables of a transfer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.transfer.attacks import Plan, called
from kdjax.study import attacks, report
from kdjax.study.compare import Results, Scores


def matrix(config: Any, plan: Plan, results: Results, epsilon: float) -> str:
    """Victims beside whom images were made on: transfer, and in brackets all wrong answers."""
    makers = ["itself", *dict.fromkeys(name for _, name in plan.thieves)]
    one = plan.made[-1]
    lines = [f"| {one.text}, {config.norm} {epsilon:g}: victim | " + " | ".join(makers) + " |"]
    lines.append("|---" * (len(makers) + 1) + "|")
    for victim in plan.victims:
        cells = []
        for maker in makers:
            seeds = results[called(one, epsilon, maker, victim.name)]
            fooled, wrong = (
                report.spread([s[c] for s in seeds], scale=100, digits=1) for c in ("transfer", "misclassified")
            )
            cells.append(f"{fooled} ({wrong})")
        lines.append(f"| {victim.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nIn per cent: fooled of those classified rightly (in brackets wrong answers of all)."


def by_attack(config: Any, plan: Plan, results: Results) -> str:
    """Every attack at every radius, from the first surrogate to the first victim and to the defended one."""
    shown = [plan.victims[0], *(v for v in plan.victims[1:] if v.name.endswith("adversarially trained"))]
    maker = next(iter(plan.thieves))[1]
    rows = {
        called(one, epsilon, maker, victim.name): results[called(one, epsilon, maker, victim.name)]
        for victim in shown
        for one in plan.made
        for epsilon in config.epsilons
    }
    return attacks.table(rows, ("transfer", "misclassified"), ("transfer", "misclassified"))


Points = list[tuple[float, list[float]]]


def points(seeds: Sequence[Scores]) -> Points:
    """The mean place and every seed's success at each point of a line; one that ended earlier stays where it ended."""
    count = max(len(s["queries"]) for s in seeds)
    rows = [[(s["queries"] + s["queries"][-1:] * count)[i] for i in range(count)] for s in seeds]
    won = [[(s["success"] + s["success"][-1:] * count)[i] for i in range(count)] for s in seeds]
    return [(float(np.mean(x)), list(y)) for x, y in zip(zip(*rows, strict=True), zip(*won, strict=True), strict=True)]


def at_equal_queries(lines: Mapping[str, Points], count: int = 6) -> str:
    """Mean success at numbers of queries that are the same for all lines; a dash before a line begins.

    A line that asked nothing, for its victim is right on no image, has no place on a logarithmic axis.
    """
    lines = {name: [point for point in line if point[0] > 0] for name, line in lines.items()}
    every = [x for line in lines.values() for x, _ in line]
    if not every:
        return ""
    grid = np.geomspace(min(every), max(every), count)
    rows = ["| success % at queries | " + " | ".join(f"{x:,.0f}" for x in grid) + " |", "|---" * (count + 1) + "|"]
    for name, line in lines.items():
        best = [max((100 * np.mean(y) for at, y in line if at <= 1.0001 * x), default=None) for x in grid]
        rows.append(f"| {name} | " + " | ".join("–" if b is None else f"{b:.1f}" for b in best) + " |")
    return "\n".join(rows)

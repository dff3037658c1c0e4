"""The table and the figure of a comparison of methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments import _report, _students, _train
from kdjax.evaluation.paired import paired_difference


def report(
    workdir: Path,
    study: _train.Study,
    results: _students.Results,
    unfit: Mapping[str, str],
    *,
    title: str,
    alone: str,
) -> None:
    """results.json, table.md, methods.png, curves.png.

    A method beats the student alone where the whole interval of the paired difference is above zero, and falls behind
    where all of it is below; it ties where the interval includes zero.
    """
    accuracy = {role: [s["accuracy"] for s in scores] for role, scores in results.items()}
    against = {
        role: paired_difference(values, accuracy[alone])
        for role, values in accuracy.items()
        if role not in ("teacher", alone) and len(values) > 1
    }
    head = ["", "accuracy %, last epoch", f"minus {alone}, 95%", "verdict", "best epoch %, on test", "NLL", "chosen"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for role, scores in sorted(results.items(), key=lambda item: -float(sum(accuracy[item[0]]))):
        best = [s["best_epoch"] for s in scores if "best_epoch" in s]
        cells = [
            role,
            _report.spread(accuracy[role], scale=100),
            _interval(against[role]) if role in against else "",
            verdict(against[role]) if role in against else "",
            _report.spread(best, scale=100) if best else "",
            _report.spread([s["nll"] for s in scores], digits=3),
            f"{scores[0]['choice']:g}" if best else "",
        ]
        lines.append(" | ".join(cells))
    text = "\n".join(f"| {line} |" for line in lines)
    counts = [verdict(d) for d in against.values()]
    text += f"\n\nOf {len(counts)} methods {counts.count('beats')} beat the {alone}, {counts.count('ties')} tie, "
    text += f"{counts.count('falls behind')} fall behind. `chosen`: on validation, a learning rate for the {alone}, "
    text += "a factor of the field's weights for a method."
    text += "".join(f"\nNot run: {name}: {why}" for name, why in unfit.items())
    found: dict[str, Any] = {**results, "unfit": dict(unfit)}
    found |= {f"{role} minus {alone}": difference for role, difference in against.items()}
    if against:
        figure(against, workdir / "methods.png", title=title, alone=alone)
    _report.save_results(workdir, found, text)


def verdict(difference: Mapping[str, float]) -> str:
    """What an interval says.

    >>> verdict({"low": -0.1, "high": 0.2})
    'ties'
    """
    return "beats" if difference["low"] > 0 else "falls behind" if difference["high"] < 0 else "ties"


def _interval(d: Mapping[str, float]) -> str:
    mean, low, high = (100 * d[k] for k in ("mean", "low", "high"))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def figure(against: Mapping[str, Mapping[str, float]], path: Path, *, title: str, alone: str) -> None:
    """Each method's paired difference to the student alone with its interval, the largest on top."""
    roles = sorted(against, key=lambda role: against[role]["mean"])
    colours = {"beats": "C2", "ties": "C7", "falls behind": "C3"}
    fig, ax = plt.subplots(figsize=(7, 1.4 + 0.26 * len(roles)), layout="constrained")
    for place, role in enumerate(roles):
        mean, low, high = (100 * against[role][k] for k in ("mean", "low", "high"))
        ax.errorbar(
            mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=colours[verdict(against[role])]
        )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(roles)), roles)
    ax.set(xlabel=f"test accuracy minus {alone}, points\n(95% interval, {against[roles[0]]['n']} paired seeds)")
    ax.grid(axis="x", alpha=0.3)
    ax.set_title(title, fontsize=10)
    _report.save_figure(fig, path)

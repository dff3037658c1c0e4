"""The figure of the comparison: every method's paired difference to the student alone."""

from collections.abc import Mapping
from pathlib import Path

from kdjax.study.figures import save_figure, subplots


def figure(against: Mapping[str, Mapping[str, float]], path: Path, *, title: str, alone: str) -> None:
    """Each method's paired difference to the student alone with its interval, the largest on top."""
    roles = sorted(against, key=lambda role: against[role]["mean"])
    colours = {"beats": "C2", "ties": "C7", "falls behind": "C3"}
    fig, ax = subplots(figsize=(7, 1.4 + 0.26 * len(roles)))
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
    save_figure(fig, path)


def verdict(difference: Mapping[str, float]) -> str:
    """What an interval says.

    >>> verdict({"low": -0.1, "high": 0.2})
    'ties'
    """
    return "beats" if difference["low"] > 0 else "falls behind" if difference["high"] < 0 else "ties"

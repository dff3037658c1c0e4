"""The figures of an audit, one for each finding that has something to draw."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdjax.audit.finding import Finding
from kdjax.study.figures import subplots

COLOURS = {"PASS": "#2e7d32", "FLAG": "#e08a00", "FAIL": "#c62828", "SKIPPED": "#757575"}


def figures(findings: Sequence[Finding]) -> dict[str, bytes]:
    """PNGs by name, of the findings that have something to draw."""
    series = {f.id: f.series for f in findings if f.series}
    drawn = {}
    for name, (id, draw, size) in FIGURES.items():
        if id in series:
            fig, ax = subplots(figsize=size)
            draw(ax, series[id])
            ax.set_title(f"{id}: {name}", fontsize=10)
            file = io.BytesIO()
            fig.savefig(file, format="png", dpi=110)
            drawn[name] = file.getvalue()
    return drawn


def _radii(ax: Any, s: dict[str, Any]) -> None:
    x = [0.0, *s["radius"]]
    for name, mark in (("cross_entropy", "o-"), ("margin", "s--")):
        ax.plot(
            x, [100 * a for a in (s["clean"], *s[name])], mark, label=f"PGD on {name.replace('_', '-')}", markersize=4
        )
    ax.axhline(100 * s["chance"], color="grey", linewidth=1, label="best constant answer")
    ax.axvline(s["half"], color="grey", linestyle=":", linewidth=1, label="all can be grey")
    ax.set(xlabel="radius, pixel units", ylabel="robust accuracy, %", ylim=(-3, 103))
    ax.legend(frameon=False, fontsize=8)


def _convergence(ax: Any, s: dict[str, Any]) -> None:
    steps = range(1, len(s["loss"]) + 1)
    ax.plot(steps, s["loss"], color="C1")
    ax.set(xlabel="steps of PGD", xscale="log")
    ax.set_ylabel("mean worst cross-entropy so far", color="C1")
    other = ax.twinx()
    other.plot(steps, [100 * a for a in s["accuracy"]], color="C0")
    other.set_ylabel("robust accuracy, %", color="C0")
    other.set_ylim(-3, 103)


def _restarts(ax: Any, s: dict[str, Any]) -> None:
    ax.plot(range(1, len(s["accuracy"]) + 1), [100 * a for a in s["accuracy"]], "o-", markersize=4)
    ax.set(xlabel="random starts", ylabel="robust accuracy, %")


def _losses(ax: Any, s: dict[str, Any]) -> None:
    names = list(s["accuracy"])
    values = [100 * s["accuracy"][n] for n in names]
    ax.barh(names, values, color=["C3" if n == s["best"] else "C0" for n in names])
    ax.invert_yaxis()
    ax.set(xlabel="robust accuracy, %", xlim=(0, 100))
    ax.tick_params(axis="y", labelsize=8)


def _worst(ax: Any, s: dict[str, Any]) -> None:
    ordered = dict(sorted(s["accuracy"].items(), key=lambda item: item[1]))
    ax.barh(list(ordered), [100 * a for a in ordered.values()])
    ax.invert_yaxis()
    ax.set(xlabel="robust accuracy, %", xlim=(0, 100))
    ax.tick_params(axis="y", labelsize=7)


def _gaps(ax: Any, s: dict[str, Any]) -> None:
    gap = np.asarray(s["gap"])
    ax.hist(gap, bins=40)
    for bound in (17, 104):
        if bound < 1.3 * gap.max():
            ax.axvline(bound, color="C3", linestyle=":", label=f"float32's {bound}")
    ax.set(xlabel="first logit minus second", ylabel="examples")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)


def _landscape(ax: Any, s: dict[str, Any]) -> None:
    shown = ax.contourf(s["at"], s["at"], np.asarray(s["loss"]), levels=20)
    ax.figure.colorbar(shown, ax=ax, label="mean cross-entropy")
    ax.set(xlabel="along a random direction", ylabel="along the gradient")


Draw = Callable[[Any, dict[str, Any]], None]


FIGURES: dict[str, tuple[str, Draw, tuple[float, float]]] = {
    "robust accuracy by radius": ("E3", _radii, (5.2, 3.6)),
    "convergence": ("E6", _convergence, (5.2, 3.6)),
    "loss landscape": ("E14", _landscape, (4.8, 3.6)),
    "gap between the logits": ("E10", _gaps, (5.2, 3.6)),
    "losses and step sizes": ("E8", _losses, (5.6, 4.2)),
    "every attack": ("E17", _worst, (5.6, 6.0)),
    "random starts": ("E7", _restarts, (4.4, 3.2)),
}

"""The audit's page: one table and its figures in one file that needs nothing else."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from kdjax.evaluation.audit.audit import RULE
from kdjax.evaluation.audit.finding import Finding
from kdjax.files import write_whole

COLOURS = {"PASS": "#2e7d32", "FLAG": "#e08a00", "FAIL": "#c62828", "SKIPPED": "#757575"}

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid #ddd; padding: .4em .6em;
text-align: left; vertical-align: top }
td.verdict { color: white; font-weight: 600; text-align: center; white-space: nowrap }
figure { display: inline-block; margin: 1em 1em 1em 0 } figure img { max-width: 100% }
p.rule { border-left: 4px solid #999; padding-left: .8em } code { background: #f3f3f3; padding: 0 .2em }
"""


def verdict_line(findings: Sequence[Finding]) -> str:
    """How many of each verdict, and which failed and were flagged."""
    parts = []
    for verdict in COLOURS:
        ids = [f.id for f in findings if f.verdict == verdict]
        parts.append(f"{len(ids)} {verdict}" + (f" ({', '.join(ids)})" if ids and verdict != "PASS" else ""))
    return ", ".join(parts)


def markdown(findings: Sequence[Finding]) -> str:
    """The table of the findings, and the rule."""
    lines = ["| | check | verdict | what was measured | remedy |", "|---|---|---|---|---|"]
    for f in findings:
        cells = (f.id, f.title, f.verdict, f.text, f.remedy)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + f"\n\n{verdict_line(findings)}\n\n{RULE}"


def page(findings: Sequence[Finding], path: Path, *, title: str, facts: dict[str, Any]) -> None:
    """Write the page, with its figures inside."""
    rows = "\n".join(
        f'<tr><td>{f.id}</td><td>{escape(f.title)}</td><td class="verdict" style="background:{COLOURS[f.verdict]}">'
        f"{f.verdict}</td><td>{escape(f.text)}</td><td>{escape(f.remedy)}</td></tr>"
        for f in findings
    )
    images = "\n".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for name, png in figures(findings).items()
    )
    listed = "".join(f"<li>{escape(str(k))}: <code>{escape(str(v))}</code></li>" for k, v in facts.items())
    write_whole(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><ul>{listed}</ul><p><b>{escape(verdict_line(findings))}</b></p>"
        f'<p class="rule">{escape(RULE)}</p><table><tr><th></th><th>check</th><th>verdict</th>'
        f"<th>what was measured</th><th>remedy</th></tr>{rows}</table><h2>Figures</h2>{images}</html>\n",
    )


def figures(findings: Sequence[Finding]) -> dict[str, bytes]:
    """PNGs by name, of the findings that have something to draw."""
    series = {f.id: f.series for f in findings if f.series}
    drawn = {}
    for name, (id, draw, size) in FIGURES.items():
        if id in series:
            fig, ax = plt.subplots(figsize=size, layout="constrained")
            draw(ax, series[id])
            ax.set_title(f"{id}: {name}", fontsize=10)
            file = io.BytesIO()
            fig.savefig(file, format="png", dpi=110)
            plt.close(fig)
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

"""Figures of domains: who is right where, and which label space is taken for which."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.domains.arms import groups
from kdjax.data.domains import Domain
from kdjax.ensembles.label_spaces import LabelSpaces
from kdjax.study import figures
from kdjax.study.compare import Results
from kdjax.study.figures import save_figure, subplots


def draw(workdir: Path, results: Results, domains: Sequence[Domain], spaces: LabelSpaces, *, title: str) -> None:
    """Means over seeds: every role on every domain, students on the union, and groups of classes taken for others."""
    names, title = [d.name for d in domains], textwrap.fill(title, 70)
    right = [[np.mean([s["domains"][name] for s in scores]) for name in names] for scores in results.values()]
    heat_map(np.array(right), list(results), names, workdir / "domains.png", title=f"accuracy, %\n{title}")
    union = {
        role.replace(" of ", " of\n").replace(", ", ",\n"): [s["union"] for s in scores]
        for role, scores in results.items()
        if not role.startswith(("expert", "ensemble"))
    }
    figures.comparison(union, workdir / "comparison.png", title=title)
    if len(found := groups(spaces)) > 1:
        classes = [f"classes {c[0]}–{c[-1]}" for c in found]
        roles = [role for role in results if role.startswith("student")]
        blocks = np.concatenate([np.mean([s["blocks"] for s in results[role]], axis=0) for role in roles])
        rows = [f"{role}: {c}" for role in roles for c in classes]
        heat_map(blocks, rows, classes, workdir / "blocks.png", title=f"answers by group of classes, %\n{title}")


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], path: Path, *, title: str) -> None:
    """Shares as a heat map, written in percent.

    Args:
        values: `[rows, columns]`, in [0, 1].
        rows, columns: their names.
        path: of the PNG.
        title: above all.
    """
    size = (3.5 + 1.0 * len(columns), 1.6 + 0.4 * len(rows))
    fig, ax = subplots(figsize=size)
    ax.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color="black" if value > 0.6 else "white")
    ax.set_xticks(range(len(columns)), [c.replace(":", "\n:") for c in columns], fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.set_title(title, fontsize=9)
    save_figure(fig, path)

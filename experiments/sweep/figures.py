"""Maps of a sweep: what validation says along a lone axis, or over each pair of axes."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sweep.space import Axis
from kdjax.study.figures import save_figure, subplots


def heat_maps(
    found: Sequence[Mapping[str, Any]],
    axes: Sequence[Axis],
    folder: Path,
    *,
    title: str,
    grid: bool,
    shown: str = "validation_accuracy",
) -> None:
    """For each pair of axes `map-A-B.png`: what is shown, averaged over the other axes, or every drawn point.

    Of a lone axis, `map-A.png`.
    """
    well = [p for p in found if p[shown] is not None]
    says = "validation accuracy" if shown == "validation_accuracy" else "validation accuracy under attack"
    if len(axes) == 1:
        (only,) = axes
        fig, ax = subplots(figsize=(6, 4.4))
        along = sorted(well, key=lambda p: p[only.name])
        ax.plot([p[only.name] for p in along], [100 * p[shown] for p in along], "o-" if grid else "o")
        ax.set(xscale="log" if only.draw == "log" else "linear", xlabel=only.name.replace("_", " "))
        ax.set(ylabel=f"{says}, %, mean over seeds")
        ax.set_title(title, fontsize=9)
        save_figure(fig, folder / f"map-{only.name}.png")
    for a, b in itertools.combinations(axes, 2):
        fig, ax = subplots(figsize=(6, 4.4))
        if grid:
            xs, ys = sorted(set(a.values)), sorted(set(b.values))
            cells = np.full((len(ys), len(xs)), np.nan)
            for i, j in itertools.product(range(len(ys)), range(len(xs))):
                mine = [p[shown] for p in well if p[a.name] == xs[j] and p[b.name] == ys[i]]
                cells[i, j] = 100 * np.mean(mine) if mine else np.nan
            drawn = ax.imshow(cells, origin="lower", aspect="auto", cmap="viridis")
            for (i, j), value in np.ndenumerate(cells):
                words = "diverged" if np.isnan(value) else f"{value:.2f}"
                ax.text(
                    j,
                    i,
                    words,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black",
                    bbox={"fc": "w", "alpha": 0.6, "lw": 0},
                )
            ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
            ax.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        else:
            colour = [100 * p[shown] for p in well]
            drawn = ax.scatter([p[a.name] for p in well], [p[b.name] for p in well], c=colour, cmap="viridis")
            bad = [p for p in found if p[shown] is None]
            ax.plot([p[a.name] for p in bad], [p[b.name] for p in bad], "x", color="red")
            ax.set(xscale="log" if a.draw == "log" else "linear", yscale="log" if b.draw == "log" else "linear")
        fig.colorbar(drawn, label=f"{says}, %, mean over seeds")
        ax.set(xlabel=a.name.replace("_", " "), ylabel=b.name.replace("_", " "))
        ax.set_title(title, fontsize=9)
        save_figure(fig, folder / f"map-{a.name}-{b.name}.png")

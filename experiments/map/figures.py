"""The figure of the map: gains by width, labels, temperature and epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.map.gains import NOTEBOOK, sign
from kdjax.study.figures import save_figure, subplots


def draw(cells: Sequence[Mapping[str, Any]], path: Path, *, dataset: str) -> None:
    """One panel per (epochs, T): width against labels, coloured by gain, the notebook's cell framed."""
    epochs, temperatures, widths = (sorted({c[k] for c in cells}) for k in ("epochs", "temperature", "width"))
    labels = sorted({c["labels"] for c in cells}, key=lambda n: n or np.inf)
    top = max(1.0, *(abs(100 * c["gain"]["mean"]) for c in cells))
    shape = (len(epochs), len(temperatures))
    size = (2.6 * shape[1] + 1.2, (0.45 * len(widths) + 1.2) * shape[0])
    fig, axes = subplots(*shape, figsize=size, squeeze=False, sharex=True, sharey=True)
    image = None
    for c in cells:
        ax = axes[epochs.index(c["epochs"])][temperatures.index(c["temperature"])]
        x, y, gain = labels.index(c["labels"]), widths.index(c["width"]), 100 * c["gain"]["mean"]
        # A symmetric root scale: gains of tens of points with few labels must not hide losses of one point.
        shade = np.sign(gain) * np.sqrt(abs(gain) / top)
        image = ax.imshow([[shade]], extent=(x - 0.5, x + 0.5, y - 0.5, y + 0.5), cmap="RdBu", vmin=-1, vmax=1)
        colour = "white" if abs(shade) > 0.75 else "black"
        ax.text(x, y, f"{gain:+.1f}{'' if sign(c) != '0' else '°'}", ha="center", va="center", fontsize=7, color=colour)
        if all(c[k] == v for k, v in NOTEBOOK.items()):
            sides = np.array([-0.46, -0.46, 0.46, 0.46, -0.46])
            ax.plot(x + sides, y + np.roll(sides, -1), color="black", linewidth=2)
    for i, row in enumerate(axes):
        for j, ax in enumerate(row):
            ax.set_facecolor("0.8")
            ax.set(xlim=(-0.5, len(labels) - 0.5), ylim=(-0.5, len(widths) - 0.5), aspect="auto")
            ax.set_xticks(range(len(labels)), [f"{n:,}" if n else "all" for n in labels], fontsize=7)
            ax.set_yticks(range(len(widths)), [str(w) for w in widths], fontsize=7)
            ax.set_title(f"{epochs[i]} epochs, T = {temperatures[j]:g}", fontsize=8)
    fig.supxlabel("labelled images of the student alone", fontsize=8)
    fig.supylabel("hidden units", fontsize=8)
    fig.suptitle(
        f"{dataset}: points gained by distillation (° = interval includes zero; frame = the notebook; grey = not run)",
        fontsize=9,
    )
    if image is not None:
        bar = fig.colorbar(image, ax=axes, shrink=0.7, ticks=[-1, -0.5, 0, 0.5, 1])
        bar.ax.set_yticklabels([f"{np.sign(s) * s * s * top:+.1f}" for s in (-1, -0.5, 0, 0.5, 1)], fontsize=7)
    save_figure(fig, path)

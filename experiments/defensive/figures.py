"""The figure of defensive distillation: what attacks leave at every temperature."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdjax.study.attacks import Scores
from kdjax.study.figures import save_figure, subplots


def draw(rows: Mapping[float, Sequence[Scores]], panels: Mapping[str, Sequence[str]], path: Path, title: str) -> None:
    """Shares against temperature, one panel for each group of columns: mean over seeds, with a band of one sd."""
    fig, axes = subplots(1, len(panels), figsize=(5.4 * len(panels), 3.9), squeeze=False)
    x = np.array(list(rows))
    for ax, (label, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            values = 100 * np.array([[s[column] for s in scores] for scores in rows.values()], np.float64)
            mean, sd = values.mean(1), values.std(1, ddof=1) if values.shape[1] > 1 else 0 * values[:, 0]
            # What follows the deployed cross-entropy is dashed.
            ax.plot(x, mean, "--" if "naive" in column else "-", marker=".", label=column)
            ax.fill_between(x, mean - sd, mean + sd, alpha=0.15, linewidth=0, color=ax.lines[-1].get_color())
        ax.set(xlabel="temperature of both trainings", ylabel=label, xscale="log", ylim=(-3, 103))
        ax.set_xticks(x, [f"{t:g}" for t in x])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8)
    fig.suptitle(title, fontsize=10)
    save_figure(fig, path)

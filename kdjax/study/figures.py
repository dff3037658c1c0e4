"""Figures of every study: learning curves, and each role's scores beside the others'."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.files import write_whole


def subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float | int, float | int], **settings: Any
) -> tuple[Any, Any]:
    """A figure and its axes, as Matplotlib's `pyplot.subplots`, without its windows.

    Matplotlib starts with the first: most runs, and every mistake, end before they draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, **settings)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, drawn.getvalue())


def lines(text: str, inches: float) -> str:
    """The text in lines that fit a width, at ten points and about twelve characters an inch; its own lines stay."""
    return "\n".join(textwrap.fill(line, int(12 * inches)) for line in text.split("\n"))


def curves(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Learning curves by role (`role/seed-i`): mean over seeds with a band of one sd; validation where there is one."""
    roles = list(dict.fromkeys(r["run"].split("/")[0] for r in rows))
    metrics = [m for m in ("train_loss", "validation_accuracy") if any(m in r for r in rows)]
    fig, axes = subplots(1, len(metrics), figsize=(5.2 * len(metrics), 3.6), squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for place, role in enumerate(roles):
            by_epoch: dict[int, list[float]] = {}
            for r in rows:
                if r["run"].split("/")[0] == role and metric in r:
                    by_epoch.setdefault(r["epoch"], []).append(r[metric])
            x = sorted(by_epoch)
            mean = np.array([np.mean(by_epoch[e]) for e in x])
            sd = np.array([np.std(by_epoch[e], ddof=1) if len(by_epoch[e]) > 1 else 0 for e in x])
            ax.plot(x, mean, label=role, color=f"C{place}", marker="." if len(x) < 8 else None)
            ax.fill_between(x, mean - sd, mean + sd, color=f"C{place}", alpha=0.2, linewidth=0)
        if metric == "train_loss":  # different losses have different units
            ax.set_yscale("log")
        ax.set(xlabel="epoch", ylabel=metric.replace("_", " "))
        ax.grid(alpha=0.3)
    fig.legend(*axes[0][0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    fig.suptitle(lines(title, fig.get_figwidth()), fontsize=10)
    save_figure(fig, path)


def comparison(scores: Mapping[str, Sequence[float]], path: Path, *, title: str) -> None:
    """Test accuracy of each role: every seed as a dot, paired seeds joined, the mean as a bar with one sd."""
    fig, ax = subplots(figsize=(1.8 + 1.6 * len(scores), 3.8))
    values = [np.asarray(v) * 100 for v in scores.values()]
    for i, v in enumerate(values):
        ax.errorbar(i + 0.18, v.mean(), yerr=v.std(ddof=1) if len(v) > 1 else 0, fmt="s", capsize=4, color="black")
        ax.plot([i] * len(v), v, "o", alpha=0.7, color=f"C{i}")
    if len({len(v) for v in values[1:]}) == 1:
        for points in zip(*values[1:], strict=True):
            ax.plot(range(1, len(values)), points, color="grey", alpha=0.4, linewidth=0.8)
    ax.set_xticks(range(len(scores)), [lines(name, 1.5) for name in scores])
    ax.set(ylabel="test accuracy, %", xlim=(-0.5, len(scores) - 0.3))
    ax.grid(axis="y", alpha=0.3)
    fig.suptitle(lines(title, fig.get_figwidth()), fontsize=10)
    save_figure(fig, path)


def by_queries(
    series: Mapping[str, Sequence[tuple[float, Sequence[float]]]], path: Path, *, ylabel: str, title: str
) -> None:
    """Shares against queries on a logarithmic axis: mean over seeds, a band of one sd.

    Args:
        series: by name, points of queries and the seeds' shares in [0, 1].
        path: of the PNG.
        ylabel: what the shares are, in per cent.
        title: above.
    """
    fig, ax = subplots(figsize=(8.4, 4.6))
    for number, (name, points) in enumerate(series.items()):
        x = [at for at, _ in points]
        mean = np.array([100 * np.mean(values) for _, values in points])
        sd = np.array([100 * np.std(values, ddof=1) if len(values) > 1 else 0.0 for _, values in points])
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        ax.plot(x, mean, marker=".", label=name, **style)
        ax.fill_between(x, mean - sd, mean + sd, alpha=0.12, linewidth=0, color=style["color"])
    ax.set(xlabel="queries", ylabel=ylabel, xscale="log")
    ax.grid(alpha=0.3)
    fig.legend(*ax.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    fig.suptitle(lines(title, fig.get_figwidth()), fontsize=10)
    save_figure(fig, path)

"""Tables and figures from results; everything here is recomputed from results.json and metrics.jsonl."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kdjax.files import to_json, write_whole

PERCENT = ("accuracy", "precision", "recall", "f1", "ece", "agreement")
HEADS = {"f1": "F1", "nll": "NLL", "ece": "ECE", "teacher_kl": "KL to teacher"}


def colour(role: str) -> str:
    """The same colour for a role in every figure: teachers, students alone, distilled ones, and the rest."""
    known = [i for i, word in enumerate(("teacher", "alone", "no-", "jittered", "distilled")) if word in role]
    return f"C{known[-1] if known else 7}"


def spread(values: Sequence[float], *, scale: float = 1.0, digits: int = 2) -> str:
    """`mean ± sd` over seeds, sd with n - 1; a lone value stands alone.

    >>> spread([0.9, 0.92], scale=100)
    '91.00 ± 1.41'
    """
    x = np.asarray(values, np.float64) * scale
    return f"{x.mean():.{digits}f} ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else f"{x[0]:.{digits}f}"


def table(rows: Mapping[str, Sequence[Mapping[str, float]]], columns: Sequence[str]) -> str:
    """A Markdown table: one line per row name, one column per metric, `mean ± sd` over the seeds' scores."""
    lines = ["| | " + " | ".join(HEADS.get(c, c) + (" %" if c in PERCENT else "") for c in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, scores in rows.items():
        cells = []
        for c in columns:
            if c not in scores[0]:
                cells.append("–")
            elif c == "parameters":
                cells.append(f"{scores[0][c]:,.0f}")
            else:
                digits = 4 if c in ("nll", "teacher_kl") else 1 if c == "errors" else 2
                cells.append(spread([s[c] for s in scores], scale=100 if c in PERCENT else 1, digits=digits))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain(name: str, d: Mapping[str, float]) -> str:
    """One line for a paired difference in accuracy, in points."""
    verdict = "above zero" if d["low"] > 0 else "below zero" if d["high"] < 0 else "includes zero"
    mean, low, high = (100 * d[k] for k in ("mean", "low", "high"))
    return f"{name}: {mean:+.2f} points, 95% interval [{low:+.2f}, {high:+.2f}] over {d['n']} paired seeds: {verdict}"


def save_results(workdir: Path, results: Mapping[str, Any], text: str) -> None:
    """Write table.md and results.json, and print the table.

    Raises:
        Diverged: a number is not finite; nothing is written.
    """
    content = to_json(results, "results.json", indent=2) + "\n"
    write_whole(workdir / "table.md", text + "\n")
    write_whole(workdir / "results.json", content)  # last: it says that the run is finished
    print(text)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, and close it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."), dpi=150)
    plt.close(figure)
    write_whole(path, drawn.getvalue())


def curves(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Learning curves by role (`role/seed-i`): mean over seeds with a band of one sd; validation where there is one."""
    roles = sorted({r["run"].split("/")[0] for r in rows})
    metrics = [m for m in ("train_loss", "validation_accuracy") if any(m in r for r in rows)]
    fig, axes = plt.subplots(1, len(metrics), figsize=(5.2 * len(metrics), 3.6), squeeze=False, layout="constrained")
    for ax, metric in zip(axes[0], metrics, strict=True):
        for role in roles:
            by_epoch: dict[int, list[float]] = {}
            for r in rows:
                if r["run"].split("/")[0] == role and metric in r:
                    by_epoch.setdefault(r["epoch"], []).append(r[metric])
            x = sorted(by_epoch)
            mean = np.array([np.mean(by_epoch[e]) for e in x])
            sd = np.array([np.std(by_epoch[e], ddof=1) if len(by_epoch[e]) > 1 else 0 for e in x])
            ax.plot(x, mean, label=role, color=colour(role), marker="." if len(x) < 8 else None)
            ax.fill_between(x, mean - sd, mean + sd, color=colour(role), alpha=0.2, linewidth=0)
        if metric == "train_loss":  # different losses have different units
            ax.set_yscale("log")
        ax.set(xlabel="epoch", ylabel=metric.replace("_", " "))
        ax.grid(alpha=0.3)
    axes[0][-1].legend(frameon=False)
    fig.suptitle(title, fontsize=10)
    save_figure(fig, path)


def comparison(scores: Mapping[str, Sequence[float]], path: Path, *, title: str) -> None:
    """Test accuracy of each role: every seed as a dot, paired seeds joined, the mean as a bar with one sd."""
    fig, ax = plt.subplots(figsize=(1.8 + 1.6 * len(scores), 3.8), layout="constrained")
    values = [np.asarray(v) * 100 for v in scores.values()]
    for i, v in enumerate(values):
        ax.errorbar(i + 0.18, v.mean(), yerr=v.std(ddof=1) if len(v) > 1 else 0, fmt="s", capsize=4, color="black")
        ax.plot([i] * len(v), v, "o", alpha=0.7, color=colour(list(scores)[i]))
    if len({len(v) for v in values[1:]}) == 1:
        for points in zip(*values[1:], strict=True):
            ax.plot(range(1, len(values)), points, color="grey", alpha=0.4, linewidth=0.8)
    ax.set_xticks(range(len(scores)), list(scores))
    ax.set(ylabel="test accuracy, %", xlim=(-0.5, len(scores) - 0.3))
    ax.grid(axis="y", alpha=0.3)
    ax.set_title(title, fontsize=10)
    save_figure(fig, path)

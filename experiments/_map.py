"""The map of `distill_map`: cells, table, figure."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import _report
from experiments._report import spread
from kdjax.evaluation.paired import paired_difference

NOTEBOOK = {"width": 20, "labels": 0, "temperature": 7.0, "epochs": 3}

Key = tuple[int, str, int, float | None, float | None, int]


def _key(cell: Mapping[str, Any]) -> Key:
    return (*(cell[k] for k in ("width", "arm", "labels")), cell.get("temperature"), cell.get("alpha"), cell["epochs"])  # type: ignore[return-value]


def best_rates(cells: Iterable[Mapping[str, Any]]) -> dict[Key, float]:
    """The learning rate with the best validation accuracy, for each arm of each cell."""
    best: dict[Key, Mapping[str, Any]] = {}
    for cell in cells:
        if cell["phase"] == "choose" and cell["accuracy"] > best.get(_key(cell), {"accuracy": -1.0})["accuracy"]:
            best[_key(cell)] = cell
    return {key: cell["learning_rate"] for key, cell in best.items()}


def gains(
    cells: Sequence[Mapping[str, Any]],
    best: Mapping[Key, float],
    *,
    few_alpha: float,
    all_alpha: float,
    labels: Sequence[int],
) -> list[dict[str, Any]]:
    """Paired gain of distilled over alone in every cell, each arm at its own learning rate, accuracies by seed."""

    def by_seed(key: Key) -> list[float]:
        mine = [c for c in cells if c["phase"] == "test" and _key(c) == key and c["learning_rate"] == best[key]]
        return [c["accuracy"] for c in sorted(mine, key=lambda c: c["seed"])]

    out = []
    for key in best:
        width, arm, _, temperature, alpha, epochs = key
        for count in labels:
            if arm != "distilled" or alpha != (few_alpha if count else all_alpha):
                continue
            against: Key = (width, "alone", count, None, None, epochs)
            distilled, alone = by_seed(key), by_seed(against)
            place = {"width": width, "labels": count, "temperature": temperature, "alpha": alpha, "epochs": epochs}
            rates = {"rate_distilled": best[key], "rate_alone": best[against]}
            gain = paired_difference(distilled, alone)
            out.append({**place, **rates, "distilled": distilled, "alone": alone, "gain": gain})
    return sorted(out, key=order)


def order(cell: Mapping[str, Any]) -> tuple[float, ...]:
    """The order of cells in the table."""
    return cell["epochs"], cell["temperature"], cell["width"], cell["labels"] or np.inf


def sign(cell: Mapping[str, Any]) -> str:
    """`+` or `-` where the 95% interval excludes zero, `0` where it does not."""
    return "+" if cell["gain"]["low"] > 0 else "-" if cell["gain"]["high"] < 0 else "0"


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Every cell as a Markdown row."""
    lines = [
        "| epochs | T | width | labels | alone % | distilled % | gain, points | 95% interval | |",
        "|---" * 9 + "|",
    ]
    for c in cells:
        mean, low, high = (100 * c["gain"][k] for k in ("mean", "low", "high"))
        mark = " (the notebook's cell)" if all(c[k] == v for k, v in NOTEBOOK.items()) else ""
        cells_of_row = (
            c["epochs"],
            f"{c['temperature']:g}",
            c["width"],
            c["labels"] or "all",
            spread(c["alone"], scale=100),
            spread(c["distilled"], scale=100),
            f"{mean:+.2f}",
            f"[{low:+.2f}, {high:+.2f}]",
            f"{sign(c)}{mark}",
        )
        lines.append("| " + " | ".join(map(str, cells_of_row)) + " |")
    counts = {s: sum(sign(c) == s for c in cells) for s in "+0-"}
    lines += ["", f"{len(cells)} cells: {counts['+']} above zero, {counts['0']} undecided, {counts['-']} below zero."]
    return "\n".join(lines)


def draw(cells: Sequence[Mapping[str, Any]], path: Path, *, dataset: str) -> None:
    """One panel per (epochs, T): width against labels, coloured by gain, the notebook's cell framed."""
    epochs, temperatures, widths = (sorted({c[k] for c in cells}) for k in ("epochs", "temperature", "width"))
    labels = sorted({c["labels"] for c in cells}, key=lambda n: n or np.inf)
    top = max(1.0, *(abs(100 * c["gain"]["mean"]) for c in cells))
    shape = (len(epochs), len(temperatures))
    size = (2.6 * shape[1] + 1.2, (0.45 * len(widths) + 1.2) * shape[0])
    fig, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained", sharex=True, sharey=True)
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
            ax.add_patch(plt.Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, linewidth=2))
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
    _report.save_figure(fig, path)

"""The map's cells, their gains, and the table of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.evaluation.paired import paired_difference
from kdjax.study.report import spread

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

"""What a sweep is made of: axes from a flag, the points to train, and the tables and figures of what came out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from kdjax import spec
from kdjax.evaluation.answers import fault
from kdjax.files import to_json, write_whole


class Axis(NamedTuple):
    """A number that is swept: its values, or the ends of the range that it is drawn from."""

    name: str
    values: tuple[float, ...]
    draw: str = ""


def axes(sets: Mapping[str, spec.Set]) -> list[Axis]:
    """The sets of an expression as axes.

    >>> axes({"temperature": spec.grid(1, 2)})
    [Axis(name='temperature', values=(1.0, 2.0), draw='')]
    """
    return [Axis(n, spec.ends(x), "" if isinstance(x, spec.grid) else type(x).__name__) for n, x in sets.items()]


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and NLL of every member, each `[M]`, from logits `[M, N, K]`; NaN both where some are not numbers."""
    top = logits.max(-1, keepdims=True)
    norm = np.log(np.exp(logits - top).sum(-1, dtype=np.float64)) + top[..., 0]
    own = np.take_along_axis(logits, labels[None, :, None], axis=2)[..., 0]
    well = np.array([not fault(one) for one in logits])
    found = {"accuracy": np.mean(logits.argmax(-1) == labels, axis=1), "nll": np.mean(norm - own, axis=1)}
    return {name: np.where(well, values, np.nan) for name, values in found.items()}


METRICS = ("validation_accuracy", "validation_nll", "test_accuracy", "test_nll")


def summary(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, chooses: str = "validation_accuracy"
) -> list[dict[str, Any]]:
    """Every point over its seeds, best first by what chooses; points with a diverged seed come last.

    `low` and `high` are the 95% Student-t interval of the mean test accuracy, `attacked_low` and `attacked_high` of
    that under an attack; they are absent with one seed.
    """
    attacked = tuple(name for name in ("validation_attacked", "test_attacked") if name in rows[0])
    found = []
    for point in sorted({r["point"] for r in rows}):
        mine = [r for r in rows if r["point"] == point]
        good = [r for r in mine if r["status"] != "diverged"]
        one = {"point": point, **{n: mine[0][n] for n in names}, "seeds": len(mine), "diverged": len(mine) - len(good)}
        for metric in (*METRICS, *attacked):
            one[metric] = float(np.mean([r[metric] for r in good])) if good else None
        ends = {"": "test_accuracy", "attacked_": "test_attacked"}
        for prefix, metric in ends.items() if len(good) > 1 else ():
            if metric in one:
                test = np.array([r[metric] for r in good])
                half = stdtrit(len(good) - 1, 0.975) * test.std(ddof=1) / math.sqrt(len(good))
                one |= {f"{prefix}low": one[metric] - half, f"{prefix}high": one[metric] + half}
        found.append(one)
    worst = (-1.0, math.inf)
    return sorted(
        found,
        key=lambda p: (
            p["diverged"],
            *((-p[chooses], p["validation_nll"]) if p["seeds"] > p["diverged"] else worst[::-1]),
        ),
    )


def table(found: Sequence[Mapping[str, Any]], names: Sequence[str], *, most: int = 10) -> str:
    """The best points as Markdown, and in words the one that validation chose."""
    under = "test_attacked" in found[0]
    heads = [*names, "validation %", "validation NLL", "test %", "95% interval", "test NLL"]
    heads += ["validation under attack %", "test under attack %", "95% interval"] if under else []
    heads += ["seeds", "status"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for p in found[:most]:
        status = f"{p['diverged']} of {p['seeds']} diverged" if p["diverged"] else "well"
        cells = [*(f"{p[n]:.4g}" for n in names), *_cells(p), *(_attacked(p) if under else ()), str(p["seeds"]), status]
        lines.append("| " + " | ".join(cells) + " |")
    if len(found) > most:
        lines.append(f"\nThe first {most} of {len(found)} points, best first; all are in results.json.")
    best = found[0]
    if best["test_accuracy"] is None:
        return "\n".join([*lines, "", "Every seed of every point diverged."])
    chosen = ", ".join(f"{n} = {best[n]:.4g}" for n in names)
    text = f"best on validation: {chosen}: test accuracy {_with_interval(_cells(best)[2:4], best)}"
    if under:
        text = f"{text}, under attack {_with_interval(_attacked(best)[1:], best)} (validation under attack chose)"
    return "\n".join([*lines, "", text])


def _with_interval(cells: Sequence[str], p: Mapping[str, Any]) -> str:
    seeds = "no interval from one seed" if cells[1] == "–" else f"95% interval {cells[1]} over {p['seeds']} seeds"
    return f"{cells[0]} %, {seeds}"


def _cells(p: Mapping[str, Any]) -> list[str]:
    if p["test_accuracy"] is None:
        return ["–"] * 5
    chosen = [f"{100 * p['validation_accuracy']:.2f}", f"{p['validation_nll']:.4f}"]
    return [*chosen, f"{100 * p['test_accuracy']:.2f}", _between(p, ""), f"{p['test_nll']:.4f}"]


def _attacked(p: Mapping[str, Any]) -> list[str]:
    if p["test_attacked"] is None:
        return ["–"] * 3
    return [*(f"{100 * p[f'{split}_attacked']:.2f}" for split in ("validation", "test")), _between(p, "attacked_")]


def _between(p: Mapping[str, Any], prefix: str) -> str:
    return f"[{100 * p[f'{prefix}low']:.2f}, {100 * p[f'{prefix}high']:.2f}]" if f"{prefix}low" in p else "–"


def save_rows(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One member a line, whole or not at all."""
    write_whole(file, "".join(to_json(row, file.name) + "\n" for row in rows))

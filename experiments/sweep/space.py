"""What a sweep is made of: axes from a flag, the points to train, and the tables and figures of what came out."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from kdjax.evaluation.answers import fault
from kdjax.files import to_json, write_whole
from kdjax.types import BadInput, nearest

DRAWS = {
    "uniform": lambda rng, a, b: rng.uniform(a, b),
    "log": lambda rng, a, b: math.exp(rng.uniform(*np.log([a, b]))),
}
FORM = "accepted: name:1,2,4 or name:uniform(a,b) or name:log(a,b), axes separated by ;"


class Axis(NamedTuple):
    """A hyper-parameter and its values, or the distribution it is drawn from."""

    name: str
    values: tuple[float, ...]
    draw: str = ""


def parse(text: str, bounds: Mapping[str, tuple[float | None, float | None]], *, of: str = "members") -> list[Axis]:
    """The axes that a flag names.

    Args:
        text: such as `temperature:1,2,4;learning_rate:log(1e-4,1e-2)`.
        bounds: the accepted names, and the lowest and highest value of each (None is open).
        of: whose axes these are, for messages.

    Raises:
        BadInput: an unknown name, the nearest one given; a value that is no number or out of range; a name twice.

    >>> parse("temperature:1,2;alpha:uniform(0,1)", {"temperature": (0, None), "alpha": (0, 1)})
    [Axis(name='temperature', values=(1.0, 2.0), draw=''), Axis(name='alpha', values=(0.0, 1.0), draw='uniform')]
    """
    axes: list[Axis] = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        name, _, rest = (x.strip() for x in part.partition(":"))
        if name not in bounds:
            raise BadInput(
                f"--sweep: {name!r} is no axis of these {of}; accepted: {', '.join(bounds)}{nearest(name, bounds)}"
            )
        if name in (a.name for a in axes):
            raise BadInput(f"--sweep: {name} twice; accepted: each axis once.")
        draw, bracket, inside = rest.partition("(")
        if bracket and (draw not in DRAWS or not inside.endswith(")")):
            raise BadInput(f"--sweep: {part!r}; {FORM}{nearest(draw, DRAWS)}")
        try:
            values = tuple(float(x) for x in (inside[:-1] if bracket else rest).split(","))
        except ValueError:
            raise BadInput(f"--sweep: {part!r} holds what is no number; {FORM}.") from None
        low, high = bounds[name]
        for x in values:
            if not math.isfinite(x) or (low is not None and x < low) or (high is not None and x > high):
                raise BadInput(f"--sweep: {name}={x:g}; accepted: {_range(low, high)}.")
        if bracket and (len(values) != 2 or values[0] >= values[1] or (draw == "log" and values[0] <= 0)):
            raise BadInput(f"--sweep: {part!r}; accepted are two bounds, the lower first, above 0 for log.")
        if not bracket and len(set(values)) < len(values):
            raise BadInput(f"--sweep: {part!r}; accepted: each value once.")
        axes.append(Axis(name, values, draw if bracket else ""))
    if not axes:
        raise BadInput(f"--sweep={text!r} names no axis; {FORM}.")
    return axes


def _range(low: float | None, high: float | None) -> str:
    ends = [f"{word} {end:g}" for word, end in (("from", low), ("to", high)) if end is not None]
    return " ".join(["finite numbers", *ends])


def points(axes: Sequence[Axis], sample: int) -> list[dict[str, float]]:
    """The grid of all values, or so many random points, no two alike, the same ones each time.

    >>> points([Axis("a", (1.0, 2.0)), Axis("b", (3.0,))], 0)
    [{'a': 1.0, 'b': 3.0}, {'a': 2.0, 'b': 3.0}]

    Raises:
        BadInput: a distribution without `sample`, or a larger sample than lists alone have points.
    """
    drawn = [a.name for a in axes if a.draw]
    rng = np.random.default_rng(0)
    if sample and drawn:
        return [
            {a.name: float(DRAWS[a.draw](rng, *a.values) if a.draw else rng.choice(a.values)) for a in axes}
            for _ in range(sample)
        ]
    if drawn:
        raise BadInput(f"--sweep draws {', '.join(drawn)}; accepted: --sample=N with it, or lists of values.")
    names = [a.name for a in axes]
    grid = [dict(zip(names, p, strict=True)) for p in itertools.product(*(a.values for a in axes))]
    if sample > len(grid):
        raise BadInput(
            f"--sample={sample}: the lists of --sweep have {len(grid)} points; accepted are so many at most, "
            "or an axis that is drawn by uniform(a,b) or log(a,b)."
        )
    return [grid[i] for i in rng.choice(len(grid), sample, replace=False)] if sample else grid


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and NLL of every member, each `[M]`, from logits `[M, N, K]`; NaN both where some are not numbers."""
    top = logits.max(-1, keepdims=True)
    norm = np.log(np.exp(logits - top).sum(-1, dtype=np.float64)) + top[..., 0]
    said = np.take_along_axis(logits, labels[None, :, None], axis=2)[..., 0]
    well = np.array([not fault(one) for one in logits])
    found = {"accuracy": np.mean(logits.argmax(-1) == labels, axis=1), "nll": np.mean(norm - said, axis=1)}
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
                half = stats.t.ppf(0.975, len(good) - 1) * test.std(ddof=1) / math.sqrt(len(good))
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

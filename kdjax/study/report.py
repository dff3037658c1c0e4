"""Tables of a study, and its results.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.files import to_json, write_whole
from kdjax.study import page
from kdjax.study.provenance import provenance

Number = float | int
PERCENT = ("accuracy", "precision", "recall", "f1", "ece", "agreement", "flagged")
COUNTS = ("parameters", "queries")
HEADS = {"f1": "F1", "nll": "NLL", "ece": "ECE", "teacher_kl": "KL to teacher"}


def spread(values: Sequence[Number], *, scale: Number = 1, digits: int = 2) -> str:
    """`mean ± sd` over seeds, sd with n - 1; a lone value stands alone.

    >>> spread([0.9, 0.92], scale=100)
    '91.00 ± 1.41'
    """
    x = np.asarray(values, np.float64) * scale
    return f"{x.mean():.{digits}f} ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else f"{x[0]:.{digits}f}"


def table(rows: Mapping[str, Sequence[Mapping[str, Number]]], columns: Sequence[str]) -> str:
    """A Markdown table: one line per row name, one column per metric, `mean ± sd` over the seeds' scores."""
    lines = ["| | " + " | ".join(HEADS.get(c, c) + (" %" if c in PERCENT else "") for c in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, scores in rows.items():
        cells = []
        for c in columns:
            if c not in scores[0]:
                cells.append("–")
            elif c in COUNTS:
                cells.append(f"{scores[0][c]:,.0f}")
            else:
                digits = 4 if c in ("nll", "teacher_kl") else 1 if c == "errors" else 2
                cells.append(spread([s[c] for s in scores], scale=100 if c in PERCENT else 1, digits=digits))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain(name: str, d: Mapping[str, Number]) -> str:
    """One line for a paired difference in accuracy, in points.

    >>> gain("a minus b", {"mean": 0.05, "low": 0.05, "high": 0.05, "n": 2})
    'a minus b: +5.00 points, 95% interval [+5.00, +5.00] over 2 paired seeds: no spread to judge by'
    """
    verdict = "above zero" if d["low"] > 0 else "below zero" if d["high"] < 0 else "includes zero"
    # Few seeds of few examples may differ alike.
    if verdict != "includes zero" and d["high"] - d["low"] < 1e-9:
        verdict = "no spread to judge by"
    mean, low, high = (100 * d[k] for k in ("mean", "low", "high"))
    return f"{name}: {mean:+.2f} points, 95% interval [{low:+.2f}, {high:+.2f}] over {d['n']} paired seeds: {verdict}"


def save_results(workdir: Path, results: Mapping[str, Any], text: str, networks: str = "") -> None:
    """Write table.md, provenance.json, report.html and results.json, and print the table.

    A command that is repeated finds its results as they are, and leaves where they came from as it is.

    Args:
        workdir: of the run.
        results: of results.json.
        text: the table, Markdown.
        networks: HTML for the page, of `showing.shown`.

    Raises:
        Diverged: a number is not finite; nothing is written.
    """
    content = to_json(results, "results.json", indent=2) + "\n"
    write_whole(workdir / "table.md", text + "\n")
    file, source = workdir / "results.json", workdir / "provenance.json"
    if not (source.exists() and file.exists() and file.read_text() == content):
        write_whole(source, to_json(provenance(workdir, results.get("arms", {})), source.name, indent=2) + "\n")
    page.of_run(workdir, text, networks)
    write_whole(file, content)  # last: it says that the run is finished
    print(text)

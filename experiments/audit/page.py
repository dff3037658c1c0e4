"""The audit's page: one table and its figures in one file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.audit.figures import COLOURS, figures
from kdjax.audit.audit import RULE
from kdjax.audit.finding import Finding
from kdjax.files import write_whole
from kdjax.study.page import document, embedded
from kdjax.study.page import facts as listed


def verdict_line(findings: Sequence[Finding]) -> str:
    """How many of each verdict, and which failed and were flagged."""
    parts = []
    for verdict in COLOURS:
        ids = [f.id for f in findings if f.verdict == verdict]
        parts.append(f"{len(ids)} {verdict}" + (f" ({', '.join(ids)})" if ids and verdict != "PASS" else ""))
    return ", ".join(parts)


def markdown(findings: Sequence[Finding]) -> str:
    """The table of the findings, and the rule."""
    lines = ["| | check | verdict | what was measured | remedy |", "|---|---|---|---|---|"]
    for f in findings:
        cells = (f.id, f.title, f.verdict, f.text, f.remedy)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + f"\n\n{verdict_line(findings)}\n\n{RULE}"


def page(findings: Sequence[Finding], path: Path, *, title: str, facts: dict[str, Any]) -> None:
    """Write the page, with its figures inside."""
    rows = "\n".join(
        f'<tr><td>{f.id}</td><td>{escape(f.title)}</td><td class="verdict" style="background:{COLOURS[f.verdict]}">'
        f"{f.verdict}</td><td>{escape(f.text)}</td><td>{escape(f.remedy)}</td></tr>"
        for f in findings
    )
    images = "\n".join(f"<figure>{embedded(png, name)}</figure>" for name, png in figures(findings).items())
    body = (
        f"{listed(facts)}<p><b>{escape(verdict_line(findings))}</b></p>"
        f'<p class="rule">{escape(RULE)}</p><div class="wide"><table><tr><th></th><th>check</th><th>verdict</th>'
        f'<th>what was measured</th><th>remedy</th></tr>{rows}</table></div><h2>Figures</h2><div class="side">{images}'
        '</div><h2>Files</h2><p>Command, commit and all files: <a href="report.html">report.html</a></p>'
    )
    write_whole(path, document(title, body))

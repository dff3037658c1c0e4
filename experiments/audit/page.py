"""The audit's page: one table and its figures in one file that needs nothing else."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.audit.figures import COLOURS, figures
from kdjax.audit.audit import RULE
from kdjax.audit.finding import Finding
from kdjax.files import write_whole

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid #ddd; padding: .4em .6em;
text-align: left; vertical-align: top }
td.verdict { color: white; font-weight: 600; text-align: center; white-space: nowrap }
figure { display: inline-block; margin: 1em 1em 1em 0 } figure img { max-width: 100% }
p.rule { border-left: 4px solid #999; padding-left: .8em } code { background: #f3f3f3; padding: 0 .2em }
"""


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
    images = "\n".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for name, png in figures(findings).items()
    )
    listed = "".join(f"<li>{escape(str(k))}: <code>{escape(str(v))}</code></li>" for k, v in facts.items())
    write_whole(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><ul>{listed}</ul><p><b>{escape(verdict_line(findings))}</b></p>"
        f'<p class="rule">{escape(RULE)}</p><table><tr><th></th><th>check</th><th>verdict</th>'
        f"<th>what was measured</th><th>remedy</th></tr>{rows}</table><h2>Figures</h2>{images}</html>\n",
    )

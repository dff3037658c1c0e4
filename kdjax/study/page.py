"""The page of a run: one HTML file that needs nothing else, with what was run, what came out, and the networks."""

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from kdjax.files import write_whole

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 82em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em; overflow-wrap: anywhere } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } td, th { border-bottom: 1px solid #ddd; padding: .35em .6em; text-align: left;
vertical-align: top } th { font-weight: 600 } img { max-width: 100% } figure { margin: 1em 0 }
.wide { overflow-x: auto } .numbers td { text-align: right; font-variant-numeric: tabular-nums }
.numbers td:first-child, .numbers th { text-align: left } .numbers :is(td, th) { padding: .35em .45em }
code { background: #f3f3f3; padding: 0 .2em;
overflow-wrap: anywhere } td.verdict { color: white; font-weight: 600; text-align: center; white-space: nowrap }
p.rule { border-left: 4px solid #999; padding-left: .8em } .side { display: flex; flex-wrap: wrap; gap: 1.5em }
.numbers { font-size: .93em } .numbers th { vertical-align: bottom }
.confusion td, .confusion th { padding: .15em .3em; min-width: 1.6em; text-align: center; border: 0; font-size: .85em }
.picture { width: 48px; min-width: 48px; image-rendering: pixelated }
@media (max-width: 800px) {
  table[data-stacked] th { display: none } table[data-stacked] :is(tr, td) { display: block; text-align: left }
  table[data-stacked] tr { border-bottom: 1px solid #ddd; padding: .5em 0 }
  table[data-stacked] td { border: 0; padding: .1em .3em; white-space: normal; overflow-wrap: anywhere }
  table[data-stacked] td:empty { display: none } table[data-stacked] td:first-child { font-weight: 600 }
  table[data-stacked] td:not(:first-child, .verdict)::before { content: attr(data-head) ": "; color: #666 }
}
"""
FIGURES = {"curves": "Learning curves", "comparison": "Test accuracy, seed by seed"}
RESULTS = "results.json"  # written last, when the page is there
FILES = (
    "audit.html",
    "table.md",
    RESULTS,
    "provenance.json",
    "config.json",
    "metrics.jsonl",
    "seconds.jsonl",
    "log.txt",
)


def document(title: str, body: str) -> str:
    """A whole HTML document in the look of all pages."""
    stacked = re.sub("<table(?! class=.confusion).*?</table>", _stacked, body, flags=re.DOTALL)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{stacked}</html>\n"
    )


def _stacked(table: re.Match[str]) -> str:
    """A table whose cells know their column's head, so that a narrow screen can show each row as a list."""
    heads = [re.sub("<.*?>", "", head) for head in re.findall(r"<th\b[^>]*>(.*?)</th>", table[0], flags=re.DOTALL)]

    def row(cells: re.Match[str]) -> str:
        columns = iter(heads)
        return re.sub(r"<td\b", lambda _: f'<td data-head="{next(columns)}"', cells[0])

    return re.sub(r"<tr>.*?</tr>", row, table[0].replace("<table", "<table data-stacked", 1), flags=re.DOTALL)


def embedded(png: bytes, name: str, *, css: str = "") -> str:
    """A picture inside of the page."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img class="{css}" alt="{escape(name)}" src="{source}">'


def facts(known: dict[str, Any]) -> str:
    """A list of names and values."""
    return "<ul>" + "".join(f"<li>{escape(k)}: <code>{escape(str(v))}</code></li>" for k, v in known.items()) + "</ul>"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, css: str = "numbers") -> str:
    """A table; its cells are HTML."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return f'<div class="wide"><table class="{css}"><tr>' + "</tr><tr>".join(lines) + "</tr></table></div>"


def of_run(workdir: Path, text: str, networks: str = "") -> None:
    """Write `report.html` from the files of a run.

    Args:
        workdir: its provenance.json and its figures.
        text: its table, Markdown.
        networks: HTML, of `networks.shown`; empty where a run says nothing of its networks.
    """
    from markdown_it import MarkdownIt

    source: dict[str, Any] = json.loads((workdir / "provenance.json").read_text())
    commit = (source["commit"] or "installed package") + (" and changes" if source["dirty"] else "")
    versions = ", ".join(f"{name} {number}" for name, number in source["versions"].items() if number)
    known = {
        "command": source["command"],
        "commit": commit,
        "device": f"{source['devices']} {source['device']}",
        "seconds": source["seconds"],
        "seeds": ", ".join(map(str, source["seeds"])),
        "versions": versions,
    }
    table = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    table = table.replace("<table>", '<div class="wide"><table class="numbers">').replace("</table>", "</table></div>")
    figures = "".join(
        f"<figure><figcaption>{escape(FIGURES.get(file.stem, file.stem))}</figcaption>"
        f"{embedded(file.read_bytes(), file.stem)}</figure>"
        for file in sorted(workdir.glob("*.png"), key=lambda file: (file.stem not in FIGURES, file.stem))
    )
    files = ", ".join(f'<a href="{name}">{name}</a>' for name in FILES if name == RESULTS or (workdir / name).exists())
    body = f"{facts(known)}<h2>Results</h2>{table}"
    body += f"<h2>Figures</h2>{figures}" if figures else ""
    body += networks + f"<h2>Files</h2><p>{files}</p>"
    write_whole(workdir / "report.html", document(_title(source["command"]), body))


def _title(command: str) -> str:
    words = command.split()
    return words[2] if words[:2] == ["python", "-m"] and len(words) > 2 else command

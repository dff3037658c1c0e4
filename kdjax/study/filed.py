"""Results in the documentation: a finished run is copied into a folder, and one page shows every such folder.

    python -m kdjax.study.filed runs/regression docs/results/regression
    python -m kdjax.study.filed docs/results/regression --run experiments.regression --workdir=runs/regression
    python -m kdjax.study.filed docs/results

The first copies what says what was found and how: table.md, results.json, provenance.json and the figures, all of them
or none, and writes the page anew. The second runs the study before. The third writes the page alone, after a folder was
taken away.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.files import write_whole
from kdjax.study import tool
from kdjax.types import BadInput

FILES = ("table.md", "results.json", "provenance.json")
MARK = "<!-- filed results: written by kdjax.study.filed, below this line nothing by hand -->"
"""What follows this line of the page is written from the folders."""


def file(run: Path, into: Path) -> None:
    """Copy a finished run's results into a folder of the documentation, in place of those there, and write the page.

    Args:
        run: a run's workdir.
        into: the folder, beside the page README.md.

    Raises:
        BadInput: the run is not finished, was a smoke run, was not made by one commit, or names a folder of one
            machine in its command; the page is not there; or the folder holds anything that no run left.
    """
    head(into.parent / "README.md", MARK)
    missing = [name for name in FILES if not (run / name).is_file()]
    if missing:
        raise BadInput(f"{run}: {', '.join(missing)} is missing; accepted: the workdir of a run that is finished.")
    refuse_unfounded(run)
    chosen = [*(run / name for name in FILES), *sorted(run.glob("*.png"))]
    kept = [p.name for p in into.iterdir() if p.name not in FILES and p.suffix != ".png"] if into.exists() else []
    if kept:
        raise BadInput(f"{into}: holds {', '.join(sorted(kept))}; accepted: a new folder, or one of filed results.")
    part, old = into.with_name(f".{into.name}.part"), into.with_name(f".{into.name}.old")
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        part.mkdir()
        for one in chosen:
            write_whole(part / one.name, one.read_bytes())
        if into.exists():
            into.rename(old)
        part.rename(into)
    finally:
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)
    write_page(into.parent)


def refuse_unfounded(run: Path) -> None:
    """Refuse a run of which nobody could say what made it, or make it again.

    Raises:
        BadInput: its provenance.json has no commit, or one that the code differed from; or its command is a smoke
            run's, or names a folder from the root.
    """
    told, where = _provenance(run), run / "provenance.json"
    if not told.get("commit"):
        raise BadInput(f"{where}: commit is {told.get('commit')}; accepted: a run from a checkout of this project.")
    if told.get("dirty") is not False:
        raise BadInput(f"{where}: dirty is {told.get('dirty')}; accepted: false, a run of code as it was committed.")
    words = shlex.split(told.get("command", ""))
    if not words or "--smoke" in words:
        raise BadInput(f"{where}: command is {told.get('command')!r}; accepted: a command without --smoke.")
    rooted = [word for word in words[1:] if word.rpartition("=")[2].startswith(("/", "~"))]
    if rooted:
        raise BadInput(f"{where}: command has {rooted[0]}; accepted: paths that another machine has, as runs/NAME.")


def head(page: Path, mark: str) -> str:
    """What a page says before the line from which on it is written from files.

    Raises:
        BadInput: there is no page, or no such line in it.
    """
    text = page.read_text() if page.is_file() else ""
    if mark not in text.splitlines():
        raise BadInput(f"{page}: is missing, or has no line {mark!r}; accepted: a page that has it.")
    return text[: text.index(mark)]


def page(results: Path) -> str:
    """The page of all filed results: what stands above the line by hand, and a section for each folder in turn."""
    folders = sorted(p.parent for p in results.glob("[!.]*/provenance.json"))
    sections = [line for folder in folders for line in _section(folder)] or ["No run has been filed yet."]
    return "\n".join([f"{head(results / 'README.md', MARK)}{MARK}", "", *sections]).rstrip("\n") + "\n"


def write_page(results: Path) -> None:
    """Write the page anew."""
    write_whole(results / "README.md", page(results))


def _section(folder: Path) -> Iterator[str]:
    told, name = _provenance(folder), folder.name
    seeds, versions = told["seeds"], told["versions"]
    yield from (f"## {name}", "", "```sh", told["command"], "```", "")
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed"
    devices = f"{told['devices']} x {told['device']}"
    made = ", ".join(f"{package} {number}" for package, number in versions.items() if package != "kdjax")
    yield f"{count}, {told['seconds']:,.0f} seconds on {devices}; commit `{told['commit'][:12]}`; {made}."
    yield from ("", (folder / "table.md").read_text().strip("\n"), "")
    for figure in sorted(folder.glob("*.png")):
        yield from (f"![{name}: {figure.stem}]({name}/{figure.name})", "")
    yield from ("Files: " + ", ".join(f"[{one}]({name}/{one})" for one in FILES) + ".", "")


def _provenance(folder: Path) -> Mapping[str, Any]:
    path = folder / "provenance.json"
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: is not JSON ({error}); accepted: what a run wrote.") from None


def run(command: Sequence[str], into: Path) -> int:
    """Run a study and file it.

    Args:
        command: an experiment's module and its flags, `--workdir` among them.
        into: the folder, beside the page README.md.

    Returns: the study's exit code; nothing is filed where it is not 0.

    Raises:
        BadInput: no experiment, or no --workdir; as `file`.
    """
    name, *flags = command or [""]
    places = [flag.partition("=")[2] for flag in flags if flag.startswith("--workdir=")]
    if not name.startswith("experiments.") or not places or not places[-1]:
        raise BadInput(f"--run {shlex.join(command)}; accepted: experiments.NAME and its flags, with --workdir=FOLDER.")
    head(into.parent / "README.md", MARK)
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if code == 0:
        file(Path(places[-1]), into)
    return code


def main(argv: Sequence[str]) -> int:
    """File a run, run a study and file it, or write the page alone; the exit code."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="[RUN] FOLDER")
        parser.add_argument("--run", nargs=argparse.REMAINDER, help="experiments.NAME --flag=value ..., run before")

    def act(given: argparse.Namespace) -> int | None:
        most = 2 if given.run is None else 1
        if len(given.paths) > most:
            words = " ".join(map(str, given.paths))
            accepted = "RUN docs/results/NAME, or docs/results" if most == 2 else "docs/results/NAME --run COMMAND"
            raise BadInput(f"{words}: {len(given.paths)} paths; accepted: {accepted}")
        if given.run is not None:
            return run(given.run, *given.paths)
        return file(*given.paths) if len(given.paths) == 2 else write_page(*given.paths)

    return tool.run("kdjax.study.filed", __doc__, add, act, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The leaderboard of students: one file a student, made of a filed run, and one page of all of them.

    python -m kdjax.study.leaderboard docs/results/robust-mnist
    python -m kdjax.study.leaderboard docs/results/robust-mnist --audit=runs/audit-rslad
    python -m kdjax.study.leaderboard docs/results

The first writes docs/results/leaderboard/NAME-STUDENT.json for every student of a filed run of `experiments.robust`,
and the page docs/results/leaderboard.md; the second also what an audit of one of them found; the third writes the page
alone.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from kdjax.files import to_json, write_whole
from kdjax.study import tool
from kdjax.study.filed import head, refuse_unfounded
from kdjax.study.methods import slug
from kdjax.study.report import spread
from kdjax.types import BadInput

MARK = "<!-- rows: written by kdjax.study.leaderboard, below this line nothing by hand -->"
"""What follows this line of the page is written from the rows."""
Row = dict[str, Any]
Scored = tuple[Sequence[Mapping[str, Any]], Sequence[int]]
"""A student's scores, and the seeds that they are of."""
LARGE = ("clean", "teacher")
"""The runs of experiments.robust that are of --teacher's network, whether or not a student asks it."""
HEADS = ("student", "learns from", "parameters", "bytes", "ms an image", "clean %", "under PGD %", "worst %", "audit")


def rows(study: Path, audits: Sequence[Path] = ()) -> dict[str, Row]:
    """Every student of a filed run: its networks but the teacher and the same network on clean images. By file name.

    Args:
        study: a folder of filed results.
        audits: folders of finished audits, each of one of the run's networks.

    Raises:
        BadInput: nobody could say what made the run or an audit; the run has fewer than 5 seeds or no scores under
            PGD, or its command does not say data, student and radius; an audit is of another network or threat.
    """
    refuse_unfounded(study)
    told, results = _read(study / "provenance.json"), _read(study / "results.json")
    said, arms = _flags(told["command"]), results.get("arms", {})
    missing = [f"--{name}" for name in ("dataset", "student", "epsilon") if name not in said]
    if missing:
        raise BadInput(f"{study}: its command has no {missing[0]}=; accepted: a command that says it.")
    students = {name: results[name] for name, arm in arms.items() if arm["run"] not in LARGE}
    for name in students:
        if len(seeds := arms[name]["seeds"]) < 5:
            raise BadInput(f"{study}: {name} has {len(seeds)} seeds; accepted: 5 or more.")
    theirs = {name: [] for name in students}
    for folder in audits:
        name, found = _audited(folder, {name: (scores, arms[name]["seeds"]) for name, scores in students.items()})
        if (found["norm"], found["epsilon"]) != ("linf", _number(said["epsilon"])):
            threat = f"{found['norm']} {found['epsilon']:g}"
            raise BadInput(f"{folder}: its threat is {threat}; accepted: linf {said['epsilon']}, as in the run.")
        theirs[name].append(found)
    shared = {
        "study": study.name,
        "network": said["student"],
        "dataset": said["dataset"],
        "norm": "linf",
        "epsilon": said["epsilon"],
        "command": told["command"],
        "commit": told["commit"],
        "device": f"{told['devices']} x {told['device']}",
    }
    return {
        f"{study.name}-{slug(name)}.json": {
            **shared,
            "student": name,
            "learns from": arms[name]["source"],
            "seeds": arms[name]["seeds"],
            **_scores(f"{study}: {name}", scores),
            "audits": theirs[name],
        }
        for name, scores in students.items()
    }


def _scores(what: str, scores: Sequence[Mapping[str, Any]]) -> Row:
    """A student's numbers, seed by seed."""
    attacks = [key.removesuffix(": by class") for key in scores[0] if key.endswith(": by class")]
    pgd = next((attack for attack in attacks if attack.startswith("pgd")), None)
    if pgd is None:
        raise BadInput(f"{what} has no scores under PGD; accepted: a run of experiments.robust with pgd.")
    return {
        "parameters": scores[0]["parameters"],
        "bytes": scores[0]["bytes"],
        "milliseconds": [s["ms an image"] for s in scores],
        "clean": [s["accuracy"] for s in scores],
        "attacks": attacks,
        "pgd": [s[pgd] for s in scores],
        "worst": [min(s[attack] for attack in attacks) for s in scores],
    }


def page(results: Path) -> str:
    """The page: what stands above the line by hand, and a table for each data set and radius."""
    text = [head(results / "leaderboard.md", MARK) + MARK, ""]
    groups: dict[tuple[str, str], list[Row]] = {}
    for file in sorted((results / "leaderboard").glob("*.json")):
        row = _read(file)
        groups.setdefault((row["dataset"], f"{row['norm']} {row['epsilon']}"), []).append(row)
    for (dataset, threat), group in sorted(groups.items()):
        group.sort(key=lambda row: (-fmean(row["worst"]), -fmean(row["clean"]), row["student"]))
        text += [f"## {dataset}, {threat}", "", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
        text += [f"| {' | '.join(_cells(row))} |" for row in group]
        for study in sorted({row["study"] for row in group}):
            one = next(row for row in group if row["study"] == study)
            attacks = ", ".join(f"`{attack}`" for attack in one["attacks"])
            words = f"{len(one['seeds'])} seeds on {one['device']}; attacks: {attacks}"
            text += ["", f"[{study}]({study}/results.json), {words}; commit `{one['commit'][:12]}`:", ""]
            commands = [a["command"] for row in group if row["study"] == study for a in row["audits"]]
            text += ["```sh", one["command"], *dict.fromkeys(commands), "```"]
        text += [""]
    return "\n".join(text).rstrip("\n") + "\n"


def _cells(row: Row) -> Iterator[str]:
    yield f"{row['student']}: {row['network']}"
    yield row["learns from"]
    yield from (f"{row[name]:,}" for name in ("parameters", "bytes"))
    yield spread(row["milliseconds"], digits=3)
    yield from (spread(row[name], scale=100, digits=1) for name in ("clean", "pgd", "worst"))
    yield "; ".join(f"seed {one['seed']}: {one['verdict']}" for one in row["audits"]) or "not audited"


def _audited(
    folder: Path, students: Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[int]]]
) -> tuple[str, Row]:
    """Which student an audit was of, by the checksum of its variables, and what it found."""
    refuse_unfounded(folder)
    told, found = _read(folder / "provenance.json"), _read(folder / "results.json")
    if "subject" not in found:
        raise BadInput(f"{folder}: does not say which network it audited; accepted: a run of experiments.audit on one.")
    subject = found.pop("subject")
    same = [
        (name, seed)
        for name, (scores, seeds) in students.items()
        for s, seed in zip(scores, seeds, strict=True)
        if s.get("checksum") == subject["checksum"]
    ]
    if not same:
        raise BadInput(f"{folder}: no student of the run is the network that it audited; accepted: one of its own.")
    checks = {id: one["verdict"] for id, one in found.items() if "verdict" in one}  # beside what else the file says
    by = {kind: [id for id, said in checks.items() if said == kind] for kind in ("PASS", "FLAG", "FAIL")}
    verdict = f"{len(by['PASS'])} PASS" + "".join(
        f", {len(ids)} {kind} ({', '.join(ids)})" for kind, ids in by.items() if ids and kind != "PASS"
    )
    (name, seed), *_ = same
    return name, {**subject, "seed": seed, "verdict": verdict, "command": told["command"], "commit": told["commit"]}


def _flags(command: str) -> dict[str, str]:
    """The values of a command's flags."""
    typed = (word[2:].partition("=") for word in shlex.split(command) if word.startswith("--"))
    return {name: value for name, _, value in typed}


def _number(text: str) -> float:
    """A radius, which may be typed as 8/255."""
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: cannot be read ({error}); accepted: what a finished run wrote.") from None


def write(study: Path, audits: Sequence[Path] = ()) -> None:
    """Write the rows of a filed run in place of those there, and the page."""
    folder, found = study.parent / "leaderboard", rows(study, audits)
    head(study.parent / "leaderboard.md", MARK)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        if _read(old)["study"] == study.name and old.name not in found:
            old.unlink()
    for name, row in found.items():
        write_whole(folder / name, to_json(row, name, indent=2) + "\n")
    write_page(study.parent)


def write_page(results: Path) -> None:
    """Write the page anew."""
    write_whole(results / "leaderboard.md", page(results))


def main(argv: Sequence[str]) -> int:
    """Write rows and page, or the page alone; the exit code."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, help="docs/results/NAME, or docs/results")
        parser.add_argument("--audit", type=Path, action="append", default=[], help="workdir of a finished audit")

    def act(given: argparse.Namespace) -> None:
        run = (given.folder / "results.json").exists()
        write(given.folder, given.audit) if run else write_page(given.folder)

    return tool.run("kdjax.study.leaderboard", __doc__, add, act, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

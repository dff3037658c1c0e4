"""A run is filed whole or not at all, and only where its provenance says what made it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest

from kdjax.study import filed
from kdjax.types import BadInput
from tests.experiments.scripts import ROOT, SCRIPTS

TOLD = {
    "commit": "0123456789abcdef",
    "dirty": False,
    "command": "python -m experiments.regression --workdir=runs/regression",
    "versions": {"python": "3.11.7", "kdjax": "0.1.0", "jax": "0.10.2"},
    "device": "cpu",
    "devices": 1,
    "seeds": [0, 1, 2],
    "seconds": 82.0,
}
TABLE = "| | RMSE |\n|---|---|\n| teacher | 53.75 ± 0.82 |\n"


def write(path: Path, **changed: object) -> None:
    path.write_text(json.dumps({**TOLD, **changed}))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "regression"
    folder.mkdir(parents=True)
    (folder / "table.md").write_text(TABLE)
    (folder / "results.json").write_text('{"rmse": [53.75]}')
    (folder / "curves.png").write_bytes(b"\x89PNG\r\n")
    (folder / "log.txt").write_text("stays where it is")
    write(folder / "provenance.json")
    return folder


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"# Results\n\nBy hand.\n\n{filed.MARK}\nold words\n")
    return folder


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_is_copied_and_shown(run, results, capsys):
    assert filed.main([str(run), str(results / "diabetes")]) == 0
    there = everything(results)
    copied = {name: (run / name).read_bytes() for name in (*filed.FILES, "curves.png")}
    assert there.keys() == {"README.md", *(f"diabetes/{name}" for name in copied)}
    assert {name: there[f"diabetes/{name}"] for name in copied} == copied
    page = (results / "README.md").read_text()
    assert page.startswith(f"# Results\n\nBy hand.\n\n{filed.MARK}\n\n## diabetes\n")
    assert "old words" not in page
    for said in (TABLE, TOLD["command"], "3 seeds, 82 seconds on 1 x cpu", "`0123456789ab`", "(diabetes/curves.png)"):
        assert said in page


def test_a_later_run_takes_the_place_of_the_one_before(run, results):
    filed.file(run, results / "diabetes")
    filed.file(run, results / "another")
    (run / "curves.png").unlink()
    (run / "table.md").write_text(TABLE.replace("53.75", "52.00"))
    filed.file(run, results / "diabetes")
    page = (results / "README.md").read_text()
    assert page.index("## another") < page.index("53.75") < page.index("## diabetes") < page.index("52.00")
    assert not (results / "diabetes" / "curves.png").exists()
    shutil.rmtree(results / "diabetes")
    assert filed.main([str(results)]) == 0
    assert "## diabetes" not in (results / "README.md").read_text()


def test_a_copy_that_fails_leaves_what_was_filed_before(run, results, monkeypatch):
    filed.file(run, results / "diabetes")
    before, write_whole = everything(results), filed.write_whole
    (run / "table.md").write_text("another table")

    def full(path, content):
        if path.name == "provenance.json":
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(filed, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        filed.file(run, results / "diabetes")
    assert everything(results) == before


def not_finished(run, results):
    (run / "results.json").unlink()


def without_a_commit(run, results):
    write(run / "provenance.json", commit=None, dirty=None)


def from_changed_code(run, results):
    write(run / "provenance.json", dirty=True)


def a_smoke_run(run, results):
    write(run / "provenance.json", command=f"{TOLD['command']} --smoke")


def of_one_machine(run, results):
    write(run / "provenance.json", command="python -m experiments.regression --workdir=/home/me/run")


def damaged(run, results):
    (run / "provenance.json").write_text("{")


def without_a_page(run, results):
    (results / "README.md").unlink()


def beside_what_no_run_left(run, results):
    (results / "diabetes").mkdir()
    (results / "diabetes" / "notes.md").write_text("by hand")


REFUSED = {
    not_finished: "results.json is missing",
    without_a_commit: "commit is None",
    from_changed_code: "dirty is True",
    a_smoke_run: "without --smoke",
    of_one_machine: "--workdir=/home/me/run",
    damaged: "is not JSON",
    without_a_page: "has no line",
    beside_what_no_run_left: "holds notes.md",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda f: f.__name__)
def test_what_cannot_be_trusted_is_refused_and_leaves_nothing(spoil, run, results, capsys):
    spoil(run, results)
    before = everything(results)
    with pytest.raises(BadInput, match=REFUSED[spoil]):
        filed.file(run, results / "diabetes")
    assert filed.main([str(run), str(results / "diabetes")]) == 2
    assert "accepted: " in capsys.readouterr().err
    assert everything(results) == before


def test_the_documentation_shows_what_its_folders_hold():
    results = ROOT / "docs" / "results"
    assert (results / "README.md").read_text() == filed.page(results), f"python -m kdjax.study.filed {results}"
    for told in results.glob("*/provenance.json"):
        filed.refuse_unfounded(told.parent)
        assert list(told.parent.glob("*.png")), told.parent.name


DEVIATION = r"()([\d.]+\d) ± ([\d.]+\d)"
INTERVAL = r"([\d.]+\d)(?:\s+points)?(?:\s+less)?,?(?: 95% interval| \|)?\s*\[[+-]?([\d.]+\d), [+-]?([\d.]+\d)\]"
EARLIER = {("0.18", "0.05", "0.30")}
"""What the page says of earlier code."""


def by_hand():
    return (ROOT / "docs" / "results" / "README.md").read_text().partition(filed.MARK)[0]


def measured(text):
    """Numbers with their standard deviation or interval, without signs."""
    return {(n, *sorted(more, key=float)) for n, *more in re.findall(INTERVAL, text)} | set(re.findall(DEVIATION, text))


def rounded(short, exact):
    return short == exact or (
        "" not in (short, exact) and abs(float(short) - float(exact)) < 0.501 / 10 ** len(short.partition(".")[2])
    )


def test_numbers_in_prose_are_those_of_the_tables():
    tables = measured("".join(file.read_text() for file in (ROOT / "docs" / "results").glob("*/table.md")))
    said = measured(by_hand()) - EARLIER
    assert len(said) > 20
    assert [one for one in said if not any(all(map(rounded, one, row)) for row in tables)] == []


def numbers(scores):
    """Every number in one seed's scores, those of domains and classes too, by its place."""
    for key, value in scores.items():
        if isinstance(value, dict):
            yield from (((key, *place), number) for place, number in numbers(value))
        elif isinstance(value, int | float):
            yield (key,), value


def test_tables_say_what_every_seed_scored():
    said, wrong = 0, []
    for file in (ROOT / "docs" / "results").glob("*/table.md"):
        results = json.loads(file.with_name("results.json").read_text())
        for name, *cells in (line.strip("| ").split(" | ") for line in file.read_text().splitlines()):
            if not isinstance(results.get(name), list):
                continue
            seeds: dict[tuple[str, ...], list[float]] = {}
            for place, number in (one for scores in results[name] for one in numbers(scores)):
                seeds.setdefault(place, []).append(number)
            spreads = [(fmean(x), stdev(x)) for x in seeds.values() if len(x) > 1]
            for shown in (match.groups() for cell in cells if (match := re.fullmatch(DEVIATION[2:], cell))):
                said += 1
                scaled = ((scale * mean, scale * sd) for mean, sd in spreads for scale in (1, 100, 1000))
                if not any(rounded(shown[0], f"{a:.9f}") and rounded(shown[1], f"{b:.9f}") for a, b in scaled):
                    wrong.append((file.parent.name, name, *shown))
    assert said > 1000
    assert wrong == []


def test_minutes_of_the_list_are_those_of_the_runs():
    listed = {}
    for names, minutes in re.findall(r"^\| ([\w, -]+) \| .* \| ([\d, ]+) \|$", by_hand(), re.MULTILINE):
        listed |= dict(zip(names.split(", "), map(int, minutes.split(", ")), strict=True))
    runs = {f.parent.name: json.loads(f.read_text()) for f in (ROOT / "docs" / "results").glob("*/provenance.json")}
    minutes = {name: max(1, round(told["seconds"] / 60)) for name, told in runs.items()}
    assert listed == minutes, "every study has a line in docs/results/README.md, with the minutes of its run"
    told = {}
    for file in SCRIPTS.values():
        for line in re.findall(r"Minutes on two shared cores[^:]*: (.*?)\.", file.read_text().replace("\n", " ")):
            told |= {name: int(number) for name, number in re.findall(r"([\w-]+) (\d+)", line)}
    assert len(told) > 15
    assert told.items() <= minutes.items()


def test_one_command_runs_a_study_and_files_it(run, results, monkeypatch, capsys):
    command, codes = ["experiments.regression", "--seeds=3", f"--workdir={run}"], [1, 0]
    started = []

    def start(words, **how):
        started.append(words)
        return subprocess.CompletedProcess(words, codes.pop(0))

    monkeypatch.setattr(filed.subprocess, "run", start)
    assert filed.main([str(results / "diabetes"), "--run", *command]) == 1
    assert everything(results).keys() == {"README.md"}
    assert filed.main([str(results / "diabetes"), "--run", *command]) == 0
    assert started == 2 * [[sys.executable, "-m", *command]]
    assert (results / "diabetes" / "table.md").read_text() == TABLE
    for wrong in ([], command[:2], ["kdjax.study.filed", command[2]]):
        assert filed.main([str(results / "diabetes"), "--run", *wrong]) == 2
    assert filed.main([str(run), str(results / "diabetes"), "--run", *command]) == 2
    assert "accepted: docs/results/NAME --run COMMAND" in capsys.readouterr().err
    assert len(started) == 2


def test_a_third_path_is_refused_and_nothing_is_written(run, results, capsys):
    assert filed.main([str(run), str(results / "diabetes"), str(results)]) == 2
    assert "3 paths; accepted: RUN docs/results/NAME" in capsys.readouterr().err
    assert not (results / "diabetes").exists()

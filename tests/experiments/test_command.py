"""The command `kdjax`: it starts what `python -m experiments.NAME` starts, and lists it."""

import runpy
import sys
import tomllib

import pytest

import experiments as command
from tests.experiments.scripts import ROOT, SCRIPTS


def test_the_command_starts_every_experiment_with_its_flags_and_lists_them(monkeypatch, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"kdjax": f"{command.__name__}:{command.main.__name__}"}
    assert "experiments*" in project["tool"]["setuptools"]["packages"]["find"]["include"]
    started = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **how: started.append((name, sys.argv[1:], how["run_name"])))
    monkeypatch.setattr(sys, "argv", ["kdjax"])
    for name in SCRIPTS:
        assert command.main([name, "--smoke", "--workdir=runs/x"]) == 0
    flags = ["--smoke", "--workdir=runs/x"]
    assert started == [(f"experiments.{name}", flags, "__main__") for name in SCRIPTS]
    assert command.main([]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert lines.keys() == SCRIPTS.keys()
    assert (
        lines["distill"] == "A teacher, a student trained alone, and the same student distilled, over the same seeds."
    )
    assert command.main(["distil"]) == 2
    assert "no experiment distil;" in (said := capsys.readouterr().err)
    assert said.endswith("did you mean distill?\n")
    assert len(started) == len(SCRIPTS)


@pytest.mark.parametrize("name", ["robust.arms", "__main__", "../distill"])
def test_rooms_are_no_experiments(name):
    assert command.main([name]) == 2

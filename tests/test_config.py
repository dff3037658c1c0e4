"""Flags from a dataclass, JSON, and the claim on a working directory."""

import json
from dataclasses import dataclass

import pytest
from absl import flags

from kdjax import config as configs
from kdjax.config import field
from kdjax.study import service
from kdjax.types import BadInput


@dataclass(frozen=True)
class Config:
    """One field of each kind."""

    workdir: str = field("w", "folder", identity=False)
    name: str = field("adam", "a name", choices=("adam", "sgd"))
    steps: int = field(3, "a count", low=1, smoke=1)
    rate: float = field(0.1, "a number", low=0.0, high=1.0)
    widths: tuple[int, ...] = field((20,), "widths", low=1, smoke=(2,))
    flag: bool = field(False, "yes or no")
    runs: int = field(2, "how many", may_grow=True)
    radii: tuple[float, ...] = field((0.5,), "radii", high=1.0)


def parse(*argv: str) -> Config:
    values = flags.FlagValues()
    configs.define_flags(Config, values)
    values(["program", *argv])
    return configs.from_flags(Config, values)


def test_defaults_and_every_kind_of_flag():
    assert parse() == Config()
    typed = parse("--name=sgd", "--steps=5", "--rate=0.5", "--widths=1200,1200", "--flag", "--workdir=x")
    assert typed == Config("x", "sgd", 5, 0.5, (1200, 1200), True)


def test_a_number_may_be_typed_as_a_division():
    typed = parse("--rate=8/255", "--radii=0.1,8/255, 1 / 4")
    assert (typed.rate, typed.radii) == (8 / 255, (0.1, 8 / 255, 0.25))


def test_smoke_shrinks_what_was_not_typed():
    assert parse("--smoke") == Config(steps=1, widths=(2,))
    assert parse("--smoke", "--steps=7").steps == 7


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--stepz=5", "Did you mean: steps"),
        ("--name=sdg", "sdg: value should be one of <adam|sgd>".replace("|", "\\|")),
        ("--steps=0", "flag --steps=0: 0 is not a positive integer"),
        ("--steps=two", "two"),
        ("--rate=1.5", "1.5"),
        ("--rate=8/4", "--rate=8/4: 2.0"),
        ("--rate=8/0", "division by zero"),
        ("--rate=8/255/2", "--rate=8/255/2"),
        ("--rate=8/", "--rate=8/"),
        ("--steps=8/4", "--steps=8/4"),
    ],
)
def test_a_wrong_flag_is_named(argument, message):
    with pytest.raises(flags.Error, match=message):
        parse(argument)


@pytest.mark.parametrize(
    ("value", "message"),
    [("20,x", "--widths: 'x' is not of type int"), ("20,0", "--widths: 0 is out of range; accepted are values >= 1")],
)
def test_a_wrong_member_of_a_list_is_named(value, message):
    with pytest.raises(BadInput, match=message):
        parse(f"--widths={value}")


@pytest.mark.parametrize("value", ["8/0", "8/2", "a/2", "2/", "nan/1"])
def test_a_wrong_division_of_a_list_is_named(value):
    with pytest.raises(BadInput, match="--radii: "):
        parse(f"--radii=0.1,{value}")


@pytest.mark.parametrize("argument", ["--rate=nan", "--widths="])
def test_what_absl_lets_pass_is_refused(argument):
    with pytest.raises(BadInput, match=argument):
        parse(argument)


def test_flagfile(tmp_path):
    (tmp_path / "f.txt").write_text("--steps=9\n# a comment\n--widths=1,2,3\n")
    assert parse(f"--flagfile={tmp_path / 'f.txt'}") == Config(steps=9, widths=(1, 2, 3))


def test_claim_writes_reads_and_refuses(tmp_path):
    folder = tmp_path / "run"
    assert configs.claim(Config(), folder) == (folder, None)
    assert json.loads((folder / "config.json").read_text())["widths"] == [20]
    there = (folder / "config.json").read_text()
    assert configs.claim(Config(workdir="elsewhere"), folder) == (folder, there)  # where the run lies is not what it is
    with pytest.raises(BadInput) as error:
        configs.claim(Config(steps=4, widths=(30,)), folder)
    assert "--steps: 3 there, 4 now" in str(error.value)
    assert "--widths: [20] there, [30] now" in str(error.value)
    assert "--rate" not in str(error.value)
    assert json.loads((folder / "config.json").read_text())["steps"] == 3


def test_two_values_of_which_the_same_counts_are_one(tmp_path):
    @dataclass(frozen=True)
    class Asks:
        teacher: str = field("runs/a", "who answers", identity=service.identity)

    def claim(text, folder="served"):
        return configs.claim(Asks(text), tmp_path / folder)

    claim("http://127.0.0.1:8000")
    for text in ("https://other.host", "service('http://127.0.0.1:8000', budget=7)"):
        assert claim(text)[1]
    with pytest.raises(BadInput, match=r"--teacher: 'http://127.0.0.1:8000' there, 'runs/a' now"):
        claim("runs/a")
    claim("runs/a", "run")
    with pytest.raises(BadInput, match="there, 'http://one' now"):
        claim("http://one", "run")


def test_what_may_grow_grows_and_nothing_else_does(tmp_path):
    two = configs.as_json(Config())
    configs.claim(Config(), tmp_path)
    assert configs.claim(Config(runs=5), tmp_path) == (tmp_path, two)
    assert json.loads((tmp_path / "config.json").read_text())["runs"] == 5
    with pytest.raises(BadInput, match=r"--runs: 5 there, 4 now \(it may only grow\)"):
        configs.claim(Config(runs=4), tmp_path)
    with pytest.raises(BadInput, match=r"--steps: 3 there, 4 now\n"):
        configs.claim(Config(runs=6, steps=4), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["runs"] == 5


@pytest.mark.parametrize("content", ["[1]", "3", '{"runs": "many"}', "{}"])
def test_a_config_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadInput, match="workdir="):
        configs.claim(Config(), tmp_path)


def test_claim_on_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match=r"--workdir=.*file/run.*cannot be written"):
        configs.claim(Config(), tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["~nobody_has_this_home", "a" * 300])
def test_a_folder_that_no_file_system_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=rf"--workdir: '{name}' cannot be a path \(.*\); accepted"):
        configs.folder(name)


def test_an_empty_workdir_is_not_the_current_folder():
    with pytest.raises(BadInput, match="--workdir= is empty"):
        configs.claim(Config(), "")


def test_claim_on_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="is not JSON"):
        configs.claim(Config(), tmp_path)

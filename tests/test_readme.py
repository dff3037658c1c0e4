"""Every command of the README can be typed one after another: flags that exist, and a folder for each."""

import re
import shlex

import pytest
from absl import flags

from kdjax import config as configs
from tests.experiments.scripts import ROOT, SCRIPTS, module


def commands(text):
    """The argument lists of all `python -m experiments.NAME ...`, in code blocks, indented or between backticks."""
    lines = re.sub(r"\\\n\s*", "", text)
    blocks = re.findall(r"```sh\n(.*?)```", lines, re.DOTALL)
    inline = re.findall(r"(?<!`)`(python -m experiments[^`]*)`(?!`)", re.sub(r"```.*?```", "", lines, flags=re.S))
    indented = re.findall(r"^    (.*python -m experiments.*)$", lines, re.MULTILINE)
    for line in [line for block in blocks for line in block.splitlines()] + inline + indented:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if "-m" in words and words[words.index("-m") + 1].startswith("experiments."):
                at = words.index("-m") + 1
                yield words[at].removeprefix("experiments."), words[at + 1 :]


def config(name, arguments):
    kind, values = module(name).Config, flags.FlagValues()
    flags.DEFINE_flag(flags.BooleanFlag("help", False, ""), values)
    configs.define_flags(kind, values)
    assert values(["program", *arguments]) == ["program"], f"{name}: not flags alone"
    return configs.from_flags(kind, values)


@pytest.mark.parametrize("file", [ROOT / "README.md", *SCRIPTS.values()], ids=lambda f: str(f.relative_to(ROOT)))
def test_every_command_has_flags_that_exist_and_a_folder_of_its_own(file, tmp_path, monkeypatch):
    found = [(name, arguments) for name, arguments in commands(file.read_text()) if "..." not in arguments]
    assert found, f"{file} shows no command"
    made = [config(*one) for one in found]
    monkeypatch.chdir(tmp_path)
    for one in made:
        configs.claim(one, one.workdir)


def test_every_experiment_is_in_the_readme():
    assert {name for name, _ in commands((ROOT / "README.md").read_text())} == SCRIPTS.keys()


def test_the_library_is_used_as_the_readme_shows():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["found"].queries.shape == (4,)
    assert names["metrics"].keys() >= {"loss", "distillation"}

"""Every experiment that a command starts: its name, its file and its module."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from kdjax import config as configs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments"


def is_script(file: Path) -> bool:
    """Whether a file is started by a command, and is no room of an experiment."""
    return "command.start(" in file.read_text()


def name(file: Path) -> str:
    """What follows `python -m experiments.`: a folder is started by its `__main__.py`."""
    return ".".join(file.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__main__")


SCRIPTS = {name(file): file for file in sorted(FOLDER.rglob("*.py")) if is_script(file)}


def module(of: str) -> ModuleType:
    """The module of an experiment by its name."""
    return importlib.import_module(".".join(SCRIPTS[of].relative_to(ROOT).with_suffix("").parts))


def parsed(kind: type[Any], *argv: str) -> Any:
    """The Config that typed flags make."""
    values = flags.FlagValues()
    flags.DEFINE_flag(flags.BooleanFlag("help", False, ""), values)
    configs.define_flags(kind, values)
    values(["program", *argv])
    return configs.from_flags(kind, values)

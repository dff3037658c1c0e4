"""Importing starts no device: a program may still choose its platform, and a shell answers --help at once."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = """
import importlib, sys
from jax._src.xla_bridge import backends_are_initialized

for name in sys.argv[1:]:
    importlib.import_module(name)
    assert not backends_are_initialized(), f"importing {name} starts a device"
"""


def test_importing_any_module_starts_no_device():
    """Of the library and of every experiment, in one process."""
    files = sorted(f for folder in ("kdjax", "experiments") for f in (ROOT / folder).rglob("*.py"))
    names = [str(f.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__") for f in files]
    assert len(names) > 200
    assert {"kdjax.fitting", "experiments.distill", "experiments.attack.__main__"} <= set(names)
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_environment_of_the_documentation_has_what_every_module_imports():
    """Its reference imports all of them."""
    imported = set()
    for file in (ROOT / "kdjax").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    always = named([*project["dependencies"], project["name"]])
    needed = {extra for extra, packages in extras.items() if (named(packages) - always) & imported}
    assert "service" in needed
    assert needed <= named(re.sub(r"kdjax\[(.*)\]", r"\1", extras["docs"][0]).split(","))


def named(packages):
    return {re.match(r"[\w-]+", one).group() for one in packages}

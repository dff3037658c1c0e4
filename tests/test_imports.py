"""Importing starts no device: a program may still choose its platform, and a shell answers --help at once."""

import subprocess
import sys
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

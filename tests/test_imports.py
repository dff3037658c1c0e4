"""Importing kdjax starts no device: a program may still choose its platform, and a shell answers --help at once."""

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
    files = sorted((ROOT / "kdjax").rglob("*.py"))
    names = [str(f.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__") for f in files]
    assert len(names) > 50
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

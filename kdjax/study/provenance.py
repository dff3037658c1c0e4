"""Where results come from: the code, the command, the versions, the devices, the seeds and the time."""

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

BEGUN = time.monotonic()
"""When this process loaded the study: `seconds` counts from here."""
ROOT = Path(__file__).parents[2]
PACKAGES = ("kdjax", "jax", "jaxlib", "flax", "optax", "numpy")


def provenance(workdir: Path, arms: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> dict[str, Any]:
    """What made the results in a folder, of which `config.json` says the flags.

    Args:
        workdir: the folder.
        arms: its networks as data: whoever attacks those of another run has seeds of theirs, and none of its own.

    Returns:
        `commit` (null where the package is installed and no checkout) and `dirty`, whether a tracked file differs from
        it; `command`; `versions`; `device` and `devices`, their kind and number; `seeds`, by number; `seconds` of this
        process, which is less than all of them where it went on with what another began.
    """
    return {
        **commit(ROOT),
        "command": shlex.join(_command()),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "seeds": _seeds(workdir, arms),
        "seconds": round(time.monotonic() - BEGUN, 1),
    }


def commit(root: Path) -> dict[str, Any]:
    """The commit of a checkout, and whether it was changed; null where the folder is no checkout of this project."""
    try:
        _git(root, "ls-files", "--error-unmatch", "kdjax/__init__.py")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _command() -> list[str]:
    script = Path(sys.argv[0]).resolve()
    if not script.is_relative_to(ROOT / "experiments"):
        return sys.argv
    module = ".".join(script.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    return ["python", "-m", module, *sys.argv[1:]]


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _seeds(workdir: Path, arms: Mapping[str, Mapping[str, Any]]) -> list[int]:
    try:
        config: Mapping[str, Any] = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError):
        config = {}
    if "seeds" in config:
        return list(range(int(config["seeds"])))
    return sorted({seed for arm in arms.values() for seed in arm.get("seeds", ())}) or [0]

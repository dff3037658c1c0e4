"""Experiments in processes of their own, as a user starts them.

Most of a short command's time is the import of libraries. So one process per worker imports them once, and each command
runs in a fork of it, which shares nothing with the commands before it.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from tests.experiments.scripts import ROOT

# Not the user's own; shared by these tests, so that a program is compiled once.
CACHE = str(Path(tempfile.gettempdir()) / f"kdjax-test-cache-{os.getuid()}")
SECONDS = 300

# JAX warns of forks since its threads would be missing in them; there are none before its first device is opened.
warnings.filterwarnings("ignore", message=r"os.fork\(\) was called")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "tests.experiments.processes",
        "kdjax.study.supervised",
        "sklearn.metrics",
        "sklearn.datasets",
        "matplotlib.figure",
    ]
)


def start(name: str, *flags: str, **env: str) -> subprocess.Popen[str]:
    """A command that goes on while the test does other things."""
    command = [sys.executable, "-m", f"experiments.{name}", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "KDJAX_CACHE": CACHE, **env}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def call(name: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command and all that it printed. One with an environment of its own imports JAX under it."""
    command = ["python", "-m", f"experiments.{name}", *flags]
    if env:
        process = start(name, *flags, **env)
        out, err = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(command, process.returncode, out, err)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = FORKS.Process(target=_run, args=(name, flags, out, err))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{command}: {err.read_text()}")
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def _run(name: str, flags: tuple[str, ...], out: Path, err: Path) -> None:
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), stream)
    os.chdir(ROOT)
    os.environ["KDJAX_CACHE"] = CACHE
    sys.argv = [f"experiments/{name}.py", *flags]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def smoke(name: str, workdir: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command's `--smoke`, which must end well."""
    done = call(name, "--smoke", f"--workdir={workdir}", *flags, **env)
    assert done.returncode == 0, done.stderr
    return done

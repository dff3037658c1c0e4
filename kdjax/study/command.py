"""What every experiment's command shares: flags, working directory, log, and how it ends."""

import logging
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from kdjax import config as configs
from kdjax.files import FULL, LOCK, LOST, NotSaved, locked, write_whole
from kdjax.training.stop import Interrupted
from kdjax.types import BadInput, Diverged

log = logging.getLogger("kdjax.experiments")


def start(config_class: type[Any], body: Callable[[Any, Path], None]) -> None:
    """Parse flags, claim the working directory, and run `body(config, workdir)`.

    What is not a success ends with one line on stderr and an exit code: 2 bad input, 3 a number that is not finite,
    4 no room to write, 130 Ctrl-C, 143 SIGTERM.
    """
    configs.define_flags(config_class)

    def main(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise BadInput(f"unexpected argument {argv[1]!r}; accepted are flags only, such as --workdir=DIR.")
            _refuse_other_bytes(sys.argv)
            config = configs.from_flags(config_class)
            with locked(workdir := configs.folder(config.workdir)):
                if flags.FLAGS["smoke"].value and not flags.FLAGS["workdir"].present:
                    _empty(workdir)  # or a second smoke run would find all done
                with _claimed(config, workdir):
                    _log_to(workdir / "log.txt")
                    # Compiled programs are kept between runs; the second start of an experiment skips compilation.
                    cache = Path(os.environ.get("KDJAX_CACHE", "~/.cache/kdjax")).expanduser()
                    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
                    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
                    # A cache that cannot be written, or was written in part, costs time and no result.
                    warnings.filterwarnings(
                        "ignore", message="Error (reading|writing) persistent compilation cache entry"
                    )
                    log.info("%s", " ".join(sys.argv))
                    log.info("jax %s on %d %s", jax.__version__, jax.device_count(), jax.devices()[0].device_kind)
                    _compare_devices(workdir)
                    body(config, workdir)
        except Diverged as error:  # some is bad input too
            _fail(error, 3)
        except BadInput as error:
            _fail(error, 2)
        except NotSaved as error:
            _fail(error, 4)
        except OSError as error:
            if error.errno not in LOST:
                raise
            _fail(NotSaved(str(error.filename or "a file"), str(error.strerror)), 4)
        except Interrupted as error:
            print(error.message, file=sys.stderr)
            raise
        except KeyboardInterrupt:
            print("Ctrl-C; the same command goes on from what is saved", file=sys.stderr)
            sys.exit(130)

    app.run(main)


def _refuse_other_bytes(argv: Sequence[str]) -> None:
    """The command is written into the run's JSON and its page, which are UTF-8."""
    for text in argv:
        if re.search("[\ud800-\udfff]", text):
            raise BadInput(f"{text!r} is not UTF-8; accepted: names that are")


@contextmanager
def _claimed(config: Any, workdir: Path) -> Iterator[None]:
    """Hold the folder for a config; a mistake found before any training leaves the folder as it was."""
    file, results = workdir / "config.json", workdir / "results.json"
    _, before = configs.claim(config, workdir)
    found = results.read_bytes() if results.exists() else b""
    grown = before is not None and before != file.read_text()
    if grown:
        results.unlink(missing_ok=True)  # who looks for a finished teacher finds none until the new seeds are there
    try:
        yield
    except BadInput:
        if before is None and not any(p.name.isdigit() for p in workdir.glob("checkpoints/*/*/*")):
            file.unlink()
        if before is not None and grown:
            write_whole(file, before)
            if found:
                write_whole(results, found)
        raise


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink()


def _fail(error: Exception, code: int) -> None:
    log.debug("stopped", exc_info=error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def _compare_devices(workdir: Path) -> None:
    """Say so where a run goes on on other devices than it began on."""
    note, here = workdir / "devices.txt", f"{jax.device_count()} {jax.devices()[0].device_kind}"
    before = note.read_text().strip() if note.exists() else ""
    if before and before != here:
        log.warning(
            "begun on %s, going on on %s: sums are rounded in another order, and under --parallel=pmap dropout draws "
            "other masks, so the rest is not bit for bit what it would have been", before, here,
        )  # fmt: skip
    write_whole(note, f"{here}\n")


def _quiet_threads(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """TensorStore's threads print an error for each array of a save that failed; it is raised, and said once."""
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)


def _quiet_callbacks(unraisable: Any) -> None:
    """The same, where an answer comes so late that the save's event loop is closed."""
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(unraisable)


def _log_to(file: Path) -> None:
    """Plain lines in a file always; on the screen too, unless it is a terminal with a progress bar."""
    logger = logging.getLogger("kdjax")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    line = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    try:
        handlers = [logging.FileHandler(file), screen]
    except OSError as error:
        if error.errno in FULL:
            raise
        raise BadInput(
            f"--workdir={file.parent}: cannot be written ({error.strerror}); accepted: a folder of yours."
        ) from None
    for handler in handlers:
        handler.handleError = lambda _: None  # a line that a full disk does not take must not end the run
        handler.setFormatter(line)
        logger.addHandler(handler)
    sys.excepthook, sys.unraisablehook = _quiet_threads, _quiet_callbacks
    flags.FLAGS.stderrthreshold = "fatal"  # Orbax logs through absl, a dozen lines a checkpoint
    for noisy in ("absl", "jax", "asyncio", "concurrent.futures", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what they tell as errors is raised, and said once

"""What every experiment's command shares: flags, working directory, log, and how it ends."""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from kdjax import config as configs
from kdjax.training.loop import Diverged, Interrupted
from kdjax.types import BadInput

log = logging.getLogger("kdjax.experiments")


def start(config_class: type[Any], body: Callable[[Any, Path], None]) -> None:
    """Parse flags, claim the working directory, and run `body(config, workdir)`.

    Bad input and divergence end with one line on stderr and exit code 2 and 3; SIGTERM with 143.
    """
    configs.define_flags(config_class)

    def main(argv: list[str]) -> None:
        claimed: Path | None = None
        try:
            if len(argv) > 1:
                raise BadInput(f"unexpected argument {argv[1]!r}; accepted are flags only, such as --workdir=DIR.")
            config = configs.from_flags(config_class)
            if flags.FLAGS["smoke"].value and not flags.FLAGS["workdir"].present:
                shutil.rmtree(config.workdir, ignore_errors=True)  # or a second smoke run would find all done
            workdir, new = configs.claim(config, config.workdir)
            claimed = workdir if new else None
            _log_to(workdir / "log.txt")
            # Compiled programs are kept between runs; the second start of an experiment skips compilation.
            cache = Path(os.environ.get("KDJAX_CACHE", "~/.cache/kdjax")).expanduser()
            jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
            log.info("%s", " ".join(sys.argv))
            log.info("jax %s on %d %s", jax.__version__, jax.device_count(), jax.devices()[0].device_kind)
            _compare_devices(workdir)
            body(config, workdir)
        except BadInput as error:
            # A mistake found before any training does not bind the folder: the corrected command may use it.
            if claimed and not any(p.name.isdigit() for p in claimed.glob("checkpoints/*/*/*")):
                (claimed / "config.json").unlink()
            _fail(error, 2)
        except Diverged as error:
            _fail(error, 3)
        except Interrupted as error:
            print(error.message, file=sys.stderr)
            raise

    app.run(main)


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
    note.write_text(f"{here}\n")


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
        raise BadInput(
            f"--workdir={file.parent}: cannot be written ({error.strerror}); accepted: a folder of yours."
        ) from None
    for handler in handlers:
        handler.setFormatter(line)
        logger.addHandler(handler)
    flags.FLAGS.stderrthreshold = "error"  # Orbax logs through absl, a dozen lines a checkpoint
    for noisy in ("absl", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

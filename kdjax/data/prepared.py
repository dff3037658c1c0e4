"""Which data sets TFDS has prepared on this machine, and what to run for one that it has not."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.data.embedded import EMBEDDED
from kdjax.files import typed_path
from kdjax.types import BadInput, nearest

_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


class Prepared(NamedTuple):
    """One prepared data set: `name` or `name/config`, its version and its folder."""

    name: str
    version: tuple[int, ...]
    folder: Path


def root(data_dir: str) -> Path:
    """`data_dir`, or else `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`, as in TFDS."""
    return typed_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def prepared_sets(data_dir: str) -> list[Prepared]:
    """Every data set prepared in a folder, by name and version."""
    top, found = root(data_dir), []
    for depth in ("*/*", "*/*/*"):
        for info in top.glob(f"{depth}/dataset_info.json"):
            *name, version = info.parent.relative_to(top).parts
            if re.fullmatch(r"\d+\.\d+\.\d+", version):
                found.append(Prepared("/".join(name), tuple(map(int, version.split("."))), info.parent))
    return sorted(found)


def find(dataset: str, data_dir: str) -> Prepared:
    """The newest prepared version of a data set, or the one that `dataset` names.

    Args:
        dataset: `name`, `name/config`, `name:1.2.3` or `name/config:1.2.3`.
        data_dir: see `root`.

    Raises:
        BadInput: it is not there; the message says what to run.
    """
    asked = _NAME.fullmatch(dataset)
    if asked is None:
        raise BadInput(f"dataset={dataset!r}; accepted: digits, NAME, NAME/CONFIG, NAME:1.2.3 or NAME/CONFIG:1.2.3")
    name, config, version = asked["name"], asked["config"], asked["version"]
    every = prepared_sets(data_dir)
    wanted = (f"{name}/{config}",) if config else (name,)
    if not config and all(one.name != name for one in every):
        wanted = tuple({one.name for one in every if one.name.startswith(f"{name}/")})
        if len(wanted) > 1:
            raise BadInput(f"dataset={dataset!r} has several configs; accepted: {', '.join(sorted(wanted))}")
    found = [one for one in every if one.name in wanted]
    if version:
        found = [one for one in found if one.folder.name == version]
    if not found:
        raise BadInput(not_prepared(dataset, data_dir, every))
    return found[-1]


def command(dataset: str, data_dir: str) -> str:
    """The shell command that downloads and prepares a data set."""
    where = json.dumps(str(root(data_dir)))
    code = (
        f"import tensorflow_datasets as tfds; tfds.builder({json.dumps(dataset)}, data_dir={where}, "
        f'file_format="array_record").download_and_prepare()'
    )
    return f"pip install tensorflow && python -c {shlex.quote(code)}"


def not_prepared(dataset: str, data_dir: str, every: list[Prepared]) -> str:
    """What to do about a data set that is not there."""
    here = ", ".join(sorted({one.name for one in every})) or "none"
    known = known_names()
    name = re.split("[/:]", dataset)[0]
    if known and name not in known:
        meant = nearest(name, sorted({*EMBEDDED.names(), *known, *(one.name for one in every)}), most=3)
        return (
            f"dataset={dataset!r} is neither prepared in {root(data_dir)} nor known to TFDS{meant}. "
            f"Prepared there: {here}."
        )
    return (
        f"dataset={dataset!r} is not prepared in {root(data_dir)} (prepared there: {here}). To download and prepare "
        f"it (only this needs TensorFlow), run\n  {command(dataset, data_dir)}"
    )


def known_names() -> list[str]:
    """The data sets that TFDS can prepare; empty if it is not installed. Takes under a tenth of a second."""
    try:
        tfds = package()
    except BadInput:
        return []
    return tfds.list_builders(with_community_datasets=False)


def package() -> Any:
    """The module `tensorflow_datasets`, imported now.

    Raises:
        BadInput: it is not installed, or one of those that it needs.
    """
    try:
        import array_record  # noqa: F401
        import importlib_resources  # noqa: F401
        import tensorflow_datasets
    except ImportError as error:
        raise BadInput(
            f"data sets other than digits need a package that is not installed ({error}); run\n"
            f"  pip install tensorflow-datasets array_record importlib_resources pillow"
        ) from error
    return tensorflow_datasets

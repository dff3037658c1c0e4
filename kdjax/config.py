"""A frozen dataclass becomes absl flags, and JSON; nothing else.

Each field is one flag. `field(default, help, choices=..., low=..., high=...)` says what it means and what is accepted,
so that `--helpfull` is the manual and a wrong value is refused while flags are parsed.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from kdjax.files import FULL, to_json, typed_path, write_whole
from kdjax.types import BadInput

C = TypeVar("C")


def field(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    low: float | int | None = None,
    high: float | int | None = None,
    smoke: Any = dataclasses.MISSING,
    identity: bool | Callable[[Any], Any] = True,
    may_grow: bool = False,
) -> Any:
    """A Config field.

    Args:
        default: its value when the flag is not given; a tuple of numbers becomes a comma-separated flag.
        help: one line for `--helpfull`.
        choices: the accepted names.
        low, high: the accepted range of a number, inclusive.
        smoke: the value under `--smoke`, where it differs.
        identity: False for what does not change results (where files lie): it may differ when a run is resumed. Or
            what of a value changes them: two values of which it says the same are one.
        may_grow: a larger number goes on from what a smaller one left, and ends as if it had begun so.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "smoke": smoke,
        "identity": identity,
        "may_grow": may_grow,
    }
    return dataclasses.field(default=default, metadata=metadata)


def define_flags(config: type[Any], flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define one absl flag per field of a Config class, and `--smoke`."""
    how: dict[str, Any] = {"flag_values": flag_values}
    for f in dataclasses.fields(config):
        name, default, m = f.name, f.default, f.metadata
        text: str = m["help"]
        bounds = {"lower_bound": m["low"], "upper_bound": m["high"]}
        if isinstance(default, bool):
            flags.DEFINE_boolean(name, default, text, **how)
        elif m["choices"]:
            flags.DEFINE_enum(name, str(default), list(m["choices"]), text, **how)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, text, **bounds, **how)
        elif isinstance(default, float):
            parser = _Quotient(**bounds)
            flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer(), **how)
        elif isinstance(default, tuple):
            flags.DEFINE_list(name, [str(x) for x in default], f"{text} (comma-separated)", **how)
        else:
            flags.DEFINE_string(name, str(default), text, **how)
    flags.DEFINE_boolean("smoke", False, "Shrink the run to seconds; its numbers mean nothing.", **how)


def from_flags(config: Callable[..., C], flag_values: flags.FlagValues = flags.FLAGS) -> C:
    """Build the Config from parsed flags; under `--smoke`, fields take their smoke value unless typed.

    Raises:
        BadInput: a member of a comma-separated flag has the wrong type or range.
    """
    values: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value: Any = flag_values[f.name].value
        m = f.metadata
        if flag_values["smoke"].value and m["smoke"] is not dataclasses.MISSING and not flag_values[f.name].present:
            value = m["smoke"]
        elif isinstance(f.default, tuple):
            value = tuple(_number(f.name, x, type(f.default[0]), m["low"], m["high"]) for x in value)
            if not value:
                raise BadInput(
                    f"--{f.name}= is empty; accepted: one or more values, such as {','.join(map(str, f.default))}."
                )
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"--{f.name}={value}; accepted: finite numbers.")
        values[f.name] = value
    return config(**values)


class _Quotient(flags.FloatParser):
    """Numbers, which may be typed as a division: 8/255."""

    def convert(self, argument: Any) -> float:
        return quotient(argument) if isinstance(argument, str) else super().convert(argument)


def quotient(text: str) -> float:
    """A number, or one number divided by another.

    Raises:
        ValueError: another text, or a division by zero.

    >>> quotient("51/255")
    0.2
    """
    over, slash, under = text.partition("/")
    try:
        numbers = float(over), float(under) if slash else 1.0
    except ValueError:
        raise ValueError(f"{text!r} is no number; accepted: a number, or a division such as 8/255") from None
    if not numbers[1]:
        raise ValueError(f"{text!r} is a division by zero")
    return numbers[0] / numbers[1]


def _number(name: str, text: str, kind: type, low: float | int | None, high: float | int | None) -> Any:
    try:
        value = quotient(text) if kind is float else kind(text)
    except ValueError:
        raise BadInput(f"--{name}: {text!r} is not of type {kind.__name__}.") from None
    if not math.isfinite(value) or (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = " and ".join(b for b in (f">= {low}" * (low is not None), f"<= {high}" * (high is not None)) if b)
        raise BadInput(f"--{name}: {value} is out of range; accepted are values {bounds}.")
    return value


def as_json(config: Any) -> str:
    """The Config as JSON, one field a line."""
    return to_json(dataclasses.asdict(config), "config", indent=2) + "\n"


def folder(workdir: str | os.PathLike[str]) -> Path:
    """The folder that `--workdir` names, made if missing.

    Raises:
        BadInput: no folder is named, or it cannot be made.
    """
    if not str(workdir):
        raise BadInput("--workdir= is empty; accepted: a folder, such as runs/mine.")
    try:
        path = typed_path(workdir)
    except BadInput as error:
        raise BadInput(f"--workdir: {error}") from None
    with _writing(workdir):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _writing(workdir: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise BadInput(
            f"--workdir={workdir}: cannot be written ({error.strerror}); accepted: a folder of yours."
        ) from None


def claim(config: Any, workdir: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Make `workdir` this config's own: write config.json, or find the same one there, or one that may grow to it.

    Returns:
        The folder, and what config.json said before; None where there was none.

    Raises:
        BadInput: the folder cannot be written, or holds another config; the message shows each difference.
    """
    path = folder(workdir)
    file, text = path / "config.json", as_json(config)
    before = None
    try:
        with _writing(workdir):
            before = file.read_text() if file.exists() else None
        old = dict(json.loads(text if before is None else before))
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"--workdir={workdir}: its config.json is not JSON ({error}); accepted: a run's folder."
        ) from None
    new, told = json.loads(text), []
    known = {f.name: f.metadata for f in dataclasses.fields(config)}
    for name in sorted(old.keys() | new.keys()):
        was, now, meta = old.get(name, "(absent)"), new.get(name, "(absent)"), known.get(name, {})
        counts = meta.get("identity", True)
        if counts(was) != counts(now) if callable(counts) else counts and was != now:
            grows = meta.get("may_grow", False) and isinstance(was, int | float)
            if not (grows and now > was):
                told.append(f"  --{name}: {was!r} there, {now!r} now" + " (it may only grow)" * grows)
    if told:
        listed = "\n".join(told)
        advice = "Choose another --workdir, or repeat the old flags."
        raise BadInput(f"--workdir={workdir} holds a run with another config:\n{listed}\n{advice}")
    if before is None or any(old[n] != new[n] for n, meta in known.items() if meta.get("may_grow")):
        with _writing(workdir):
            write_whole(file, text)
    return path, before

"""A frozen dataclass becomes absl flags, and JSON; nothing else.

Each field is one flag. `field(default, help, choices=..., low=..., high=...)` says what it means and what is accepted,
so that `--helpfull` is the manual and a wrong value is refused while flags are parsed.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

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
    identity: bool = True,
) -> Any:
    """A Config field.

    Args:
        default: its value when the flag is not given; a tuple of numbers becomes a comma-separated flag.
        help: one line for `--helpfull`.
        choices: the accepted names.
        low, high: the accepted range of a number, inclusive.
        smoke: the value under `--smoke`, where it differs.
        identity: False for what does not change results (where files lie): it may differ when a run is resumed.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "smoke": smoke,
        "identity": identity,
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
            flags.DEFINE_float(name, default, text, **bounds, **how)
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


def _number(name: str, text: str, kind: type, low: float | int | None, high: float | int | None) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise BadInput(f"--{name}: {text!r} is not of type {kind.__name__}.") from None
    if not math.isfinite(value) or (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = " and ".join(b for b in (f">= {low}" * (low is not None), f"<= {high}" * (high is not None)) if b)
        raise BadInput(f"--{name}: {value} is out of range; accepted are values {bounds}.")
    return value


def to_json(config: Any) -> str:
    """The Config as JSON, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def claim(config: Any, workdir: str | os.PathLike[str]) -> tuple[Path, bool]:
    """Make `workdir` this config's own: write config.json, or find the same one there.

    Returns:
        The folder, and whether it was claimed just now.

    Raises:
        BadInput: the folder cannot be written, or holds another config; the message shows each difference.
    """
    if not str(workdir):
        raise BadInput("--workdir= is empty; accepted: a folder, such as runs/mine.")
    path = Path(workdir).expanduser()
    file = path / "config.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        new_claim = not file.exists()
        if new_claim:
            part = path / ".config.json.part"
            part.write_text(to_json(config))
            part.replace(file)
        old = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise BadInput(
            f"--workdir={workdir}: its config.json is not JSON ({error}); accepted: a run's folder."
        ) from None
    except OSError as error:
        raise BadInput(
            f"--workdir={workdir}: cannot be written ({error.strerror}); accepted: a folder of yours."
        ) from None
    new = json.loads(to_json(config))
    place = {f.name for f in dataclasses.fields(config) if not f.metadata.get("identity", True)}
    pairs = {n: (old.get(n, "(absent)"), new.get(n, "(absent)")) for n in sorted((old.keys() | new.keys()) - place)}
    changed = [f"  --{name}: {was!r} there, {now!r} now" for name, (was, now) in pairs.items() if was != now]
    if changed:
        listed = "\n".join(changed)
        advice = "Choose another --workdir, or repeat the old flags."
        raise BadInput(f"--workdir={workdir} holds a run with another config:\n{listed}\n{advice}")
    return path, new_claim

"""Attacks from flags: `pgd:steps=40:random_start=true` becomes an attack with its objective, or one clear error."""

import inspect
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.attacks import catalogue
from kdjax.attacks.combine import restarts
from kdjax.attacks.objectives import Scored
from kdjax.attacks.victims import Victim
from kdjax.data.source import Examples, Source
from kdjax.data.stream import Stream
from kdjax.study import report
from kdjax.types import Attack, BadInput, nearest

# What a colon-separated setting can be, by the type that an attack's signature asks for.
KINDS: dict[type, Callable[[Any], bool]] = {
    bool: lambda v: isinstance(v, bool),
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    str: lambda v: isinstance(v, str),
    tuple: lambda v: isinstance(v, tuple) and all(isinstance(x, int) for x in v),
}


class Named(NamedTuple):
    """An attack as it was typed: `text`, its `name` and `settings`, the objective that it makes small, and restarts.

    One that has no setting `epsilon` searches no ball, but looks for the nearest image that fools.
    """

    text: str
    name: str
    settings: dict[str, Any]
    objective: Callable[..., Scored]
    restarts: int = 1

    def make(self, **more: Any) -> Attack:
        """The attack, run once; of further settings, such as epsilon, it takes those that it has."""
        accepted = _accepted(self.name)
        return catalogue.attack(self.name, **{**{k: v for k, v in more.items() if k in accepted}, **self.settings})

    def repeated(self, attack: Attack) -> Attack:
        """The worst of as many runs as were asked for."""
        return attack if self.restarts == 1 else restarts(attack, self.restarts)

    def has(self, setting: str) -> bool:
        """Whether there is such a setting."""
        return setting in _accepted(self.name)


def named(text: str, *, flag: str, fixed: Mapping[str, str] = {}) -> Named:
    """Read `name:key=value:key=value`; `objective` replaces that of the attack's paper, `restarts` repeats it.

    Args:
        text: as typed.
        flag: that it was typed for, for messages.
        fixed: settings that may not be typed here, and the flags that set them.

    Raises:
        BadInput: an unknown attack, setting or objective, or a value that does not fit.
    """
    try:
        name, settings = catalogue.parse(text)
        objective, count = settings.pop("objective", None), settings.pop("restarts", 1)
        if not KINDS[int](count) or count < 1:
            raise BadInput(f"restarts={count}: accepted are 1 or more.")
        if name not in catalogue.attacks():
            catalogue.attack(name)  # refuses it with the list of those that exist
        objective = catalogue.objective_of(name) if objective is None else str(objective)
        if objective not in catalogue.OBJECTIVES:
            near = nearest(objective, catalogue.OBJECTIVES)
            raise BadInput(f"objective={objective}: accepted are {', '.join(catalogue.OBJECTIVES)}{near}")
        accepted = _accepted(name)
        for key, value in settings.items():
            if key in fixed:
                raise BadInput(f"{key} is the same for all attacks; accepted is {fixed[key]}.")
            if not accepted.get(key):
                typed = [k for k, kinds in accepted.items() if kinds and k not in fixed] + ["objective", "restarts"]
                raise BadInput(f"{key}={value}: accepted for {name} are {', '.join(typed)}{nearest(key, typed)}")
            if tuple in accepted[key] and KINDS[int](value):
                value = settings[key] = (value,)  # a list of one
            if not any(KINDS[kind](value) for kind in accepted[key]):
                raise BadInput(f"{key}={value}: accepted is {' or '.join(kind.__name__ for kind in accepted[key])}.")
        found = Named(text, name, settings, catalogue.OBJECTIVES[objective], count)
        # The radius may come from another flag; every setting that fits some radius fits the whole box.
        found.make(epsilon=1.0, image_shape=(1, 1, 1))
    except BadInput as error:
        raise BadInput(f"--{flag}: {text!r}: {error}") from None
    return found


def several(text: str, *, flag: str, fixed: Mapping[str, str]) -> list[Named]:
    """Read a comma-separated list of attacks.

    Raises:
        BadInput: none, or one that is typed twice, or as `named`.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise BadInput(f"--{flag}={text}: accepted are one or more attacks, each once, such as fgsm,pgd:steps=40.")
    return [named(part, flag=flag, fixed=fixed) for part in parts]


def _accepted(name: str) -> dict[str, list[type]]:
    """An attack's settings, each with the types of values that can be typed for it."""
    found = {}
    for key, parameter in inspect.signature(catalogue.attacks()[name]).parameters.items():
        members = typing.get_args(parameter.annotation) or (parameter.annotation,)
        if typing.get_origin(parameter.annotation) is tuple:
            members = (tuple,)
        found[key] = [kind for m in members if (kind := typing.get_origin(m) or m) in KINDS]
    return found


def first(source: Examples | Source | Stream, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images `[N, H, W, C]`, float32 in [0, 1], and their labels `[N]`; all where there are fewer."""
    rows = source[np.arange(min(count, len(source)))]
    image = rows["image"]
    return image / np.float32(255) if image.dtype == np.uint8 else image, rows["label"]


Scores = dict[str, float | None]
"""One network's numbers by column; None where there is none."""


def table(rows: Mapping[str, Sequence[Scores]], columns: Sequence[str], shares: Container[str]) -> str:
    """A Markdown table of mean and sd over seeds; `shares` are printed in per cent, missing numbers as a dash."""

    def cell(scores: Sequence[Scores], column: str) -> str:
        values = [v for s in scores if (v := s.get(column)) is not None]
        if not values:
            return "–"
        if column in shares:
            return report.spread(values, scale=100, digits=1)
        if 0 < max(values) < 1e-2:
            return f"{np.mean(values):.1e}"
        return report.spread(values, digits=3 if max(values) < 10 else 1)

    heads = [f"{c} %" if c in shares else c for c in columns]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cell(scores, c) for c in columns) + " |" for name, scores in rows.items()]
    return "\n".join(lines)


def answers(victim: Victim, image: np.ndarray, *, chunk: int = 1000) -> np.ndarray:
    """The victim's logits, a chunk at a time, `[N, K]`."""
    return np.concatenate([np.asarray(_ask(victim, image[i : i + chunk])) for i in range(0, len(image), chunk)])


_ask = jax.jit(lambda victim, image: victim(jnp.asarray(image)))

"""Attacks from flags: `pgd(steps=40, random_start=True)` becomes an attack with its objective, or one clear error."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import spec
from kdjax.attacks import catalogue
from kdjax.attacks.catalogue import ATTACKS
from kdjax.attacks.combine import restarts
from kdjax.attacks.objectives import Scored
from kdjax.attacks.victims import Victim
from kdjax.data.source import Examples, Source, unit_interval
from kdjax.data.stream import Stream
from kdjax.spec import Call, Schedule, Set, ends
from kdjax.study import report
from kdjax.types import Attack, BadInput


class Named(NamedTuple):
    """An attack as it was typed: its `call`, the `settings` among its arguments, its objective, and its restarts.

    One that has no setting `epsilon` searches no ball, but looks for the nearest image that fools.
    """

    call: Call
    settings: dict[str, Any]
    objective: Callable[..., Scored]
    restarts: int = 1

    @property
    def text(self) -> str:
        """What was typed, in one way of writing."""
        return str(self.call)

    def make(self, **more: Any) -> Attack:
        """The attack, run once; of further settings, such as epsilon, it takes those that it has.

        Raises:
            BadInput: a setting that the attack refuses.
        """
        try:
            return ATTACKS.find(self.call)(**{**{k: v for k, v in more.items() if self.has(k)}, **self.settings})
        except BadInput as error:
            raise self.call.error(str(error)) from None

    def repeated(self, attack: Attack) -> Attack:
        """The worst of as many runs as were asked for."""
        return attack if self.restarts == 1 else restarts(attack, self.restarts)

    def has(self, setting: str) -> bool:
        """Whether there is such a setting."""
        return setting in ATTACKS.parameters(self.call)


def named(value: str | Call, *, flag: str, fixed: Mapping[str, str] = {}, swept: Container[str] = ()) -> Named:
    """Read `pgd(steps=7, random_start=True)`; `objective` replaces that of the attack's paper, `restarts` repeats it.

    Args:
        value: as typed.
        flag: that it was typed for, for messages.
        fixed: settings that may not be typed here, and the flags that set them.
        swept: settings for which a set may stand.

    Raises:
        BadInput: an unknown attack, setting or objective, or a value that does not fit.

    >>> named("pgd(8/255, steps=7, restarts=2)", flag="attack").settings
    {'epsilon': 0.03137254901960784, 'steps': 7}
    """
    call = spec.call(value, flag=flag)
    settings = ATTACKS.bind(call, beside=_conduct)
    for key, setting in settings.items():
        if key in fixed:
            raise call.error(f"read {key}={setting!r}; accepted: {fixed[key]}, for {key} is the same for all attacks")
        if isinstance(setting, Schedule | Set) and not (isinstance(setting, Set) and key in swept):
            raise call.error(f"read {key}={setting!r} of {call.name}; accepted: one value")
    objective, count = settings.pop("objective", catalogue.objective_of(call.name)), settings.pop("restarts", 1)
    if count < 1:
        raise call.error(f"restarts={count}: accepted are 1 or more.")
    found = Named(call, settings, catalogue.OBJECTIVES[objective], count)
    sets = {key: setting for key, setting in settings.items() if isinstance(setting, Set)}
    for key, setting in sets.items():
        for end in ends(setting):
            found._replace(settings={**settings, key: end}).make()
    if not sets:
        # The radius may come from another flag; every setting that fits some radius fits the whole box.
        found.make(epsilon=1.0)
    return found


def several(text: str, *, flag: str, fixed: Mapping[str, str]) -> list[Named]:
    """Read attacks with commas between them.

    Raises:
        BadInput: none, or one that is typed twice, or as `named`.
    """
    found = [named(call, flag=flag, fixed=fixed) for call in spec.calls(text, flag=flag)]
    for i, one in enumerate(found):
        # pgd(0.1) and pgd(epsilon=0.1) are one.
        if (one.call.name, *one[1:]) in [(earlier.call.name, *earlier[1:]) for earlier in found[:i]]:
            raise one.call.error(f"read {one.text} twice; accepted: one or more attacks, each once")
    return found


def _conduct(objective: Literal["cross_entropy", "dlr", "margin"] = "cross_entropy", restarts: int = 1) -> None:
    """What can be typed of every attack."""


def first(source: Examples | Source | Stream, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images `[N, H, W, C]`, float32 in [0, 1], and their labels `[N]`; all where there are fewer."""
    rows = source[np.arange(min(count, len(source)))]
    return unit_interval(rows["inputs"]), rows["label"]


COUNTS = ("parameters", "bytes")
"""Columns in which all seeds have the same number."""
Scores = dict[str, float | None]
"""One network's numbers by column; None where there is none."""


def table(rows: Mapping[str, Sequence[Scores]], columns: Sequence[str], shares: Container[str]) -> str:
    """A Markdown table of mean and sd over seeds; `shares` are printed in per cent, missing numbers as a dash."""

    def cell(scores: Sequence[Scores], column: str) -> str:
        values = [v for s in scores if (v := s.get(column)) is not None]
        if not values:
            return "–"
        if column in COUNTS:
            return f"{values[0]:,.0f}"
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

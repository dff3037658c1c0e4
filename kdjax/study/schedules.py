"""Schedules of losses' weights and of the temperature, as a flag writes them."""

from collections.abc import Callable, Sequence
from typing import Any

import optax
from jaxtyping import Array

from kdjax.losses import terms
from kdjax.types import BadInput

SYNTAX = "NAME=warmup:FRACTION, NAME=linear:LAST or NAME=cosine:LAST, joined by commas"


def parse(
    text: str, found: Sequence[terms.Term], first: terms.Term | None, steps: int
) -> dict[str, Callable[[Array], Array]]:
    """Factors of hyper-parameters by step, by the hyper-parameter's name.

    Args:
        text: as `SYNTAX` says; NAME is temperature, alpha, a loss, or a loss on one pair of layers.
        found: the losses.
        first: the one that alpha weighs.
        steps: of the run.

    Raises:
        BadInput: another text, a name that is nothing's, a temperature of 0, two schedules of one number.
    """
    answers = any(term.on_logits for term in found)
    known = {"temperature": ["temperature"], "alpha": ["alpha"]} if answers else {}
    for term in found:
        weight = "label_weight" if term.name == terms.LABELS else "alpha" if term is first else f"weight/{term.label}"
        # By its layers, or all terms of a loss at once.
        for name in dict.fromkeys((term.label, term.name)):
            known.setdefault(name, []).append(weight)
    factors: dict[str, Callable[[Array], Array]] = {}
    for part in filter(None, text.split(",")):
        # Labels of terms hold an equals sign of their own.
        name, _, rule = part.rpartition("=")
        kind, _, number = rule.partition(":")
        makers = {
            "warmup": lambda x: optax.linear_schedule(0.0, 1.0, max(round(x * steps), 1)),
            "linear": lambda x: optax.linear_schedule(1.0, x, steps),
            "cosine": lambda x: optax.cosine_decay_schedule(1.0, steps, alpha=x),
        }
        try:
            value = float(number)
            if kind not in makers or not 0 <= value < float("inf") or (kind == "warmup" and value > 1):
                raise ValueError
        except ValueError:
            raise BadInput(f"--schedules={text}: accepted is {SYNTAX}; numbers from 0 up, FRACTION to 1.") from None
        if name not in known:
            raise BadInput(f"--schedules={text}: nothing is called {name!r}; accepted: {', '.join(known)}.")
        if name == "temperature" and (kind == "warmup" or value == 0):
            raise BadInput(f"--schedules={text}: a temperature cannot be 0; accepted: linear or cosine, LAST above 0.")
        if factors.keys() & known[name]:
            raise BadInput(f"--schedules={text}: {name} has a schedule already; accepted is one for each.")
        factor: Any = makers[kind](value)
        factors.update((one, factor) for one in known[name])
    return factors

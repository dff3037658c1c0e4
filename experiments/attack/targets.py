"""Which class a targeted attack wants of each example."""

import re

import numpy as np

from kdjax.types import BadInput, nearest

TARGETS = ("next", "random", "least_likely")
"""Ways to choose the class that a targeted attack wants: y + 1, any other, the one of the smallest clean logit."""


def check_target(text: str) -> None:
    """Refuse what is neither empty, nor in `TARGETS`, nor a class."""
    if text and text not in TARGETS and not re.fullmatch(r"\d+", text):
        raise BadInput(f"--target={text}: accepted are {', '.join(TARGETS)}, or a class{nearest(text, TARGETS)}")


def targets(text: str, logits: np.ndarray, label: np.ndarray, *, seed: int = 0) -> np.ndarray | None:
    """The class wanted of each example, never its label, `[N]`; None for an empty text.

    >>> targets("next", np.zeros((2, 3)), np.array([0, 2]))
    array([1, 0])
    >>> targets("least_likely", np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), np.array([2, 0]))
    array([0, 1])

    Raises:
        BadInput: a class that does not exist, or that some example has.
    """
    classes = logits.shape[-1]
    if not text:
        return None
    if text == "next":
        return (label + 1) % classes
    if text == "random":
        return (label + np.random.default_rng(seed).integers(1, classes, len(label))) % classes
    if text == "least_likely":
        own = np.arange(classes) == label[:, None]
        return np.where(own, np.inf, logits).argmin(-1)
    if int(text) >= classes or np.any(label == int(text)):
        raise BadInput(f"--target={text}: accepted are classes below {classes} that no attacked example has.")
    return np.full(len(label), int(text))

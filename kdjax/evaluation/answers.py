"""Logits as evaluation takes them: one row of numbers per example, of which one is the largest. Numpy alone."""

import numpy as np

from kdjax.types import BadInput, NotNumbers


def checked(logits: np.ndarray, name: str = "logits") -> np.ndarray:
    """Logits in float64, once they are seen to say something of every example.

    Args:
        logits: `[N, K]` of any real type; -inf is a class that is ruled out.
        name: what they are, for errors.

    Raises:
        BadInput: another rank, no example or no class.
        NotNumbers: rows that `fault` finds.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or not logits.size or not np.can_cast(logits.dtype, np.float64):
        raise BadInput(
            f"{name} has shape {logits.shape} of {logits.dtype}; accepted: real numbers [N, K], at least one example"
        )
    logits = logits.astype(np.float64)
    if found := fault(logits):
        raise NotNumbers(f"{name}: {found}; accepted: finite numbers, or -inf for a class that is ruled out")
    return logits


def fault(logits: np.ndarray) -> str:
    """What is wrong with logits `[..., K]`, in words; nothing where every row has a largest number that is finite.

    argmax takes a NaN for the largest number: a network that says nothing would be scored as one that says its place.

    >>> fault(np.array([[0.0, 1.0], [np.nan, 0.0], [-np.inf, -np.inf]]))
    'the answers to 2 of 3 examples are not numbers, the first is row 1: [nan, 0.0]'
    """
    rows = np.asarray(logits).reshape(-1, np.shape(logits)[-1])
    wrong = np.flatnonzero(~np.isfinite(rows.max(-1, initial=-np.inf)))
    if not len(wrong):
        return ""
    shown = ", ".join(str(float(x)) for x in rows[wrong[0]][:5]) + (", ..." if rows.shape[1] > 5 else "")
    count = f"{len(wrong)} of {len(rows)} examples"
    return f"the answers to {count} are not numbers, the first is row {wrong[0]}: [{shown}]"


def decided(logits: np.ndarray, name: str = "logits") -> np.ndarray:
    """The class of the largest logit, `[...]`.

    Args:
        logits: `[..., K]`.
        name: what they are, for errors.

    Raises:
        NotNumbers: rows that `fault` finds.
    """
    if found := fault(logits):
        raise NotNumbers(f"{name}: {found}; accepted: finite numbers, or -inf for a class that is ruled out")
    return np.asarray(logits).argmax(-1)

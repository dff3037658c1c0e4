"""How good a classifier's answers are. Numpy in, plain numbers out; the caller has every example exactly once."""

from typing import Any

import numpy as np
from scipy.special import log_softmax

from kdjax.evaluation.answers import checked
from kdjax.types import BadInput


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1, negative log-likelihood, calibration error, and the count of errors.

    Args:
        logits: `[N, K]`, finite, or -inf for a class that is ruled out and is not the label.
        labels: `[N]`, integers in [0, K).

    Returns:
        `accuracy`, `precision`, `recall`, `f1` in [0, 1] (macro averages over the classes present; a class that is
        never predicted has precision 0); `nll` in nats; `ece` in [0, 1]; `errors`, a count; `examples`. All are finite.

    Raises:
        BadInput: logits that are not `[N, K]` or not numbers, labels that are not `[N]`, not integers or no classes, or
            a label whose logit is -inf: its negative log-likelihood is infinite.
    """
    from sklearn.metrics import precision_recall_fscore_support  # half a second, which no refused flag should cost

    logits, labels = _pair(logits, labels)
    predicted = logits.argmax(-1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    likelihood = log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    if np.isneginf(likelihood).any():
        raise BadInput(
            f"logits rule out the label of {np.isneginf(likelihood).sum()} examples, the first is row "
            f"{likelihood.argmin()}: the "
            "negative log-likelihood is infinite; accepted: a finite logit at the label"
        )
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "nll": float(-np.mean(likelihood)),
        "ece": calibration_error(logits, labels),
        "errors": int(np.sum(predicted != labels)),
        "examples": len(labels),
    }


def by_class(logits: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Precision, recall and F1 of every class.

    Args:
        logits, labels: as `classification`.

    Returns:
        `precision`, `recall`, `f1`, each a list of K in [0, 1]; 0 for a class without examples. A class's recall is its
        accuracy.

    Raises:
        BadInput: as `classification`.

    >>> by_class(np.eye(3)[[0, 0, 1]], np.array([0, 1, 1]))["recall"]
    [1.0, 0.5, 0.0]
    """
    from sklearn.metrics import precision_recall_fscore_support

    logits, labels = _pair(logits, labels)
    every: Any = {"labels": np.arange(logits.shape[1]), "average": None, "zero_division": 0}
    found = precision_recall_fscore_support(labels, logits.argmax(-1), **every)
    return {name: np.asarray(x).tolist() for name, x in zip(("precision", "recall", "f1"), found[:3], strict=True)}


def _pair(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[N, K]` in float64 and labels `[N]`, as they must be."""
    logits, labels = checked(logits), np.asarray(labels)
    if labels.shape != logits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(
            f"labels has shape {labels.shape} of {labels.dtype} for logits {logits.shape}; accepted: integers "
            f"[{len(logits)}], the number of each example's class (argmax of a one-hot)"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise BadInput(f"labels run from {labels.min()} to {labels.max()}; accepted: 0 to {logits.shape[1] - 1}")
    return logits, labels


def calibration_error(logits: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: sum over bins of (share of examples) * |accuracy - mean confidence|.

    Bins are equal in width over confidence, (0, 1/bins], (1/bins, 2/bins], ...

    Args:
        logits, labels: as `classification`.
        bins: how many.

    Raises:
        BadInput: as `classification`; fewer bins than one.

    >>> calibration_error(np.log(np.array([[0.9, 0.1], [0.7, 0.3]])), np.array([0, 1])).__round__(6)
    0.4

    Reference:
        Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    if bins < 1:
        raise BadInput(f"bins={bins}; accepted: at least 1")
    logits, labels = _pair(logits, labels)
    q = np.exp(log_softmax(logits, axis=-1))
    confidence, right = q.max(-1), q.argmax(-1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(right[which == b].mean() - confidence[which == b].mean()) * np.mean(which == b) for b in set(which)]
    return float(sum(gaps))

"""How good a classifier's answers are. Numpy in, plain numbers out; the caller has every example exactly once."""

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import precision_recall_fscore_support

from kdjax.types import BadInput


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1, negative log-likelihood, calibration error, and the count of errors.

    Args:
        logits: `[N, K]`.
        labels: `[N]` in [0, K).

    Returns:
        `accuracy`, `precision`, `recall`, `f1` in [0, 1] (macro averages over the classes present; a class that is
        never predicted has precision 0); `nll` in nats; `ece` in [0, 1]; `errors`, a count; `examples`.
    """
    if len(logits) != len(labels) or not len(labels):
        raise BadInput(
            f"logits {logits.shape} and labels {labels.shape}: accepted are as many of both, and at least one."
        )
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise BadInput(f"labels run from {labels.min()} to {labels.max()}: accepted are 0 to {logits.shape[-1] - 1}.")
    predicted = logits.argmax(-1)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    log_q = log_softmax(logits.astype(np.float64), axis=-1)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "nll": float(-np.mean(log_q[np.arange(len(labels)), labels])),
        "ece": calibration_error(logits, labels),
        "errors": int(np.sum(predicted != labels)),
        "examples": len(labels),
    }


def calibration_error(logits: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: sum over bins of (share of examples) * |accuracy - mean confidence|.

    Bins are equal in width over confidence, (0, 1/bins], (1/bins, 2/bins], ...

    Args:
        logits: `[N, K]`.
        labels: `[N]`.
        bins: how many.

    >>> calibration_error(np.log(np.array([[0.9, 0.1], [0.7, 0.3]])), np.array([0, 1])).__round__(6)
    0.4

    Reference:
        Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    q = np.exp(log_softmax(logits.astype(np.float64), axis=-1))
    confidence, right = q.max(-1), q.argmax(-1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(right[which == b].mean() - confidence[which == b].mean()) * np.mean(which == b) for b in set(which)]
    return float(sum(gaps))

"""Data that comes with an installed package: no download, no preparation, for tests and first runs."""

import sys

import numpy as np

from kdjax.data import splits
from kdjax.data.source import Source, shuffled_rank
from kdjax.spec import Family
from kdjax.types import BadInput

TEST = 360


def digits(split: str) -> Source:
    """The 1,797 handwritten digits of scikit-learn: 8 x 8 x 1, ten classes, pixels 0..16 stored as value / 16.

    Scikit-learn has no split of its own. Here 360 are the test set and 1,437 the training set, always the same ones
    (generator seed 0), each class in proportion to its size. Both are shuffled, so that slices of them mix classes.

    Args:
        split: `train` or `test`, or a slice of one, such as `train[:80%]`.

    Raises:
        BadInput: any other split.

    Reference: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).

    >>> len(digits("train")), len(digits("test")), len(digits("train[:100]"))
    (1437, 360, 100)
    """
    from sklearn.datasets import load_digits

    base, cut = splits.parse(split)
    if base not in ("train", "test"):
        raise BadInput(f"split={split!r} of digits; accepted: train, test, or a slice of one")
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    share = (shuffled_rank(labels, rng) + 0.5) / np.bincount(labels)[labels]
    order = np.argsort(share, kind="stable")
    part = rng.permutation(order[:TEST] if base == "test" else order[TEST:])
    chosen = part[cut(len(part))]
    image = (images[chosen] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return Source({"inputs": image, "label": labels[chosen].astype(np.int32)}, 10, f"digits/{split}")


EMBEDDED = Family(sys.modules[__name__], first=("split",))
"""Each function above, by its name: `--dataset=digits`."""

"""What a study asks of its splits before it trains: labels to score by, images of one shape, none in two of them."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from kdjax.data.source import Examples, Source
from kdjax.types import BadInput

log = logging.getLogger("kdjax.data")

STREAMED = 1000
"""Images of a streamed split that are looked at for duplicates."""

_AT_A_TIME = 1000


def require_labels(examples: Examples, *, flag: str) -> None:
    """Refuse a split that is scored, and has a label that is no class.

    Images to learn from may lack their labels; those that score a network may not.

    Args:
        examples: the split.
        flag: what names it, such as `test_split`.

    Raises:
        BadInput: a label below 0 (not known) or of `num_classes` or above.
    """
    labels = examples.labels()
    wrong = np.flatnonzero((labels < 0) | (labels >= examples.num_classes))
    if len(wrong):
        first = int(wrong[0])
        raise BadInput(
            f"--{flag}: {len(wrong)} of {len(labels)} examples of {examples.name} have no label that can be scored "
            f"(the first is example {first}, labelled {int(labels[first])}; -1 is not known); accepted: a split whose "
            f"labels all run from 0 to {examples.num_classes - 1}"
        )


def require_image_shape(examples: Examples, train: Examples, *, flag: str) -> None:
    """Refuse a split that is scored, and whose images are not of the shape of those that are learned from.

    Args:
        examples: the split.
        train: what is learned from.
        flag: what names the split, and its value: `test_split=test`.

    Raises:
        BadInput: images of another height, width or number of channels.
    """
    if (mine := examples.image_shape()) != (theirs := train.image_shape()):
        raise BadInput(f"--{flag} has images {mine}; accepted: those of --train_split, {theirs}.")


def require_a_label(examples: Examples, *, flag: str) -> None:
    """Refuse examples of which no label is known, for who learns from labels alone.

    Args:
        examples: what is learned from.
        flag: what names them, such as `train_split`.

    Raises:
        BadInput: every label is below 0.
    """
    parts = np.array_split(np.arange(len(examples)), -(-len(examples) // _AT_A_TIME))
    if not any((examples[rows]["label"] >= 0).any() for rows in parts):  # the first part says it, as a rule
        raise BadInput(
            f"--{flag}: none of the {len(examples)} examples of {examples.name} has a label (-1 is not known), and "
            "nothing else is learned from here; accepted: a split with labels"
        )


def warn_of_duplicates(splits: Mapping[str, Examples | None]) -> None:
    """Log a warning for every two splits that share images, pixel by pixel.

    Every image in memory is looked at, and `STREAMED` of each streamed split, evenly spaced: what is said of those is
    the least that is shared.

    Args:
        splits: by what names them, such as `test_split`; None for one that there is not.
    """
    seen = {flag: _digests(examples) for flag, examples in splits.items() if examples is not None}
    for (a, first), (b, second) in combinations(seen.items(), 2):
        shared = sum(times for digest, times in second.items() if digest in first)
        if shared:
            log.warning(
                "%d of the %d images of --%s looked at are images of --%s too: a score on them is none on new images",
                shared, second.total(), b, a,
            )  # fmt: skip


def _digests(examples: Examples) -> Counter[bytes]:
    """How often each image occurs, by a hash of its pixels."""
    size = len(examples)
    rows = np.arange(size) if isinstance(examples, Source) or size <= STREAMED else _spaced(size)
    parts = np.array_split(rows, -(-len(rows) // _AT_A_TIME))
    return Counter(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for part in parts
        for image in examples[part]["inputs"]
    )


def _spaced(size: int) -> np.ndarray:
    return np.linspace(0, size - 1, STREAMED).astype(int)

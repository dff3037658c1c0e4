"""From a data set to batches: the order of an epoch, padded batches that miss nothing, prefetching."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int32

from kdjax.data.source import Examples, unit_interval
from kdjax.types import BadInput

Item = TypeVar("Item")


def epoch_order(n: int, *, seed: int, epoch: int, length: int | None = None) -> Int32[np.ndarray, " length"]:
    """The order in which an epoch visits `n` examples: a pure function of (seed, epoch).

    With `length` above `n`, fresh permutations follow one another, cut to `length`, so that a few labelled examples can
    be given as many steps as many unlabelled ones; the examples' counts then differ by at most one.

    Args:
        n: number of examples.
        seed: of the run; at least 0.
        epoch: counted from 0.
        length: how many places the order has; None is `n`.

    Raises:
        BadInput: `n` below 1, a negative seed or epoch, `length` below `n`.

    >>> sorted(epoch_order(5, seed=0, epoch=3).tolist())
    [0, 1, 2, 3, 4]
    """
    length = n if length is None else length
    for name, value, least in (("n", n, 1), ("seed", seed, 0), ("epoch", epoch, 0), ("length", length, n)):
        if value < least:
            raise BadInput(f"{name}={value}; accepted: at least {least}")
    rng = np.random.default_rng([seed, epoch])
    rounds = [rng.permutation(n) for _ in range(-(-length // n))]
    return np.concatenate(rounds)[:length].astype(np.int32)


def batches(
    order: Int32[np.ndarray, " length"], batch_size: int, multiple_of: int = 1
) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
    """An order cut into equal batches; the last is filled up with `order[0]`, masked, and nothing is dropped.

    Args:
        order: indices of examples.
        batch_size: rows of a batch, over all devices.
        multiple_of: the number of devices that share a batch.

    Returns:
        `index [S, B]` and `mask [S, B]`, 1 for a real row and 0 for padding; `mask.sum() == len(order)`.

    Raises:
        BadInput: a batch larger than the data, or one that devices cannot share evenly.

    >>> index, mask = batches(np.arange(5, dtype=np.int32), 2)
    >>> index.tolist(), mask.tolist()
    ([[0, 1], [2, 3], [4, 0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    """
    if not 1 <= batch_size <= len(order):
        raise BadInput(f"batch_size={batch_size}; accepted: 1 to {len(order)}, the number of examples")
    if multiple_of < 1:
        raise BadInput(f"multiple_of={multiple_of}; accepted: at least 1")
    if batch_size % multiple_of:
        near = -(-batch_size // multiple_of) * multiple_of
        raise BadInput(f"batch_size={batch_size}; accepted: a multiple of {multiple_of} devices, such as {near}")
    padding = -len(order) % batch_size
    index = np.concatenate([order, np.repeat(order[:1], padding)])
    mask = np.concatenate([np.ones(len(order), np.float32), np.zeros(padding, np.float32)])
    return index.reshape(-1, batch_size), mask.reshape(-1, batch_size)


def epoch_rows(
    n: int, batch_size: int, *, seed: int, epoch: int, length: int | None = None, multiple_of: int = 1
) -> dict[str, np.ndarray]:
    """All batches of an epoch as indices: `epoch_order` cut by `batches`, and which visit of its example each row is.

    Visits are counted over the whole run, one for each permutation, so that no example has the same number twice: it
    is the epoch where an epoch has one permutation.

    Args:
        n, seed, epoch, length: as `epoch_order`.
        batch_size, multiple_of: as `batches`.

    Returns:
        `index`, `mask` and `epoch`, each `[S, B]`; padding has the visit of the last row.

    Raises:
        BadInput: as those two.

    >>> epoch_rows(2, 2, seed=0, epoch=3, length=5)["epoch"].tolist()
    [[9, 9], [10, 10], [11, 11]]
    """
    index, mask = batches(epoch_order(n, seed=seed, epoch=epoch, length=length), batch_size, multiple_of)
    places = n if length is None else length
    permutation = np.minimum(np.arange(index.size), places - 1) // n
    visit = (epoch * -(-places // n) + permutation).astype(np.int32)
    return {"index": index, "mask": mask, "epoch": visit.reshape(index.shape)}


def take(
    source: Examples,
    index: Int32[np.ndarray, " batch"],
    mask: Float32[np.ndarray, " batch"],
    **columns: np.ndarray,
) -> dict[str, np.ndarray]:
    """One batch, as numpy: what `kdjax.types.Batch` describes.

    Args:
        source: where rows come from.
        index: `[B]`, which rows.
        mask: `[B]`, 1 for a real row and 0 for padding.
        columns: further ones that travel along, `[B]`, such as `epoch`.

    Returns:
        `inputs [B, ...]` float32, images in [0, 1], `label [B]` int32, `mask`, `index`, `columns`, and the source's
        other columns.
    """
    rows = source[index]
    image, label = unit_interval(rows["inputs"]), rows["label"].astype(np.int32)
    return {**rows, "inputs": image, "label": label, "mask": mask, "index": index, **columns}


def prefetch(items: Iterable[Item], size: int = 2) -> Iterator[Item]:
    """The same items, made up to `size` ahead by a background thread.

    An exception raised while an item is made is raised again here, in its place. The thread ends when the items do, or
    when the consumer stops (the iterator is closed or collected).

    Args:
        items: what is iterated over, in the thread.
        size: how many finished items may wait.

    Raises:
        BadInput: `size` below 1.
    """
    if size < 1:
        raise BadInput(f"size={size} items ahead; accepted: at least 1")
    return _prefetch(items, size)


def _prefetch(items: Iterable[Item], size: int) -> Iterator[Item]:
    ready: queue.Queue[tuple[str, object]] = queue.Queue(size)
    stop = threading.Event()

    def put(kind: str, value: object) -> None:
        while not stop.is_set():
            try:
                return ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="kdjax-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value  # pyright: ignore[reportGeneralTypeIssues]
            yield value  # pyright: ignore[reportReturnType]
    finally:
        stop.set()
        thread.join(timeout=5)

"""A data set in memory, and what can be done to it before training: check it, hide labels, drop classes."""

from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Int, Integer

from kdjax.types import BadInput


@runtime_checkable
class Examples(Protocol):
    """What training asks of any data set: `Source` in memory, or `kdjax.data.stream.Stream` decoded when asked for."""

    @property
    def num_classes(self) -> int:
        """How many classes labels can be of."""
        ...

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Integer[np.ndarray, " batch"], /) -> dict[str, np.ndarray]: ...
    def labels(self) -> Integer[np.ndarray, " examples"]:
        """Every label, -1 where it is not known."""
        ...

    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        ...

    def select(self, indices: Integer[np.ndarray, " some"]) -> "Examples": ...
    def with_column(self, name: str, array: np.ndarray) -> "Examples": ...


AnyExamples = TypeVar("AnyExamples", bound=Examples)
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set in memory: columns that share their first axis.

    `arrays["inputs"]` are images `[N, H, W, C]`, uint8, meaning value / 255, or float32 in [0, 1]; or the rows of a
    table, `[N, D]` (`kdjax.data.tabular`). `arrays["label"] [N]` is int32.
    """

    arrays: dict[str, np.ndarray] = field(repr=False)
    num_classes: int
    name: str

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """The rows `indices` of every column, in their stored dtype."""
        return {name: column[indices] for name, column in self.arrays.items()}

    def labels(self) -> Integer[np.ndarray, " examples"]:
        """Every label, -1 where it is not known."""
        return self.arrays["label"]

    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        shape = self.arrays["inputs"].shape
        if len(shape) != 4:
            raise BadInput(f"{self.name}: inputs have shape {shape}; accepted: images, [N, H, W, C]")
        return shape[1:]

    def select(self, indices: Integer[np.ndarray, " some"]) -> "Source":
        """The data set made of the rows `indices`, in that order."""
        return replace(self, arrays=self[indices])

    def with_column(self, name: str, array: np.ndarray) -> "Source":
        """The data set with one more column, or with one replaced, such as `teacher_logits [N, K]`."""
        check_column(name, array, len(self))
        return replace(self, arrays={**self.arrays, name: array})


def check_column(name: str, array: np.ndarray, examples: int) -> None:
    """Refuse a column that has not one row per example."""
    if len(array) != examples:
        raise BadInput(f"column {name!r} has {len(array)} rows; accepted: {examples}, one per example")


def validate(source: Source) -> Source:
    """The same data set, once it has been seen to be what `Source` promises.

    Args:
        source: any data set in memory.

    Returns:
        `source` itself.

    Raises:
        BadInput: no examples, a column missing or of another length, images that are not `[N, H, W, C]`, not uint8 or
            float32, not finite or not in [0, 1], labels that are not integers in [0, num_classes) (or -1, unknown).
    """
    missing = {"inputs", "label"} - source.arrays.keys()
    if missing:
        raise BadInput(f"{source.name}: columns {sorted(source.arrays)}; accepted: inputs and label among them")
    image, label = source.arrays["inputs"], source.arrays["label"]
    if len(label) == 0:
        raise BadInput(f"{source.name}: label has 0 rows; accepted: at least one example")
    for name, column in source.arrays.items():
        check_column(name, column, len(label))
    if image.ndim != 4:
        raise BadInput(f"{source.name}: inputs have shape {image.shape}; accepted: [N, H, W, C], a rank of 4")
    if image.dtype not in (np.uint8, np.float32):
        raise BadInput(f"{source.name}: inputs are {image.dtype}; accepted: uint8 (0..255) or float32 in [0, 1]")
    low, high = image.min(), image.max()  # NaN spreads to both
    if image.dtype == np.float32 and not (low >= 0 and high <= 1):
        ths = ", or the 255ths that these may be, as uint8" if low >= 0 and 1 < high <= 255 else ""
        raise BadInput(f"{source.name}: inputs run from {low} to {high}; accepted: float32 in [0, 1], no NaN{ths}")
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise BadInput(f"{source.name}: label is {label.dtype} of shape {label.shape}; accepted: integers [N]")
    if label.min() < -1 or label.max() >= source.num_classes:
        raise BadInput(
            f"{source.name}: label runs from {label.min()} to {label.max()}; accepted: 0 to "
            f"{source.num_classes - 1}, or -1 for a label that is not known"
        )
    return source


def shuffled_rank(label: Integer[np.ndarray, " examples"], rng: np.random.Generator) -> Int[np.ndarray, " examples"]:
    """Each example's place in a random order of its own class: 0 for one example of every class, then 1, and so on."""
    order = rng.permutation(len(label))
    by_class = order[np.argsort(label[order], kind="stable")]
    starts = np.searchsorted(label[by_class], label[by_class])
    rank = np.empty(len(label), np.int64)
    rank[by_class] = np.arange(len(label)) - starts
    return rank


def hide_labels(source: AnyExamples, labels: int, seed: int) -> AnyExamples:
    """The data set with `labels` of them left and -1 in place of the others.

    The kept labels are as even over the classes as their number and the classes' sizes allow (counts differ by at most
    one unless a class runs out). With the same seed a larger number keeps all that a smaller one kept.

    Args:
        source: the data set; rows whose label is -1 already stay so.
        labels: how many stay, at least one per class present and at most all.
        seed: decides which.

    Raises:
        BadInput: `labels` is out of that range, or no label is known.
    """
    label = source.labels()
    known = np.flatnonzero(label >= 0)
    classes = len(np.unique(label[known]))
    if not classes:
        raise BadInput(f"labels={labels} of {source.name}: no label is known; accepted: examples with labels")
    if not classes <= labels <= len(known):
        raise BadInput(
            f"labels={labels} of {source.name}; accepted: {classes} (one per class) to {len(known)} (all known)"
        )
    rng = np.random.default_rng(seed)
    rank = shuffled_rank(label[known], rng)
    favour = rng.permutation(source.num_classes)[label[known]]  # which classes get one more, if their number is uneven
    kept = known[np.lexsort((favour, rank))[:labels]]
    hidden = np.full_like(label, -1)
    hidden[kept] = label[kept]
    return source.with_column("label", hidden)  # pyright: ignore[reportReturnType]


def labelled(source: AnyExamples) -> AnyExamples:
    """The rows whose label is known."""
    return _where(source, source.labels() >= 0, "no label is known; accepted: examples with labels")


def drop_classes(source: AnyExamples, classes: tuple[int, ...]) -> AnyExamples:
    """The data set without the examples of some classes: Hinton's transfer set without the 3s.

    `num_classes` stays, since the teacher still answers for the classes dropped.

    Raises:
        BadInput: a class outside [0, num_classes), or nothing left.
    """
    wrong = [number for number in classes if not 0 <= number < source.num_classes]
    if wrong:
        raise BadInput(f"classes={classes}: {wrong} out of range; accepted: 0 to {source.num_classes - 1}")
    kept = ~np.isin(source.labels(), classes)
    return _where(source, kept, f"classes={classes} drops every example; accepted: classes that leave one")


def _where(source: AnyExamples, kept: Bool[np.ndarray, " examples"], empty: str) -> AnyExamples:
    if not kept.any():
        raise BadInput(f"{source.name}: {empty}")
    return source.select(np.flatnonzero(kept))  # pyright: ignore[reportReturnType]


def unit_interval(image: AnyArray) -> AnyArray:
    """Stored images as float32 in [0, 1]: uint8 is multiplied by 1/255, float32 is returned as it is.

    For numpy arrays and, on the device, for JAX arrays; multiplied and not divided, because XLA replaces a
    division by a constant in this way: both then agree bit for bit.

    >>> unit_interval(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000001788139343, 1.0]
    """
    return image * np.float32(1 / 255) if image.dtype == np.uint8 else image

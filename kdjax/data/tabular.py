"""Tables of numbers with numbers to be predicted: a data set for regression, its units, and hidden targets.

A table is a `Source` whose columns are read so:

- `inputs [N, D]` float32, in any unit;
- `target [N, T]` float32: what is to be predicted;
- `label [N]` int32: 0 where the target is known and -1 where it is not, so that whatever hides labels, or picks the
  labelled rows, does the same for targets. This alone decides; a hidden target is NaN besides, so that a loss which
  read one would stop the run instead of learning from it;
- `row [N]` int32: the row of the whole table, by which splits that share rows are found out.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from kdjax.data import splits
from kdjax.data.source import Source, hide_labels
from kdjax.types import BadInput

TEST = 142


def diabetes(split: str) -> Source:
    """442 patients of scikit-learn: age, sex, body mass, blood pressure, six serums; a score of disease a year later.

    Scikit-learn has no split of its own, and by default centres and scales the inputs over all 442 rows, those of any
    test set included. Here inputs are as they were measured, 142 rows are the test set and 300 the training set, always
    the same ones (generator seed 0), both shuffled; see `scale_of` for units learnt from training rows alone.

    Args:
        split: `train` or `test`, or a slice of one, such as `train[:80%]`.

    Returns:
        A table of D = 10 inputs and T = 1 target, every target known.

    Raises:
        BadInput: any other split.

    Reference: Efron, Hastie, Johnstone, Tibshirani, Least Angle Regression, Annals of Statistics, 2004, section 1.

    >>> len(diabetes("train")), len(diabetes("test")), diabetes("train[:2]").arrays["target"].shape
    (300, 142, (2, 1))
    """
    from sklearn.datasets import load_diabetes

    base, cut = splits.parse(split)
    if base not in ("train", "test"):
        raise BadInput(f"split={split!r} of diabetes; accepted: train, test, or a slice of one")
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(targets))
    part = order[:TEST] if base == "test" else order[TEST:]
    row = part[cut(len(part))].astype(np.int32)
    columns = {
        "inputs": inputs[row].astype(np.float32),
        "target": targets[row].astype(np.float32).reshape(-1, 1),
        "label": np.zeros(len(row), np.int32),
        "row": row,
    }
    return Source(columns, 1, f"diabetes/{split}")


def hide_targets(source: Source, keep: int, seed: int) -> Source:
    """The table with `keep` known targets left; the others are NaN, and their label -1.

    With the same seed a larger `keep` keeps all that a smaller one kept.

    Raises:
        BadInput: `keep` is below 1 or above the number of known targets.
    """
    hidden = hide_labels(source, keep, seed)  # pyright: ignore[reportArgumentType]
    known = hidden.labels()[:, None] >= 0
    return hidden.with_column("target", np.where(known, source.arrays["target"], np.float32(np.nan)))


@dataclass(frozen=True, eq=False)
class Scale:
    """Means and standard deviations: of inputs `[D]` and of targets `[T]`. A constant column has deviation 1."""

    input_mean: Float[np.ndarray, " inputs"]
    input_sd: Float[np.ndarray, " inputs"]
    target_mean: Float[np.ndarray, " targets"]
    target_sd: Float[np.ndarray, " targets"]


def scale_of(train: Source) -> Scale:
    """The units of a training set: of inputs from all its rows, of targets from those that are known.

    Raises:
        BadInput: no target is known, or one that is said to be known is not finite.
    """
    target = train.arrays["target"][train.labels() >= 0]
    if len(target) == 0 or not np.isfinite(target).all():
        finite = int(np.isfinite(target).all(1).sum())
        raise BadInput(f"{train.name}: {finite} finite of {len(target)} known targets; accepted: all, and at least one")
    return Scale(*_moments(train.arrays["inputs"]), *_moments(target))


def _moments(
    x: Float32[np.ndarray, "rows columns"],
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    # The range and not the deviation says what is constant: rounding leaves a constant column a deviation above 0.
    wide = x.astype(np.float64)
    return wide.mean(0), np.where(np.ptp(wide, axis=0) > 0, wide.std(0), 1.0)


def scaled(source: Source, scale: Scale) -> Source:
    """The table in the units of `scale`; hidden targets stay NaN.

    >>> train = diabetes("train")
    >>> target = scaled(train, scale_of(train)).arrays["target"]
    >>> abs(round(float(target.mean()), 4)), round(float(target.std()), 4)
    (0.0, 1.0)
    """
    inputs = ((source.arrays["inputs"] - scale.input_mean) / scale.input_sd).astype(np.float32)
    return source.with_column("inputs", inputs).with_column("target", to_units(source.arrays["target"], scale))


def to_units(targets: Float[np.ndarray, "rows targets"], scale: Scale) -> Float32[np.ndarray, "rows targets"]:
    """Targets, or what somebody says of them, in the units of `scale`."""
    return ((targets - scale.target_mean) / scale.target_sd).astype(np.float32)


def from_units(answers: Float[np.ndarray, "rows targets"], scale: Scale) -> Float[np.ndarray, "rows targets"]:
    """The inverse of `to_units`, in float64."""
    return answers * scale.target_sd + scale.target_mean

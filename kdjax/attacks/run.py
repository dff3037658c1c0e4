"""Attack a whole set of examples: the one place where inputs are checked and memory is bounded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.attacks._form import on_cpu
from kdjax.attacks._settings import require_count
from kdjax.attacks.objectives import Scored, cross_entropy
from kdjax.attacks.projections import lengths
from kdjax.attacks.victims import Victim, look_like_probabilities, own_exceptions, require_classes
from kdjax.data.source import Source, unit_interval
from kdjax.types import Attack, BadInput


@dataclass(frozen=True)
class Attacked:
    """What became of every example, in order, fooled or not.

    Attributes:
        image: `[N, H, W, C]`.
        value: of the objective there, `[N]`.
        success: `[N]` bool.
        queries: model evaluations spent, success checks included, `[N]`.
        first_success: queries spent when the first success was known, -1 for none, `[N]`.
        distance: `linf`, `l2`, `l1`, `l0` of the perturbation, each `[N]`.
    """

    image: np.ndarray
    value: np.ndarray
    success: np.ndarray
    queries: np.ndarray
    first_success: np.ndarray
    distance: dict[str, np.ndarray]


def run(
    attack: Attack,
    victim: Victim,
    image: np.ndarray | Source,
    label: np.ndarray | Sequence[int] | None = None,
    *,
    objective: Callable[..., Scored] = cross_entropy,
    target: np.ndarray | Sequence[int] | None = None,
    start: np.ndarray | None = None,
    seed: int = 0,
    chunk: int = 256,
    on_device: bool | None = None,
) -> Attacked:
    """Run an attack over N examples, `chunk` at a time.

    Each example has a key of its own, made of the seed and its place, so that `chunk` changes no result.

    Args:
        attack: any of the algebra.
        victim: whom.
        image: `[N, H, W, C]` in [0, 1], floats; or bytes, taken as 255ths; or examples with their labels.
        label: `[N]`; None with examples.
        objective: `(victim, label, target=...) -> Objective`, such as `objectives.margin`.
        target: `[N]`, the classes wanted, for a targeted attack.
        start: `[N, H, W, C]` in [0, 1], where the attack begins, such as what another attack made of another network;
            by default where it says itself.
        seed: of every draw.
        chunk: examples at once.
        on_device: compile the whole attack as one program, or step from Python. By default the second on a CPU, where
            loops around convolutions are slower (see `sweep.at_radius`), else the first.

    Raises:
        BadInput: images outside the box, labels or targets that do not fit, a victim of one class, or one that answers
            with probabilities or with what is not a number. What a black box raises comes out as it is.
    """
    if isinstance(image, Source) != (label is None):
        raise BadInput("label: accepted are labels beside images, and none beside examples, which have theirs.")
    if isinstance(image, Source):
        image, label = image.arrays["inputs"], image.labels()
    image, label, target = _checked(image, label, target)
    if start is not None and np.shape(start) != image.shape:
        raise BadInput(f"start has shape {np.shape(start)}: accepted is that of the images, {image.shape}.")
    require_count("chunk", chunk)
    size = min(chunk, len(image))
    if victim.on_host:
        classes = victim.num_classes
    else:
        classes = _check_scores(np.asarray(_answer(victim, image[: min(size, 32)])))
    if classes is not None:
        _check_classes(classes, label=label, target=target)
    if on_device is None:
        on_device = not on_cpu()
    call = jax.jit(attack) if on_device else attack
    parts = []
    for at in range(0, len(image), size):
        # A short last chunk is filled with rows that are not asked for, so that no second program is compiled.
        rows = np.minimum(np.arange(at, at + size), len(image) - 1)
        asked = np.arange(at, at + size) < len(image)
        wanted = {} if target is None else {"target": jnp.asarray(target[rows])}
        clean = jnp.asarray(image[rows])
        begun = () if start is None else (jnp.asarray(start[rows], clean.dtype),)
        with own_exceptions():
            found = call(
                objective(victim, jnp.asarray(label[rows]), **wanted),
                _keys(seed, rows),
                clean,
                *begun,
                where=jnp.asarray(asked),
            )
            found = (*found, _lengths(found.image, clean))
            parts.append(jax.tree.map(lambda x: np.asarray(x)[asked], found))  # noqa: B023 - used at once
    columns = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    result = Attacked(*columns)
    if not np.isfinite(result.value).all():
        where = int(np.flatnonzero(~np.isfinite(result.value))[0])
        raise BadInput(
            f"the victim's answer to example {where}, or its slope there, is not a number; accepted are finite logits."
        )
    return result


@jax.jit
def _answer(victim: Any, image: Any) -> jax.Array:
    return victim(image)


@jax.jit
def _keys(seed: Any, rows: Any) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), rows)


@jax.jit
def _lengths(image: jax.Array, clean: jax.Array) -> dict[str, jax.Array]:
    return lengths(image - clean)


def _checked(image: Any, label: Any, target: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    image, label, target = np.asarray(image), np.asarray(label), None if target is None else np.asarray(target)
    if image.ndim != 4 or not len(image):
        raise BadInput(f"image has shape {image.shape}: accepted is [N, height, width, channels], N at least 1.")
    # float64 stays what it is where JAX keeps it.
    real = jax.dtypes.canonicalize_dtype(np.float64) if image.dtype == np.float64 else np.float32
    image = unit_interval(image) if image.dtype == np.uint8 else image.astype(real)
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise BadInput(f"image runs from {low} to {high}: accepted are values in [0, 1].")
    for name, classes in {"label": label, "target": target}.items():
        if classes is not None and (classes.shape != (len(image),) or not np.issubdtype(classes.dtype, np.integer)):
            raise BadInput(
                f"{name} has shape {classes.shape} and type {classes.dtype}: accepted are integers, "
                f"one per image, [{len(image)}]."
            )
    if target is not None and np.any(target == label):
        raise BadInput("target equals label for some examples: accepted are classes other than the true one.")
    return image, label, target


def _check_scores(logits: np.ndarray) -> int:
    """The number of classes, of scores that can be attacked."""
    require_classes(logits.shape[-1])
    if not np.isfinite(logits).all():
        raise BadInput("the victim answers with NaN or infinity; accepted: finite logits.")
    if look_like_probabilities(logits):
        raise BadInput(
            "the victim answers with probabilities; accepted are logits: cross-entropy and margins of saturated "
            "probabilities have no slope."
        )
    return logits.shape[-1]


def _check_classes(count: int, **given: np.ndarray | None) -> None:
    for name, classes in given.items():
        if classes is not None and (classes.min() < 0 or classes.max() >= count):
            raise BadInput(f"{name} runs from {classes.min()} to {classes.max()}: accepted are 0 to {count - 1}.")

"""Augmentations by the name that a flag gives, and the keys that make a run's views again."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.data import augment
from kdjax.spec import Call, Family, calls

AUGMENTATIONS = Family(augment, first=("key", "image"))
"""What `--augment` names."""

_GIVEN = ("key", "image", "mask")
_MIX_EXAMPLES = ("mixup",)
_APART = 2**32 - 1  # no step's number: a step's key is the run's folded with that


def keys(run_key: Array, index: Array, epoch: Array) -> Array:
    """Each example's key for its view, `[B]`: a function of the run, the example and its visit, and of nothing else.

    `augment(keys(state.key, index, epoch), image)` is what a recipe shows to student and teacher, so a view can be made
    again at any time; `index` and `epoch` are those of `kdjax.types.Batch`.

    >>> again = keys(jax.random.key(0), jnp.array([7, 3]), jnp.array([2, 2]))
    >>> bool(again[1] == keys(jax.random.key(0), jnp.array([3]), jnp.array([2]))[0])
    True
    """
    fold = jax.vmap(jax.random.fold_in)
    base = jnp.broadcast_to(jax.random.fold_in(run_key, _APART), index.shape)
    return fold(fold(base, epoch), index)


def resolve(text: str, *, mixing: bool = True) -> Callable[..., Array] | None:
    """What a text names, as one augmentation; None for the empty text.

    Args:
        text: functions of `data.augment` with commas between them, the first applied first.
        mixing: whether those are kept that mix examples, for which labels are wrong; False leaves them out.

    Raises:
        BadInput: another text, an unknown name, an argument that it does not take.

    >>> resolve("random_shift(2), random_flip")(jax.random.key(0), jnp.ones((2, 8, 8, 1))).shape
    (2, 8, 8, 1)
    """
    found = [(call.name, AUGMENTATIONS.resolve(call, given=_GIVEN, varying=False)) for call in _calls(text)]
    kept = [function for name, function in found if mixing or name not in _MIX_EXAMPLES]
    # One alone is given the examples' keys as they are.
    return None if not kept else kept[0] if len(kept) == 1 else augment.in_turn(*kept)


def mixes(text: str) -> bool:
    """Whether a text that `resolve` accepts names what mixes examples, so that their labels are wrong.

    >>> mixes("crop_and_flip, mixup"), mixes("crop_and_flip")
    (True, False)
    """
    return any(call.name in _MIX_EXAMPLES for call in _calls(text))


def _calls(text: str) -> tuple[Call, ...]:
    return calls(text, flag="augment") if text else ()

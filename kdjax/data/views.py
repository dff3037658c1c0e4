"""Augmentations by the name that a flag gives, and the keys that make a run's views again."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.data import augment
from kdjax.types import BadInput, nearest

SYNTAX = "NAME or NAME:NUMBER, joined by commas"

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


def _augmentations() -> dict[str, Callable[..., Any]]:
    """Every public function of `data.augment` whose first parameters are `key` and `image`."""
    return {
        name: function
        for name, function in inspect.getmembers(augment, inspect.isfunction)
        if not name.startswith("_") and list(inspect.signature(function).parameters)[:2] == ["key", "image"]
    }


def names() -> list[str]:
    """The names that `resolve` knows, each with its number's default where it takes one.

    >>> names()
    ['crop_and_flip:4', 'mixup', 'random_flip', 'random_shift:2']
    """
    found = {name: _number(function) for name, function in sorted(_augmentations().items())}
    return [f"{name}:{number.default}" if number else name for name, number in found.items()]


def resolve(text: str, *, mixing: bool = True) -> Callable[..., Array] | None:
    """What a text names, as one augmentation; None for the empty text.

    Args:
        text: `NAME` or `NAME:NUMBER`, joined by commas, the first applied first. NAME is a function of `data.augment`,
            NUMBER its whole number, such as pixels.
        mixing: whether those are kept that mix examples, for which labels are wrong; False leaves them out.

    Raises:
        BadInput: another text, an unknown name, a number where none is taken.

    >>> resolve("random_shift:2,random_flip")(jax.random.key(0), jnp.ones((2, 8, 8, 1))).shape
    (2, 8, 8, 1)
    """
    found = [_one(part.strip(), text) for part in text.split(",")] if text else []
    kept = [function for name, function in found if mixing or name not in _MIX_EXAMPLES]
    # One alone is given the examples' keys as they are.
    return None if not kept else kept[0] if len(kept) == 1 else augment.in_turn(*kept)


def mixes(text: str) -> bool:
    """Whether a text that `resolve` accepts names what mixes examples, so that their labels are wrong.

    >>> mixes("crop_and_flip,mixup"), mixes("crop_and_flip")
    (True, False)
    """
    return any(part.strip() in _MIX_EXAMPLES for part in text.split(","))


def _one(part: str, text: str) -> tuple[str, Callable[..., Array]]:
    name, colon, typed = part.partition(":")
    known = _augmentations()
    if name not in known:
        raise BadInput(f"augment={text!r}: {name!r} is no view; accepted: {', '.join(names())}{nearest(name, known)}")
    number = _number(known[name])
    if not colon:
        return name, known[name]
    if number is None or not typed.isdecimal():
        wanted = "a whole number, 0 or more" if number else "it alone, for it takes no number"
        raise BadInput(f"augment={text!r}: {part!r}; accepted after {name}: {wanted}")
    return name, functools.partial(known[name], **{number.name: int(typed)})


def _number(function: Callable[..., Any]) -> inspect.Parameter | None:
    """The parameter that NUMBER is for."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return own[0] if own else None

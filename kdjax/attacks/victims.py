"""What is attacked: a function from images to logits, seen through or only asked."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks._settings import require_count
from kdjax.types import ApplyFn, BadInput, Model, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Victim:
    """A classifier under attack; a pytree whose leaves are its variables.

    `victim(image [B, H, W, C], key=..., where=[B]) -> logits [B, K]`.

    Attributes:
        variables: of the model; an argument of every compiled attack, never a constant in it.
        forward: `(variables, image, key, where) -> logits`.
        white_box: whether gradients may be taken.
        on_host: whether every answer is counted or paid for outside: nothing is asked but what an attack asks.
        num_classes: K, of a victim on the host, where it cannot be read off an answer in advance.
    """

    variables: PyTree
    forward: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    white_box: bool = dataclasses.field(metadata={"static": True})
    on_host: bool = dataclasses.field(default=False, metadata={"static": True})
    num_classes: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array:
        return self.forward(self.variables, image, key, where)


def require_classes(count: int) -> None:
    """Refuse a classifier that has one answer only."""
    if count < 2:
        raise BadInput(f"the victim knows {count} class; accepted: 2 or more.")


@dataclasses.dataclass(frozen=True)
class _Evaluating:
    """A network's logits in evaluation mode. A value: programs compiled for one are those of every equal one."""

    apply: ApplyFn

    def __call__(self, variables: PyTree, image: Array, key: Array | None, where: Array | None) -> Array:
        return self.apply(variables, image, train=False, key=key)[0].logits


def white_box(model: Model | ApplyFn, variables: PyTree) -> Victim:
    """A model, or its `apply`, with its weights, in evaluation mode: logits and gradients.

    Raises:
        BadInput: variables that are no network's.
    """
    apply = model.apply if isinstance(model, Model) else model
    if variables is None or (isinstance(model, Model) and "params" not in variables):
        found = sorted(variables) if isinstance(variables, Mapping) else repr(variables)
        raise BadInput(f"variables has {found}; accepted: one network's, {{'params': ...}}, as fit returns by name")
    return Victim(variables, _Evaluating(apply), white_box=True)


def queries_only(victim: Victim) -> Victim:
    """The same model with its gradients withheld: a black box that runs on the device."""
    return dataclasses.replace(victim, white_box=False)


def black_box(ask: Callable[[np.ndarray], np.ndarray], *, num_classes: int, probabilities: bool = False) -> Victim:
    """Anything that answers images with scores, on the host: another framework's model, a service.

    Rows that an attack does not ask for are never sent, so the victim's own count of images is the count of queries.

    Args:
        ask: `[N, H, W, C]` float32 in [0, 1] to `[N, num_classes]`; called from inside compiled attacks.
        num_classes: K, at least 2.
        probabilities: whether the answers are softmax probabilities; their logarithm is used, which serves every
            objective as logits do, up to float32's smallest probability (log 1e-30 at least).

    Raises:
        BadInput: fewer than 2 classes; from the attack, where an answer has another shape, is not finite, or is
            probabilities unannounced. What `ask` itself raises comes out of `attacks.run` as it is.
    """
    require_count("num_classes", num_classes, 2)

    @_remembered
    def answer(image: Any, where: Any) -> np.ndarray:
        image, where = np.asarray(image), np.asarray(where)
        lead, rows = image.shape[:-3], image.reshape(-1, *image.shape[-3:])
        asked = np.broadcast_to(where, lead).reshape(-1)
        logits = np.zeros((len(rows), num_classes), np.float32)
        if asked.any():
            logits[asked] = check_answer(np.asarray(ask(rows[asked])), int(asked.sum()), num_classes, probabilities)
        return logits.reshape(*lead, num_classes)

    def forward(variables: PyTree, image: Array, key: Array | None, where: Array | None) -> Array:
        wanted = jnp.ones(image.shape[:1], bool) if where is None else where
        shape = jax.ShapeDtypeStruct((image.shape[0], num_classes), jnp.float32)
        return jax.pure_callback(answer, shape, image, wanted, vmap_method="expand_dims")

    return Victim((), forward, white_box=False, on_host=True, num_classes=num_classes)


_raised: dict[str, BaseException] = {}
"""What black boxes raised inside compiled programs and nobody has caught yet, by the number in XLA's message."""
_numbers = itertools.count()


class _Failure(Exception):
    """What XLA, which turns every exception of a callback into one of its own, is given in an exception's place."""


def _remembered(answer: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def call(*arguments: Any) -> np.ndarray:
        try:
            return answer(*arguments)
        except BaseException as error:
            name = f"black box failure {next(_numbers)}:"
            _raised[name] = error
            for old in list(_raised)[:-8]:  # what nobody caught, outside `own_exceptions`, is not kept for ever
                del _raised[old]
            raise _Failure(f"{name} {type(error).__name__}: {error}") from error

    return call


@contextmanager
def own_exceptions() -> Iterator[None]:
    """What a black box raises inside a compiled attack comes out as it was raised, with its traceback."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        name = re.search(r"black box failure \d+:", str(error))
        own = _raised.pop(name[0], None) if name else None
        if own is None:
            raise
        raise own from None


def check_answer(answer: np.ndarray, count: int, num_classes: int, probabilities: bool) -> np.ndarray:
    """The answer as logits.

    Raises:
        BadInput: wrong shape, not finite, or probabilities where logits were announced, and the reverse.
    """
    if answer.shape != (count, num_classes):
        raise BadInput(
            f"the victim answered {count} images with shape {answer.shape}; accepted: ({count}, {num_classes})."
        )
    if not np.isfinite(answer).all():
        raise BadInput("the victim answered with NaN or infinity; accepted: finite scores.")
    looks_like = look_like_probabilities(answer)
    if probabilities and not looks_like:
        raise BadInput("the victim was announced with probabilities=True, but its answers do not sum to 1 in [0, 1].")
    if looks_like and not probabilities:
        raise BadInput(
            "the victim answers with probabilities, where objectives need logits: gradients and margins of saturated "
            "probabilities vanish. Accepted: logits, or black_box(..., probabilities=True), which takes the logarithm."
        )
    return np.log(np.maximum(answer, 1e-30)) if probabilities else answer


def look_like_probabilities(scores: np.ndarray) -> bool:
    """Whether every row lies in [0, 1] and sums to 1, to 1e-3, or to what half precision leaves of that."""
    slack = max(1e-3, float(jnp.finfo(scores.dtype).eps)) if jnp.issubdtype(scores.dtype, jnp.floating) else 1e-3
    scores = scores.astype(np.float64)
    return bool((scores >= 0).all() and (scores <= 1).all() and (np.abs(scores.sum(-1) - 1) < slack).all())

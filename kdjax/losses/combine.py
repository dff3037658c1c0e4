"""Losses by the name that a flag gives."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from kdjax.losses import contrastive, feature, relation, response
from kdjax.types import BadInput, nearest

_FAMILIES = (response, feature, relation, contrastive)
_GIVEN_BY_THE_CALLER = ("student", "teacher", "labels", "temperature", "where")


def _losses() -> dict[str, Callable[..., Any]]:
    """Every public function, defined in a family itself, whose second parameter is `teacher`."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": function
        for module in _FAMILIES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and function.__module__ == module.__name__
        and list(inspect.signature(function).parameters)[1:2] == ["teacher"]
    }


def names(family: str | None = None) -> list[str]:
    """The names that `resolve` knows, sorted.

    Args:
        family: only those of one module, such as `response`; None gives all.

    Raises:
        BadInput: a family that does not exist.

    >>> names("response")[:3]
    ['response.centred_logit_mse', 'response.dist', 'response.dkd']
    """
    families = sorted({name.partition(".")[0] for name in _losses()})
    if family is not None and family not in families:
        raise BadInput(f"family={family!r}: expected one of {', '.join(families)}{nearest(family, families)}")
    return sorted(name for name in _losses() if family in (None, name.partition(".")[0]))


def resolve(name: str, /, **hyper: Any) -> Callable[..., Any]:
    """The loss called `name`, its own hyper-parameters bound.

    Args:
        name: one of `names()`.
        **hyper: the loss's own keywords, such as `alpha`; `labels`, `temperature`, `where` belong to each call.

    Returns:
        A `Loss`; of those with a memory, the family contrastive, `examples -> contrastive.Remembering`.

    Raises:
        BadInput: a name or a keyword that does not exist; the message lists those that do.

    >>> resolve("response.dkd", beta=2.0).keywords
    {'beta': 2.0}
    """
    losses = _losses()
    if name not in losses:
        raise BadInput(f"loss name {name!r}: expected one of {', '.join(losses)}{nearest(name, losses)}")
    function, given = losses[name], _GIVEN_BY_THE_CALLER
    if remembers(name):
        function, given = getattr(contrastive, f"remember_{name.partition('.')[2]}"), ("examples",)
    accepted = [p for p in inspect.signature(function).parameters if p not in given]
    for key, value in hyper.items():
        if key in given:
            raise BadInput(f"{key}={value!r}: {name} takes it at each call; it cannot be bound")
        if key not in accepted:
            wanted = f"expected one of {', '.join(accepted)}" if accepted else "it has no keywords of its own"
            raise BadInput(f"{key}={value!r}: not a keyword of {name}; {wanted}{nearest(key, accepted)}")
    return functools.partial(function, **hyper)


def remembers(name: str) -> bool:
    """Whether a loss has a memory, so that `resolve` gives no `Loss` but what makes one."""
    return name.startswith("contrastive.")

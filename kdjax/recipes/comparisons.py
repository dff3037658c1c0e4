"""What each loss of the field needs besides two arrays: one row a loss, and no other file compares a loss's name.

A loss that is not in the table compares answers if it is a response loss, and embeddings or the named layers, as they
are, if it is not.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import contrastive, emphasis, feature, relation, response, shares, temperatures
from kdjax.losses.contrastive import Remembering
from kdjax.models.connect.connectors import Embed, Normalised, Pooled, Project, Untouched, Variational
from kdjax.models.connect.factors import Factors
from kdjax.models.connect.review import Fusion
from kdjax.recipes.terms import Comparison
from kdjax.spec import Call, Family
from kdjax.types import BadInput, nearest

MOST = 99
"""As many layers as anybody has."""

LOSSES = Family(response, feature, relation, first=("student", "teacher"), dotted=True)
"""The losses by name, `response.kl`, less those that remember."""

BY_LABELS = Family(
    response,
    first=("student", "labels"),
    accepts=lambda loss: loss is not response.cross_entropy,
    dotted=True,
)
"""The losses that compare an answer with the labels and nobody's answer; cross-entropy itself is typed `labels`."""

EMPHASES = Family(emphasis, first=("logits", "labels"))
"""What an example's loss may be multiplied by: `times=confidence(teacher(attacked))`."""

SHARES = Family(shares, first=("memory", "losses"))
"""How terms may share a weight: `shared=progress(rate=0.025)`."""

TEMPERATURES = Family(temperatures, accepts=lambda rule: rule.__annotations__.get("return") is temperatures.Fitted)
"""How a teacher's answer may be softened: `teacher_temperature=class_risk(rate=0.1)`."""

MEMORIES = Family(contrastive, first=("examples",), accepts=lambda f: f.__name__.startswith("remember_"))
"""What makes the losses that remember: `remember_crd` makes `contrastive.crd`."""

_GIVEN = ("student", "teacher", "labels", "where")
"""What every loss is given with each call."""


def _matrices(loss: Callable[..., Array]) -> Callable[..., Array]:
    return lambda s, t, *, where: loss(feature.fsp_matrix(*s), feature.fsp_matrix(*t), where=where)


def _levels(loss: Callable[..., Array]) -> Callable[..., Array]:
    return lambda s, t, *, where: sum((loss(*level, where=where) for level in zip(s, t, strict=True)), jnp.zeros(()))


def _without_reconstruction(loss: Callable[..., Array]) -> Callable[..., Array]:
    return lambda s, t, *, where, reconstruction=None: loss(s, t, where=where)


def _reconstruction(student: Array, teacher: Array, *, where: Array, reconstruction: Array) -> Array:
    return jnp.where(where, reconstruction, 0)


def _made(module: Callable[[], Any]) -> Callable[[bool], Any]:
    return lambda taught: module()


_HINT = Comparison(_made(Project))
_VECTORS = Comparison(_made(Pooled), couples=True, least=2)
_FACTORS = Comparison(
    lambda taught: Factors(learned=taught),
    complete=_without_reconstruction,
    # A paraphraser learns of the teacher's layer alone, whatever the student's share weighs.
    beside={"paraphraser": _reconstruction},
)

COMPARISONS: dict[str, Comparison] = {
    "response.dist": Comparison(couples=True, least=2),
    "feature.hint": _HINT,
    "feature.pkd": _HINT,
    "feature.cosine": _HINT,
    "feature.fsp": Comparison(_made(Untouched), layers=(2, 2), between="neighbours", complete=_matrices),
    "feature.review": Comparison(
        _made(Fusion), layers=(1, MOST), between="all", before_relu=True, complete=_levels
    ),
    "feature.vid": Comparison(_made(Variational)),
    "feature.ab": Comparison(_made(Normalised), halves=True, before_relu=True),
    "feature.ofd": Comparison(_made(lambda: Normalised(margin=True)), halves=True, before_relu=True),
    "feature.ft": _FACTORS,
    "feature.ft_crd": _FACTORS,
    "relation.rkd_distance": _VECTORS,
    "relation.rkd_angle": _VECTORS._replace(least=3),
    "relation.pkt": _VECTORS,
    "relation.cc_neighbours": Comparison(_made(Embed), couples=True, least=2),
    "relation.cc_kernel": Comparison(_made(Embed), couples=True, least=2),
}  # fmt: skip
"""By the losses' names."""

_BY_FAMILY = {
    "response": Comparison(),
    "feature": Comparison(_made(Untouched)),
    "relation": Comparison(_made(Untouched), couples=True, least=2),
    "contrastive": Comparison(_made(Untouched), couples=True),
}


def comparison(name: str) -> Comparison:
    """A loss's row."""
    return COMPARISONS.get(name) or _BY_FAMILY.get(name.partition(".")[0], Comparison())


def remembers(name: str) -> bool:
    """Whether a loss has a memory in the train state."""
    return name.startswith("contrastive.")


def names(family: str = "") -> list[str]:
    """All losses that can be typed, or one family's."""
    memories = [f"contrastive.{name.removeprefix('remember_')}" for name in MEMORIES.names()]
    return sorted(n for n in (*LOSSES.names(), *memories) if n.startswith(f"{family}." if family else ""))


def loss_of(call: Call) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The loss that a call names, and its numbers, which are handed over with each call of it so that they are traced.

    Raises:
        BadInput: a name or a keyword that there is not; the message lists those that there are.
    """
    family = BY_LABELS if call.name in BY_LABELS.functions else LOSSES
    own = Call(call.name, (), call.kwargs, call.place)
    if remembers(call.name) or call.name not in family.functions:
        raise _unknown(call)
    # What a connector finds channel by channel is no keyword of the expression.
    given = [*_GIVEN, *(n for n, p in family.parameters(own, given=_GIVEN).items() if p.default is p.empty)]
    family.resolve(own, given=given)
    traced = {key: value for key, value in call.kwargs if not isinstance(value, bool | str | Call)}
    kept = tuple((key, value) for key, value in call.kwargs if key not in traced)
    bound = family.resolve(Call(call.name, (), kept, call.place), given=given)
    return comparison(call.name).complete(bound), traced


def _unknown(call: Call) -> BadInput:
    near = nearest(call.name, [*names(), *BY_LABELS.names()]) or nearest(f"response.{call.name}", names())
    accepted = ", ".join(["labels", *names(), *BY_LABELS.names()])
    return call.error(f"read the name {call.name}; accepted: {accepted}{near}")


def default_of(call: Call, keyword: str, otherwise: float) -> float:
    """A keyword's default in the loss that a call names."""
    found = LOSSES.parameters(call).get(keyword)
    return otherwise if found is None or found.default is found.empty else found.default


def memory_of(call: Call, examples: int | None) -> Remembering:
    """The loss with a memory that a call names, over a data set of so many examples.

    Raises:
        BadInput: as `loss_of`; too few examples, or an unknown number for a loss that needs it.
    """
    if call.name not in names():
        raise _unknown(call)
    maker = Call(f"remember_{call.name.partition('.')[2]}", (), call.kwargs, call.place)
    return MEMORIES.resolve(maker, given=("examples",))(examples)

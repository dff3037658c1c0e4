"""Several losses at once, as a flag writes them: `response.kl:0.9,relation.rkd_distance:25,feature.hint:100@block2`."""

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from kdjax.losses import combine
from kdjax.types import BadInput

LABELS = "labels"
SYNTAX = "NAME[:WEIGHT][@STUDENT_LAYER[=TEACHER_LAYER]], joined by commas"

_SEES_THE_BATCH = ("response.dist",)
_SEVERAL_LAYERS = {"feature.fsp": (2,), "feature.review": range(1, 100)}
_BEFORE_RELU = ("feature.ab", "feature.ofd", "feature.review")


class Term(NamedTuple):
    """One loss of several.

    `name` as `combine.resolve` knows it, or `labels`; `weight`, None where the text gives none; the layers that a
    feature or relation loss compares, empty where the text gives none. Several layers, of which `feature.fsp` compares
    two at once and `feature.review` any number, are joined by hyphens: `block1-block2`.
    """

    name: str
    weight: float | None = None
    student: str = ""
    teacher: str = ""

    @property
    def label(self) -> str:
        """How metrics and hyper-parameters call it.

        >>> Term("feature.hint", 100.0, "block2", "block4").label
        'feature.hint@block2=block4'
        """
        return f"{self.name}@{self.student}={self.teacher}" if self.student else self.name

    @property
    def on_logits(self) -> bool:
        """Whether it compares logits."""
        return self.name.startswith("response.")

    @property
    def sees_the_batch(self) -> bool:
        """Whether an example's number depends on the others, so that it must be given the global batch."""
        return self.name.startswith("relation.") or self.remembers or self.name in _SEES_THE_BATCH

    @property
    def least(self) -> int:
        """How many examples of a batch it compares at least: with fewer it teaches nothing."""
        between = self.name.startswith("relation.") or self.name in _SEES_THE_BATCH
        return 3 if self.name == "relation.rkd_angle" else 2 if between else 1

    @property
    def remembers(self) -> bool:
        """Whether it has a memory in the train state."""
        return combine.remembers(self.name)


def parse(text: str) -> tuple[Term, ...]:
    """The terms that a text names.

    Args:
        text: `NAME[:WEIGHT][@STUDENT_LAYER[=TEACHER_LAYER]]`, joined by commas. NAME is one of `combine.names()`, or
            `labels` for the cross-entropy with the labels. One layer alone is the same on both sides.

    Raises:
        BadInput: another text, an unknown name, a weight that is negative or not finite, a layer for logits, the same
            term twice.

    >>> parse("response.kl:0.9,feature.hint:100@block2=block4")[1]
    Term(name='feature.hint', weight=100.0, student='block2', teacher='block4')
    """
    found: list[Term] = []
    for part in text.split(","):
        head, at, layers = part.strip().partition("@")
        name, colon, number = head.partition(":")
        if name != LABELS:
            combine.resolve(name)
        student, equals, teacher = layers.partition("=")
        try:
            weight = float(number) if colon else None
            if weight is not None and not (math.isfinite(weight) and weight >= 0):
                raise ValueError
        except ValueError:
            raise BadInput(f"loss={part.strip()!r}: accepted is {SYNTAX}; WEIGHT is a number from 0 up") from None
        term = Term(name, weight, student, teacher or student)
        if bool(at) != bool(student) or bool(equals) != bool(teacher):
            raise BadInput(f"loss={part.strip()!r}: accepted is {SYNTAX}")
        if student and (name == LABELS or term.on_logits):
            raise BadInput(f"loss={part.strip()!r}: {name} compares logits; accepted is no layer")
        counts = [len(side.split("-")) for side in (student, term.teacher)]
        allowed = _SEVERAL_LAYERS.get(name, (1,))
        if student and (counts[0] != counts[1] or counts[0] not in allowed):
            wanted = {"feature.fsp": "two layers", "feature.review": "one layer or more, as many"}.get(
                name, "one layer"
            )
            raise BadInput(f"loss={part.strip()!r}: {name} compares {wanted} on each side; {SYNTAX}")
        if term.label in [other.label for other in found]:
            raise BadInput(f"loss={text!r} names {term.label} twice; accepted is each once")
        found.append(term)
    return tuple(found)


def on_layers(
    terms: Sequence[Term],
    pairs: Sequence[tuple[str, str]],
    *,
    weights: Sequence[float] = (1.0,),
    shown: tuple[Collection[str], Collection[str]] = ((), ()),
) -> tuple[Term, ...]:
    """Give every feature loss without layers all pairs of a layer map, every other one the embeddings.

    Of n pairs most losses become n terms, `feature.fsp` n - 1 of two pairs each, `feature.review` one of all. Losses
    whose papers look before the ReLU (AB, OFD, knowledge review) are given `NAME_pre` where a network shows it.

    Args:
        terms: as parsed.
        pairs: layers of the student and of the teacher by name; empty without a map.
        weights: factors of each pair, or one for all; a loss that joins all pairs takes one.
        shown: the names of all layers of the student and of the teacher.

    Raises:
        BadInput: a feature loss without layers and no map; other than one weight per pair; a single pair for
            `feature.fsp`; the same loss on the same layers twice.
    """
    weights = list(weights) * (len(pairs) if len(weights) == 1 else 1)
    if pairs and len(weights) != len(pairs):
        raise BadInput(
            f"layer_weights={tuple(weights)} for {len(pairs)} pairs of layers; accepted: one, or one per pair"
        )
    found: list[Term] = []
    for term in terms:
        if term.student or term.name == LABELS or term.on_logits:
            found.append(term)
        elif not term.name.startswith("feature."):
            found.append(term._replace(student="embedding", teacher="embedding"))
        elif not pairs:
            raise BadInput(f"{term.name} names no layer; accepted: {term.name}@LAYER, or a layer map such as every:2")
        else:
            taken = [_before_relu(pair, shown) for pair in pairs] if term.name in _BEFORE_RELU else pairs
            each = list(zip(taken, weights, strict=True))
            if term.name == "feature.fsp":
                # Its matrices stand between two layers, so a map of n pairs has n - 1 of them.
                if len(each) < 2:
                    raise BadInput(
                        f"{term.name} stands between two layers and is given one pair; accepted: two or more"
                    )
                each = [((f"{a}-{c}", f"{b}-{d}"), factor) for ((a, b), factor), ((c, d), _) in pairwise(each)]
            if term.name == "feature.review":
                if len(set(weights)) > 1:
                    raise BadInput(f"layer_weights={tuple(weights)}: {term.name} fuses all pairs; accepted: one weight")
                student, teacher = ("-".join(side) for side in zip(*taken, strict=True))
                each = [((student, teacher), weights[0])]
            weight = 1.0 if term.weight is None else term.weight
            found += [Term(term.name, weight * factor, s, t) for (s, t), factor in each]
    labels = [term.label for term in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise BadInput(f"{twice[0]} is named and comes from the layer map as well; accepted is each once")
    return tuple(found)


def _before_relu(pair: tuple[str, str], shown: tuple[Collection[str], Collection[str]]) -> tuple[str, str]:
    student, teacher = (f"{x}_pre" if f"{x}_pre" in names else x for x, names in zip(pair, shown, strict=True))
    return student, teacher


def arguments(text: str, terms: Sequence[Term]) -> dict[str, dict[str, float]]:
    """The losses' own hyper-parameters, by loss: `alpha=1,beta=8` for the only one, `response.dkd.beta=8` by name.

    Raises:
        BadInput: another text, a loss that is not among the terms, no loss named among several, a name twice.

    >>> arguments("beta=8", parse("labels:1,response.dkd:1"))
    {'response.dkd': {'beta': 8.0}}
    """
    names = list(dict.fromkeys(term.name for term in terms if term.name != LABELS))
    found: dict[str, dict[str, float]] = {}
    for part in filter(None, text.split(",")):
        key, _, number = part.partition("=")
        owner, _, keyword = key.strip().rpartition(".")
        owner = owner or (names[0] if len(names) == 1 else "")
        try:
            value = float(number)
            if not math.isfinite(value):
                raise ValueError
        except ValueError:
            raise BadInput(f"loss_args={text!r}: accepted are name=number pairs, such as alpha=1,beta=2") from None
        if owner not in names:
            raise BadInput(f"loss_args={text!r}: {part} belongs to no loss; accepted: LOSS.NAME=NUMBER of {names}")
        if keyword in found.setdefault(owner, {}):
            raise BadInput(f"loss_args={text!r} names {owner}.{keyword} twice; accepted is each once")
        found[owner][keyword] = value
    return found


def bound(terms: Sequence[Term], own: dict[str, dict[str, float]]) -> dict[str, Callable[..., object]]:
    """What `combine.resolve` gives for every term but the labels', by its label, hyper-parameters bound.

    Raises:
        BadInput: as `combine.resolve`; what a loss's connector finds for each channel, and would overrule.
    """
    for name, typed in own.items():
        parameters = inspect.signature(combine.resolve(name)).parameters
        for key in typed.keys() & parameters.keys():
            if parameters[key].default is inspect.Parameter.empty:
                raise BadInput(f"loss_args: {name}.{key} is found channel by channel while training; it cannot be set")
    return {t.label: combine.resolve(t.name, **own.get(t.name, {})) for t in terms if t.name != LABELS}

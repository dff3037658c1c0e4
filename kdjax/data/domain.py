"""One domain, as it is typed: a data set, some of its classes, what is done to its images, splits of its own."""

from dataclasses import dataclass, replace
from typing import Literal

from kdjax.data import splits, transforms
from kdjax.spec import Call, formula, summands
from kdjax.spec.expression import Value
from kdjax.types import BadInput, nearest

ACCEPTED = (
    "DATASET or dataset('NAME/CONFIG:VERSION'), with any of these in brackets: transforms such as rotate(45), "
    "classes=(0, 1) or classes=range(0, 7), and train='train[:80%]', test='train[80%:]'; domains of the same classes "
    "with commas between them, of others with a plus"
)


@dataclass(frozen=True)
class Domain:
    """One domain: `classes` None is all, `block` counts the label spaces, `own_splits` None takes the study's.

    `name` is what was typed, without the splits where that tells it from the others.
    Two domains of the same `view` are the same images, of other classes perhaps.
    """

    name: str
    dataset: str
    classes: tuple[int, ...] | None
    transforms: tuple[Call, ...]
    block: int
    own_splits: tuple[str, str] | None

    @property
    def view(self) -> tuple[object, ...]:
        """What the images are."""
        return self.dataset, self.transforms, self.block

    def split(self, part: Literal["train", "test"], study: str) -> str:
        """The split to train or test on: the domain's own, or the study's."""
        return study if self.own_splits is None else self.own_splits[part == "test"]


def parse(text: str) -> tuple[Domain, ...]:
    """The domains that a flag names; nothing is loaded.

    Raises:
        BadInput: a domain that cannot be read, an unknown transform, one domain twice.

    >>> first, second = parse("mnist(invert, classes=(0, 1, 7)), usps")
    >>> first.classes, first.transforms, second.block
    ((0, 1, 7), (invert,), 0)
    >>> [d.block for d in parse("mnist, usps + fashion_mnist, kmnist")]
    [0, 0, 1, 1]
    """
    found, calls, block = list[Domain](), list[Call](), 0
    for together in summands(text, flag="domains"):
        for number, (weight, call) in enumerate(formula(together).terms):
            if not (isinstance(weight, int) and weight == 1):
                raise call.error(f"read {weight!r}*{call!r}; accepted: {ACCEPTED}")
            block += number > 0
            if call in calls:
                raise call.error(f"read {call!r} more than once; accepted: each domain at most once")
            calls.append(call)
            found.append(_domain(call, block))
    short = [_without_splits(call) for call in calls]
    names = [str(s if short.count(s) == 1 else call) for s, call in zip(short, calls, strict=True)]
    return tuple(replace(domain, name=name) for domain, name in zip(found, names, strict=True))


def _without_splits(call: Call) -> Call:
    return Call(call.name, call.args, tuple((key, x) for key, x in call.kwargs if key not in ("train", "test")))


def _domain(call: Call, block: int) -> Domain:
    name, chain = call.name, call.args
    if name == "dataset":
        if not (chain and isinstance(chain[0], str)):
            raise call.error(f"read {call!r} without a name in quotes; accepted: {ACCEPTED}")
        name, chain = chain[0], chain[1:]
    keywords = call.keywords
    for key, value in keywords.items():
        if key not in ("classes", "train", "test"):
            raise call.error(f"read {key}={value!r}; accepted: {ACCEPTED}{nearest(key, ('classes', 'train', 'test'))}")
    own = tuple(keywords[key] for key in ("train", "test") if key in keywords)
    if len(own) == 1 or not all(isinstance(split, str) for split in own):
        raise call.error(f"read {call!r}; accepted: both train and test, each in quotes, or neither")
    try:
        for transform in chain:
            if not isinstance(transform, Call):
                raise BadInput(f"read {transform!r}; accepted: {ACCEPTED}")
            transforms.resolve(transform)
        for split in own:
            splits.parse(split)
    except BadInput as error:
        raise (error if "column" in str(error) else call.error(str(error))) from None
    classes = _classes(call, keywords["classes"]) if "classes" in keywords else None
    return Domain(str(call), name, classes, chain, block, own or None)


def _classes(call: Call, typed: Value) -> tuple[int, ...]:
    if isinstance(typed, Call) and typed.name == "range" and not typed.kwargs and len(typed.args) in (1, 2):
        chosen = tuple(range(*typed.args)) if all(type(end) is int for end in typed.args) else ()
    else:
        chosen = typed if isinstance(typed, tuple) and all(type(c) is int for c in typed) else ()
    if not chosen or min(chosen) < 0:
        raise call.error(f"read classes={typed!r}; accepted: numbers, (0, 1, 8), or range(0, 7), which ends before 7")
    if len(set(chosen)) < len(chosen):
        raise call.error(f"read classes={typed!r}, a class more than once; accepted: each at most once")
    return tuple(sorted(chosen))

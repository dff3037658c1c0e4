"""Several data sets, or several views of one, as a single set that knows where each example comes from.

    mnist, usps, mnist(invert), mnist(rotate(45))                   one label space: class 3 of one is class 3 of all
    mnist + fashion_mnist                                           two label spaces: classes 0 to 9, then 10 to 19
    mnist(classes=range(0, 7)), mnist(classes=range(4, 10))         some classes of each; those of both are the same
    mnist + kmnist(train='test[:80%]', test='test[80%:]')           splits of its own, to train on and to test on
    dataset('emnist/letters'), dataset('cifar10:3.0.2', invert)     names that are no words

A comma joins domains that share their classes, by number; a plus begins classes of their own. In the brackets stand
transforms, the first applied first, and what else is said of the domain. It is the grammar of `kdjax.spec`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from kdjax.data import splits, transforms
from kdjax.data.load import load
from kdjax.data.source import Source, unit_interval, validate
from kdjax.data.stream import Stream
from kdjax.spec import Call, formula, summands
from kdjax.spec.expression import Value
from kdjax.types import BadInput, nearest

ACCEPTED = (
    "DATASET or dataset('NAME/CONFIG:VERSION'), with any of these in brackets: transforms such as rotate(45), "
    "classes=(0, 1) or classes=range(0, 7), and train='train[:80%]', test='train[80%:]'; domains of the same classes "
    "with commas between them, of others with a plus"
)

Maps = tuple[tuple[int, ...], ...]


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


class Union(NamedTuple):
    """Domains as one: `source` has images `[N, H, W, C]`, labels in the union's numbering and `domain [N]` int32.

    `maps[d][l]` is the union's number of the domain's own class l.
    """

    source: Source
    maps: Maps


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


def union_maps(domains: Sequence[Domain], num_classes: Sequence[int]) -> tuple[Maps, int]:
    """Each domain's classes in the union, and the union's size: block after block, in order of class number.

    Args:
        domains: of `parse`.
        num_classes: how many classes each domain's data set has.

    Raises:
        BadInput: a class that a data set does not have; data sets of one block that differ in number of classes.

    >>> union_maps(parse("mnist(classes=range(0, 3)), mnist(classes=(2, 9)) + usps(classes=(4, 5))"), (10, 10, 10))
    (((0, 1, 2), (2, 3), (4, 5)), 6)
    """
    own = [tuple(range(n)) if d.classes is None else d.classes for d, n in zip(domains, num_classes, strict=True)]
    places: dict[tuple[int, int], int] = {}
    for block in range(domains[-1].block + 1):
        inside = [i for i, d in enumerate(domains) if d.block == block]
        if len(sizes := {num_classes[i] for i in inside}) > 1:
            listed = ", ".join(f"{domains[i].dataset} {num_classes[i]}" for i in inside)
            raise BadInput(
                f"domains joined by a comma share their classes, but these have {sorted(sizes)} ({listed}); "
                "accepted: as many, or a plus between them"
            )
        for c in sorted({c for i in inside for c in own[i]}):
            places[block, c] = len(places)
    for domain, classes, number in zip(domains, own, num_classes, strict=True):
        if classes[-1] >= number:
            raise BadInput(f"domain {domain.name!r}: class {classes[-1]}; accepted: 0 to {number - 1}")
    maps = tuple(tuple(places[d.block, c] for c in classes) for d, classes in zip(domains, own, strict=True))
    return maps, len(places)


def refuse_shared_examples(domains: Sequence[Domain], train: str, test: str, *, data_dir: str = "") -> None:
    """Refuse domains of which one trains on an example that another, or itself, is tested on, in whatever view.

    Raises:
        BadInput: such a pair; the message names it.
    """
    for a, b in product(domains, domains):
        learned, held_out = a.split("train", train), b.split("test", test)
        (base, cut), (other, other_cut) = splits.parse(learned), splits.parse(held_out)
        if (a.dataset, base) != (b.dataset, other):
            continue
        examples = len(load(a.dataset, base, data_dir=data_dir))
        mine, theirs = cut(examples), other_cut(examples)
        if max(mine.start, theirs.start) < min(mine.stop, theirs.stop):
            raise BadInput(
                f"{a.name} trains on {learned} of {a.dataset} and {b.name} is tested on {held_out}, which share "
                "examples; accepted: splits that do not"
            )


def unite(
    domains: Sequence[Domain],
    part: Literal["train", "test"],
    split: str,
    *,
    data_dir: str = "",
    image_size: int = 0,
    most: int = 0,
) -> Union:
    """Load all domains and join them.

    Images get one size, then one number of channels, and only then are transformed: blur and noise mean the
    same pixels everywhere. What a transform draws is a function of the split's text and the example's place in it.

    Args:
        domains: of `parse`.
        part: which of a domain's own splits to take.
        split: for domains without splits of their own.
        data_dir: see `load`.
        image_size: height and width of all; 0 is the largest height or width among the domains. They are colour if
            one of them is.
        most: examples of each domain, drawn once and for all, other ones for every place in the list; 0 takes all.

    Raises:
        BadInput: a set, split or class that there is not, an empty domain, or a negative `most` or `image_size`.
    """
    if most < 0 or image_size < 0:
        raise BadInput(f"most={most}, image_size={image_size}; accepted: 0 or more")
    texts = [d.split(part, split) for d in domains]
    loaded = [load(d.dataset, s, data_dir=data_dir) for d, s in zip(domains, texts, strict=True)]
    maps, size = union_maps(domains, [found.num_classes for found in loaded])
    shapes = [found.image_shape() for found in loaded]
    pixels, channels = image_size or max(max(s[:2]) for s in shapes), max(s[2] for s in shapes)
    columns: dict[str, list[np.ndarray]] = {"inputs": [], "label": [], "domain": []}
    for d, (domain, text, found) in enumerate(zip(domains, texts, loaded, strict=True)):
        index = _chosen(domain, found, most, seed=d)
        rows = found[index]
        image = transforms.recolour(transforms.resize(_floats(rows["inputs"]), pixels), channels)
        drawn = index.astype(np.int64) + (zlib.crc32(text.encode()) >> 1 << 32)
        for transform in domain.transforms:
            image = transforms.resolve(transform)(image, drawn)
        own = range(found.num_classes) if domain.classes is None else domain.classes
        columns["inputs"].append(image)
        columns["label"].append(_renumbered(rows["label"], own, maps[d]))
        columns["domain"].append(np.full(len(index), d, np.int32))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Union(validate(Source(arrays, size, f"{len(domains)} domains/{part}")), maps)


def _floats(image: np.ndarray) -> np.ndarray:
    return unit_interval(image).astype(np.float32, copy=False)


def _renumbered(label: np.ndarray, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """Labels in another numbering; those that it does not have become -1, not known."""
    number = np.full(max(before) + 2, -1, np.int32)  # -1 finds the last place
    number[list(before)] = after
    return number[label]


def _chosen(domain: Domain, found: Source | Stream, most: int, *, seed: int) -> Int[np.ndarray, " some"]:
    """The places of a domain's examples in its split: of its classes, and no more than `most`."""
    index = np.arange(len(found))
    if domain.classes is not None:
        index = index[np.isin(found.labels(), domain.classes)]
    if most:
        index = np.sort(np.random.default_rng(seed).permutation(index)[:most])
    if len(index) == 0:
        raise BadInput(f"domain {domain.name!r} has no examples; accepted: classes that its split has")
    return index


def of_domain(union: Union, domain: int) -> Source:
    """One domain of a union as its expert learns it: its examples alone, labelled by its own classes from 0."""
    source, own = union.source, union.maps[domain]
    there = source.select(np.flatnonzero(source.arrays["domain"] == domain))
    label = _renumbered(there.labels(), own, range(len(own)))
    return Source({"inputs": there.arrays["inputs"], "label": label}, len(own), f"{source.name}/{domain}")

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
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from kdjax.data import splits, transforms
from kdjax.data.domain import ACCEPTED as ACCEPTED
from kdjax.data.domain import Domain as Domain
from kdjax.data.domain import parse as parse
from kdjax.data.load import load
from kdjax.data.source import Source, unit_interval, validate
from kdjax.data.stream import Stream
from kdjax.types import BadInput

Maps = tuple[tuple[int, ...], ...]


class Union(NamedTuple):
    """Domains as one: `source` has images `[N, H, W, C]`, labels in the union's numbering and `domain [N]` int32.

    `maps[d][l]` is the union's number of the domain's own class l.
    """

    source: Source
    maps: Maps


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

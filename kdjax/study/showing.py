"""The networks of a run on its page: size, time of an answer and an epoch, confusions, words about ten images."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import softmax

from kdjax.data.source import Examples, unit_interval
from kdjax.models.create import parameter_count
from kdjax.study import page
from kdjax.training.step import eval_step
from kdjax.types import Model, PyTree

CLASSES = 30
"""The most whose confusions fit a page."""
IMAGES, NETWORKS, CALLS, TEMPERATURE = 10, 8, 30, 4.0


class Shown(NamedTuple):
    """One network: its variables, its logits for the test images, and the seconds that an epoch of it took."""

    model: Model
    weights: PyTree
    logits: np.ndarray
    seconds: float | None = None


def shown(networks: Mapping[str, Shown], test: Examples) -> str:
    """HTML of the networks of one seed.

    Args:
        networks: by their names.
        test: the images that they answered.
    """
    networks = {name: one for name, one in networks.items() if parameter_count(one.weights["params"])}
    if not networks:
        return ""  # a service's, which is paid for each answer
    label, latencies = test.labels(), _latencies(networks, unit_interval(test[np.arange(1)]["inputs"]))
    rows = []
    for name, one in networks.items():
        count = parameter_count(one.weights["params"])
        epoch = f"{one.seconds:.3g}" if one.seconds is not None else "–"
        rows.append((escape(name), f"{count:,}", f"{size(one.weights):,}", f"{latencies[name]:.3g}", epoch))
    html = "<h2>Networks of the first seed</h2>"
    html += page.grid(("", "parameters", "bytes", "milliseconds for one image", "seconds an epoch"), rows)
    if not np.issubdtype(label.dtype, np.integer):
        return html
    networks = dict(list(networks.items())[:NETWORKS])  # more than a reader compares, and than fit beside each other
    classes = {one.logits.shape[-1] for one in networks.values()}
    if len(classes) == 1 and (count := classes.pop()) <= CLASSES:
        html += "<h2>Confusions</h2><p>Rows are labels, columns answers, in per cent of a label's test images.</p>"
        html += '<div class="side">' + "".join(
            f"<div><b>{escape(name)}</b>{confusion(one.logits, label, count)}</div>" for name, one in networks.items()
        )
        html += "</div>"
    return html + soft_labels(networks, test)


def confusion(logits: np.ndarray, label: np.ndarray, classes: int) -> str:
    """Of each label, the shares that each class was answered, as a shaded table."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (label, logits.argmax(-1)), 1)
    rows = []
    for number, row in enumerate(counts):
        shares = 100 * row / max(row.sum(), 1)
        ink = [";color:white" if s > 60 else ";color:#bbb" if s < 0.5 else "" for s in shares]
        blue = [f"background:rgba(31,119,180,{s / 100:.2f})" for s in shares]
        cells = [f'<td style="{b}{i}">{s:.0f}</td>' for b, i, s in zip(blue, ink, shares, strict=True)]
        rows.append(f"<tr><th>{number}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{number}</th>" for number in range(classes))
    return f'<div class="wide"><table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def soft_labels(networks: Mapping[str, Shown], test: Examples) -> str:
    """What each network says of ten test images, one of each class first."""
    label = test.labels()
    _, first = np.unique(label, return_index=True)
    rest = np.setdiff1d(np.arange(len(label)), first)
    chosen = np.concatenate([np.sort(first), rest])[:IMAGES]
    image = unit_interval(test[chosen]["inputs"])
    pictured = image.ndim == 4 and image.shape[-1] in (1, 3)
    rows = []
    for number, at in enumerate(chosen):
        seen = page.embedded(_png(image[number]), f"test image {at}", css="picture") if pictured else f"row {at}"
        rows.append(
            [seen, str(label[at]), *(words(softmax(one.logits[at] / TEMPERATURE)) for one in networks.values())]
        )
    head = f"<h2>Soft labels at temperature {TEMPERATURE:g}</h2>"
    return head + page.grid(("", "label", *map(escape, networks)), rows, css="words")


def words(shares: Sequence[float] | np.ndarray) -> str:
    """The likeliest class, and those that it is a little like.

    >>> words([0.02, 0.95, 0.0, 0.03])
    'a 1 (95 %), a little like a 3 (3 %) and a 0 (2 %)'
    >>> words([0.0, 1.0])
    'a 1 (100 %)'
    >>> words([0.001] * 8 + [0.002] + [0.001] * 991)
    'an 8 (0 %)'
    """
    order = np.argsort(-np.asarray(shares), kind="stable")
    likely = [k for k in order[:3] if k == order[0] or shares[k] >= 0.005]
    told = [f"{_article(int(k))} {k} ({100 * shares[k]:.0f} %)" for k in likely]
    return told[0] + (", a little like " + " and ".join(told[1:]) if told[1:] else "")


def _article(number: int) -> str:
    """As it is spoken: an 8, an 11, an 18, an 80."""
    return "an" if str(number).startswith("8") or number in (11, 18) else "a"


class Timer:
    """How long a network takes from one image to its logits, by one program for all weights that it is given."""

    def __init__(self, model: Model) -> None:
        self._answer = jax.jit(eval_step(model.apply))

    def milliseconds(self, weights: PyTree, image: np.ndarray) -> float:
        """Of an image `[1, ...]` in [0, 1], compiled: the median of many calls."""
        held, seconds = jax.device_put((weights, image)), []
        for _ in range(CALLS + 1):  # the first one compiles
            begun = time.perf_counter()
            self._answer(*held).block_until_ready()
            seconds.append(time.perf_counter() - begun)
        return 1000 * median(seconds[1:])


def size(weights: PyTree) -> int:
    """Bytes of a network's variables."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(weights))


def _latencies(networks: Mapping[str, Shown], image: np.ndarray) -> dict[str, float]:
    """By name; networks of one kind are timed once."""
    timed: dict[Callable[..., Any], float] = {}
    for one in networks.values():
        if one.model.apply not in timed:
            timed[one.model.apply] = Timer(one.model).milliseconds(one.weights, image)
    return {name: timed[one.model.apply] for name, one in networks.items()}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    drawn = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(drawn, format="png")
    return drawn.getvalue()

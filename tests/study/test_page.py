"""The page of a run: what it says, that it is one file, and that text of others cannot become markup."""

import html.parser
import json
import re

import jax
import numpy as np
import pytest

from kdjax.data.source import Source
from kdjax.models.create import create
from kdjax.study import page, showing


class Reader(html.parser.HTMLParser):
    """Texts by the tag they stand in, pictures, links, and whether every tag was closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.pictures, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.pictures.append(attrs["src"])
        elif tag == "a":
            self.links.append(attrs["href"])
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def test_confusions_are_shares_of_each_label():
    logits = np.eye(3)[[0, 1, 1, 2]]
    cells = [text for tag, text in Reader(showing.confusion(logits, np.array([0, 0, 1, 2]), 3)).texts if tag == "td"]
    assert cells == ["50", "50", "0", "0", "100", "0", "0", "0", "100"]


def test_soft_labels_show_one_image_of_each_class_first():
    label = np.array([1, 1, 1, 0, 2, 2])
    image = np.linspace(0, 1, 6 * 4, dtype=np.float32).reshape(6, 2, 2, 1)
    test = Source({"inputs": image, "label": label}, num_classes=3, name="tiny")
    logits = np.log(np.array([[0.0625, 0.0625, 0.875]] * 6)) * showing.TEMPERATURE
    model = create("mlp", num_classes=3, image_shape=(2, 2, 1), hidden=(2,))
    found = Reader(showing.soft_labels({"student": showing.Shown(model, {}, logits)}, test))
    words = [text for tag, text in found.texts if tag == "td"]
    assert words[::2][:3] == ["1", "0", "2"]
    assert words[1] == "a 2 (88 %), a little like a 0 (6 %) and a 1 (6 %)"


def test_pixels_in_255ths_are_shown_and_timed_as_their_shares():
    model = create("mlp", num_classes=3, image_shape=(2, 2, 1), hidden=(2,))
    params, state = model.init(jax.random.key(0))
    image, label = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1) * 10, np.array([0, 1, 2, 0, 1, 2])
    one = {"student": showing.Shown(model, {"params": params, **state}, np.eye(3)[label])}
    pages = [
        Reader(showing.shown(one, Source({"inputs": x, "label": label}, num_classes=3, name="tiny")))
        for x in (image, np.float32(image / 255))
    ]
    assert len(pages[0].pictures) == 6
    assert pages[0].pictures == pages[1].pictures


def test_a_network_is_timed_by_one_program_for_all_weights():
    model, traced = create("mlp", num_classes=3, image_shape=(2, 2, 1), hidden=(2,)), []

    def apply(*given, **own):
        traced.append(1)
        return model.apply(*given, **own)

    timer, image = showing.Timer(model._replace(apply=apply)), np.zeros((1, 2, 2, 1), np.float32)
    for seed in (0, 1):
        params, state = model.init(jax.random.key(seed))
        assert timer.milliseconds({"params": params, **state}, image) > 0
    assert len(traced) == 1


def test_on_a_narrow_screen_each_cell_says_its_column():
    wide = page.document("x", page.grid(("", "<b>bytes</b>", "ms"), [("student", "4", "0.1"), ("teacher", "8", "0.2")]))
    assert re.findall(r'<td data-head="(.*?)">(.*?)</td>', wide) == [
        ("", "student"), ("bytes", "4"), ("ms", "0.1"), ("", "teacher"), ("bytes", "8"), ("ms", "0.2"),
    ]  # fmt: skip
    assert "data-head" not in page.document("x", showing.confusion(np.eye(2), np.array([0, 1]), 2)).partition("<h1>")[2]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "| a |\n|---|\n| <b>x</b> |"])
def test_text_never_becomes_markup(text, tmp_path):
    source = {"commit": None, "dirty": None, "command": text, "versions": {}, "device": "cpu", "devices": 1}
    (tmp_path / "provenance.json").write_text(json.dumps({**source, "seconds": 1.0, "seeds": [0]}))
    (tmp_path / "curves.png").write_bytes(b"drawn")
    page.of_run(tmp_path, text)
    written = (tmp_path / "report.html").read_text()
    assert "<script" not in written
    assert "<b>" not in written
    assert 'src="data:image/png;base64,ZHJhd24="' in written

"""Figures: whatever a study is called, nothing is cut off and no text lies on another."""

import itertools

import pytest

from kdjax.study import figures

TITLE = (
    "digits, 100 labels, labels + warmup(0.0833333333333333, 1.0)*response.dkd(alpha=1.0, beta=2.0, temperature=4.0)"
)
NAMES = ("distilled, no 3 in transfer", "distilled, no 3 in transfer, bias matched", "teacher\nmlp(128)")
ROWS = [{"run": f"{n}/seed-0", "epoch": e, "train_loss": 1.0 / e} for n in (*NAMES, "d", "e", "f") for e in (1, 2)]
DRAW = {
    "comparison": lambda path: figures.comparison({n: [0.5, 0.6] for n in NAMES}, path, title=TITLE),
    "curves": lambda path: figures.curves(ROWS, path, title=TITLE),
    "by_queries": lambda path: figures.by_queries({n: [(10, [0.1])] for n in NAMES}, path, ylabel="%", title=TITLE),
}


@pytest.mark.parametrize("name", DRAW)
def test_nothing_is_cut_off_and_no_text_lies_on_another(name, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    DRAW[name](tmp_path / "drawn.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    texts = [figure._suptitle, *figure.legends, *(ax.xaxis.label for ax in figure.axes)]
    texts += figure.axes[0].get_xticklabels() if name == "comparison" else []
    boxes = [text.get_window_extent() for text in texts]
    assert all(figure.bbox.x0 <= b.x0 and b.x1 <= figure.bbox.x1 and b.y1 <= figure.bbox.y1 for b in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))

"""Layers and layer maps as an expression names them."""

import pytest

from kdjax.recipes.comparisons import comparison
from kdjax.recipes.layers import Shown, layers_of, mapped
from kdjax.spec import call
from kdjax.types import BadInput

STUDENT = ["stem", "stem_pre", *(f"block{n}" for n in (1, 2, 3)), "block3_pre", "embedding", "logits"]
TEACHER = ["stem", *(f"block{n}" for n in range(1, 7)), "block2_pre", "block6_pre", "embedding", "logits"]
SHOWN = Shown(STUDENT, TEACHER)


def terms(text):
    read = call(text, flag="loss")
    return list(layers_of(read, comparison(read.name), SHOWN).terms)


def one(*names):
    return [((name,), (name,)) if isinstance(name, str) else ((name[0],), (name[1],)) for name in names]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("feature.hint(block2)", one("block2")),
        ("feature.hint(block2, block4)", one(("block2", "block4"))),
        ("feature.hint(every(2))", one(("block1", "block2"), ("block2", "block4"), ("block3", "block6"))),
        ("feature.hint(pairs((2, 5)) + embedding)", one(("block2", "block5"), "embedding")),
        ("feature.hint(stem + logits)", one("stem", "logits")),
        ("relation.sp", one("embedding")),
        ("relation.sp(block1, block2)", one(("block1", "block2"))),
        ("contrastive.crd", one("embedding")),
        ("feature.fsp((block1, block2), (block2, block4))", [(("block1", "block2"), ("block2", "block4"))]),
        (
            "feature.fsp(last)",
            [(("block1", "block2"), ("block4", "block5")), (("block2", "block3"), ("block5", "block6"))],
        ),
        ("feature.review((block1, block2, embedding))", [(("block1", "block2", "embedding"),) * 2]),
        ("feature.review(block1)", one("block1")),
        # A map gives the layers before the ReLU where a network shows them, to losses that look there.
        (
            "feature.review(every(2) + embedding)",
            [(("block1", "block2", "block3_pre", "embedding"), ("block2_pre", "block4", "block6_pre", "embedding"))],
        ),
        ("feature.ofd(pairs((3, 2)))", one(("block3_pre", "block2_pre"))),
        (
            "feature.ab(first + stem)",
            one("block1", ("block2", "block2_pre"), ("block3_pre", "block3"), ("stem_pre", "stem")),
        ),
        ("feature.hint(pairs((3, 2)))", one(("block3", "block2"))),
        ("feature.ab(block3, block2)", one(("block3", "block2"))),
    ],
)
def test_a_loss_finds_its_layers(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feature.hint", "names no layer; accepted: .*every"),
        ("feature.hint(block1, block2, block3)", "read 3 layers"),
        ("feature.hint((block1, block2))", "compares one layer on each side; read 2 and 2"),
        ("feature.fsp(block1)", "compares 2 layers on each side; read 1 and 1"),
        ("feature.fsp((block1, block2, block3))", "compares 2 layers"),
        ("feature.review((block1, block2), block3)", "one layer or more, as many on each side; read 2 and 1"),
        ("feature.fsp(pairs((1, 2)))", "stands between two layers and is given one pair"),
        ("feature.hint(every(2) + first)", "read two maps"),
        (
            "feature.hint(every(2) + block9)",
            "block9 is no map and no layer of both networks; accepted layers: stem, block1",
        ),
        ("feature.hint(every(2) + stem_pre)", "stem_pre is no map and no layer of both"),
        ("feature.hint(2)", "read the layers 2"),
        ("feature.hint(block1(3))", "read the layers"),
        ("feature.hint(evry(2))", "read the layers"),
    ],
)
def test_refused(text, said):
    with pytest.raises(BadInput, match=said) as error:
        terms(text)
    assert str(error.value).startswith("loss, column 1:")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("every(2)", [(1, 2), (2, 4), (3, 6)]),
        ("offset(2)", [(1, 1), (2, 3), (3, 5)]),
        ("first", [(1, 1), (2, 2), (3, 3)]),
        ("last", [(1, 4), (2, 5), (3, 6)]),
        ("reverse(2)", [(1, 6), (2, 4), (3, 2)]),
        ("pairs((2, 5), (3, 1))", [(2, 5), (3, 1)]),
    ],
)
def test_layer_maps(text, pairs):
    assert list(mapped(call(text), SHOWN)) == pairs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("every(3)", "pairs layer 3 of the student with 9 of the teacher; accepted are 1 to 3 and 1 to 6"),
        ("every(0)", "step=0"),
        ("every", "without step"),
        ("every(1.5)", "a whole number"),
        ("last(2)", "read 1 arguments of last"),
        ("second", "second is no map and no layer of both"),
        ("pairs((1, 7))", "accepted are 1 to 3 and 1 to 6"),
        ("pairs((0, 1))", "accepted are 1 to 3"),
        ("pairs((1, 2), (1, 3))", "names a layer of the student twice"),
        ("pairs((1, block2))", r"accepted: pairs\(\(1, 2\), \(2, 4\)\)"),
        ("pairs(1, 2)", "the student's layer first"),
        ("pairs", "the student's layer first"),
    ],
)
def test_refused_maps(text, said):
    with pytest.raises(BadInput, match=said) as error:
        mapped(call(text, flag="layers"), SHOWN)
    assert str(error.value).startswith("layers, column 1:")

"""Losses as a flag writes them, and layer maps."""

import pytest
from kdjax.losses.layer_maps import layer_map, stages
from kdjax.losses.terms import Term, arguments, bound, on_layers, parse

from kdjax.types import BadInput


def test_the_example_of_the_flag():
    response, relation, hint = parse("response.kl:0.9,relation.rkd_distance:25,feature.hint:100@block2")
    assert (response.name, response.weight, response.on_logits) == ("response.kl", 0.9, True)
    assert relation.sees_the_batch
    assert not response.sees_the_batch
    assert hint == Term("feature.hint", 100.0, "block2", "block2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("response.lk", "did you mean"),
        ("feature.hint:-1@block1", "from 0 up"),
        ("feature.hint:nan@block1", "from 0 up"),
        ("feature.hint:two@block1", "from 0 up"),
        ("response.kl@block1", "compares logits"),
        ("labels:1@block1", "compares logits"),
        ("feature.hint:1@", "accepted is NAME"),
        ("feature.hint:1@block1=", "accepted is NAME"),
        ("response.kl,response.kl", "twice"),
        ("", "loss name ''"),
    ],
)
def test_refused(text, said):
    with pytest.raises(BadInput, match=said):
        parse(text)


def test_a_layer_map_gives_every_feature_loss_its_pairs_and_relations_the_embedding():
    found = on_layers(parse("labels,feature.hint:2,relation.sp:3"), [("a", "b"), ("c", "d")], weights=(1.0, 0.5))
    assert [(t.label, t.weight) for t in found] == [
        ("labels", None),
        ("feature.hint@a=b", 2.0),
        ("feature.hint@c=d", 1.0),
        ("relation.sp@embedding=embedding", 3.0),
    ]
    fsp = on_layers(parse("feature.fsp"), [("a", "b"), ("c", "d")])
    assert [(t.student, t.teacher) for t in fsp] == [("a-c", "b-d")]
    pairs = [("a", "b"), ("c", "d"), ("e", "e")]
    (review,) = on_layers(parse("feature.review:3"), pairs, weights=(0.5,), shown=(["a_pre", "e"], ["b", "d_pre"]))
    assert review == ("feature.review", 1.5, "a_pre-c-e", "b-d_pre-e")
    hidden = on_layers(parse("feature.ofd,feature.hint"), pairs[:1], shown=(["a", "a_pre"], ["b_pre"]))
    assert [(t.student, t.teacher) for t in hidden] == [("a_pre", "b_pre"), ("a", "b")]
    with pytest.raises(BadInput, match="names no layer"):
        on_layers(parse("feature.hint"), [])
    with pytest.raises(BadInput, match="layer_weights"):
        on_layers(parse("feature.hint"), [("a", "b")], weights=(1.0, 2.0))


def test_arguments_find_their_loss():
    two = parse("response.dkd:1,response.kl:1")
    assert arguments("response.dkd.beta=8", two) == {"response.dkd": {"beta": 8.0}}
    for text, said in (
        ("beta=8", "no loss"),
        ("response.dkd.beta=x", "name=number"),
        ("feature.ab.margin=1", "no loss"),
        ("response.dkd.beta=8,response.dkd.beta=2", "twice"),
    ):
        with pytest.raises(BadInput, match=said):
            arguments(text, two)
    with pytest.raises(BadInput, match="not a keyword"):
        bound(two, {"response.dkd": {"gamma": 1.0}})


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("every:2", [(1, 2), (2, 4), (3, 6)]),
        ("offset:2", [(1, 1), (2, 3), (3, 5)]),
        ("first", [(1, 1), (2, 2), (3, 3)]),
        ("last", [(1, 4), (2, 5), (3, 6)]),
        ("reverse:2", [(1, 6), (2, 4), (3, 2)]),
        ("2=5,3=1", [(2, 5), (3, 1)]),
    ],
)
def test_layer_maps(text, pairs):
    assert layer_map(text, student=3, teacher=6) == tuple(pairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("every:2", ("every:2", ())),
        ("1=2,2=4+embedding", ("1=2,2=4", ("embedding",))),
        ("first+stage1_pre", ("first", ("stage1_pre",))),
        ("stem+logits", ("", ("stem", "logits"))),
    ],
)
def test_stages_stand_after_a_map(text, expected):
    assert stages(text) == expected


@pytest.mark.parametrize("text", ["embedding+every:2", "every:2+first", "every:2+", "a+a", "+a"])
def test_refused_stages(text):
    with pytest.raises(BadInput, match=r"layers=.*a map and after it names of stages"):
        stages(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feature.hint@a-b", "one layer on each side"),
        ("feature.fsp@a", "two layers on each side"),
        ("feature.fsp@a-b-c", "two layers on each side"),
        ("feature.review@a-b=c", "as many on each side"),
    ],
)
def test_how_many_layers_a_loss_compares_at_once(text, said):
    with pytest.raises(BadInput, match=said):
        parse(text)
    assert parse("feature.review@a-b-c=d-e-f,feature.review@a,feature.fsp@a-b")[0].teacher == "d-e-f"


@pytest.mark.parametrize(
    "text", ["every:3", "every:0", "every", "second", "1=7", "0=1", "1=2,1=3", "1=x", "", "last:2"]
)
def test_refused_maps(text):
    with pytest.raises(BadInput, match="layers="):
        layer_map(text, student=3, teacher=6)

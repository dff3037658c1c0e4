"""Every network of the zoo shows the layers that losses on layers and relations ask for; all of it on shapes."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from kdjax.models.connect import connectors
from kdjax.models.zoo import FIXED
from kdjax.recipes.comparisons import COMPARISONS, comparison, names
from kdjax.recipes.lesson import lesson
from kdjax.types import BadInput, Model, Outputs
from tests.models.test_zoo import PUBLISHED, shapes

CLASSES = {**dict(PUBLISHED.keys()), "vit_tiny": 10}
COUNTED = {"lenet": 2, "fitnet_teacher": 3, "fitnet_student": 6, "vit_tiny": 12, "vgg8": 5, "vgg19": 16}
COUNTED |= {"resnet20": 9, "resnet56": 27, "resnet50": 16, "wrn_40_2": 18, "mobilenet_v2": 17, "shufflenet_v2": 16}


@pytest.mark.parametrize("name", FIXED)
def test_layers_are_counted_and_there_is_an_embedding(name):
    _, _, (logits, features) = shapes(name, CLASSES[name])
    counted = connectors.numbered(features)
    assert len(counted) == COUNTED.get(name, len(counted)) >= 2
    assert {key for key in features if key.startswith("block") and not key.endswith("_pre")} == set(counted)
    assert len(features["embedding"].shape) == len(logits.shape) == 2
    maps = [features[key].shape for key in counted]
    # In the order of the network: never larger than the one before; the thin FitNet's zeros around make some grow.
    assert name == "fitnet_student" or all(a[1] >= b[1] for a, b in itertools.pairwise(maps))


def network(name):
    """A model of a network's layers, without what computes them."""
    _, _, (logits, features) = shapes(name, 100)

    def apply(variables, image, *, train, key, mask=None):
        own = {layer: variables["params"][layer] + jnp.zeros(x.shape) for layer, x in features.items()}
        return Outputs(jnp.zeros(logits.shape), own), {}

    return Model(lambda key: ({layer: jnp.zeros(()) for layer in features}, {}), apply, (32, 32, 3))


# A loss for every connector, and all that compare layers as they are; maps cannot be compared with vectors.
ANY = [
    "feature.hint",
    "feature.ofd",
    "feature.vid",
    "feature.ft",
    "feature.review",
    "relation.pkt",
    "relation.cc_kernel",
]
MAPS = [n for n in names("feature") if n not in COMPARISONS]


@pytest.mark.parametrize(
    ("teacher", "student", "layers", "losses"),
    [
        ("resnet56", "resnet20", "pairs((3, 9), (6, 18)) + stem + embedding + logits", ANY),
        ("resnet56", "resnet20", "every(3)", ["feature.fsp"]),
        ("resnet32x4", "shufflenet_v2", "stage1 + stage2 + stage3", [*ANY, *MAPS]),
        ("vgg13", "mobilenet_v2_half", "stage1 + stage4", [*ANY, *MAPS]),
        ("resnet50_cifar", "vgg8", "stage1 + stage4", [*ANY, *MAPS]),
    ],
)
def test_every_connector_joins_networks_of_other_kinds(teacher, student, layers, losses):
    calls = [name if name.startswith("relation.") else f"{name}({layers})" for name in losses]
    if MAPS[0] in losses:
        calls.append("relation.sp(stage2)")
    made = lesson(" + ".join(["labels", *calls]), network(student), network(teacher), batch_size=2)
    found = jax.eval_shape(made.model.init["connectors"], jax.random.key(0))
    terms = {*found[0], *(name for tree in found[1].values() for name in tree)}
    pairs = len(made.layers) + layers.count("+") + (not made.layers)
    assert len(made.kinds) == len(calls) + 1
    assert len(made.named) >= pairs
    for name in losses:
        learned = [term for term in terms if term.startswith(f"{name}(")]
        if name in ("feature.ofd", "feature.vid", "feature.ft", "feature.review", "relation.cc_kernel"):
            once = name.startswith("relation.") or name == "feature.review"
            assert len(learned) == (1 if once else pairs), name
    if "feature.review" in losses:
        deepest, ends = layers.rpartition("+")[2].strip(), []
        for side in (student, teacher):
            before = f"{deepest}_pre"
            ends.append(before if before in shapes(side, 100)[2][1] else deepest)
        (review,) = (term for term in terms if term.startswith("feature.review("))
        sides = review.removeprefix("feature.review(").removesuffix(")").split(", ")
        assert [side.rpartition("-")[2] for side in (sides * 2)[:2]] == ends


def test_every_loss_has_a_connector_that_is_tested_here():
    def kind(name):
        made = comparison(name).connector
        return made and type(made(False))

    assert {kind(n) for n in [*ANY, "feature.fsp", "feature.ab"]} == {kind(n) for n in COMPARISONS} - {None}
    assert {"feature.attention", "feature.attention_paper", "feature.nst"} == set(MAPS)


def test_matrices_of_flow_need_the_same_channels_and_a_name_must_be_in_both():
    both = network("shufflenet_v2"), network("resnet32x4")
    with pytest.raises(Exception, match=r"\[2,24,116\].*teacher.*\[2,32,64\]|24, 116\) and teacher \(2, 32, 64\)"):
        lesson("feature.fsp(stage1 + stage2)", *both, batch_size=2)
    with pytest.raises(BadInput, match=r"stage4 is no map and no layer of both networks; accepted layers: .*stage3,"):
        lesson("feature.hint(stage3 + stage4)", *both)
    with pytest.raises(BadInput, match=r"every pairs layer"):
        lesson("feature.hint(every(9))", *both)

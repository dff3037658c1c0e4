"""Every network of the zoo shows the layers that losses on layers and relations ask for; all of it on shapes."""

import itertools

import jax.numpy as jnp
import pytest

from kdjax.losses import combine
from kdjax.models.connect import connectors
from kdjax.models.zoo import FIXED
from kdjax.study import lesson
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

    return Model(lambda key: ({layer: jnp.zeros(()) for layer in features}, {}), apply)


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
MAPS = [n for n in combine.names("feature") if n not in connectors.CONNECTORS and n != "feature.fsp"]


@pytest.mark.parametrize(
    ("teacher", "student", "layers", "names"),
    [
        ("resnet56", "resnet20", "3=9,6=18+stem+embedding+logits", ANY),
        ("resnet56", "resnet20", "every:3", ["feature.fsp"]),
        ("resnet32x4", "shufflenet_v2", "stage1+stage2+stage3", [*ANY, *MAPS]),
        ("vgg13", "mobilenet_v2_half", "stage1+stage4", [*ANY, *MAPS]),
        ("resnet50_cifar", "vgg8", "stage1+stage4", [*ANY, *MAPS]),
    ],
)
def test_every_connector_joins_networks_of_other_kinds(teacher, student, layers, names):
    shape = {"num_classes": 100, "image_shape": (32, 32, 3)}
    text = ",".join(["labels:1", *names, *(["relation.sp@stage2"] if MAPS[0] in names else [])])
    plan = lesson.plan(network(student), network(teacher), shape, loss=text, steps=10, layers=layers, batch_size=2)
    weights = [weight.removeprefix("weight/") for weight in plan.hparams if weight.startswith("weight/")]
    pairs = len(plan.layers) + layers.count("+") + (not plan.layers)
    for name in names:
        terms = [w for w in weights if w.startswith(f"{name}@")]
        once = name.startswith("relation.") or name == "feature.review"
        assert len(terms) == (1 if once else pairs - 1 if name == "feature.fsp" else pairs), name
    if "feature.review" in names:
        deepest, ends = layers.rpartition("+")[2], []
        for side in (student, teacher):
            before = f"{deepest}_pre"
            ends.append(before if before in shapes(side, 100)[2][1] else deepest)
        (review,) = (w for w in weights if w.startswith("feature.review@"))
        assert [side.rpartition("-")[2] for side in review.partition("@")[2].split("=")] == ends


def test_every_loss_has_a_connector_that_is_tested_here():
    kinds = {type(connectors.connector(n)) for n in ANY}
    assert kinds == {type(make()) for make in connectors.CONNECTORS.values()}
    assert {"feature.attention", "feature.attention_paper", "feature.nst"} == set(MAPS)


def test_matrices_of_flow_need_the_same_channels_and_a_name_must_be_in_both():
    shape = {"num_classes": 100, "image_shape": (32, 32, 3)}
    both = network("shufflenet_v2"), network("resnet32x4")
    with pytest.raises(Exception, match=r"\[2,116,232\].*teacher.*\[2,64,128\]|116, 232\) and teacher \(2, 64, 128\)"):
        lesson.plan(*both, shape, loss="feature.fsp:1", steps=1, layers="stage1+stage2", batch_size=2)
    with pytest.raises(
        BadInput, match=r"stage4 is no map .* and no layer of both networks; accepted layers: .*stage3,"
    ):
        lesson.plan(*both, shape, loss="feature.hint:1", steps=1, layers="stage3+stage4")
    with pytest.raises(BadInput, match=r"every:9"):
        lesson.plan(*both, shape, loss="feature.hint:1", steps=1, layers="every:9")

"""Every network of the zoo shows the layers that losses on layers and relations ask for; all of it on shapes."""

import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

from kdjax.models.connect import connectors
from kdjax.models.zoo import FIXED
from kdjax.recipes import comparisons
from kdjax.recipes.lesson import lesson
from kdjax.training.state import create_state
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
MAPS = ["feature.attention", "feature.attention_paper", "feature.nst"]


@pytest.mark.parametrize(
    ("teacher", "student", "layers", "names"),
    [
        ("resnet56", "resnet20", "pairs((3, 9), (6, 18)) + stem + embedding + logits", ANY),
        ("resnet56", "resnet20", "every(3)", ["feature.fsp"]),
        ("resnet32x4", "shufflenet_v2", "stage1 + stage2 + stage3", [*ANY, *MAPS]),
        ("vgg13", "mobilenet_v2_half", "stage1 + stage4", [*ANY, *MAPS]),
        ("resnet50_cifar", "vgg8", "stage1 + stage4", [*ANY, *MAPS]),
    ],
)
def test_every_connector_joins_networks_of_other_kinds(teacher, student, layers, names):
    compared = [name if name.startswith("relation.") else f"{name}({layers})" for name in names]
    text = " + ".join(["labels", *compared, *(["relation.sp(stage2)"] if MAPS[0] in names else [])])
    plan = lesson(text, network(student), network(teacher), steps=10, batch_size=2)
    found = terms_of(plan)
    pairs = len(plan.layers) + layers.count("+") + (not plan.layers)
    for name in names:
        own = {term for term in found if term.startswith(f"{name}(")}
        once = name.startswith("relation.") or name == "feature.review"
        assert len(own) == (1 if once else pairs - 1 if name == "feature.fsp" else pairs), name
    if "feature.review" in names:
        deepest, ends = layers.rpartition(" + ")[2], []
        for side in (student, teacher):
            before = f"{deepest}_pre"
            ends.append(before if before in shapes(side, 100)[2][1] else deepest)
        (review,) = (term for term in found if term.startswith("feature.review("))
        sides = review.removeprefix("feature.review(").removesuffix(")").split(", ")
        assert [side.rpartition("-")[2] for side in (sides[0], sides[-1])] == ends


def terms_of(plan):
    """The names of a lesson's terms."""
    rows = {name: jnp.zeros(2, jnp.int32) for name in ("label", "index")}
    rows |= {"image": jnp.zeros((2, 32, 32, 3)), "mask": jnp.ones(2)}

    def metrics(key):
        params, _ = plan.teacher.init(key)
        state = create_state(plan.model, optax.sgd(0.1), key, hparams=plan.hparams, frozen={"params": params})
        return plan.loss_fn(state.params, state, rows, key)[1][1]

    return list(jax.eval_shape(metrics, jax.random.key(0)))


def test_every_loss_has_a_connector_that_is_tested_here():
    """Whatever stands between layers is made for one of the losses above, or for one that is the same."""
    made = {type(row.connector(False)) for name in ANY for row in [comparisons.comparison(name)]}
    rows = [comparisons.comparison(name) for name in comparisons.names()]
    untouched = {type(comparisons.comparison(name).connector(False)) for name in (*MAPS, "feature.fsp")}
    assert len(untouched) == 1
    assert {type(row.connector(False)) for row in rows if row.connector} == made | untouched
    plain = [
        n for n in comparisons.names("feature") if type(comparisons.comparison(n).connector(False)) in untouched
    ]
    assert set(plain) == {*MAPS, "feature.fsp"}


def test_matrices_of_flow_need_the_same_channels_and_a_name_must_be_in_both():
    both = network("shufflenet_v2"), network("resnet32x4")
    with pytest.raises(Exception, match=r"24,116\](.|\n)*teacher.*\[2,32,64\]|teacher.*\[2,32,64\]|116\) and teacher"):
        lesson("feature.fsp(stage1 + stage2)", *both, batch_size=2)
    with pytest.raises(
        BadInput, match=r"stage4 is no map .* and no layer of both networks; accepted layers: .*stage3,"
    ):
        lesson("feature.hint(stage3 + stage4)", *both)
    with pytest.raises(BadInput, match="every pairs layer .* of the student with"):
        lesson("feature.hint(every(9))", *both)

"""CA-MKD with features: the term is the paper's, the rest plain distillation; cached teachers are as live ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

from experiments.ensemble import arms
from kdjax.data.source import Source
from kdjax.ensembles import pools
from kdjax.losses import response
from kdjax.models.connect import connectors
from kdjax.models.create import create
from kdjax.recipes import confidence
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study.compare import Arm, Done, Lineage, Trained
from kdjax.study.data import Study
from kdjax.teachers.several import together
from kdjax.teachers.stored import cached, cached_with_features
from kdjax.training import parallel
from kdjax.training.optimizers import unit_rate
from kdjax.training.record import Recorder
from kdjax.training.state import create_state, variables
from kdjax.types import BadInput, Model, Networks

SHAPE = {"num_classes": 4, "image_shape": (4, 4, 1)}
STUDENT = create("mlp", **SHAPE, hidden=(5,))
TEACHERS = {"one": create("mlp", **SHAPE, hidden=(7,)), "two": create("mlp", **SHAPE, hidden=(9, 6))}
NAMES = tuple(TEACHERS)
FOLLOW = pools.resolve("mean_probability + confidence_aware")
HPARAMS = {"learning_rate": 0.1, "alpha": 0.7, "temperature": 2.0, confidence.WEIGHT: 3.0}


def made(model, seed):
    params, model_state = jax.jit(model.init)(jax.random.key(seed))
    # Biases begin at 0, and a bias that is left out should be seen.
    return {"params": jax.tree.map(lambda x: x + 0.1, params), **model_state}


WEIGHTS = {name: made(model, seed) for seed, (name, model) in enumerate(TEACHERS.items(), start=1)}


@pytest.fixture
def rows(key):
    return {
        "inputs": jax.random.uniform(key, (5, 4, 4, 1)),
        "label": jnp.array([0, 3, 2, -1, 1]),
        "mask": jnp.array([1.0, 1.0, 1.0, 1.0, 0.0]),
    }


def test_the_loss_is_distillation_and_the_weighted_term(key, rows):
    live = together({name: model.apply for name, model in TEACHERS.items()})
    whole = Model(STUDENT.init, lambda v, x, *, train, key: (live(v, {"inputs": x}), {}))
    links = {n: connectors.Link(("embedding",), (f"{n}/embedding",), connectors.Project()) for n in NAMES}
    connected = connectors.connect(STUDENT, links, image_shape=(4, 4, 1), teacher=(whole, WEIGHTS))
    networks = Networks({"student": STUDENT.init, "connectors": connected.init})
    state = create_state(networks, unit_rate(optax.sgd(1.0)), key, hparams=HPARAMS, frozen=WEIGHTS)
    said = live(WEIGHTS, rows)
    columns = {
        **rows, "teacher_logits": jnp.moveaxis(said.logits, 0, 1),
        **{f"{n}/embedding": said.features[f"{n}/embedding"] for n in NAMES},
    }  # fmt: skip

    def of(teacher, batch, frozen):
        recipe = confidence.distill_with_features(
            STUDENT, connected.pairs, teacher, response.kl, names=NAMES, ensemble=FOLLOW
        )
        return jax.jit(recipe)(state.params, state.replace(frozen=frozen), batch, key)

    found, (_, metrics, _) = of(live, rows, WEIGHTS)
    heads = {n: confidence.classifier(w) for n, w in WEIGHTS.items()}
    again, _ = of(cached_with_features(NAMES), columns, heads)
    np.testing.assert_allclose(again, found, rtol=1e-5)

    plain = distill(STUDENT, cached(), response.kl, ensemble=FOLLOW)
    rest, _ = jax.jit(plain)(state.params, state, columns, key)
    # The term by itself, in float64.
    mine = STUDENT.apply(variables(state), rows["inputs"], train=False, key=None)[0].features["embedding"]
    label, costs, squares = np.asarray(rows["label"]), [], []
    for name in NAMES:
        linear = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params["connectors"][name]["linear"])
        last = jax.tree.map(lambda x: np.asarray(x, np.float64), WEIGHTS[name]["params"]["logits"])
        projected = np.asarray(mine, np.float64) @ linear["kernel"] + linear["bias"]
        costs.append(-log_softmax(projected @ last["kernel"] + last["bias"], -1)[np.arange(5), label])
        squares.append(np.mean((projected - np.asarray(said.features[f"{name}/embedding"])) ** 2, -1))
    w = 1 - softmax(costs, axis=0)  # two teachers: T - 1 is 1
    w = np.where(label < 0, 0.5, w)
    term = (w * squares).sum(0)
    np.testing.assert_allclose(metrics["features"][:4], term[:4], rtol=1e-4)
    assert metrics["features"][4] == 0  # left out by the mask
    np.testing.assert_allclose(found[:4], rest[:4] + 3 * term[:4], rtol=1e-4)
    assert abs(w[0] - 0.5).max() > 1e-3  # the weights are not equal anyway


def test_a_network_without_a_last_layer_is_refused():
    with pytest.raises(BadInput, match="layers dense: accepted is a network whose last one is called logits"):
        confidence.classifier({"params": {"dense": {}}})


@pytest.mark.parametrize(
    ("typed", "arm"),
    [
        ("mlp(7), mlp(7), mlp(7)", "mean_probability + confidence_aware"),  # stacked
        ("mlp(7), mlp(6, 5)", "mean_probability + confidence_aware"),  # together
        ("mlp(7), cnn(3)", "mean_logit + confidence_aware + 2*features"),
    ],
)
def test_teachers_run_in_every_step_teach_what_their_stored_answers_do(key, typed, arm):
    shape = {"num_classes": 4, "image_shape": (4, 4, 1)}
    experts = arms.parse_teachers(typed, shape)
    weights = [made(e.model, seed) for seed, e in enumerate(experts)]
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    source = Source({"inputs": image, "label": np.array([0, 2, 3], np.int32)}, 4, "made up")
    student, losses = create("mlp", **shape, hidden=(5,)), []

    names = [f"teacher {number}" for number in range(len(experts))]
    trained = {
        name: Trained(Arm(name, e.model, supervised(e.model), 1, {}, Lineage("labels")), w)
        for name, e, w in zip(names, experts, weights, strict=True)
    }
    study = Study(None, source, None, source, parallel.data_mesh(jax.devices()[:1]), Recorder("."))
    for live in (False, True):
        followed = arms.follow(student, [source], arms.Teachers(experts, names, live=live), arms.parse_way(arm))
        given = followed.given(Done(study, 0, trained))
        state = create_state(followed.model, unit_rate(optax.sgd(1.0)), key, hparams={**HPARAMS, **followed.hparams})
        batch = {**given.source.arrays, "mask": np.ones(3, np.float32)}
        losses.append(jax.jit(followed.recipe)(state.params, state.replace(frozen=given.frozen), batch, key)[0])
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "read nothing"),
        ("mlp(7), ,", "column 9: read ','"),
        ("mlp(7), mpl(7)", "column 9: .*did you mean mlp"),
        ("mlp", "hidden=.*accepted: networks with their widths"),
        ("mlp(0)", "column 1: hidden"),
        ("mlp(a)", r"read mlp\(a\); accepted: networks with their widths"),
        ("mlp(7.5)", r"read mlp\(7.5\); accepted"),
        ("mlp(grid(7, 8))", r"read mlp\(grid\(7, 8\)\); accepted"),
        ("mlp(True)", r"read mlp\(True\); accepted"),
        ("mlp(hidden=7)", r"read mlp\(hidden=7\); accepted"),
        ("lenet(3)", "column 1: hidden"),
        ("mlp:7", "read ':7'"),
    ],
)
def test_teachers_that_cannot_be_made_are_refused(typed, message):
    with pytest.raises(BadInput, match=message):
        arms.parse_teachers(typed, {"num_classes": 4, "image_shape": (28, 28, 1)})


@pytest.mark.parametrize(
    "arm",
    [
        "vote - 1*features",
        "vote + (1, 2)*features",
        "vote + nan*features",
        "vote + 1*feature",
        "vote(features=1)",
        "vote + grid(1, 2)*features",
        "vote + features(2)",
        "vote + features + features",
        "2*features",
    ],
)
def test_a_weight_of_features_that_is_none_is_refused(arm):
    with pytest.raises(BadInput, match="feature"):
        arms.parse_way(arm)

"""The papers' methods: each is typed, has the weights of its paper's code, and trains by their sum."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, spec
from kdjax.models.create import create
from kdjax.recipes import comparisons
from kdjax.recipes.lesson import lesson
from kdjax.study.distillation import Config, hint_epochs, planned
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state
from kdjax.training.step import train_step
from kdjax.types import BadInput, TrainState
from tests.experiments.scripts import FOLDER, parsed
from tests.methods.states import begun, first, initializer
from tests.study.studies import study_of

TX = unit_rate(optax.sgd(1.0))
CIFAR = {"num_classes": 10, "image_shape": (32, 32, 3)}
STEPS, WARM = 240 * 782, 20 / 240
LAST = ("stage1", "stage2", "stage3")
FLOWS = ("stem-stage1", "stage1-stage2", "stage2-stage3")
REVIEWED = "-".join(["stage1_pre", "stage2_pre", "stage3_pre", "embedding"])


def kd(name, weight=0.9, labels=0.1, temperature=4.0, **numbers):
    return {"labels": labels, f"response.{name}": weight}, {
        f"response.{name}.{key}": x for key, x in {"temperature": temperature, **numbers}.items() if x is not None
    }


def layers(loss, weight, places=LAST, halves=False):
    """The labels, and a loss at each place; an earlier place may weigh half of the next."""
    return {
        f"feature.{loss}({place})": weight / 2 ** (halves * (len(places) - 1 - n)) for n, place in enumerate(places)
    } | {"labels": 1.0}


def terms(metrics):
    return metrics.keys() - {"loss", "accuracy", "agreement", "grad_norm"}


def embeddings(**weights):
    return {"labels": 1.0, **{f"{name.replace('__', '.')}(embedding)": x for name, x in weights.items()}}


# Typed from the papers' code and commands: the weight of each term once it is warm, the numbers of the losses, the
# epochs of 240 that teach layers alone.
WEIGHTS = {
    "kd": (*kd("kl"), 0),
    "patient": ({"response.kl": 1.0}, {"response.kl.temperature": 1.0}, 0),
    "soft_labels": (*kd("soft_cross_entropy"), 0),
    "reverse_kl": (*kd("reverse_kl"), 0),
    "jensen_shannon": (*kd("jensen_shannon"), 0),
    "logit_mse": (*kd("logit_mse", temperature=None), 0),
    "centred_logit_mse": (*kd("centred_logit_mse", temperature=None), 0),
    "hard_labels": (*kd("hard_label", 0.5, 0.5, None), 0),
    "standardized_kd": (*kd("standardized_kl", 9.0, 0.1, 2.0), 0),
    "dkd": (*kd("dkd", 1.0, 1.0, alpha=1.0, beta=8.0), 0),
    "dist": (*kd("dist", 1.0, 1.0), 0),
    "fitnet": (layers("hint", 100.0, ["stage2"]), {}, 0),
    "fitnet_two_stages": (layers("hint", 100.0, ["stage2"]), {}, 60),
    "at": (layers("attention", 1000.0), {}, 0),
    "at_paper": (layers("attention_paper", 1.0), {}, 0),
    "nst": (layers("nst", 50.0), {}, 0),
    "fsp": (layers("fsp", 50.0, FLOWS), {}, 30),
    "vid": (layers("vid", 1.0), {}, 0),
    "ofd": (layers("ofd", 0.001, [f"{s}_pre" for s in LAST], halves=True), {}, 0),
    "review": (layers("review", 1.0, [REVIEWED]), {}, 0),
    "ab": (layers("ab", 0.003, [f"{s}_pre" for s in LAST], halves=True), {}, 30),
    "ft": (layers("ft", 500.0, ["stage3"]) | {"feature.ft.paraphraser(stage3)": 1.0}, {}, 30),
    "ft_crd": (layers("ft_crd", 200.0, ["stage3"]) | {"feature.ft_crd.paraphraser(stage3)": 1.0}, {}, 30),
    "pkd": (layers("pkd", 10.0), {}, 0),
    "cosine": (layers("cosine", 1.0), {}, 0),
    "rkd": (embeddings(relation__rkd_distance=25.0, relation__rkd_angle=50.0), {}, 0),
    "sp": ({"labels": 1.0, "relation.sp(stage3)": 3000.0}, {}, 0),
    "pkt": (embeddings(relation__pkt=30000.0), {}, 0),
    "cc": (embeddings(relation__cc_neighbours=0.02), {}, 0),
    "cc_kernel": (embeddings(relation__cc_kernel=0.02), {}, 0),
    "crd": (embeddings(contrastive__crd=0.8), {}, 0),
    "crd_kd": (embeddings(contrastive__crd=0.8) | {"response.kl": 1.0}, {"response.kl.temperature": 4.0}, 0),
    "queue": (embeddings(contrastive__queue=0.8), {}, 0),
}
WARMED = {"dkd": "response.dkd", "review": f"feature.review({REVIEWED})"}


def test_the_table_has_every_method_and_every_loss_belongs_to_one():
    assert WEIGHTS.keys() == set(methods.FAMILY.names())
    every = [*methods.METHODS.names(), "rslad(form=release)"]
    used = {term.call.name for name in every for term in methods.method(name).expression.terms}
    known = {"labels", *comparisons.names(), *comparisons.BY_LABELS.names()}
    assert used <= known
    # A loss that is no method's is the loss of an experiment's control, or says whose it is.
    experiments = "".join(file.read_text() for file in FOLDER.rglob("*.py"))
    for name in known - used:
        loss = (comparisons.LOSSES.functions | comparisons.BY_LABELS.functions)[name]
        assert re.search(rf"{re.escape(name)}\b", experiments) or "Reference:" in inspect.getdoc(loss), name


def test_a_wrong_method_is_answered_with_those_that_there_are():
    with pytest.raises(BadInput, match=r"method, column 1: read the name fitnett; .*\bcrd\b.*did you mean fitnet\?"):
        methods.method("fitnett")
    with pytest.raises(BadInput, match=r"read weigth=5; accepted: review takes weight; did you mean weight\?"):
        methods.method("review(weigth=5)")
    for text, said in (
        ("kd(temperature=-3)", "response.kl: temperature=-3.0; accepted"),
        ("crd(weight=-1)", "weight -1"),
    ):
        with pytest.raises(BadInput, match=rf"^method, column 1: .*{said}.*\n  {re.escape(text)}\n  \^"):
            lesson(methods.method(text).expression, STUDENT, TEACHER, examples=40)


@pytest.fixture(scope="module")
def resnet8():
    return create("resnet8", **CIFAR)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_name_typed_in_the_shell_is_the_papers_plan(name, resnet8):
    """On a pair of residual networks of the field, by shapes alone."""
    weights, numbers, first = WEIGHTS[name]
    config = parsed(Config, "--epochs=240", "--batch_size=64", f"--method={name}")
    plan = planned(config, study_of(CIFAR, 50_000), resnet8, resnet8, steps=STEPS)
    own = {place: x for place, x in plan.hparams.items() if place.split(".")[-1] not in ("weight", "share", "value")}
    assert own == numbers
    assert hint_epochs(config) == first
    assert bool(first) <= plan.compares_layers
    rows = {"inputs": jnp.zeros((4, 32, 32, 3)), **{n: jnp.zeros(4, jnp.int32) for n in ("label", "mask", "index")}}
    params, states, memory = begun(plan.model, jax.eval_shape, jax.random.key(0))
    teacher = {"params": params["student"], **states["student"]}

    def metrics(params, states, memory, teacher):
        frozen = plan.frozen(teacher, lambda: np.arange(50_000) % 10)
        state = TrainState(jnp.int32(0), params, states, (), jax.random.key(0), plan.hparams, frozen, memory)
        return plan.loss_fn(params, state, rows, jax.random.key(0))[1].metrics

    assert terms(jax.eval_shape(metrics, params, states, memory, teacher)) == weights.keys()


SMALL = {"num_classes": 3, "image_shape": (8, 8, 1)}
TEACHER, STUDENT = create("cnn", **SMALL, hidden=(4, 4, 5)), create("cnn", **SMALL, hidden=(4, 4, 5))
RNG = np.random.default_rng(0)
BATCH = {
    "inputs": RNG.uniform(size=(8, 8, 8, 1)).astype(np.float32),
    "label": np.array([0, 1, 2, 0, 1, 1, 2, 0], np.int32),
    "mask": np.ones(8, np.float32),
    "index": np.arange(8, dtype=np.int32),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_step_weighs_every_term_as_the_paper_does_and_moves_the_student(name):
    weights, _, _ = WEIGHTS[name]
    wanted = {place.replace("stage", "block"): x for place, x in weights.items() if "stem" not in place}
    expression, steps = methods.method(name).expression, 240
    made = lesson(expression, STUDENT, TEACHER, steps=steps, examples=40, batch_size=8)
    params, states = first(TEACHER.init, jax.random.key(7))
    state = create_state(
        made.model,
        TX,
        jax.random.key(0),
        hparams={"learning_rate": 0.01, **made.hparams},
        frozen=made.frozen({"params": params, **states}, lambda: np.arange(40) % 3),
        init=initializer(made.model),
    )
    step = jax.jit(train_step(made.loss_fn, TX))
    for at in (0, 10, 20, steps) if name in WARMED else (steps,):
        new, metrics = step(state.replace(step=jnp.asarray(at, jnp.int32)), BATCH)
        mean = {n: float(s / c) for n, (s, c) in metrics.items()}
        warm = {WARMED[name].replace("stage", "block"): min(at / 20, 1)} if name in WARMED else {}
        assert terms(mean) == wanted.keys()
        total = sum(x * warm.get(n, 1.0) * mean[n] for n, x in wanted.items())
        np.testing.assert_allclose(mean["loss"], total, rtol=1e-5, err_msg=f"{name} at {at}")
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *jax.device_get((state.params, new.params)))
        assert max(jax.tree.leaves(moved["student"])) > 0


def test_a_share_that_two_weights_are_made_of_is_a_number_or_a_schedule():
    for alpha in ("grid(0.1, 0.9)", "2", "-0.5"):
        with pytest.raises(
            BadInput, match=r"method, column 1: kd: alpha=.*1 - alpha weighs the rest; accepted: a number"
        ):
            methods.method(f"kd(alpha={alpha})")
    for alpha in ("warmup(0.1, 1)", "linear(2, 0)", "linear(grid(1, 0), 0)"):
        with pytest.raises(BadInput, match=r"method, column 1: kd: read .*; accepted: "):
            methods.method(f"kd(alpha={alpha})")
    follows = {"linear(1, 0.2)": "linear(0, 0.8)", "steps((1, 0.5), (0.3,))": "steps((0, 0.5), (0.3,))"}
    for alpha, rest in follows.items():
        wanted = spec.formula(f"{alpha}*response.kl(temperature=4.0) + {rest}*labels")
        assert methods.method(f"kd(alpha={alpha})").expression == wanted
        assert methods.method(f"ard(alpha={alpha})").expression.terms[1] == (spec.number(rest), spec.call("labels"))
    swept = methods.method("kd(temperature=grid(1, 2))").expression
    assert list(spec.sets(swept)) == ["response.kl.temperature"]

"""The library from a notebook: one import, ten lines."""

import functools
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kdjax as kd
from kdjax.types import BadInput


@pytest.fixture(scope="module")
def learned():
    """The manual's first program."""
    train, test = kd.data.load("digits", "train"), kd.data.load("digits", "test")
    teacher, student = (kd.models.create("mlp", hidden=h, like=train) for h in ((128, 128), (16,)))
    taught = kd.fit(teacher, kd.recipes.supervised(teacher), train, tx=optax.adam(1e-3), epochs=30)
    lesson = kd.lesson("0.9*response.kl(temperature=4) + 0.1*labels + feature.hint(hidden1, hidden2)", student, teacher)
    learned = kd.fit(lesson.model, lesson.loss_fn, train, tx=optax.adam(1e-3), epochs=30, frozen=taught)
    found = kd.attacks.run(kd.attacks.pgd(0.1, steps=20), kd.attacks.white_box(student, learned["student"]), test)
    return teacher, student, taught, learned, found, test


def accuracy(model, variables, examples):
    logits = model.apply(variables, jnp.asarray(examples.arrays["inputs"], jnp.float32), train=False, key=None)[
        0
    ].logits
    return float(np.mean(np.argmax(logits, -1) == examples.labels()))


def test_it_learns_and_is_attacked(learned):
    teacher, student, taught, networks, found, test = learned
    assert taught.keys() == {"student"}
    assert networks.keys() == {"student", "connectors"}
    assert accuracy(teacher, taught["student"], test) > 0.95
    clean = accuracy(student, networks["student"], test)
    assert clean > 0.85
    assert 0.05 < found.success.mean() < 1
    assert np.all(found.distance["linf"] <= 0.1 + 1e-6)


def test_names_of_the_house():
    assert {"attacks", "losses", "methods", "fit", "lesson", "compare"} <= set(dir(kd))
    assert len(dir(kd)) == len(set(dir(kd)))
    assert all(map(callable, (kd.fit, kd.lesson, kd.compare)))
    # A module of a function's name would take its place as soon as somebody imports it.
    assert {"fit", "lesson", "compare"}.isdisjoint(module.name for module in pkgutil.iter_modules(kd.__path__))
    with pytest.raises(AttributeError, match="has no attribute 'loss'; it has attacks"):
        kd.loss  # noqa: B018


def test_one_import_loads_no_folder():
    code = "import sys, kdjax; print(sorted(m for m in sys.modules if m.startswith('kdjax.')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tx": None}, "tx=None: accepted is an optimizer"),
        ({"tx": 3}, "tx=3; accepted: an Optax transformation, such as optax.adam"),
        ({"tx": ["adam"]}, r"tx=\['adam'\]; accepted: an Optax transformation, .*, or updates"),
        ({"model": "mlp"}, "model is a str; accepted: a Model, or Networks, such as a lesson's model"),
        ({"source": {}}, "source is a dict; accepted: a Source, as data.load makes them"),
        ({"hparams": {"temperatur": 2.0}}, "hparams has temperatur: accepted are .*learning_rate"),
        ({"hparams": {"learning_rate": 1e-3}}, "the optimizer its own rate"),
        ({"batch_size": 10**6}, "batch_size=1000000; accepted"),
        ({"batch_size": 0}, "batch_size=0; accepted: 1 or more"),
        ({"epochs": 0}, "epochs=0; accepted: 1 or more"),
    ],
)
def test_what_fit_refuses(given, words):
    train = kd.data.load("digits", "train[:100]")
    model = kd.models.create("mlp", hidden=(4,), like=train)
    right = {"model": model, "loss_fn": kd.recipes.supervised(model), "source": train, "tx": optax.adam(1e-3)}
    with pytest.raises(BadInput, match=words):
        kd.fit(**{**right, "epochs": 1, **given})


def test_a_set_is_not_trained_at_one_of_its_numbers_in_silence():
    train = kd.data.load("digits", "train[:100]")
    model = kd.models.create("mlp", hidden=(4,), like=train)
    lesson = kd.lesson("grid(1, 2)*labels + response.kl(temperature=linear(grid(4, 8), 1))", model, model, steps=2)
    fit = functools.partial(kd.fit, lesson.model, lesson.loss_fn, train, tx=optax.adam(1e-3), epochs=1)
    said = r"labels.weight=grid\(1, 2\), .*temperature.start=grid\(4, 8\), where one .* is trained; accepted: a number"
    with pytest.raises(BadInput, match=said):
        fit()
    frozen = {"student": dict(params=model.init(jax.random.key(0))[0])}
    numbers = {"labels.weight": 2.0, "response.kl.temperature.start": 4.0}
    with pytest.raises(BadInput, match=r"^response.kl.temperature.start=grid\(4, 8\), where one"):
        fit(frozen=frozen, hparams={"labels.weight": 2.0})
    assert fit(frozen=frozen, hparams=numbers).keys() == {"student"}


def test_what_is_no_networks_variables_is_not_attacked(learned):
    _, student, _, networks, *_ = learned
    for variables, said in ((None, "None"), (networks, r"\['connectors', 'student'\]")):
        with pytest.raises(BadInput, match=rf"variables has {said}; accepted: one network's, .*'params'"):
            kd.attacks.white_box(student, variables)


def test_floats_are_right_in_0_to_1_and_refused_in_255ths():
    train = kd.data.load("digits", "train[:20]")
    model = kd.models.create("mlp", hidden=(4,), like=train)
    bytes_, ths = (np.rint(train.arrays["inputs"] * 255).astype(kind) for kind in (np.uint8, np.float32))
    one, two = (
        kd.fit(
            model,
            kd.recipes.supervised(model),
            train.with_column("inputs", x),
            tx=optax.adam(1e-3),
            epochs=1,
            batch_size=10,
        )
        for x in (bytes_, bytes_ * np.float32(1 / 255))
    )
    np.testing.assert_array_equal(*(x["student"]["params"]["logits"]["kernel"] for x in (one, two)))
    with pytest.raises(BadInput, match=r"inputs run from 0\.0 to 255\.0; .*or the 255ths that these may be, as uint8"):
        kd.fit(
            model,
            kd.recipes.supervised(model),
            train.with_column("inputs", ths),
            tx=optax.adam(1e-3),
            epochs=1,
            batch_size=10,
        )

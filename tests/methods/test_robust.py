"""Robust methods: each equals its paper's formula, and its code's, written here once more in numpy on fixed arrays."""

import contextlib
import dataclasses
import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import distill
from kdjax import spec
from kdjax.attacks.catalogue import ATTACKS
from kdjax.methods import METHODS, ROBUST, method
from kdjax.models.create import create
from kdjax.recipes.lesson import lesson
from kdjax.study.distillation import Config, planned
from kdjax.teachers.live import live
from kdjax.teachers.stored import cached
from kdjax.training import parallel
from kdjax.training.state import create_state
from kdjax.training.step import train_step
from kdjax.types import Adversarial, BadInput
from tests.experiments.scripts import parsed
from tests.methods.states import initializer
from tests.study.studies import study_of

SHAPE = {"num_classes": 4, "image_shape": (3, 3, 1)}
STUDENT, TEACHER, NATURAL = (create("mlp", **SHAPE, hidden=(n,)) for n in (5, 7, 6))
RNG = np.random.default_rng(1)
IMAGE = RNG.uniform(size=(6, 3, 3, 1)).astype(np.float32)
LABEL = np.array([0, 1, 2, 3, 0, -1])
ROWS = {
    "inputs": IMAGE,
    "label": LABEL.astype(np.int32),
    "mask": np.ones(6, np.float32),
    "epoch": np.zeros(6, np.int32),
}
SGD = optax.sgd(0.1)


def drawn(model):
    """A network's variables, by numpy."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))[0]
    return {"params": jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32) / 3, shapes)}


WEIGHTS, OTHER = drawn(TEACHER), drawn(NATURAL)


def away(image):
    return jnp.clip(image + 0.3 * jnp.sin(jnp.arange(9.0)).reshape(1, 3, 3, 1), 0, 1)


class Spy:
    """An attack that asks nobody, so that what it makes is known, and keeps what it was given."""

    def __call__(self, objective, key, image, start=None, *, where=None):
        self.objective, self.where = objective, where
        rows = jnp.zeros(len(image), jnp.int32)
        found = jnp.where(where[:, None, None, None], away(image), image)
        return Adversarial(found, rows.astype(jnp.float32), rows > 0, rows, rows)


@pytest.fixture
def spy(monkeypatch):
    """In the place of the attacks that methods name."""
    found = Spy()
    for name in ("pgd", "fgsm_rs"):
        monkeypatch.setitem(ATTACKS.functions, name, functools.wraps(ATTACKS.functions[name])(lambda **settings: found))
    return found


def made_of(text, *, steps=10, attack=None):
    """A method's lesson."""
    one = method(text)
    others = {name: NATURAL for name, _ in one.others}
    return lesson(one.expression, STUDENT, TEACHER, steps=steps, attacked=attack or one.attack, others=others)


def state_of(made, key=None, step=0):
    frozen = made.frozen(WEIGHTS, lambda: None, {name: OTHER for name in made.others})
    state = create_state(
        made.model, SGD, jax.random.key(3) if key is None else key, hparams=made.hparams, frozen=frozen,
        init=initializer(made.model),
    )  # fmt: skip
    return state.replace(step=jnp.int32(step))


@functools.partial(jax.jit, static_argnums=0)
def logits(model, variables, image):
    return model.apply(variables, image, train=False, key=None)[0].logits


class Answers:
    """Log-probabilities of every network to every view, in double precision, at a temperature."""

    def __init__(self, params, where):
        moved = jnp.where(jnp.asarray(where)[:, None, None, None], away(IMAGE), IMAGE)
        self.moved = moved
        views = {"": IMAGE, "a": moved, "m": 2 * IMAGE - moved}
        nets = {"s": (STUDENT, {"params": params}), "t": (TEACHER, WEIGHTS), "n": (NATURAL, OTHER)}
        self.z = {
            who + view: np.asarray(logits(model, variables, image), np.float64)
            for who, (model, variables) in nets.items() for view, image in views.items()
        }  # fmt: skip

    def log_p(self, who, t=1.0):
        z = (self.z[who] if isinstance(who, str) else who) / t
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def kl(self, right, left, t=1.0):
        """t^2 KL(right || left)."""
        p, q = self.log_p(right, t), self.log_p(left, t)
        return t**2 * (np.exp(p) * (p - q)).sum(1)

    def ce(self, who):
        return np.where(LABEL < 0, 0, -self.log_p(who)[np.arange(6), LABEL])

    def p_y(self, who):
        p = np.exp(self.log_p(who))
        return np.where(LABEL < 0, p.max(1), p[np.arange(6), LABEL])

    def unsure(self):
        """5 (H - min H) of the teacher's answer to attacked images."""
        p = self.log_p("ta")
        entropy = -(np.exp(p) * p).sum(1)
        return 5 * (entropy - entropy.min())

    def linearized(self):
        """T(x) + e_y <dT_y/dx, d>, of the largest class where the label is not known."""
        label = np.where(LABEL < 0, self.z["t"].argmax(1), LABEL)
        slope = jax.grad(lambda x: logits(TEACHER, WEIGHTS, x)[jnp.arange(6), label].sum())(IMAGE)
        change = np.asarray(jnp.sum(slope * (self.moved - IMAGE), axis=(1, 2, 3)), np.float64)
        return self.z["t"] + np.eye(4)[label] * change[:, None]

    def bce(self, who):
        p = np.exp(self.log_p(who))
        wrong = np.where(np.arange(4) == LABEL[:, None], 0, p).max(1)
        return np.where(LABEL < 0, 0, self.ce(who) - np.log(1 - wrong))


def weighed_by_trust(a, first, own, power=0.1, t=1.0):
    w = a.p_y("ta") ** power
    return w * a.kl(first, "sa", t) + (1 - w) * own


# What each says of an example: "s", "t" and "n" are the clean answers of student, teacher and natural teacher, "sa" ...
# those to attacked images, "sm" ... to mirrored ones.
FORMULAS = {
    "pgd_at": lambda a: a.ce("sa"),
    "fgsm_rs": lambda a: a.ce("sa"),
    "trades": lambda a: a.ce("s") + 6 * a.kl("s", "sa"),
    "mart": lambda a: a.bce("sa") + 5 * (1 - a.p_y("s")) * a.kl("s", "sa"),
    "ard": lambda a: a.kl("t", "sa", 30),
    "ard(form=release)": lambda a: a.kl("t", "sa", 30) / 4,
    "ard(alpha=0.7, temperature=5)": lambda a: 0.7 * a.kl("t", "sa", 5) + 0.3 * a.ce("s"),
    "iad_i(begin=0)": lambda a: weighed_by_trust(a, "t", a.kl("s", "sa")),
    "iad_i(begin=0, form=release)": lambda a: a.kl("t", "sa") + (1 - a.p_y("ta") ** 0.1) * a.kl("s", "sa"),
    "iad_i(begin=0, temperature=5)": lambda a: weighed_by_trust(a, "t", a.kl("s", "sa"), t=5),
    "iad_i": lambda a: a.kl("t", "sa"),  # at the beginning
    "iad_ii(begin=0, temperature=2)": lambda a: (
        0.25 * a.ce("sa") + 0.5 * weighed_by_trust(a, "t", a.kl("s", "sa"), t=2) + 0.25 * a.kl("n", "sa", 2)
    ),
    "iad_ii(begin=0, temperature=2, form=release)": lambda a: (
        0.25 * a.ce("sa") + 0.5 * weighed_by_trust(a, "t", 4 * a.kl("s", "sa"), t=2) + 0.25 * a.kl("n", "sa", 2)
    ),
    "akd2": lambda a: 0.25 * a.ce("sa") + 0.5 * a.kl("ta", "sa") + 0.25 * a.kl("na", "sa"),
    "rslad": lambda a: 5 / 6 * a.kl("t", "sa") + 1 / 6 * a.kl("t", "s"),
    "rslad(form=release)": lambda a: (5 / 6 * a.kl("t", "sa") + 1 / 6 * a.kl("t", "s")) / 4,
    "adaad": lambda a: a.kl("ta", "sa"),
    "adaad(alpha=0.8)": lambda a: 0.8 * a.kl("ta", "sa") + 0.2 * a.kl("t", "s"),
    "adaad(form=release)": lambda a: a.kl("ta", "sa") / 4,
    "adaiad": lambda a: weighed_by_trust(a, "ta", a.kl("s", "sa")),
    "adaiad(form=release)": lambda a: a.kl("ta", "sa", 30) + (1 - a.p_y("ta") ** 0.1) * a.kl("s", "sa"),
    "saad": lambda a: a.unsure() * (a.kl("ta", "sa") + 0.4 * a.kl(a.z["ta"] - a.z["tm"], a.z["sa"] - a.z["sm"])),
    "saad(plain=0.5, gradients=0, scale=2)": lambda a: (
        0.4 * a.unsure() * a.kl("ta", "sa") + 0.5 * (1 - a.unsure() / a.unsure().max()) * a.kl("t", "s")
    ),
    "mtard": lambda a: 0.5 * a.kl("ta", "sa") + 0.5 * a.kl("n", "s"),  # at the beginning
    "mtard(form=release)": lambda a: (0.5 * a.kl("ta", "sa") + 0.5 * a.kl("n", "s")) / 4,
    # At the beginning all fitted temperatures are 1; later ones stand in the tests below.
    "b_mtard": lambda a: 0.5 * a.kl("ta", "sa") + 0.5 * a.kl("n", "s"),
    "b_mtard(form=release)": lambda a: (0.5 * a.kl("ta", "sa") + 0.5 * a.kl("n", "s")) / 4,
    "absld": lambda a: 5 / 6 * a.kl("t", "sa") + 1 / 6 * a.kl("t", "s"),
    "absld(form=release)": lambda a: (5 / 6 * a.kl("t", "sa") + 1 / 6 * a.kl("t", "s")) / 4,
    "adaad + igdm(weight=3)": lambda a: (
        a.kl("ta", "sa") + 3 * 0.4 * a.kl(a.z["ta"] - a.z["tm"], a.z["sa"] - a.z["sm"])  # 4 of 10 steps are over
    ),
}
# What the attack makes large.
CLIMBS = {
    "trades": lambda a: a.kl("s", "sa"),
    "rslad": lambda a: a.kl("t", "sa"),
    "absld": lambda a: a.kl("t", "sa"),
    "adaad": lambda a: a.kl("ta", "sa"),
    "adaiad": lambda a: a.kl("ta", "sa"),
    "saad": lambda a: a.kl(a.linearized(), "sa"),
    **{
        name: (lambda a: a.ce("sa"))
        for name in ("pgd_at", "fgsm_rs", "mart", "ard", "iad_i", "iad_ii", "akd2", "mtard", "b_mtard")
    },
}
SEES_ATTACKED = {"iad_i", "iad_ii", "akd2", "adaad", "adaiad", "mtard", "b_mtard", "saad"}
"""Whose teacher is asked about attacked images."""
WITHOUT_LABELS = {"trades", "rslad", "absld", "adaad", "adaiad", "saad"}


def first_of(text):
    return text.split("(")[0].split(" +")[0]


def test_every_method_is_written_here():
    assert {first_of(text) for text in FORMULAS} | {"igdm"} == set(ROBUST.names())
    assert CLIMBS.keys() == set(ROBUST.names()) - {"igdm"}


@pytest.mark.parametrize("text", FORMULAS)
def test_a_method_is_its_formula(text, spy):
    made = made_of(text)
    state = state_of(made, step=4 if "igdm" in text or "saad" in text else 0)
    losses, _ = made.loss_fn(state.params, state, ROWS, jax.random.key(0))
    known = np.array([True] * 5 + [first_of(text) in WITHOUT_LABELS])
    np.testing.assert_array_equal(spy.where, known)
    answers = Answers(state.params["student"], spy.where)
    # At temperature 30 what is left of float32's seventh digit is multiplied by 900.
    np.testing.assert_allclose(losses, FORMULAS[text](answers), rtol=2e-4, atol=2e-4)
    # The attack's objective, at the images that it returned.
    value, success = spy.objective(jnp.where(spy.where[:, None, None, None], away(IMAGE), IMAGE))
    np.testing.assert_allclose(-value, CLIMBS[first_of(text)](answers), rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(success, (answers.z["sa"].argmax(1) != LABEL) & (LABEL >= 0))


def test_trust_begins_where_the_paper_says(spy):
    own = "response.kl(student=attacked, teacher=student(clean), times=doubt(teacher(attacked)))"
    for text, begin in (("iad_i", 30), ("iad_ii", 20)):
        made = made_of(text, steps=100)
        for step in (begin - 1, begin + 1):
            state = state_of(made, step=step)
            _, aux = made.loss_fn(state.params, state, ROWS, jax.random.key(0))
            assert (np.asarray(aux.metrics[own]).max() > 0) == (step > begin)


def test_mtards_weights_follow_what_each_loss_has_lost(spy):
    """Three steps against the recursion of the paper; the memory is the run's, in its state."""
    made = made_of("mtard(rate=0.3)")
    state, step = state_of(made), jax.jit(train_step(made.loss_fn, SGD))
    weight, first = 0.5, None
    for _ in range(3):
        state, metrics = step(state, ROWS)
        said = {name: float(total) / 6 for name, (total, _) in metrics.items()}
        robust, plain = (
            next(x for name, x in said.items() if word in name) for word in ("student=attacked", "natural")
        )
        first = first or (robust, plain)
        left = robust / first[0], plain / first[1]
        weight -= 0.3 * (weight - left[1] / sum(left))
        np.testing.assert_allclose(state.memory["progress"]["shares"], [1 - weight, weight], rtol=1e-4)
        np.testing.assert_allclose(said["loss"], (1 - weight) * robust + weight * plain, rtol=1e-4)
    assert abs(weight - 0.5) > 1e-3


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_b_mtards_temperatures_bring_the_teachers_to_one_entropy(form, spy):
    """Steps against the released recursion: each uses the temperatures that the one before left."""
    made = made_of(f"b_mtard(rate=0.3, temperature_rate=0.4, form={form})")
    state, step = state_of(made), jax.jit(train_step(made.loss_fn, SGD))
    heat, weight, first = np.ones(2), 0.5, None
    for _ in range(4):
        answers = Answers(state.params["student"], [True] * 5 + [False])
        said = answers.z["ta"] / heat[0], answers.z["n"] / heat[1]
        robust, plain = answers.kl(said[0], "sa").mean(), answers.kl(said[1], "s").mean()
        first = first or (robust, plain)
        left = robust / first[0], plain / first[1]
        weight -= 0.3 * (weight - left[1] / sum(left))
        entropy = [-(softmax(z) * np.log(softmax(z))).sum(1).mean() for z in said]
        heat = np.clip(heat - 0.4 * np.sign([entropy[0] / entropy[1] - 1, entropy[1] / entropy[0] - 1]), 1, 10)
        state, metrics = step(state, ROWS)
        expected = ((1 - weight) * robust + weight * plain) / (4 if form == "release" else 1)
        np.testing.assert_allclose(metrics["loss"][0] / 6, expected, rtol=1e-4)
        np.testing.assert_allclose(state.memory["entropy_balance"]["temperatures"], heat, rtol=1e-5)
    assert heat.max() > 1.3
    assert heat.min() == 1


@pytest.mark.parametrize("form", ["paper", "release"])
def test_abslds_temperatures_follow_the_risk_of_each_class(form, spy):
    """Two passes of two steps, and the first step of a third, against the released code's recursion in numpy."""
    made = made_of(f"absld(rate=0.3, form={form})")
    state, step, table = state_of(made), jax.jit(train_step(made.loss_fn, SGD)), np.ones((2, 4))
    risk, count, known = np.zeros((2, 4)), np.zeros(4), LABEL >= 0
    for number in range(5):
        if number in (2, 4):
            mean = risk / (count if form == "paper" else 1)
            gap = mean - mean.mean(1, keepdims=True)
            table = np.clip(table - 0.3 * gap / np.abs(gap).max(1, keepdims=True), 0.5, 5)
            risk, count = np.zeros((2, 4)), np.zeros(4)
        answers = Answers(state.params["student"], [True] * 6)
        each = np.where(known, table[:, LABEL], 1)
        each = each.prod(0) * np.ones((2, 1)) if form == "release" else each
        said = [answers.z["t"] / row[:, None] for row in each]
        loss = 5 / 6 * answers.kl(said[0], "sa") + 1 / 6 * answers.kl(said[1], "s")
        loss = loss / 4 if form == "release" else loss
        for row, view in enumerate(("sa", "s")):
            np.add.at(risk[row], LABEL[known], answers.ce(view)[known])
        np.add.at(count, LABEL[known], 1)
        rows = {**ROWS, "epoch": jnp.full(6, number // 2)}
        if number == 4:  # not traced, so that the attack's own objective can be asked
            found, _ = made.loss_fn(state.params, state, rows, jax.random.key(0))
            np.testing.assert_allclose(found, loss, rtol=2e-4, atol=2e-5)
            np.testing.assert_allclose(-spy.objective(away(IMAGE))[0], answers.kl(said[0], "sa"), rtol=2e-4, atol=2e-5)
        state, metrics = step(state, rows)
        np.testing.assert_allclose(metrics["loss"][0] / 6, loss.mean(), rtol=2e-4)
    np.testing.assert_allclose(state.memory["class_risk"]["temperatures"], table, rtol=1e-4)
    assert np.abs(table[0] - table[1]).max() > 1e-4
    assert np.abs(table - 1).max() > 0.25


def test_a_batch_that_does_not_say_its_pass_is_refused(spy):
    made = made_of("absld")
    state, rows = state_of(made), {name: x for name, x in ROWS.items() if name != "epoch"}
    with pytest.raises(BadInput, match="the batch has no epoch"):
        made.loss_fn(state.params, state, rows, jax.random.key(0))


def adaad_slope(spy, stop):
    climbs = f"response.kl(student=attacked, teacher=attacked, temperature=1, stop={stop})"
    made = made_of("adaad", attack=f"pgd(0.1, steps=2, objective={climbs})")
    state = state_of(made)
    made.loss_fn(state.params, state, ROWS, jax.random.key(0))
    return jax.grad(lambda x: spy.objective(x)[0].sum())(away(IMAGE)), state


def test_adaads_slope_passes_through_both_networks(spy):
    both, state = adaad_slope(spy, stop=False)

    def apart(x, held):
        p = jax.nn.log_softmax(logits(TEACHER, WEIGHTS, held if held is not None else x))
        return -jnp.sum(jnp.exp(p) * (p - jax.nn.log_softmax(logits(STUDENT, {"params": state.params["student"]}, x))))

    np.testing.assert_allclose(both, jax.grad(apart)(away(IMAGE), None), rtol=1e-3, atol=1e-6)
    held, _ = adaad_slope(spy, stop=True)
    np.testing.assert_allclose(held, jax.grad(apart)(away(IMAGE), away(IMAGE)), rtol=1e-3, atol=1e-6)
    assert float(jnp.abs(both - held).max()) > 1e-3


def test_no_gradient_reaches_a_teacher_through_its_attacked_view():
    one = method("adaad(steps=2)")
    made = lesson(one.expression, STUDENT, TEACHER, attacked=one.attack)
    state = state_of(made)

    def loss(frozen, params):
        return made.loss_fn(params, state.replace(frozen=frozen), ROWS, jax.random.key(0))[0].sum()

    to_teacher, to_student = jax.jit(jax.grad(loss, argnums=(0, 1)))(WEIGHTS, state.params)
    assert not any(np.any(g) for g in jax.tree.leaves(to_teacher))
    assert np.any(to_student["student"]["dense1"]["kernel"])


@pytest.mark.parametrize("name", CLIMBS)
def test_stored_answers_are_refused_where_the_teacher_sees_attacked_images(name, spy):
    made = made_of(name)
    assert made.live == (name in SEES_ATTACKED)
    if made.live:
        with pytest.raises(BadInput, match="asks the teacher about the view attacked, and its answers are stored"):
            made.taught_by(cached())
    else:
        made.taught_by(cached())


@pytest.mark.parametrize("text", ["ard(alpha=0.5, steps=2)", "rslad(steps=2)"])
def test_stored_answers_train_the_student_that_a_teacher_at_hand_trains(text):
    made, begin, trained = made_of(text), state_of(made_of(text)), []
    stored = {**ROWS, "teacher_logits": logits(TEACHER, WEIGHTS, IMAGE)}
    for who, frozen, rows in ((live(TEACHER.apply), WEIGHTS, ROWS), (cached(), None, stored)):
        step, state = jax.jit(train_step(made.taught_by(who), SGD)), begin.replace(frozen=frozen)
        for _ in range(3):
            state, _ = step(state, rows)
        trained.append(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *trained)
    assert float(jnp.abs(jax.tree.leaves(trained[0])[1] - jax.tree.leaves(begin.params)[1]).max()) > 1e-3


def test_stored_answers_are_refused_where_the_attack_alone_asks(spy):
    made = made_of("pgd_at", attack="pgd(objective=response.kl(student=attacked, teacher=attacked))")
    with pytest.raises(BadInput, match="asks the teacher about the view attacked, and its answers are stored"):
        made.taught_by(cached())


def test_two_epsilons_in_one_program_are_two_runs():
    """Epsilon, temperature and weights are traced: a set of them is a population."""
    one = method("rslad(epsilon=grid(0.05, 0.2), steps=2)")
    made = lesson(one.expression, STUDENT, TEACHER, attacked=one.attack)
    assert made.sets == {"pgd.epsilon": spec.grid(0.05, 0.2)}
    assert {name.rpartition(".")[2] for name in made.hparams} == {"epsilon", "temperature", "weight"}
    state, step = state_of(made), train_step(made.loss_fn, SGD)
    members = [state.replace(hparams={**state.hparams, "pgd.epsilon": jnp.float32(x)}) for x in (0.05, 0.2)]
    both = {**state.hparams, "pgd.epsilon": jnp.float32([0.05, 0.2])}
    each = {name: 0 if name == "pgd.epsilon" else None for name in both}
    run = jax.jit(jax.vmap(lambda hparams: step(state.replace(hparams=hparams), ROWS), (each,)))
    together, _ = run(both)
    alone = jax.jit(step)
    for number, member in enumerate(members):
        for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone(member, ROWS)[0].params), strict=True):
            np.testing.assert_allclose(a[number], b, atol=1e-6)
    assert alone._cache_size() == 1
    first, second = (jax.tree.leaves(together.params)[0][n] for n in range(2))
    assert float(jnp.abs(first - second).max()) > 1e-5


def test_numbers_may_follow_the_run():
    one = method("pgd_at(epsilon=linear(0, 0.2), steps=2)")
    made = lesson(one.expression, STUDENT, TEACHER, steps=10, attacked=one.attack)
    state, step = state_of(made), jax.jit(made.loss_fn)
    clean = step(state.params, state, ROWS, jax.random.key(0))[0]
    plain = lesson("labels", STUDENT, TEACHER)
    np.testing.assert_allclose(
        clean, plain.loss_fn(state.params, state_of(plain), ROWS, jax.random.key(0))[0], rtol=1e-5
    )
    later = step(state.params, state.replace(step=jnp.int32(10)), ROWS, jax.random.key(0))[0]
    assert (np.asarray(later - clean)[:5] > 0).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rslad(epsilon=linear(0.1, -0.1))",
            r"epsilon=linear\(0.1, -0.1\) comes to epsilon=-0\.1: accepted are pixel units, 0 or more",
        ),
        ("iad_i(begin=2)", "begin=2; accepted: a share of the run"),
        ("pgd_at(epsilon=8)", r"epsilon=8: images lie in \[0, 1\] .*Did you mean 255ths\?"),
        ("rslad(epsilon=grid(0.1, 2))", r"epsilon=2: images lie in \[0, 1\]"),
        ("ard(epsilon=uniform(0.1, 1.5))", r"epsilon=1\.5: images lie in \[0, 1\]"),
        ("adaad(step_size=0)", "step_size=0"),
        ("rslad(form=papre)", "accepted: .*paper"),
        ("rslad(alpha=1.5)", r"alpha=1\.5"),
        ("akd2(robust=0.8, plain=0.4)", "weights"),
        ("iad_i(power=-1)", "power=-1"),
        ("rslad + trades", "accepted: one attack, one stage"),
        ("adaad + fitnet_two_stages", "accepted: one attack, one stage"),
        ("igdm", r"method, column 1: read attacked - mirrored, and no attack makes such a view; .*in the same sum"),
        ("absld(rate=-1)", "class_risk: rate=-1"),
        ("b_mtard(temperature_rate=-1)", "entropy_balance: rate=-1"),
        ("adaad + igdm(weight=linear(1, 0))", r"igdm: weight=linear\(1, 0\): .* rises .*; accepted: a number or a set"),
        ("saad(gradients=cosine(1, 0))", r"saad: gradients=cosine\(1, 0\): .* rises from 0 .*; accepted: a nu"),
        ("iad_i(power=linear(1, 0))", r"iad_i: power=linear\(1, 0\): the power is 0 until .*; accepted: a number"),
        ("iad_ii(begin=linear(0.1, 0.2))", r"iad_ii: begin=linear\(0.1, 0.2\): .* until a share .*; accepted"),
        ("rsladd", "read the name rsladd; accepted: .*did you mean rslad"),
    ],
)
def test_what_cannot_be_is_one_clear_error(text, said):
    with pytest.raises(BadInput, match=said):
        made_of(text)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("pgd(0.1, objective=response.kl(student=attacked, teacher=natural(attacked)))", "read the view natural"),
        ("pgd(0.1, objective=response.kl)", r"the attack climbs views \['clean'\]; accepted: attacked"),
        (
            "pgd(0.1, objective=response.kl(student=mirrored))",
            "the view mirrored; accepted: clean, attacked, linearized",
        ),
        ("pgd(0.1, objective=response.dist(student=attacked))", "accepted: losses on answers, example by example"),
        ("pgd(0.1, objective=feature.hint(hidden1))", "compares layers"),
        ("pgd(0.1, objective=response.kl(student=attacked, temperature=0))", "temperature=0"),
        ("pgd(0.1, steps=grid(1, 2))", "read steps=grid.* of pgd; accepted: one whole number"),
        ("pgd(0.1, objective=0.3)", "accepted: a sum of losses, or one of cross_entropy, dlr, margin"),
        ("pgd(steps((0.1, -0.1, 0.1), (0.31, 0.34)))", "epsilon=-0.1: accepted are pixel units"),
        (
            "pgd(0.1, objective=response.kl(student=attacked, temperature=steps((1, 0, 1), (0.31, 0.34))))",
            "temperature=0.0; accepted: a number above 0",
        ),
        ("pgd(0.1, share=1.5)", "accepted are shares of a batch"),
        (
            "pgd(0.1, objective=response.kl(student=attacked, teacher_temperature=class_risk))",
            "no loss fits its teacher_temperature; accepted: none",
        ),
        (
            "pgd(0.1, objective=response.kl(student=attacked, teacher_temperature=class_risk(rate=0.1)))",
            "of an attack; accepted: class_risk",
        ),
        ("pgd(0.1, share=grid(0, 1))", "accepted: one number from 0 to 1"),
    ],
)
def test_attacks_that_nobody_can_make(attack, said):
    with pytest.raises(BadInput, match=said):
        lesson("labels(student=attacked)", STUDENT, TEACHER, attacked=attack, steps=10)


def test_a_teacher_of_other_classes_is_refused_before_training(spy):
    other = create("mlp", num_classes=3, image_shape=(3, 3, 1), hidden=(7,))
    for name in ("rslad", "adaad"):
        one = method(name)
        with pytest.raises(BadInput, match="teacher answers with 3 classes; accepted: as many as the student, 4, or"):
            lesson(one.expression, STUDENT, other, attacked=one.attack)


@pytest.mark.parametrize("name", METHODS.names())
def test_texts_are_expressions(name):
    one = method(name)
    assert spec.formula(str(one.expression)) == one.expression
    assert one.attack is None or spec.call(str(one.attack)) == one.attack


@pytest.mark.parametrize("text", [*CLIMBS, "adaad + igdm"])
def test_a_name_typed_in_the_shell_is_the_papers_plan(text, spy):
    config, study = parsed(Config, f"--method={text}", "--batch_size=10"), study_of(SHAPE, 100)
    others = {name: NATURAL for name, _ in method(text).others}
    plan = planned(config, study, STUDENT, TEACHER, 10, others=others)
    assert plan.live == (text.split(" ")[0] in SEES_ATTACKED)
    epsilons = {x for name, x in plan.hparams.items() if name.endswith(".epsilon")}
    assert epsilons == {8 / 255}
    if others:
        assert method(f"{text}(natural='runs/teacher')").others == (("natural", "runs/teacher"),)
        with pytest.raises(BadInput, match=r"no teacher called natural; accepted: .*natural='runs/natural'"):
            planned(config, study, STUDENT, TEACHER, 10)
    stored = dataclasses.replace(config, answers_dir="somewhere")
    served = dataclasses.replace(config, teacher="http://127.0.0.1:1")
    for kept in (stored, served):
        said = "as they are stored, and with .* the teacher is asked about attacked" if plan.live else None
        if kept is stored and not plan.asks:
            said = "--answers_dir=somewhere: .* asks no teacher"
        with pytest.raises(BadInput, match=said) if said else contextlib.nullcontext():
            planned(kept, study, STUDENT, TEACHER, 10, others=others)


def test_a_loss_brings_an_attack_of_its_own(spy):
    typed = "--loss=response.kl(student=attacked), pgd(0.1, objective=response.kl(student=attacked))"
    plan = planned(parsed(Config, typed, "--batch_size=10"), study_of(SHAPE, 100), STUDENT, TEACHER, 10)
    assert plan.hparams["pgd.epsilon"] == 0.1
    with pytest.raises(BadInput, match=r"loss, column 32: read the name pgb; accepted: apgd, .*did you mean pgd"):
        planned(parsed(Config, typed.replace("pgd", "pgb")), study_of(SHAPE, 100), STUDENT, TEACHER, 10)


def test_the_command_trains_a_robust_student(tmp_path):
    """As a shell starts it; its metrics say that it saw attacked images, and the student alone saw none."""
    flags = "--smoke", "--seeds=1", "--epochs=1", "--method=rslad(epsilon=0.2, steps=1)", f"--workdir={tmp_path}"
    distill.main(parsed(Config, *flags), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["student distilled"]) == 1
    facts = next(arm["facts"] for arm in found["arms"].values() if "response.kl" in arm["loss"])
    assert "steps=1" in facts["attack"]
    assert facts["further teachers"] == {}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert {"distilled" in line for line in lines if "attacked_accuracy" in line} == {True}


@pytest.mark.parametrize("text", ["saad", "mtard", "b_mtard", "absld"])
def test_what_couples_examples_sees_all_devices(text, spy):
    """An entropy among the batch's, and a loss's mean, are those of the global batch, under jit and pmap."""
    made, rows = made_of(text), {name: np.asarray(x) for name, x in ROWS.items()}
    mesh, found = parallel.data_mesh(jax.devices()[:2]), []
    for kind in ("jit", "pmap"):
        step = parallel.wrap(
            kind, lambda axis: lambda s, d, r: train_step(made.loss_fn, SGD, axis_name=axis)(s, r), mesh, batch_axis=0
        )
        state = parallel.place(state_of(made, step=5), mesh, kind)
        found.append(step(state, {}, rows)[0])
    for a, b in zip(*(jax.tree.leaves((one.params, one.memory)) for one in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(jax.tree.leaves(found[0].params)[1] - jax.tree.leaves(state_of(made).params)[1]).max()) > 1e-4


NUMBERS = [
    (name, key)
    for name, make in METHODS.functions.items()
    for key, one in inspect.signature(make).parameters.items()
    if isinstance(one.default, int | float) and not isinstance(one.default, bool)
]


def test_a_set_that_is_typed_once_is_one_axis_or_refused_and_nothing_else_goes_wrong():
    """Two axes would hold members that are not the method."""
    swept, refused = set(), set()
    for name, key in NUMBERS:
        forms = ("", ", form=release") if "form" in inspect.signature(METHODS.functions[name]).parameters else ("",)
        for form in forms:
            with contextlib.suppress(BadInput):  # a schedule stands in several places at one moment
                method(f"{name}({key}=linear(0.5, 0.75){form})")
            try:
                made = method(f"{name}({key}=grid(0.5, 0.75){form})")
            except BadInput:
                refused.add((name, key))
                continue
            axes = [*spec.sets(made.expression), *(spec.sets(made.attack) if made.attack else ())]
            assert len(axes) == 1, (name, key)
            swept.add((name, key))
    assert swept >= {("kd", "temperature"), ("trades", "beta")}
    assert refused >= {("adaiad", "power"), ("iad_i", "begin"), ("saad", "scale"), ("akd2", "temperature")}
    assert refused >= {("iad_ii", "robust"), ("kd", "alpha")}

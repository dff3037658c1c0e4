"""Terms with views: who is asked about what, what stands on each side, where gradients stop and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import errors
from flax import linen as nn

from kdjax.attacks import named
from kdjax.losses import response
from kdjax.models.create import create, from_linen
from kdjax.recipes.attacked import Attacked
from kdjax.recipes.distill import distill
from kdjax.recipes.learn import learn
from kdjax.recipes.lesson import lesson
from kdjax.recipes.mutual import alike, mutual
from kdjax.recipes.supervised import supervised
from kdjax.recipes.terms import LABELS, Side, Term, fixed, hyper
from kdjax.teachers.live import Teacher, live
from kdjax.teachers.stored import cached, cached_top_k
from kdjax.training.state import create_state, variables
from kdjax.training.step import train_step
from kdjax.types import Adversarial, BadInput, Model, Outputs
from tests.methods.states import initializer

SHAPE = {"num_classes": 4, "image_shape": (3, 3, 1)}
STUDENT, TEACHER = create("mlp", **SHAPE, hidden=(5,)), create("mlp", **SHAPE, hidden=(7,))
WEIGHTS = {"params": jax.jit(TEACHER.init)(jax.random.key(9))[0]}
ROWS = {
    "inputs": jax.random.uniform(jax.random.key(1), (6, 3, 3, 1)),
    "label": jnp.array([0, 1, 2, 3, 0, 1]),
    "mask": jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
}
TRADES = "labels + 6*response.kl(student=attacked, teacher=student(clean), temperature=1{})"
SGD = optax.sgd(0.1)


def away(image):
    return jnp.clip(image + 0.3 * jnp.sin(jnp.arange(9.0)).reshape(1, 3, 3, 1), 0, 1)


def shift(objective, key, image, start=None, *, where=None):
    """An attack that asks nobody, so that what it makes is known."""
    rows = jnp.zeros(len(image), jnp.int32)
    found = jnp.where(where[:, None, None, None], away(image), image)
    return Adversarial(found, rows.astype(jnp.float32), rows > 0, rows, rows)


def state_of(made, key, frozen=WEIGHTS):
    return create_state(made.model, SGD, key, hparams=made.hparams, frozen=frozen, init=initializer(made.model))


def total(recipe, state, key):
    """The loss of real rows as a function of the student's parameters."""
    return lambda params: jnp.sum(ROWS["mask"] * recipe({**state.params, "student": params}, state, ROWS, key)[0])


def close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@functools.partial(jax.jit, static_argnames="model")
def logits(params, image, model=STUDENT):
    return model.apply({"params": params}, image, train=False, key=None)[0].logits


def trades_by_hand(params, held):
    """Equation 5 with the KL of the released code: CE(f(x), y) + 6 sum_k p_k (log p_k - log q_k), p clean."""
    clean, moved = logits(params, ROWS["inputs"]), logits(params, away(ROWS["inputs"]))
    p = jax.nn.log_softmax(clean if held is None else held)
    pairs = jnp.exp(p) * (p - jax.nn.log_softmax(moved))
    return ROWS["mask"] * (-jax.nn.log_softmax(clean)[jnp.arange(6), ROWS["label"]] + 6 * pairs.sum(-1))


def test_trades_is_its_formula_with_gradient_on_both_sides(key):
    by = Attacked(shift)
    slopes = {}
    for stop in (False, True):
        made = lesson(TRADES.format(f", stop={stop}"), STUDENT, TEACHER, attacked=by)
        state = state_of(made, key)
        params = state.params["student"]
        held = logits(params, ROWS["inputs"]) if stop else None
        losses, _ = jax.jit(made.loss_fn)(state.params, state, ROWS, key)
        z, a = (np.asarray(logits(params, x), np.float64) for x in (ROWS["inputs"], away(ROWS["inputs"])))
        p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (z, a))
        expected = -np.log(p[np.arange(6), ROWS["label"]]) + 6 * (p * np.log(p / q)).sum(1)
        np.testing.assert_allclose(losses[:5], expected[:5], rtol=1e-4)
        slopes[stop] = jax.jit(jax.grad(total(made.loss_fn, state, key)))(params)
        close(slopes[stop], jax.jit(jax.grad(lambda p, held: trades_by_hand(p, held).sum()))(params, held))
    gap = max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, slopes.values()), strict=True))
    assert gap > 1e-2
    # Stopped is what a term does that says nothing.
    plain = lesson(TRADES.format(""), STUDENT, TEACHER, attacked=by)
    close(jax.jit(jax.grad(total(plain.loss_fn, state_of(plain, key), key)))(params), slopes[True], rtol=1e-6)


def test_adversarial_training_is_a_term_on_the_attacked_view(key):
    attack = named.pgd(0.2, steps=2, random_start=True)
    made = lesson("labels(student=attacked)", STUDENT, TEACHER, attacked=Attacked(attack, share=0.5))
    assert (made.asks, made.by_label) == ({}, True)
    state = state_of(made, key)
    ours, metrics = jax.jit(train_step(made.loss_fn, SGD))(state, ROWS)
    theirs, same = jax.jit(train_step(supervised(STUDENT, attack=attack, attacked=0.5), SGD))(state, ROWS)
    close(ours.params, theirs.params, rtol=0, atol=0)
    np.testing.assert_array_equal(metrics["labels(student=attacked)"], same["cross_entropy"])
    assert metrics["attacked_accuracy"] == same["attacked_accuracy"]
    clean, _ = jax.jit(train_step(supervised(STUDENT), SGD))(state, ROWS)
    assert not np.array_equal(clean.params["student"]["dense1"]["kernel"], ours.params["student"]["dense1"]["kernel"])


# ARD, RSLAD, AdaAD: who stands on the right of the attacked view, and beside it.
ROBUST = {
    "ard": ("response.kl(student=attacked, teacher=clean, temperature=1) + labels", "clean", None),
    "rslad": ("response.kl(student=attacked, temperature=1) + response.kl(temperature=1)", "clean", "clean"),
    "adaad": (
        "response.kl(student=attacked, teacher=attacked, temperature=1) + response.kl(temperature=1)",
        "attacked", "clean",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROBUST)
def test_robust_distillation_as_its_papers_write_it(key, name):
    text, right, beside = ROBUST[name]
    made = lesson(text, STUDENT, TEACHER, attacked=Attacked(shift))
    state = state_of(made, key)
    losses, _ = jax.jit(made.loss_fn)(state.params, state, ROWS, key)
    images = {"clean": ROWS["inputs"], "attacked": away(ROWS["inputs"])}
    says = {
        (who, view): np.asarray(jax.nn.log_softmax(logits(params, image, model)), np.float64)
        for view, image in images.items()
        for who, params, model in (("s", state.params["student"], STUDENT), ("t", WEIGHTS["params"], TEACHER))
    }

    def kl(left, right):
        return (np.exp(right) * (right - left)).sum(1)

    expected = kl(says["s", "attacked"], says["t", right])
    if beside:
        expected = expected + kl(says["s", "clean"], says["t", beside])
    else:
        expected = expected - says["s", "clean"][np.arange(6), ROWS["label"]]
    np.testing.assert_allclose(losses[:5], expected[:5], rtol=1e-4)


def test_stored_answers_are_to_the_clean_view_alone():
    made = lesson(ROBUST["adaad"][0], STUDENT, TEACHER, attacked=Attacked(shift))
    for stored in (cached(), cached_top_k(4)):
        with pytest.raises(BadInput, match=r"the view attacked, and its answers are stored: accepted are clean, or"):
            made.taught_by(stored)
    lesson(ROBUST["rslad"][0], STUDENT, TEACHER, attacked=Attacked(shift)).taught_by(cached())


class Watched:
    """A model that notes every image that it is shown, and in which mode."""

    def __init__(self, model):
        self.seen: list[tuple[bool, np.ndarray]] = []
        self.inner, self.model = model, model._replace(apply=self.apply)

    def apply(self, variables, image, *, train, key, mask=None):
        if not isinstance(image, jax.core.Tracer):  # of a lesson that looks at shapes
            self.seen.append((train, np.asarray(image)))
        return self.inner.apply(variables, image, train=train, key=key, mask=mask)


def test_each_network_is_asked_once_per_view(key):
    text = (
        "labels + response.kl + response.dist + relation.sp + labels(student=attacked)"
        " + response.kl(student=attacked, teacher=attacked) + response.logit_mse(student=attacked)"
    )
    made = lesson(text, STUDENT, TEACHER, attacked=Attacked(shift), batch_size=6)
    state = state_of(made, key)
    student, teacher = Watched(STUDENT), Watched(TEACHER)
    again = lesson(text, student.model, teacher.model, attacked=Attacked(shift), batch_size=6)
    student.seen.clear(), teacher.seen.clear()
    again.loss_fn(state.params, state, ROWS, key)
    attacked = np.array([True] * 5 + [False])[:, None, None, None]
    images = ROWS["inputs"], jnp.where(attacked, away(ROWS["inputs"]), ROWS["inputs"])
    for watched, mode in ((student, True), (teacher, False)):
        assert [train for train, _ in watched.seen] == [mode, mode]
        for (_, seen), image in zip(watched.seen, images, strict=True):
            np.testing.assert_array_equal(seen, image)
    # The teacher is not asked about a view on which nobody compares it.
    alone = lesson("response.kl + labels(student=attacked)", student.model, teacher.model, attacked=Attacked(shift))
    student.seen.clear(), teacher.seen.clear()
    alone.loss_fn(state.params, state_of(alone, key), ROWS, key)
    assert (len(student.seen), len(teacher.seen)) == (2, 1)


def counting():
    """A model whose state is how often it ran, and the mean of the last images that it took in."""

    def apply(variables, image, *, train, key, mask=None):
        own = variables["seen"]
        seen = {"passes": own["passes"] + 1, "mean": image.mean()} if train else own
        return Outputs(image.reshape(len(image), -1)[:, :4] * variables["params"]["w"][None]), {"seen": seen}

    start = {"passes": jnp.zeros(()), "mean": jnp.zeros(())}
    return Model(lambda key: ({"w": jnp.ones(4)}, {"seen": start}), apply, (3, 3, 1))


@pytest.mark.parametrize(
    ("moves", "passes", "last"),
    [(None, 2, "attacked"), (("clean",), 1, "clean"), (("attacked",), 1, "attacked"), ((), 0, None)],
)
def test_which_pass_moves_running_statistics(key, moves, passes, last):
    model = counting()
    terms = [
        Term("clean", response.cross_entropy, fixed(1.0), Side("student"), Side(LABELS)),
        Term("moved", response.cross_entropy, fixed(1.0), Side("student", "attacked"), Side(LABELS)),
    ]
    recipe = learn(model, terms, attacked=Attacked(shift), moves=moves)
    state = create_state(model, SGD, key)
    rows = {**ROWS, "mask": jnp.ones(6)}
    _, (model_state, _, _) = recipe(state.params, state, rows, key)
    seen = model_state["student"]["seen"]
    means = {"clean": ROWS["inputs"].mean(), "attacked": away(ROWS["inputs"]).mean(), None: 0}
    assert float(seen["passes"]) == passes
    np.testing.assert_allclose(seen["mean"], means[last], rtol=1e-5)


def test_no_gradient_reaches_the_teacher_from_any_view(key):
    by = "fgsm(0.1, objective=response.kl(student=attacked, teacher=attacked) + response.kl(student=attacked))"
    text = "response.kl(student=attacked, teacher=attacked) + response.kl + feature.hint(hidden1)"
    made = lesson(text, STUDENT, TEACHER, attacked=by)
    state = state_of(made, key)

    def loss(frozen, params):
        return made.loss_fn(params, state.replace(frozen=frozen), ROWS, key)[0].sum()

    to_teacher, to_student = jax.jit(jax.grad(loss, argnums=(0, 1)))(WEIGHTS, state.params)
    assert not any(np.any(g) for g in jax.tree.leaves(to_teacher))
    assert all(np.any(g) for g in jax.tree.leaves(to_student["connectors"]))
    assert np.any(to_student["student"]["dense1"]["kernel"])


def test_a_teacher_may_be_what_trained_it_returned(key):
    made = lesson("response.kl", STUDENT, TEACHER)
    state = state_of(made, key)
    whole = {"student": WEIGHTS, "connectors": {"params": {}}}
    a, b = (
        made.loss_fn(state.params, state.replace(frozen=frozen), ROWS, key)[0] for frozen in (WEIGHTS, whole)
    )  # fmt: skip
    np.testing.assert_array_equal(a, b)


CE = Term("a", response.cross_entropy, fixed(1.0), Side("student"), Side(LABELS))
KL = Term("b", response.kl, fixed(1.0))


@pytest.mark.parametrize(
    ("terms", "given", "said"),
    [
        ([], {}, r"terms=\[\]: accepted are one or more"),
        ([CE, CE], {}, r"terms=\['a', 'a'\]: .*a name of its own"),
        ([KL], {}, "teacher=None: b compares the student with one; accepted: a teacher"),
        ([CE._replace(student=Side("student", "attacked"))], {}, "attacked=None: a term looks at the attacked view"),
        ([CE._replace(student=Side("student", "mixed"))], {}, "view 'mixed'; accepted: clean, attacked, mirrored"),
        ([KL._replace(teacher=Side("other"))], {}, r"others=\[\]: b asks other; accepted: one so called"),
        ([CE], {"attacked": Attacked(shift, share=1.5)}, r"attacked=1\.5: accepted are shares"),
        ([CE], {"attacked": Attacked(shift, share=-0.1)}, r"attacked=-0\.1: accepted are shares"),
    ],
)
def test_what_cannot_be_summed_is_refused(terms, given, said):
    with pytest.raises(BadInput, match=said):
        learn(STUDENT, terms, **given)


def test_what_a_step_lacks_is_refused_by_name(key):
    def step(recipe, rows=ROWS, frozen=WEIGHTS, model=STUDENT, **hparams):
        def begun(key, frozen):
            return train_step(recipe, SGD)(create_state(model, SGD, key, hparams=hparams, frozen=frozen), rows)

        jax.eval_shape(begun, key, frozen)

    both = {"alpha": 0.5, "temperature": 2.0}
    taught = distill(STUDENT, live(TEACHER.apply), response.kl)
    for name in both:
        with pytest.raises(BadInput, match=rf"hparams has .*: accepted is one with {name}"):
            step(taught, **{n: x for n, x in both.items() if n != name})
    weighed = learn(STUDENT, [CE._replace(weight=hyper("gamma"))])
    with pytest.raises(BadInput, match=r"hparams has \[\]: accepted is one with gamma"):
        step(weighed)
    cohort = alike(STUDENT, 2).model
    with pytest.raises(BadInput, match="accepted is one with weight"):
        step(mutual(cohort), model=cohort, temperature=1.0)
    with pytest.raises(BadInput, match="accepted is one with temperature"):
        step(mutual(cohort), model=cohort, weight=1.0)
    with pytest.raises(BadInput, match=r"the batch has .*: accepted is one with teacher_logits"):
        step(distill(STUDENT, cached(), response.kl), **both)
    with pytest.raises(BadInput, match=r"the batch has .*: accepted is one with teacher_values"):
        step(distill(STUDENT, cached_top_k(4), response.kl), **both)
    for frozen in (None, {}, {"teacher": WEIGHTS}):
        with pytest.raises(BadInput, match=r"frozen=.*: accepted are the teacher's variables"):
            step(taught, frozen=frozen, **both)
    for frozen in ({"student": {}}, jax.tree.map(lambda x: jnp.repeat(x, 2, axis=-1), WEIGHTS)):
        with pytest.raises(BadInput, match=r"the teacher, asked with frozen=.*: variables of another network"):
            step(taught, frozen=frozen, **both)


class Guessing(nn.Module):
    """A network that drops in evaluation mode too: its own fault, of which its variables know nothing."""

    @nn.compact
    def __call__(self, image, *, train):
        return Outputs(nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(image.reshape(len(image), -1))))


def test_a_fault_of_the_teachers_network_is_not_laid_on_its_variables(key):
    image = jnp.zeros((2, 4, 4, 1))
    weights = Guessing().init({"params": key, "dropout": key}, image, train=False)
    with pytest.raises(errors.InvalidRngError):
        live(from_linen(Guessing(), (4, 4, 1)).apply)(weights, {"inputs": image})


def test_a_teacher_says_which_views_it_answers(key):
    said = Teacher(lambda frozen, batch: Outputs(jnp.zeros((6, 4))), views=("attacked",))
    with pytest.raises(BadInput, match="accepted are attacked, or a live teacher"):
        learn(STUDENT, [KL], teacher=said)
    recipe = learn(STUDENT, [KL._replace(teacher=Side("teacher", "attacked"))], teacher=said, attacked=Attacked(shift))
    state = create_state(STUDENT, SGD, key)
    assert np.isfinite(recipe(state.params, state, ROWS, key)[0]).all()
    assert variables(state).keys() == {"params"}

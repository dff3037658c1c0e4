"""The one grammar: text and Python say the same, numbers have names, what cannot be read is refused at its place."""

import inspect
import math
import random
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import spec
from kdjax.attacks import boundary, named
from kdjax.data import augment, transforms
from kdjax.losses import contrastive, feature, relation, response
from kdjax.spec import Call, Formula, Names, Weighted
from kdjax.types import Attack, BadInput

NAMES, RESPONSE, FEATURE = Names(), Names("response"), Names("feature")
LOSSES = spec.Family(response, feature, relation, contrastive, first=("student", "teacher"), dotted=True)
ATTACKS = spec.Family(named, boundary, accepts=lambda f: inspect.signature(f).return_annotation is Attack)
GIVEN = ("student", "teacher", "labels", "where")


def column(error: BadInput) -> int:
    """Where the caret stands, counted from 0; the words of the message agree."""
    head, *_, caret = str(error).split("\n")
    assert f"column {len(caret) - 2}:" in head
    return len(caret) - 3


class Generator:
    """Random values of the grammar, made in Python."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def name(self) -> str:
        return self.rng.choice(["kl", "response.kl", "feature.hint", "labels", "block2", "a_1", "uniform", "log"])

    def number(self) -> int | float:
        x = self.rng.choice([0, 1, -3, 255, 1e-300, 1e22, -0.5, 0.1, self.rng.gauss(0, 1), self.rng.randrange(10**20)])
        return x

    def schedule(self) -> spec.Schedule:
        a, b, share = self.number(), self.number(), self.rng.uniform(0.01, 0.99)
        made = [spec.linear(a, b), spec.cosine(a, b), spec.constant(a), spec.steps((a, b), (share,))]
        made += [spec.warmup(share, a), spec.warmup(share, spec.cosine(a, b)), spec.linear(spec.grid(1, 2.5), b)]
        return self.rng.choice(made)

    def set(self) -> spec.Set:
        low = self.rng.uniform(0.1, 1)
        return self.rng.choice([spec.grid(1, 2.0, -4), spec.uniform(-low, low), spec.log(low, low * 3)])

    def weight(self):
        return self.rng.choice([self.number, self.number, self.schedule, self.set])()

    def call(self, depth: int) -> Call:
        name, given = self.name(), self.rng.random() < 0.7
        if not given or name in ("uniform", "log"):
            return Call(name)
        args = [self.value(depth - 1) for _ in range(self.rng.randrange(3))]
        keys = self.rng.sample(["temperature", "alpha", "student", "p"], self.rng.randrange(3))
        return Call(name)(*args, **{key: self.value(depth - 1) for key in keys})

    def formula(self, depth: int) -> Formula:
        terms = [Weighted(self.weight(), self.call(depth)) for _ in range(self.rng.randint(1, 4))]
        return Formula(tuple(terms))

    def value(self, depth: int):
        atoms = [self.number, self.schedule, self.set]
        atoms += [lambda: self.rng.choice([True, False, None, "l2", "it's \"\n\\ é#", ""])]
        if depth <= 0:
            return self.rng.choice(atoms)()
        deep = [lambda: self.call(depth), lambda: self.formula(depth - 1)]
        deep += [lambda: tuple(self.value(depth - 1) for _ in range(self.rng.randrange(4)))]
        return self.rng.choice([*atoms, *deep, *deep])()


VALUES = [Generator(seed).value(3) for seed in range(600)]


def leaves(value) -> int:
    """How many numbers, those of schedules among them, and sets there are."""
    if isinstance(value, bool | str | None):
        return 0
    if isinstance(value, int | float | spec.Set):
        return 1
    if isinstance(value, tuple):
        return sum(map(leaves, value))
    if isinstance(value, Formula):
        return sum(leaves(weight) + leaves(call) for weight, call in value.terms)
    parts = [*value.args, *value.keywords.values()] if isinstance(value, Call) else vars(value).values()
    return sum(map(leaves, parts))


# Text and Python


def test_what_is_printed_is_read_again():
    kinds = {type(value) for value in VALUES}
    assert {Call, Formula, tuple, spec.linear, spec.grid, str, float} <= kinds
    for value in VALUES:
        text = repr(value)
        again = spec.parse(text)
        assert again == value
        assert repr(again) == text
        assert type(again) is type(value)
        assert hash(again) == hash(value)
        assert not isinstance(value, Call | Formula | spec.Schedule | spec.Set) or str(value) == text


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("response.kl", RESPONSE.kl),
        ("response.kl()", RESPONSE.kl),
        ("response.kl(temperature=4)", RESPONSE.kl(temperature=4)),
        ("f(b=1, a=2)", NAMES.f(a=2, b=1)),
        (
            "0.9*response.kl(temperature=4) + 0.1*labels + 100*feature.hint(block2, block4)",
            0.9 * RESPONSE.kl(temperature=4) + 0.1 * NAMES.labels + 100 * FEATURE.hint(NAMES.block2, NAMES.block4),
        ),
        ("a*0.9", 0.9 * NAMES.a),
        ("1*a", Formula((Weighted(1, Call("a")),))),
        ("a + b", Formula((Weighted(1, Call("a")), Weighted(1, Call("b"))))),
        ("a - b/2 - -c", NAMES.a + -0.5 * NAMES.b + 1 * NAMES.c),
        ("0.5*(a + 2*(b - 3*c))", 0.5 * NAMES.a + 1.0 * NAMES.b + -3.0 * NAMES.c),
        ("linear(1, 0)*a", spec.linear(1, 0) * NAMES.a),
        ("a*linear(1, end=0)", NAMES.a * spec.linear(1, 0)),
        ("linear(1, 0)*(a + 2*b)", spec.linear(1, 0) * NAMES.a + spec.linear(2, 0) * NAMES.b),
        ("100*linear(1, 0.5)", spec.linear(100, 50.0)),
        ("2*warmup(0.1)*a", spec.warmup(0.1, 2) * NAMES.a),
        ("-steps((1, 2), (0.5,))/2", spec.steps((-0.5, -1.0), (0.5,))),
        ("2*warmup(0.1, cosine(1, 0))", spec.warmup(0.1, spec.cosine(2, 0))),
        ("2*grid(1, 2)*a", spec.grid(2, 4) * NAMES.a),
        ("10*log(1, 10)", spec.log(10, 100)),
        ("response.kl(temperature=grid(1, 2))", RESPONSE.kl(temperature=spec.grid(1, 2))),
        ("f((block1, block2), 'x', None, True)", NAMES.f((NAMES.block1, NAMES.block2), "x", None, True)),
        ("uniform", NAMES.uniform),
        ("  \n a\n + \tb ", NAMES.a + NAMES.b),
    ],
)
def test_text_and_python_are_one(text, python):
    assert spec.parse(text) == python
    assert spec.parse(repr(python)) == python


@pytest.mark.parametrize(
    ("text", "number"),
    [("8/255", 8 / 255), ("2**-3", 0.125), ("-1", -1), ("+1.5", 1.5), ("1 + 2*3 - 4", 3), ("1e-4", 1e-4), ("0x10", 16)],
)
def test_numbers_are_worked_out(text, number):
    assert spec.parse(text) == number
    assert type(spec.parse(text)) is type(number)


def test_numpys_numbers_become_pythons():
    made = np.float64(0.5) * NAMES.a(np.int32(3)) + NAMES.b * np.float32(0.25)
    assert repr(made) == "0.5*a(3) + 0.25*b"
    assert np.float32(2) * spec.linear(np.float64(1), 0) == spec.linear(2, 0)


def test_what_can_be_said_today_can_be_said_in_it():
    """Losses, layers, attacks, augmentations, transforms, teachers, arms, domains, sweeps: each as it will be typed."""
    hint = spec.parse("50*feature.fsp((block1, block2), (block2, block4)) + relation.sp(embedding)")
    assert hint.terms[0].call.args == ((Call("block1"), Call("block2")), (Call("block2"), Call("block4")))
    viewed = spec.call("response.kl(student=attacked, teacher=clean, temperature=4)")
    assert viewed.keywords == {"student": Call("attacked"), "teacher": Call("clean"), "temperature": 4}
    assert [c.name for c in spec.calls("fgsm, pgd(steps=40, random_start=True, norm=l2)")] == ["fgsm", "pgd"]
    assert spec.calls("mlp(128), cnn(8, 16), lenet")[1] == Call("cnn", (8, 16))
    assert [w for w, _ in spec.formula("vote + entropy(scale=0.3) + 50*features").terms] == [1, 1, 50]
    layers = spec.formula("every(2) + embedding + logits")
    assert [c for _, c in layers.terms] == [Call("every", (2,)), Call("embedding"), Call("logits")]
    assert spec.call("pairs((1, 2), (2, 4))").args == ((1, 2), (2, 4))
    assert [spec.call(text) for text in ("first", "last")] == [Call("first"), Call("last")]
    assert spec.calls("offset(2), reverse(2)")[1].args == (2,)
    domains = spec.parse("mnist, mnist(rotate(45), classes=(0, 1)) + kmnist(train='test[:80%]', test='test[80%:]')")
    assert isinstance(domains[0], Call)
    assert isinstance(domains[1], Formula)
    assert spec.number("log(1e-4, 1e-2)") == spec.log(1e-4, 1e-2)


def test_what_a_flag_wants():
    assert spec.formula("a") == spec.formula(NAMES.a) == 1 * NAMES.a
    assert spec.call(NAMES.a) == NAMES.a == spec.call("a")
    assert spec.calls(NAMES.a) == spec.calls((NAMES.a,)) == spec.calls("a") == spec.calls("a,")
    assert spec.number(3) == spec.number("3") == 3
    for read, wrong in [
        (spec.formula, ("1", "a, b", "'a'", "linear(1, 0)", "grid(1, 2)", "()")),
        (spec.call, ("1", "a, b", "2*a", "a + b", "'a'")),
        (spec.calls, ("1", "a, 1", "2*a, b", "'a'", "()", "linear(1, 0)")),
        (spec.number, ("a", "1, 2", "'1'", "2*a", "True", "None")),
    ]:
        for text in wrong:
            with pytest.raises(BadInput, match=r"^attack, column 1: read .*; accepted: "):
                read(text, flag="attack")
    with pytest.raises(BadInput, match="attack: read 3; accepted: one NAME"):
        spec.call(3, flag="attack")


# Refusals


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", 0, "read nothing; accepted: numbers, NAME"),
        ("  \n", 0, "read nothing"),
        ("a + lambda x: x", 4, "invalid syntax"),
        ("f(lambda x: x)", 2, "'lambda x: x', a function"),
        ("a + b[0]", 4, r"'b\[0\]', an index"),
        ("f(1, a < b)", 5, "'a < b', a comparison"),
        ("f(f'{a}')", 2, "an f-string"),
        ("a + b().c", 4, r"'b\(\)', a call or a dot after what is no name; accepted: NAME"),
        ("f(1)(2)", 0, r"'f\(1\)', a call"),
        ("'a'(1)", 0, "a call or a dot"),
        ("f(x, **k)", 5, "two stars"),
        ("f(x, *k)", 5, "a star"),
        ("f(a := 1)", 2, "an assignment"),
        ("[1]", 0, "a list"),
        ("f({1: 2})", 2, "a dict"),
        ("f({1})", 2, "a set in braces"),
        ("a if b else c", 0, "a condition"),
        ("a and b", 0, "a condition"),
        ("not a", 0, "what the grammar does not have"),
        ("a @ b", 0, "what the grammar does not have"),
        ("a % 2", 0, "what the grammar does not have"),
        ("[x for x in y]", 0, "what the grammar does not have"),
        ("1j", 0, "what the grammar does not have"),
        ("...", 0, "what the grammar does not have"),
        ("b'a'", 0, "what the grammar does not have"),
        ("a + f(b", 5, "never closed"),
        ("a)", 1, "unmatched"),
        ("a b", 2, "'b', invalid syntax"),
        ("0.9*", 4, "read the end, invalid syntax"),
        ("pgd:steps=40", 3, "':steps=40', invalid syntax"),
        ("a = 1", 2, "'= 1'"),
        ("a # b", 2, "begins a comment"),
        ("f(x=1e999)", 4, "'1e999', no finite number"),
        ("1e300*1e300", 0, "no finite number"),
        ("1e300*(1e300*a)", 0, "finite numbers"),
        ("f(nan)", 2, "'nan' as a name"),
        ("f(x=inf)", 4, "'inf' as a name"),
        ("f(x=1, y=2, x=3)", 12, "x twice; accepted: each keyword once"),
        ("a + 1", 4, "read '1', in 'a \\+ 1'; accepted: sums of numbers, or of NAME"),
        ("1 + 2 + a", 0, "read '1 \\+ 2'"),
        ("a*b", 2, "read 'b'.*NUMBER\\*NAME; a schedule or a set"),
        ("2/a", 2, "NAME/NUMBER"),
        ("a/linear(1, 0)", 2, "NAME/NUMBER"),
        ("a**2", 0, r"NUMBER\*\*NUMBER"),
        ("a + linear(1, 0)", 4, "read 'linear"),
        ("linear(1, 0)*cosine(1, 0)*a", 13, "read 'cosine"),
        ("linear(1, 0)*grid(1, 2)*a", 13, "read 'grid"),
        ("+a", 1, "a number after a plus"),
        ("-'a'", 1, "after a minus"),
        ("~1", 0, "what the grammar does not have"),
        ("3*(1, 2)", 2, "read '\\(1, 2\\)'"),
        ("1 + 'a'", 0, "read '1'"),
        ("'a'*3", 0, "read \"'a'\""),
        ("'a' + 'b'", 0, "read \"'a'\""),
        ("True + 1", 0, "read 'True'"),
        ("1/0", 2, "division by zero"),
        ("a/0", 2, "division by zero"),
        ("9**9**9", 3, "exponents from -64 to 64"),
        ("0**-1", 3, "accepted: arithmetic that has a result"),
        ("(-8)**0.5", 0, "no finite number"),
        ("a + linear(1)", 4, r"missing a required argument: 'end'; accepted: linear\(start, end\)"),
        ("linear(1, 0, 2)", 0, "too many positional"),
        ("a + linear(1, ende=0)", 14, "'ende=0', no argument of linear.*did you mean end"),
        ("linear(a, 0)", 0, "start=a of linear; accepted: a number or a set"),
        ("linear(True, 0)", 0, "start=True"),
        ("linear(cosine(1, 0), 0)", 0, r"start=cosine\(1, 0\) of linear"),
        ("warmup(2, 1)", 0, "share=2 of warmup; accepted: a fraction"),
        ("warmup(0)", 0, "read"),
        ("steps(1, 2)", 0, "a tuple of numbers"),
        ("steps((1, 2), (0.5, 0.6))", 0, "1 rising fractions"),
        ("steps((1, 2, 3), (0.6, 0.5))", 0, "2 rising fractions"),
        ("2*grid(1, 1)", 2, "each once"),
        ("grid(a)", 0, "accepted: a number"),
        ("grid((1, 2), 3)", 0, "accepted: a number"),
        ("uniform((1, 2), 3)", 0, "accepted: a number"),
        ("linear((1, 2), 3)", 0, "accepted: a number or a set"),
        ("steps((1, (2, 3)), (0.5,))", 0, "accepted: a number or a set"),
        ("grid(linear(1, 0))", 0, "accepted: a number"),
        ("uniform(2, 1)", 0, "accepted: a number above low=2"),
        ("log(0, 1)", 0, "accepted: a number above 0"),
        ("-log(1, 2)", 0, "accepted: a number above 0"),
        ("grid(1, 2)*(a + b)", 0, "each part would vary alone"),
        ("é + a", 0, "'é' as a name"),
        ("'é', 'é', b[0]", 10, "an index"),
        ("  a,\n\tb[0]", 6, "an index"),
        ("1if a else b", 0, "invalid decimal literal"),
        ("a\0", 2, "null bytes"),
        ("\ud800", 0, "surrogates"),
        ("1" * 5000, 0, "digits"),
        ("f(" * 60 + "a" + ")" * 60, 0, "read too many parts; accepted: up to 40"),
        ("(" * 3000, 0, "accepted"),
        ("-" * 20000 + "1", 0, "read too many parts"),
        ("+".join("a" * 5000), 0, "read too many parts"),
        ("__import__('os').system('true')", 0, "a call or a dot after what is no name"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_place(text, place, words):
    with pytest.raises(BadInput, match=f"^loss, column .*{words}") as caught:
        spec.parse(text, flag="loss")
    assert "; accepted: " in str(caught.value)
    if len(text) < 100:
        assert column(caught.value) == place


def test_a_long_text_is_shown_around_the_place():
    text = " + ".join(["response.kl"] * 20) + " + b[0]"
    with pytest.raises(BadInput) as caught:
        spec.parse(text)
    head, shown, caret = str(caught.value).split("\n")
    assert f"column {len(text) - 3}:" in head
    assert shown[len(caret) - 1 :] == "b[0]"


def test_nothing_but_bad_input_comes_of_garbage():
    rng = random.Random(0)
    symbols = [
        *"()[]{},.+-*/=:#'\"\\ \n\t\0é@%<>!~^&|;`$?_01e9j",
        "grid",
        "linear",
        "log",
        "lambda ",
        "f'",
        "if ",
        "**",
    ]
    texts = ["".join(rng.choices([*symbols, "a", "kl"], k=rng.randrange(1, 25))) for _ in range(2000)]
    for value in VALUES:
        text = list(repr(value))
        text[rng.randrange(len(text))] = rng.choice(symbols)
        texts.append("".join(text))
    read = 0
    for text in texts:
        try:
            value = spec.parse(text)
        except BadInput as error:
            head, _, caret = str(error).split("\n")
            assert "accepted: " in head
            assert len(caret) - 3 >= 0
            continue
        read += 1
        assert repr(spec.parse(repr(value))) == repr(value)
    assert 100 < read < 1000


def test_python_is_held_to_what_text_can_say():
    for wrong in ([1], {1}, object(), math.nan, 1 + 1j, np.ones(2)):
        with pytest.raises(BadInput, match="accepted"):
            NAMES.f(wrong)
    for name in ("", "a b", "a.", "1a", "é", "lambda", "nan"):
        with pytest.raises(BadInput, match="as a name"):
            Call(name)
    with pytest.raises(BadInput, match="as a name"):
        NAMES.f(**{"a b": 1})
    with pytest.raises(BadInput, match=r"accepted: spec\.linear"):
        NAMES.linear(1, 0)
    with pytest.raises(BadInput, match="called once more"):
        NAMES.f(1)(2)
    with pytest.raises(BadInput, match="each keyword once"):
        Call("f", (), (("x", 1), ("x", 2)))
    with pytest.raises(AttributeError):
        Names("response")._kl  # noqa: B018
    for sum_ in (lambda: NAMES.a + 1, lambda: NAMES.a * NAMES.b, lambda: spec.linear(1, 0) * spec.grid(1, 2)):
        with pytest.raises(TypeError):
            sum_()


# Schedules


STEPS = 400


@pytest.mark.parametrize(
    ("schedule", "peer"),
    [
        (spec.constant(0.3), optax.constant_schedule(0.3)),
        (spec.linear(1, 0.25), optax.linear_schedule(1.0, 0.25, STEPS)),
        (spec.cosine(8, 2), optax.cosine_decay_schedule(8.0, STEPS, alpha=0.25)),
        (spec.warmup(0.1, 3), optax.linear_schedule(0.0, 3.0, 40)),
        (spec.warmup(0.25, spec.cosine(2, 0.5)), optax.warmup_cosine_decay_schedule(0.0, 2.0, 100, STEPS, 0.5)),
        (spec.steps((1, 0.1, 0.02), (0.5, 0.75)), optax.piecewise_constant_schedule(1.0, {200: 0.1, 300: 0.2})),
    ],
)
def test_schedules_are_optaxs(schedule, peer):
    at = [*range(0, STEPS, 7), 100, 199, 200, 299, 300, STEPS]
    wanted = np.array([peer(step) for step in at])
    by_hand = np.array([schedule.at(step / STEPS) for step in at])
    np.testing.assert_allclose(by_hand, wanted, rtol=1e-5, atol=1e-6)
    traced = jax.jit(jax.vmap(schedule.at))(jnp.array(at) / STEPS)
    np.testing.assert_allclose(traced, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([schedule.first, schedule.last], [wanted[0], wanted[-1]], rtol=1e-5, atol=1e-6)
    # Nothing goes on beyond the run.
    np.testing.assert_allclose([schedule.at(-1.0), schedule.at(2.0)], [wanted[0], wanted[-1]], rtol=1e-5, atol=1e-6)
    assert (3 * schedule).at(0.6) == pytest.approx(3 * schedule.at(0.6))


def test_a_share_of_a_compiled_run_begins_at_the_step_that_it_names():
    turns = spec.steps((0, 1, 2), (0.2, 0.3))
    found = jax.jit(lambda step: turns.at(step / 100))(jnp.array([19, 20, 29, 30]))
    assert found.tolist() == [0, 1, 1, 2]


def test_a_schedule_knows_where_it_is_least_and_greatest():
    brief = spec.steps((1, -2, 5, 1), (0.311, 0.312, 0.313))
    kinds = [spec.constant(3), spec.linear(2, -1), spec.cosine(-1, 2), brief, spec.warmup(0.3, 2)]
    kinds += [
        spec.warmup(0.3, brief),
        spec.warmup(1 / 3, spec.linear(2, -1)),
        spec.warmup(0.1, spec.warmup(0.7, brief)),
    ]
    for schedule in kinds:
        along = [schedule.at(x) for x in np.linspace(0, 1, 20_001)]
        np.testing.assert_allclose([schedule.at(x) for x in schedule.extremes], [min(along), max(along)], atol=1e-3)
    found = spec.extremes(spec.formula(f"{brief}*a(t=linear(grid(7, 8), 9))"))
    assert {term.weight for one in found for term in one.terms} == {1, -2, 5}
    assert {one.terms[0].call.keywords["t"] for one in found} > {7, 8, 9}


def test_a_schedule_costs_no_recompile():
    """Its ends are traced as all numbers are, so other ends are the same program."""
    formula = spec.formula("linear(1, 0)*a(temperature=cosine(8, 1)) + 0.5*b")
    traces = []

    @jax.jit
    def weights(hparams, fraction):
        traces.append(1)
        now = spec.fill(formula, hparams)
        now = spec.fill(now, {place: s.at(fraction) for place, s in spec.schedules(now).items()})
        return [term.weight for term in now.terms], now.terms[0].call.keywords["temperature"]

    found = spec.numbers(formula)
    (first, second), temperature = weights(found, 0.25)
    assert (first, second) == (0.75, 0.5)
    assert temperature == pytest.approx(spec.cosine(8, 1).at(0.25))
    (first, second), _ = weights(found | {"a.weight.start": 3, "a.weight.end": 1, "b.weight": 2.0}, 0.5)
    assert (first, second) == (2, 2)
    assert len(traces) == 1


# Sets


def test_sets_are_sampled_where_they_are():
    rng = np.random.default_rng(0)
    grid, flat, log = spec.grid(1, 2, 4), spec.uniform(-1, 3), spec.log(1e-4, 1e-2)
    assert grid.values() == (1, 2, 4)
    counts = np.unique([grid.sample(rng) for _ in range(3000)], return_counts=True)
    assert list(counts[0]) == [1, 2, 4]
    assert counts[1].min() > 900
    for made, low, high, middle in [(flat, -1, 3, 1), (log, 1e-4, 1e-2, 1e-3)]:
        drawn = np.array([made.sample(rng) for _ in range(4000)])
        assert low <= drawn.min()
        assert drawn.max() <= high
        assert np.mean(drawn < middle) == pytest.approx(0.5, abs=0.03)
    same = [spec.log(1, 2).sample(np.random.default_rng(7)) for _ in range(2)]
    assert same[0] == same[1]


def test_members_of_a_population():
    found = spec.sets(spec.parse("grid(1, 2)*a(t=grid(3, 4, 5))"))
    every = spec.points(found)
    assert every[0] == {"a.weight": 1, "a.t": 3}
    assert every[-1] == {"a.weight": 2, "a.t": 5}
    assert len(every) == 6
    drawn = spec.points(found, sample=4)
    assert len({tuple(point.values()) for point in drawn}) == 4
    assert drawn == spec.points(found, sample=4)
    assert drawn != spec.points(found, sample=4, seed=1)
    assert all(point in every for point in drawn)
    mixed = spec.points({"x": spec.grid(1, 2), "y": spec.uniform(0, 1)}, sample=50)
    assert len({point["y"] for point in mixed}) == 50
    assert {point["x"] for point in mixed} == {1, 2}
    assert spec.points({}) == [{}]
    with pytest.raises(BadInput, match=r"sample=7; accepted: up to 6"):
        spec.points(found, sample=7)
    with pytest.raises(BadInput, match=r"sample=0: y=uniform\(0, 1\) must be drawn"):
        spec.points({"y": spec.uniform(0, 1)})
    with pytest.raises(BadInput, match="sample=-1"):
        spec.points(found, sample=-1)


# Places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (
            "0.9*response.kl(temperature=4) + 0.1*labels + 100*feature.hint(block2, block4) + feature.hint(block1)",
            {
                "response.kl.weight": 0.9,
                "response.kl.temperature": 4,
                "labels.weight": 0.1,
                "feature.hint(block2, block4).weight": 100,
                "feature.hint(block1).weight": 1,
            },
        ),
        ("pgd(0.1, steps=40)", {"pgd.0": 0.1, "pgd.steps": 40}),
        ("pgd(epsilon=0.1), pgd(epsilon=0.2)", {"pgd.epsilon": 0.1, "pgd#2.epsilon": 0.2}),
        ("mlp(128), cnn(8, 16)", {"mlp.0": 128, "cnn.0": 8, "cnn.1": 16}),
        ("fixed(shares=(2, (1, x)))", {"fixed(shares=((x,),)).shares.0": 2, "fixed(shares=((x,),)).shares.1.0": 1}),
        ("f(True, None, 'a', ())", {}),
        ("f(g(x=1), h=g(2))", {"f(g, h=g).0.x": 1, "f(g, h=g).h.0": 2}),
        (
            "f(2*a(1) + 3*a(4))",
            {"f(a + a).0.a.weight": 2, "f(a + a).0.a.0": 1, "f(a + a).0.a#2.weight": 3, "f(a + a).0.a#2.0": 4},
        ),
        ("f(x=a - b)", {"f(x=a - b).x.a.weight": 1, "f(x=a - b).x.b.weight": -1}),
        ("linear(1, 0)*a", {"a.weight.start": 1, "a.weight.end": 0}),
        (
            "steps((1, 2), (0.5,))*a(t=warmup(0.1, cosine(8, 1)))",
            {
                "a.weight.values.0": 1, "a.weight.values.1": 2, "a.weight.after.0": 0.5,
                "a.t.share": 0.1, "a.t.value.start": 8, "a.t.value.end": 1,
            },
        ),
        ("grid(1, 2)*a", {}),
        ("(1, a(2)), 3", {"0.0": 1, "0.1.0": 2, "1": 3}),
    ],
)  # fmt: skip
def test_numbers_are_named_by_their_place(text, places):
    assert spec.numbers(spec.parse(text)) == places
    assert list(spec.numbers(spec.parse(text), name="loss")) == [f"loss.{place}" for place in places]


def test_a_difference_is_written_as_one():
    formula = spec.formula("a - b - 2*c + -1*d")
    assert str(formula) == "a - b - 2*c - d"
    assert spec.formula(str(formula)) == formula
    assert str(spec.formula("-1*a - grid(1, 2)*b")) == "-1*a + grid(-1, -2)*b"


def test_a_number_alone_has_the_name_that_is_given():
    assert spec.numbers(0.1, name="learning_rate") == {"learning_rate": 0.1}
    found = spec.sets(spec.number("log(1e-4, 1e-2)"), name="learning_rate")
    assert found == {"learning_rate": spec.log(1e-4, 1e-2)}
    assert spec.fill(spec.number("log(1e-4, 1e-2)"), {"learning_rate": 3}, name="learning_rate") == 3


def test_schedules_and_sets_by_place():
    formula = spec.formula("linear(1, 0)*a(t=warmup(0.1, cosine(8, 1)), p=grid(1, 2)) + uniform(0, 1)*b")
    assert spec.schedules(formula) == {
        "a.weight": spec.linear(1, 0),
        "a.t": spec.warmup(0.1, spec.cosine(8, 1)),
    }
    assert spec.sets(formula) == {"a.p": spec.grid(1, 2), "b.weight": spec.uniform(0, 1)}
    assert spec.sets(spec.parse("linear(grid(1, 2), 0)*a")) == {"a.weight.start": spec.grid(1, 2)}


def test_places_are_unique_and_stay_when_they_are_filled():
    for value in VALUES[:100]:
        numbers, sets = spec.numbers(value), spec.sets(value)
        assert len(numbers | sets) == len(numbers) + len(sets) == leaves(value)
        assert spec.fill(value, numbers) == value
        filled = spec.fill(value, dict.fromkeys(sets, 0.5))
        assert spec.sets(filled) == {}
        assert spec.numbers(filled) == numbers | dict.fromkeys(sets, 0.5)
        still = spec.fill(filled, dict.fromkeys(spec.schedules(filled), 0.25))
        assert spec.schedules(still) == {}


def test_a_term_behind_does_not_rename_those_before():
    for value in VALUES[:300]:
        if isinstance(value, Call | Formula):
            numbers = spec.numbers(spec.formula(value))
            more = spec.numbers(spec.formula(value) + 7 * spec.formula("labels(x=1) + response.kl"))
            assert {place: more[place] for place in numbers} == numbers


def test_fill_puts_numbers_where_they_belong():
    formula = spec.formula("0.9*response.kl(temperature=4) + grid(1, 2)*labels")
    filled = spec.fill(formula, {"response.kl.temperature": 8, "labels.weight": np.float32(0.5)})
    assert repr(filled) == "0.9*response.kl(temperature=8) + 0.5*labels"
    with pytest.raises(
        BadInput, match=r"'response\.kl\.temprature'; accepted: .*did you mean response\.kl\.temperature"
    ):
        spec.fill(formula, {"response.kl.temprature": 1})
    for wrong in ("a", True, spec.grid(1, 2), math.nan):
        with pytest.raises(BadInput, match="accepted"):
            spec.fill(formula, {"labels.weight": wrong})


# Families


def test_families_find_the_functions_that_flags_name():
    assert {"response.kl", "feature.hint", "relation.rkd_distance", "contrastive.crd"} <= set(LOSSES.names())
    assert not {"response.cross_entropy", "response.standardize", "contrastive.init_memory"} & set(LOSSES.names())
    assert {"fgsm", "pgd", "hop_skip_jump"} <= set(ATTACKS.names())
    assert all(not name.startswith("_") and "." not in name for name in ATTACKS.names())
    assert spec.Family(transforms, first=("image", "index")).names() == ["blur_noise", "invert", "rotate"]
    views = spec.Family(augment, first=("key", "image"))
    assert views.names() == ["crop_and_flip", "mixup", "random_flip", "random_shift"]
    assert LOSSES.names() == sorted(LOSSES.names())
    assert spec.Family(augment, accepts=lambda f: f is not augment.mixup).names() == [
        "crop_and_flip", "in_turn", "random_flip", "random_shift",
    ]  # fmt: skip
    with pytest.raises(BadInput, match="in two modules"):
        spec.Family(augment, augment)


def test_a_call_becomes_its_function_with_arguments_bound():
    student, teacher = jnp.array([[1.0, 2.0, 0.0]]), jnp.array([[0.0, 3.0, 1.0]])
    bound = LOSSES.resolve(spec.call("response.dkd(beta=2, alpha=0.5)"), given=GIVEN)
    assert bound.func is response.dkd
    assert bound.keywords == {"alpha": 0.5, "beta": 2}
    wanted = response.dkd(student, teacher, labels=jnp.array([1]), alpha=0.5, beta=2)
    np.testing.assert_array_equal(bound(student, teacher, labels=jnp.array([1])), wanted)
    assert ATTACKS.resolve(spec.call("pgd(0.1, 20, norm=l2)")).keywords == {"epsilon": 0.1, "steps": 20, "norm": "l2"}
    # The number of a transform is typed alone; so is what an augmentation takes by keyword.
    turned = spec.Family(transforms).resolve(spec.call("rotate(90)"), given=("image", "index"))
    image = np.array([[0, 1], [0, 0]], np.float32)[None, :, :, None]
    assert turned(image, np.array([0]))[0, 0, 0, 0] == pytest.approx(1)
    shifted = spec.Family(augment).resolve(spec.call("random_shift(3)"), given=("key", "image"))
    assert shifted.keywords == {"pixels": 3}


def test_every_loss_and_attack_resolves_without_arguments():
    for family in (LOSSES, ATTACKS):
        for name in family.names():
            missing = [n for n, p in family.parameters(Call(name)).items() if p.default is p.empty]
            assert family.resolve(Call(name), given=missing).func is family.functions[name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1*respons.kl", r"the name respons\.kl; accepted: contrastive\.crd, .*; did you mean response\.kl\?"),
        ("1*kl", r"did you mean response\.kl\?"),
        (
            "1*response.kl(temprature=4)",
            "temprature=4; accepted: response.kl takes temperature; did you mean temperature",
        ),
        ("1*feature.hint(p=4)", "feature.hint takes no arguments"),
        ("1*response.kl(where=1)", "where=1, which is given with each call"),
        ("1*response.kl(4, 5)", "read 2 arguments of response.kl"),
        ("1*response.kl(4, temperature=5)", "read temperature twice"),
        ("1*response.kl(temperature='4')", "temperature='4' of response.kl; accepted: a number"),
        ("1*response.kl(temperature=hot)", "temperature=hot of response.kl; accepted: a number"),
        ("1*response.kl(temperature=True)", "temperature=True"),
        ("1*response.kl(temperature=None)", "temperature=None"),
        ("1*response.kl(temperature=(1, 2))", r"temperature=\(1, 2\)"),
    ],
)
def test_what_does_not_fit_a_signature_is_refused(text, words):
    call = spec.formula(text, flag="loss").terms[0].call
    with pytest.raises(BadInput, match=words) as caught:
        LOSSES.resolve(call, given=GIVEN)
    assert str(caught.value).startswith("loss, column 3: ")
    assert column(caught.value) == 2
    with pytest.raises(BadInput, match=words) as caught:
        LOSSES.resolve(Call(call.name, call.args, call.kwargs), given=GIVEN)
    assert "column" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pgd(steps=1.5)", "steps=1.5 of pgd; accepted: a whole number"),
        ("pgd(steps=True)", "accepted: a whole number"),
        ("pgd(steps=linear(1, 0))", "accepted: a whole number"),
        ("pgd(random_start=1)", "accepted: True or False"),
        ("zoo(sides=4)", r"sides=4 of zoo; accepted: a tuple of whole numbers\n"),
        ("zoo(sides=(2, 4.5))", r"accepted: a tuple of whole numbers\n"),
        ("pgd(norm=2)", "accepted: a name or a string"),
        ("pgd(norm=l2(1))", "accepted: a name or a string"),
        ("pgd(oracle=spsa)", r"oracle=spsa; accepted: pgd takes epsilon, steps, step_size, norm, random_start, keep\n"),
        ("pgd(epsilon=l2)", r"epsilon=l2 of pgd; accepted: a number\n"),
        ("pgd(stpes=3)", "did you mean steps"),
    ],
)
def test_types_are_those_of_the_signature(text, words):
    with pytest.raises(BadInput, match=words):
        ATTACKS.resolve(spec.call(text))


def test_a_parameter_of_few_words_takes_no_other():
    def made(kind: Literal["last", "best"] = "last", other: str | None = None, *rest: int, **more: int):
        """Nothing."""

    module = ModuleType("made")
    made.__module__, module.made = "made", made  # pyright: ignore[reportAttributeAccessIssue]
    module.imported = augment.mixup  # pyright: ignore[reportAttributeAccessIssue]
    family = spec.Family(module)
    assert family.names() == ["made"]
    assert family.resolve(spec.call("made(best, other=x, more=3)")).keywords == {
        "kind": "best",
        "other": "x",
        "more": 3,
    }
    with pytest.raises(BadInput, match=r"kind='bst' of made; accepted: 'last' or 'best'; did you mean best"):
        family.resolve(spec.call("made(bst)"))
    with pytest.raises(BadInput, match="accepted: a name or a string or None"):
        family.resolve(spec.call("made(other=3)"))


def test_schedules_sets_and_none_stand_where_they_may():
    for text in ("pgd(epsilon=grid(0.1, 0.2), steps=grid(1, 2))", "pgd(step_size=None)", "pgd(linear(0, 1))"):
        ATTACKS.resolve(spec.call(text))
    traced = jax.jit(lambda e: ATTACKS.resolve(spec.fill(spec.call("pgd(1)"), {"pgd.0": e})).keywords["epsilon"])(0.5)
    assert traced == 0.5


def test_what_is_missing_is_named():
    with pytest.raises(BadInput, match=r"read rotate without number; accepted: rotate takes number"):
        spec.Family(transforms).resolve(spec.call("rotate"), given=("image", "index"))

"""Every setting of every attack, as it can be typed: at its bounds it works, beyond them it is refused.

A setting that disarms its attack is reported as robustness, and so is a radius of the wrong unit.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import boundary, named, objectives, penalty, projections, squares, starts, transforms, victims
from kdjax.attacks.catalogue import ATTACKS
from kdjax.attacks.combine import restarts
from kdjax.attacks.run import run
from kdjax.attacks.sweep import at_radius
from kdjax.spec.family import _wanted
from kdjax.study import attacks
from kdjax.types import BadInput, Outputs

COUNT = (("1", "2"), ("0", "-1", "1.5", "nan", "True"))
POSITIVE = (("1", "1e-3", "0.5"), ("0", "0.0", "-1", "-0.5", "nan", "inf"))
STEP = (("1", "1.0", "1e-3", "8/255"), ("0", "0.0", "-1", "-0.1", "1.01", "8", "nan"))
# What can be typed for a number: texts that work, at the bounds among them, and texts that are refused.
NUMBERS = {
    "alpha_max": (("1", "1.0", "0.1"), ("0", "0.0", "2", "1.01", "-1", "nan")),
    "beta": (("1", "1.0", "0.9"), ("0", "0.0", "2", "1.01", "-1", "nan")),
    "alpha": (("0", "0.0", "0.0999", "8/255"), ("0.1", "1", "-1", "-0.1", "nan", "8")),
    "budget": (("1000000",), ("0", "1", "-1", "1.5")),
    "candidates": (("2", "3"), ("1", "0", "-1", "2.5")),
    "chunk": COUNT,
    "coordinates": COUNT,
    "decay": (("0", "0.0", "1", "0.9"), ("-1", "-0.1", "nan", "inf")),
    "delta": STEP,
    "diverse": (("0", "0.0", "1", "1.0", "0.5"), ("-1", "-0.1", "2", "1.01", "nan")),
    "epsilon": (("0", "0.0", "1", "1.0", "8/255"), ("8", "1.01", "-1", "-0.1", "nan", "inf")),
    "h": STEP,
    "initial_weight": (("1", "1e-3", "1e10"), ("0", "0.0", "-1", "1e11", "nan")),
    "iterations": COUNT,
    "kernel": (("1", "3"), ("0", "-1", "2", "1.5")),
    "learning_rate": POSITIVE,
    "overshoot": POSITIVE,
    "probes": COUNT,
    "queries": COUNT,
    "samples": (("2", "4"), ("0", "1", "3", "-2", "2.5")),
    "search_steps": COUNT,
    "share": (("1", "1.0", "0.5"), ("0", "0.0", "2", "1.01", "-1", "nan")),
    "sides": (("(2,)", "(2, 4)"), ("(0,)", "(0, 4)", "(-1, 4)", "(2.5,)", "2")),
    "sigma": STEP,
    "step_size": STEP,
    "steps": COUNT,
    "targets": COUNT,
    "tries": COUNT,
}

SIGNATURES = {name: inspect.signature(make).parameters for name, make in ATTACKS.functions.items()}
TYPED = [
    (name, setting)
    for name in SIGNATURES
    for setting, parameter in SIGNATURES[name].items()
    if set(_wanted(parameter)[0]) & {int, float, tuple[int, ...]}
]
FEW = {"steps": "2", "targets": "2", "queries": "2", "search_steps": "1"}
SIZES = {name: [(k, v) for k, v in FEW.items() if k in accepted] for name, accepted in SIGNATURES.items()}
SHAPE = (8, 8, 1)


def typed(name, setting, text):
    few = [f"{k}={v}" for k, v in SIZES[name] if k != setting]
    return attacks.named(f"{name}({', '.join([f'{setting}={text}', *few])})", flag="attacks")


def _pixels(variables, image, *, train, key):
    return Outputs(image.reshape(len(image), -1)[:, :10]), {}


# Settings are looked at whoever is attacked: what answers with its first pixels is soon traced.
VICTIM = victims.white_box(_pixels, ())


def asked(size=2):
    """What an attack is called with: objective, keys and images."""
    keys = jax.random.split(jax.random.key(0), size)
    return objectives.margin(VICTIM, jnp.zeros(size, int)), keys, jnp.zeros((size, *SHAPE))


def trace(attack):
    """The attack on shapes alone: as it is called, with everything traced."""
    return jax.eval_shape(attack, *asked())


def test_every_number_that_can_be_typed_has_its_bounds_here():
    assert {setting for _, setting in TYPED} == NUMBERS.keys()


# AutoAttack hands its other settings to its four attacks, which are looked at themselves.
@pytest.mark.parametrize(("name", "setting"), [t for t in TYPED if t[0] != "standard" or t[1] == "epsilon"])
def test_typed_at_the_bounds_it_works_as_integer_and_as_float(name, setting):
    for text in NUMBERS[setting][0]:
        found = typed(name, setting, text)
        assert trace(found.make()).image.shape == (2, *SHAPE)
        if found.has("epsilon") and setting != "epsilon":  # beside a traced radius, as in a sweep

            def swept(epsilon, objective, keys, image, found=found):
                return found.make(epsilon=epsilon)(objective, keys, image)

            jax.eval_shape(swept, np.float32(0.1), *asked())


@pytest.mark.parametrize(("name", "setting"), TYPED)
def test_typed_beyond_the_bounds_it_is_refused_with_its_name(name, setting):
    for text in NUMBERS[setting][1]:
        words = rf"({setting}|{setting.removesuffix('_weight')})=.*accepted"
        if text in ("nan", "inf"):
            words = rf"read '{text}' as a name; accepted: .*\n.*{setting}={text}"
        with pytest.raises(BadInput, match=words):
            typed(name, setting, text).make()


@pytest.mark.parametrize(("name", "setting"), TYPED)
def test_numbers_of_numpy_and_jax_are_looked_at_as_well(name, setting):
    if "float" not in str(SIGNATURES[name][setting].annotation):
        return
    few = {k: int(v) for k, v in SIZES[name]}
    for kind in (np.float32, np.float64, jnp.float32):
        with pytest.raises(BadInput, match=setting.removesuffix("_weight")):
            ATTACKS.functions[name](**few, **{setting: kind(-0.5)})


@pytest.mark.parametrize("kind", [int, np.int64, float, np.float32, jnp.float32])
def test_an_accepted_number_may_have_any_type(kind):
    trace(named.pgd(kind(1), steps=2, step_size=kind(1)))
    trace(named.mi_fgsm(kind(1), steps=2, diverse=kind(1), decay=kind(1)))
    trace(named.square(kind(1), queries=2, share=kind(1)))


@pytest.mark.parametrize("name", [n for n in SIGNATURES if "epsilon" in SIGNATURES[n]])
class TestUnits:
    """Images lie in [0, 1]: a radius that is longer than any two of them are apart was meant in 255ths."""

    def test_linf(self, name):
        with pytest.raises(BadInput, match=r"epsilon=8: images lie in \[0, 1\].*8/255 is 0\.0314"):
            ATTACKS.functions[name](epsilon=8)

    def test_l2(self, name):
        if "norm" not in SIGNATURES[name]:
            return
        sizes = {k: int(v) for k, v in SIZES[name]}
        trace(ATTACKS.functions[name](epsilon=8.0, norm="l2", **sizes))  # the diameter: the root of 64
        with pytest.raises(BadInput, match=r"epsilon=128: .* at most 8 apart in l2.*128/255 is 0\.502"):
            trace(ATTACKS.functions[name](epsilon=128, norm="l2", **sizes))

    def test_in_a_sweep(self, name):
        with pytest.raises(BadInput, match=r"epsilon=8: .*8/255 is 0\.0314"):
            at_radius(ATTACKS.functions[name])(8)


def test_units_of_l1_and_of_single_examples():
    image = jnp.zeros((2, *SHAPE))
    projections.ball("l1", 64)(image, image)
    with pytest.raises(BadInput, match=r"epsilon=65: .* at most 64 apart in l1"):
        projections.ball("l1", 65)(image, image)
    with pytest.raises(BadInput, match=r"epsilon=8: "):
        projections.linf(jnp.array([0.1, 8.0]))


@pytest.mark.parametrize("start", [starts.signed, starts.stripes, lambda e: starts.uniform("linf", e), squares.squares])
def test_units_of_starts_and_proposals(start):
    with pytest.raises(BadInput, match=r"=8: .*8/255 is 0\.0314"):
        start(8)


def test_a_step_in_l2_longer_than_the_image_space_is_refused():
    trace(named.pgd(1.0, steps=2, step_size=8.0, norm="l2"))
    with pytest.raises(BadInput, match=r"step_size=9: .* at most 8 apart in l2"):
        trace(named.pgd(1.0, steps=2, step_size=9, norm="l2"))


def test_a_coarse_modifier_of_more_sides_than_the_image_is_refused():
    """It would be no coarse one, and its coordinates would be spent on what is then averaged."""
    trace(named.zoo(sides=(2, 8), steps=2, importance=True))
    with pytest.raises(BadInput, match=r"sides=\(2, 9\): accepted are sides up to the image's, 8"):
        trace(named.zoo(sides=(2, 9), steps=2))


def test_a_setting_that_is_traced_stays_in_its_trace():
    """What ZOO keeps for images of a shape it may be asked for again in another trace."""

    def twice(x):
        attack = named.zoo(sides=(2, 8), steps=2, search_steps=1, learning_rate=x, initial_weight=x, h=x)
        victim, key, given = asked()
        return [jax.jit(lambda image: attack(victim, key, image).image)(given) for _ in range(2)]

    jax.jit(twice)(0.1)


def test_a_blur_wider_than_the_image_is_refused():
    """It leaves one slope for all pixels, whatever the network."""
    trace(named.mi_fgsm(kernel=15, steps=2))
    with pytest.raises(BadInput, match=r"kernel=17: accepted are odd sizes up to twice the image's, 8"):
        trace(named.mi_fgsm(kernel=17, steps=2))


def test_a_fraction_is_the_number_it_is():
    assert attacks.named("pgd(epsilon=8/255)", flag="attack").settings == {"epsilon": 8 / 255}
    with pytest.raises(BadInput, match=r"column 15: read '0', .*division by zero; accepted: arithmetic"):
        attacks.named("pgd(epsilon=8/0)", flag="attack")


def test_typed_integers_are_the_same_attack_as_floats(victim, image, label):
    for one, other in (
        ("mi_fgsm(diverse=1, steps=3)", named.mi_fgsm(steps=3, diverse=1.0)),
        ("r_fgsm(alpha=0.05)", named.r_fgsm(0.1)),
        ("r_fgsm(51/255)", named.r_fgsm(0.2)),
        ("square(share=1, queries=20)", named.square(queries=20, share=1.0)),
    ):
        first, second = (
            run(a, victim, image, label, objective=objectives.margin)
            for a in (attacks.named(one, flag="attacks").make(), other)
        )
        np.testing.assert_array_equal(first.image, second.image)
    swept = at_radius(lambda e: named.r_fgsm(e, alpha=0.05))(0.1)
    both = [run(a, victim, image, label, objective=objectives.margin).image for a in (swept, named.r_fgsm(0.1))]
    np.testing.assert_allclose(*both, atol=1e-7)


def test_a_traced_radius_below_alpha_is_seen(victim, image, label):
    """It cannot be refused: a member of a population would climb the wrong way, and call that robust."""
    swept = jax.jit(lambda e, *rest: named.r_fgsm(e, alpha=0.05)(*rest))
    keys = jax.random.split(jax.random.key(0), len(image))
    objective = objectives.margin(victim, jnp.asarray(label))
    assert jnp.isnan(swept(0.04, objective, keys, jnp.asarray(image)).value).all()
    assert not jnp.isnan(swept(0.06, objective, keys, jnp.asarray(image)).value).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: penalty.search_weight(lambda c: named.fgsm(), initial=0.0), r"initial=0\.0"),
        (lambda: penalty.search_weight(lambda c: named.fgsm(), steps=0), "steps=0"),
        (lambda: penalty.search_weight(lambda c: named.fgsm(), initial=2.0, ceiling=1.0), "up to the ceiling 1"),
        (lambda: restarts(named.fgsm(), 0), "restarts=0"),
        (lambda: boundary.hop_skip_jump(probes=0), "probes=0"),
        (lambda: transforms.no_longer("step_size", 2.0, "linf"), r"step_size=2: .*2/255 is 0\.00784"),
        (lambda: named.apgd(windows="mine"), "windows='mine': accepted are released, paper"),
    ],
)
def test_settings_of_the_parts(call, message):
    with pytest.raises(BadInput, match=message):
        call()

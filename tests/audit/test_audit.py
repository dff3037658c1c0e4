"""The audit against networks whose faults are known: each fault is found, and honest networks do not fail."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.attacks import objectives
from kdjax.attacks.objectives import cross_entropy
from kdjax.attacks.victims import Victim, black_box, white_box
from kdjax.audit import comparisons, conduct, slopes
from kdjax.audit.attacking import AttackResult, climb
from kdjax.audit.audit import CHECKS, audit
from kdjax.audit.finding import FAIL, FLAG, PASS, SKIPPED, record
from kdjax.audit.subject import SMALL, Sizes, Subject, Threat, scores
from kdjax.data.embedded import digits
from kdjax.files import to_json
from kdjax.losses import response
from kdjax.types import BadInput, Outputs

SIZES = Sizes(
    steps=10, long_steps=20, sweep_steps=30, restarts=3, apgd_steps=20, targets=3, queries=100, draws=100,
    draw_examples=20, hard_iterations=4, hard_examples=10, cw_steps=80, points=40, grid=9,
)  # fmt: skip
EPSILON = 0.1
FIRED = {FLAG, FAIL}


def apply(variables, image, *, train, key, mask=None):
    """A small network with switches for its faults, so that the audit's programs are compiled once for all of them."""
    levels, rate = variables["levels"], variables["rate"]
    x = jnp.where(levels > 0, jnp.round(image * levels) / jnp.maximum(levels, 1), image)
    p = variables["params"]
    x = jax.nn.relu(x.reshape(len(x), -1) @ p["w1"] + p["b1"].reshape(1, -1))
    kept = jax.random.bernoulli(jax.random.key(0) if key is None else key, 1 - rate, x.shape)
    x = jnp.where(kept, x / (1 - rate), 0)
    return Outputs(x @ p["w2"] + p["b2"].reshape(1, -1)), {}


def variables(params, *, levels=0.0, rate=0.0):
    return {"params": params, "levels": jnp.float32(levels), "rate": jnp.float32(rate)}


def train(loss, *, steps=400, rate=5e-3, seed=0, width=64):
    """Adam on `loss(params, key, image, label)` over batches of 128 digits."""
    data = digits("train").arrays
    image, label = jnp.asarray(data["inputs"]), jnp.asarray(data["label"])
    a, b = jax.random.split(jax.random.key(seed))
    params = {
        "w1": jax.random.normal(a, (64, width)) / 8, "b1": jnp.zeros(width),
        "w2": jax.random.normal(b, (width, 10)) / 8, "b2": jnp.zeros(10),
    }  # fmt: skip
    tx = optax.adam(rate)

    def step(carry, number):
        params, state = carry
        key = jax.random.key(number)
        rows = jax.random.randint(key, (128,), 0, len(image))
        grad = jax.grad(loss)(params, key, image[rows], label[rows])
        updates, state = tx.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))((params, tx.init(params)))
    return params


def logits_of(params, image):
    return apply(variables(params), image, train=False, key=None)[0].logits


def label_loss(params, key, image, label, temperature=1.0):
    return response.cross_entropy(logits_of(params, image) / temperature, label).mean()


@pytest.fixture(scope="module")
def natural():
    return train(label_loss)


@pytest.fixture(scope="module")
def distilled():
    """Papernot's defence: teacher and student at T = 100, deployed at 1."""
    teacher = train(lambda *a: label_loss(*a, temperature=100.0), rate=0.05)

    def student(params, key, image, label):
        soft = jax.nn.softmax(logits_of(teacher, image) / 100)
        return -(soft * jax.nn.log_softmax(logits_of(params, image) / 100)).sum(-1).mean()

    return train(student, rate=0.05, seed=1)


@pytest.fixture(scope="module")
def robust():
    """Trained on FGSM with a random start (Wong, Rice, Kolter, ICLR 2020)."""

    def loss(params, key, image, label):
        delta = jax.random.uniform(key, image.shape, minval=-EPSILON, maxval=EPSILON)
        slope = jax.grad(lambda x: label_loss(params, key, x, label))(jnp.clip(image + delta, 0, 1))
        delta = jnp.clip(delta + 1.25 * EPSILON * jnp.sign(slope), -EPSILON, EPSILON)
        return label_loss(params, key, jnp.clip(image + delta, 0, 1), label)

    return train(loss, steps=1500, width=64)


def subject(params, *, twin=None, examples=100, norm="linf", epsilon=EPSILON, **switches):
    data = digits(f"test[:{examples}]").arrays
    threat = Threat(norm=norm, epsilon=epsilon, adaptive="losses and scales of E8")
    other = None if twin is None else white_box(apply, variables(twin))
    victim = white_box(apply, variables(params, **switches))
    return Subject(victim, data["inputs"], data["label"], threat, twin=other)


def judged(*args, **kwargs):
    findings = list(audit(subject(*args, **kwargs), SIZES))
    assert sorted(f.id for f in findings) == sorted(CHECKS)
    for f in findings:
        print(f.id, f.verdict, f.text)
        assert (f.remedy != "") == (f.verdict in FIRED), f
    return {f.id: f for f in findings}


def test_a_natural_network_passes_where_it_should(natural):
    found = judged(natural, twin=natural)
    passes = {f.id for f in found.values() if f.verdict == PASS}
    assert passes >= set(CHECKS) - {"E6", "E20"}
    assert found["E20"].verdict == FLAG  # the defence, being none, gains nothing over its twin
    assert found["E6"].verdict in (PASS, FLAG)
    assert {"APGD, cross-entropy", "APGD, targeted", "FAB-T on the rest", "Square on the rest"} <= (
        found["E17"].series["accuracy"].keys()
    )  # AutoAttack's four


def test_it_runs_in_float64_mode(natural):
    with jax.enable_x64(True):
        found = list(audit(subject(natural, twin=natural, examples=20), SMALL))
    assert sorted(f.id for f in found) == sorted(CHECKS)
    assert not any(f.verdict == "SKIPPED" for f in found)


def test_a_radius_in_255ths_is_refused(natural):
    with pytest.raises(BadInput, match=r"epsilon=8: images lie in \[0, 1\].*8/255 is 0\.0314"):
        subject(natural, epsilon=8.0, examples=2)


def test_logits_times_100_mask_the_gradient(natural):
    found = judged({**natural, "w2": 100 * natural["w2"], "b2": 100 * natural["b2"]})
    assert all(found[i].verdict == FAIL for i in ("E8", "E9", "E10")), found
    assert found["E8"].numbers["drop"] > 0.3
    assert found["E10"].numbers["pgd_unit_deviation"] < found["E10"].numbers["pgd"] - 0.3


def test_quantised_inputs_have_no_slope(natural):
    found = judged(natural, levels=7)
    assert found["E9"].verdict == found["E13"].verdict == FAIL
    assert found["E13"].numbers["blind"] > 0.9


def test_dropout_at_test_time_is_not_deterministic(natural):
    found = judged(natural, rate=0.5)
    assert found["E11"].verdict == FLAG
    assert found["E11"].numbers["pgd_eot"] <= found["E11"].numbers["pgd"]  # the mean slope leads no less far
    assert "PGD, EOT" in found["E17"].series["accuracy"]
    assert found["E19"].verdict in FIRED  # and what it is said to answer, it does not answer again


def test_a_constant_answer_is_trivial(natural):
    constant = {**natural, "w2": 0 * natural["w2"], "b2": 5 * jnp.eye(10)[3]}
    found = judged(constant)
    assert found["E3"].verdict == FAIL
    assert "trivial" in found["E3"].text
    assert found["E9"].verdict == FAIL


def test_defensive_distillation_is_seen_through(distilled, natural):
    found = judged(distilled, twin=natural)
    assert all(found[i].verdict == FAIL for i in ("E8", "E9", "E10"))
    assert found["E15"].verdict in FIRED
    assert found["E8"].numbers["drop"] >= 0.4
    assert found["E20"].verdict != SKIPPED


def test_an_adversarially_trained_network_does_not_fail(robust, natural):
    found = judged(robust, twin=natural)
    assert not [f for f in found.values() if f.verdict in (FAIL, SKIPPED)]
    assert found["E20"].numbers["pgd"] > found["E20"].numbers["twin_pgd"] + 0.1


# What each verdict rests on, from hand-made numbers. Every check can pass, and every check can fire.

ALL, NONE = np.ones(200, bool), np.zeros(200, bool)


def first(count):
    """The first `count` of 200 stand."""
    return np.arange(200) < count


def many_to_one(*counts):
    return [first(n) for n in counts]


SWEEP = {"half": 0.5, "clean": 0.9, "chance": 0.1, "examples": 200}
RADII = [0.1, 0.5, 1.0]
CONVERGED = {"clean": 0.9, "steps": 10, "examples": 200}
ABLATION = {"twin_clean": 0.95, "twin_unbounded": 0.0, "chance": 0.1}
LOGITS = np.eye(3)[np.zeros(9, int)]


def results(**wrong):
    good = {"excess": 1e-8, "outside": 0.0, "unconfirmed": 0.0}
    return {"one": AttackResult(NONE, np.zeros(0), **good), "two": AttackResult(NONE, np.zeros(0), **{**good, **wrong})}


JUDGED = {
    "E1 equal": (comparisons.iterative_beats_single_step(first(50), first(40)), PASS),
    "E1 three points": (comparisons.iterative_beats_single_step(first(40), first(46)), FLAG),
    "E1 stuck": (comparisons.iterative_beats_single_step(first(40), first(100)), FAIL),
    "E2 nothing more": (comparisons.white_beats_black(first(40), {"Square": first(60)}), PASS),
    "E2 a few": (comparisons.white_beats_black(first(40), {"Square": first(35)}), FLAG),
    "E2 many": (comparisons.white_beats_black(first(40), {"Square": ALL, "transfer": first(10)}), FAIL),
    "E2 none run": (comparisons.white_beats_black(first(40), {}), SKIPPED),
    "E3 falls": (comparisons.unbounded_attack_wins(RADII, [0.8, 0.1, 0.0], [0.8, 0.1, 0.0], **SWEEP), PASS),
    "E3 stands": (comparisons.unbounded_attack_wins(RADII, [0.8, 0.1, 0.3], [0.8, 0.0, 0.0], **SWEEP), FAIL),
    "E4 falls": (comparisons.falls_with_radius([0.0, *RADII], [0.9, 0.5, 0.2, 0.0], examples=200), PASS),
    "E4 rises": (comparisons.falls_with_radius([0.0, *RADII], [0.9, 0.5, 0.59, 0.0], examples=200), FLAG),
    "E5 none left": (comparisons.random_finds_nothing(NONE, NONE, NONE, draws=9), PASS),
    "E5 no hit": (comparisons.random_finds_nothing(ALL, ALL, ALL, draws=9), PASS),
    "E5 one hit": (comparisons.random_finds_nothing(ALL, ALL, first(199), draws=9), FLAG),
    "E5 ten hits": (comparisons.random_finds_nothing(ALL, ALL, first(190), draws=9), FAIL),
    "E6 flat": (comparisons.converges([1.0] * 40, [0.5] * 40, **CONVERGED), PASS),
    "E6 rising": (comparisons.converges([1.0] * 20 + [1.1] * 20, [0.5] * 40, **CONVERGED), FLAG),
    "E6 falling": (comparisons.converges([1.0] * 40, [0.5] * 12 + [0.7] * 28, **CONVERGED), FAIL),
    "E7 alike": (comparisons.restarts_change_little([first(50)] * 5), PASS),
    "E7 lower": (comparisons.restarts_change_little(many_to_one(50, 45)), FLAG),
    "E8 alike": (comparisons.losses_agree(first(50), {"margin": first(48)}), PASS),
    "E8 masked": (comparisons.losses_agree(first(150), {"margin": first(20)}), FAIL),
    "E9 no number": (slopes.gradient_health(np.full((9, 2, 2, 1), np.nan)), FAIL),
    "E10 as usual": (slopes.logit_gap(10 * LOGITS), PASS),
    "E10 saturated": (slopes.logit_gap(20 * LOGITS), FLAG),
    "E10 dead": (slopes.logit_gap(200 * LOGITS), FAIL),
    "E11 same": (conduct.determinism(LOGITS, LOGITS + 1e-7), PASS),
    "E12 logits": (conduct.answers_are_logits(3 * LOGITS), PASS),
    "E12 probabilities": (conduct.answers_are_logits(LOGITS), FLAG),
    "E15 weaker": (comparisons.transfer_is_weaker(first(40), first(90)), PASS),
    "E15 stronger": (comparisons.transfer_is_weaker(first(90), first(40)), FAIL),
    "E16 farther": (comparisons.hard_label_is_farther(np.ones(9), 2 * np.ones(9), queries=9), PASS),
    "E16 nearer": (comparisons.hard_label_is_farther(np.ones(9), np.ones(9) / 2, queries=9), FLAG),
    "E16 only it": (comparisons.hard_label_is_farther(np.full(9, np.inf), np.ones(9), queries=9), FLAG),
    "E17 alike": (comparisons.worst_case({"a": first(50), "b": first(60)}, claim=0.25), PASS),
    "E17 complement": (comparisons.worst_case({"a": first(50), "b": ~first(20)}, claim=None), FLAG),
    "E17 overclaimed": (comparisons.worst_case({"a": first(50)}, claim=0.5), FAIL),
    "E18 alike": (comparisons.targets_change_little(first(50), first(48), targets=9), PASS),
    "E18 stronger": (comparisons.targets_change_little(first(50), first(34), targets=9), FLAG),
    "E19 valid": (conduct.attacks_are_valid(results(), epsilon=0.1), PASS),
    "E19 outside the ball": (conduct.attacks_are_valid(results(excess=1e-3), epsilon=0.1), FAIL),
    "E19 outside the box": (conduct.attacks_are_valid(results(outside=1e-3), epsilon=0.1), FAIL),
    "E19 not so": (conduct.attacks_are_valid(results(unconfirmed=0.5), epsilon=0.1), FAIL),
    "E20 gains": (comparisons.ablation(0.9, first(50), twin=first(4), **ABLATION), PASS),
    "E20 the attack fails": (
        comparisons.ablation(0.9, ALL, twin=ALL, **{**ABLATION, "twin_unbounded": 0.9}), FAIL),
    "E21 alike": (comparisons.training_attack_is_not_overfitted(first(50), first(40), name="fgsm"), PASS),
    "E21 overfitted": (comparisons.training_attack_is_not_overfitted(first(180), first(40), name="fgsm"), FAIL),
    "E22 nothing said": (conduct.threat_is_recorded(Threat()), FLAG),
}  # fmt: skip


@pytest.mark.parametrize("case", JUDGED)
def test_verdicts_from_hand_made_numbers(case):
    finding, verdict = JUDGED[case]
    assert finding.verdict == verdict, finding.text
    assert finding.id == case.split()[0]
    assert (finding.remedy != "") == (verdict in FIRED)
    to_json(record(finding), case)  # distances without end and slopes that are no number can be written


def test_a_forward_pass_that_optimises_is_found(natural):
    def purify(weights, image, key, where):
        # One step downhill on the entropy of the answer, before answering.
        def entropy(x):
            logits = logits_of(weights["params"], x)
            return -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum()

        return logits_of(weights["params"], image - 0.1 * jax.grad(entropy)(image))

    def looped(weights, image, key, where):
        step = lambda _, x: x - 0.1 * purify(weights, x, key, where).sum()  # noqa: E731
        return logits_of(weights["params"], jax.lax.fori_loop(0, 3, step, image))

    honest = subject(natural, examples=2)
    unrolled = conduct.no_optimisation_inside(
        replace(honest, victim=Victim(variables(natural), purify, white_box=True))
    )
    assert unrolled.verdict == FLAG
    assert unrolled.numbers["repeated"] == 2
    inner = conduct.no_optimisation_inside(replace(honest, victim=Victim(variables(natural), looped, white_box=True)))
    assert inner.numbers["loops"] >= 1
    assert conduct.no_optimisation_inside(honest).verdict == PASS


def test_the_hash_changes_with_the_threat_and_with_the_work():
    a, b = Threat(epsilon=0.1), Threat(epsilon=0.2)
    assert a.fingerprint(steps=1) == Threat(epsilon=0.1).fingerprint(steps=1)
    assert len({a.fingerprint(steps=1), b.fingerprint(steps=1), a.fingerprint(steps=2)}) == 3


def test_probabilities_are_taken_as_logarithms(natural):
    whole = subject(natural, examples=20)
    sure = Victim(
        whole.victim.variables, lambda v, x, k, w: jax.nn.softmax(whole.victim.forward(v, x, k, w)), white_box=True
    )
    finding = next(audit(replace(whole, victim=sure), SIZES))
    assert (finding.id, finding.verdict) == ("E12", FLAG)


def test_answers_come_in_order_whatever_the_chunk(natural):
    whole = subject(natural, examples=50)
    cut = replace(whole, chunk=13)
    np.testing.assert_allclose(
        scores(whole, whole.victim, whole.image), scores(cut, cut.victim, cut.image), rtol=1e-5, atol=1e-5
    )


BAD = {
    "a norm that is none": ({"norm": "l7"}, "norm='l7'"),
    "no radius": ({"epsilon": 0.0}, "epsilon=0.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case, natural):
    change, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        subject(natural, **change)


def test_a_victim_that_only_answers_is_asked_what_is_needed_and_judged_by_that(natural):
    whole, counted = subject(natural, examples=40), []

    def ask(images):
        counted.append(len(images))
        return np.asarray(logits_of(natural, jnp.asarray(images)))

    sizes = replace(SIZES, queries=60, draws=20, hard_iterations=2, hard_examples=3)
    remote = replace(whole, victim=black_box(ask, num_classes=10), twin=whole.victim)  # a perfect surrogate
    told = {f.id: f for f in audit(remote, sizes, claim=1.0)}
    assert sorted(told) == sorted(CHECKS)
    assert {id for id, f in told.items() if f.verdict != SKIPPED} == {"E11", "E12", "E17", "E19", "E22"}
    assert (told["E11"].verdict, told["E12"].verdict, told["E19"].verdict) == (PASS, PASS, PASS)
    assert told["E17"].verdict == FAIL  # nothing like the claim is left
    right = scores(whole, whole.victim, whole.image).argmax(-1) == whole.label
    broken = climb(whole, objectives.margin, steps=sizes.steps)[0].broken
    each, left = told["E17"].series["accuracy"], told["E17"].numbers["worst_case"]
    assert each["nothing"] == right.mean()
    assert each["transfer, margin"] == (right & ~broken).mean() < right.mean()
    assert left <= each["Square on the rest"] <= each["random"] <= each["transfer, margin"]
    stood = int((right & ~broken).sum())
    assert sum(counted) <= 3 * 40 + stood * (20 + 60 + 2) + 3 * (2000 + 1)


def test_a_black_box_and_odd_sizes_are_refused(natural):
    whole = subject(natural, examples=3)
    with pytest.raises(BadInput, match="black box"):
        replace(whole, victim=replace(whole.victim, white_box=False))
    with pytest.raises(BadInput, match="accepted are"):
        replace(whole, label=whole.label[:2])
    with pytest.raises(BadInput, match="steps=1"):
        Sizes(steps=1)


def test_a_gradient_that_is_no_number_is_no_result(natural):
    """Finite answers, and a slope that is NaN everywhere, or for one image: E9, E13 and E14 fail, and say so."""
    whole = subject(natural, examples=20)

    def broken(bright):
        def forward(weights, image, key, where):
            dark = image.mean((1, 2, 3), keepdims=True) < bright
            nothing = jnp.sum(jnp.sqrt(jnp.where(dark, 0 * image, 1)) - ~dark, (1, 2, 3))
            return whole.victim.forward(weights, image, key, where) + nothing[:, None]

        return replace(whole, victim=Victim(whole.victim.variables, forward, white_box=True))

    for case, share in ((broken(2.0), 1.0), (broken(float(np.median(whole.image.mean((1, 2, 3))))), 0.5)):
        assert np.isfinite(scores(case, case.victim, case.image)).all()
        found = [
            slopes.gradient_health(slopes.gradients(case, cross_entropy)),
            slopes.differences_agree(case, points=20, directions=2),
            slopes.landscape(case, np.ones(20, bool), points=20, grid=5),
        ]
        assert [f.verdict for f in found] == [FAIL] * 3
        assert all(f.remedy for f in found)
        if share == 1:
            assert [f.numbers["not_finite"] for f in found] == [1.0] * 3
        else:
            assert all(0 < f.numbers["not_finite"] < 1 for f in found)
            assert all(np.isfinite(list(f.numbers.values())).all() for f in found[1:])

"""Laws of every attack that can be named, and of how attacks are put together."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import spec
from kdjax.attacks import (
    _rows,
    catalogue,
    combine,
    named,
    objectives,
    oracles,
    projections,
    run,
    sampling,
    squares,
    starts,
    victims,
)
from kdjax.attacks.iterate import iterate, on_plateau
from kdjax.types import BadInput

# Small enough for a test, large enough to succeed.
SETTINGS = {
    "apgd": {"steps": 12},
    "bim": {"steps": 5},
    "cw": {"steps": 100, "search_steps": 4, "initial_weight": 0.1, "learning_rate": 0.02},
    "deepfool": {"steps": 20},
    "fab": {"steps": 8, "targets": 2},
    "hop_skip_jump": {"iterations": 5, "probes": 20},
    "mi_fgsm": {"steps": 5, "diverse": 0.5, "kernel": 3},
    "nes": {"steps": 20, "samples": 20, "step_size": 0.03},
    "noise": {"queries": 20},
    "pgd": {"steps": 8, "random_start": True},
    "spsa": {"steps": 20, "samples": 16, "learning_rate": 0.03},
    "square": {"queries": 150},
    "standard": {"steps": 5, "targets": 2, "queries": 20},
    "zoo": {"steps": 60, "coordinates": 16, "search_steps": 2, "initial_weight": 1.0, "learning_rate": 0.05},
}
EPSILON = 0.15
# What at least must be fooled of 48 digits that the network gets right; measured, less a margin.
FLOORS = {
    "apgd": 0.9, "bim": 0.9, "cw": 0.95, "deepfool": 0.95, "fab": 0.9, "fgsm": 0.8, "fgsm_rs": 0.55,
    "hop_skip_jump": 0.9, "mi_fgsm": 0.7, "nes": 0.5, "noise": 0.0, "pgd": 0.9, "r_fgsm": 0.35, "spsa": 0.5,
    "square": 0.4, "standard": 0.95, "zoo": 0.95,
}  # fmt: skip
BLACK = ("hop_skip_jump", "nes", "noise", "spsa", "square", "zoo")
DRAWN_BY_MODE = ("hop_skip_jump", "spsa", "square", "zoo")
NAMES = catalogue.ATTACKS.names()


@functools.cache
def make(name, **settings):
    """One object a setting, so that its programs are compiled once."""
    given = SETTINGS.get(name, {}) | settings
    function = catalogue.ATTACKS.functions[name]
    if "epsilon" in inspect.signature(function).parameters:
        given = {"epsilon": EPSILON} | given
    return function(**given)


def attack(text):
    return catalogue.ATTACKS.resolve(spec.call(text))


def objective(name):
    return catalogue.OBJECTIVES[catalogue.objective_of(name)]


@jax.jit
def _classes(victim, image):
    return victim(image).argmax(-1)


def answers(victim, image):
    """The classes that a victim sees."""
    return np.asarray(_classes(victim, image))


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    """A module's fixture, so that tests are grouped by attack and each is compiled once."""
    return request.param


@pytest.fixture(scope="module")
def found(name, victim, image, label):
    """What the named attack finds."""
    return run(make(name), victim, image, label, objective=objective(name))


def test_every_attack_has_a_floor():
    assert set(NAMES) == FLOORS.keys()


class TestEveryAttack:
    def test_feasible(self, name, found, image):
        assert found.image.shape == image.shape
        assert found.image.min() >= 0
        assert found.image.max() <= 1
        if name not in ("cw", "deepfool", "fab", "hop_skip_jump", "zoo"):
            assert found.distance["linf"].max() <= EPSILON + 1e-6

    def test_success_is_what_the_victim_says(self, found, victim, label):
        answer = answers(victim, found.image)
        np.testing.assert_array_equal(answer != label, found.success)

    def test_strength(self, name, found):
        assert found.success.mean() >= FLOORS[name]

    def test_queries(self, found):
        assert (found.queries > 0).all()
        np.testing.assert_array_equal(found.first_success > 0, found.success)
        assert (found.first_success <= found.queries).all()

    def test_a_batch_on_the_device_is_as_many_batches_of_one_from_python_and_in_float64_mode_traced_once(
        self, name, steady, image, label
    ):
        looks = []

        def looked(*given):
            looks.append(1)
            return steady.forward(*given)

        # Differences over 1e-4 enlarge the last bit, which two programs need not share, step after step.
        attack = make(name, **({"steps": 6, "search_steps": 1} if name == "zoo" else {}))
        given = attack, dataclasses.replace(steady, forward=looked), image[:3], label[:3]
        together = run(*given, objective=objective(name), chunk=3, on_device=True)
        # In float64 mode JAX draws other integers, and so these begin elsewhere: see `test_precision`.
        with jax.enable_x64(name not in DRAWN_BY_MODE):
            each, before = run(*given, objective=objective(name), chunk=1, on_device=False), len(looks)
            run(*given, objective=objective(name), chunk=1, on_device=False)
        assert len(looks) == before
        assert each.image.dtype == each.value.dtype == np.float32
        for field in ("image", "queries", "success", "first_success"):
            tolerance = 1e-3 if name == "zoo" and field == "image" else 1e-5
            np.testing.assert_allclose(getattr(each, field), getattr(together, field), atol=tolerance)


@pytest.mark.parametrize("name", BLACK)
@pytest.mark.parametrize("on_device", [False, True])
def test_reported_queries_are_the_images_that_the_victim_saw(name, on_device, counter, image, label):
    host = victims.black_box(counter, num_classes=10)
    settings = {"zoo": {"steps": 120, "search_steps": 2}, "nes": {"budget": 200}}.get(name, {})
    result = run(
        make(name, **settings), host, image[:7], label[:7], objective=objective(name), chunk=3, on_device=on_device
    )
    assert int(result.queries.sum()) == counter.count
    if name in ("nes", "spsa", "square"):  # and some were solved early, so that the count says something
        assert result.queries.min() < result.queries.max()
    if name == "nes":
        assert result.queries.max() <= 200


def test_a_divided_black_box_is_asked_no_more(counter, image, label):
    host = objectives.divided(victims.black_box(counter, num_classes=10), 10.0)
    result = run(make("square", queries=5), host, image[:4], label[:4], objective=objectives.margin)
    assert int(result.queries.sum()) == counter.count


@jax.jit
def _slope(victim, x, y):
    return jax.grad(lambda x: -jax.nn.log_softmax(victim(x))[jnp.arange(len(y)), y].sum())(x)


def slope_of_cross_entropy(victim, x, y):
    """By hand."""
    return np.asarray(_slope(victim, x, y))


def test_fgsm_is_its_closed_form(victim, image, label):
    x, y = image, label
    slope = slope_of_cross_entropy(victim, x, y)
    result = run(named.fgsm(0.1), victim, image, label, objective=objectives.cross_entropy)
    np.testing.assert_allclose(result.image, np.clip(x + 0.1 * np.sign(slope), 0, 1), atol=1e-6)
    assert (result.queries == 2).all()


def test_pgd_is_a_loop_of_three_lines(victim, image, label):
    x, y = image, label
    now = x
    for _ in range(7):
        slope = slope_of_cross_entropy(victim, now, y)
        now = np.clip(np.clip(now + 0.03 * np.sign(slope), x - 0.1, x + 0.1), 0, 1)
    attack = named.pgd(0.1, steps=7, step_size=0.03)
    result = run(attack, victim, image, label, objective=objectives.cross_entropy)
    np.testing.assert_allclose(result.image, now, atol=1e-6)


def test_momentum_by_hand(victim, image, label):
    x, y = image[:4], label[:4]
    now, momentum = x, np.zeros_like(x)
    for _ in range(3):
        slope = slope_of_cross_entropy(victim, now, y)
        momentum = momentum + slope / np.abs(slope).sum((1, 2, 3), keepdims=True)
        now = np.clip(np.clip(now + 0.05 * np.sign(momentum), x - 0.15, x + 0.15), 0, 1)
    result = run(named.mi_fgsm(0.15, steps=3), victim, image[:4], label[:4], objective=objectives.cross_entropy)
    np.testing.assert_allclose(result.image, now, atol=1e-6)


def test_pgd_on_finite_differences_is_pgd(victim, image, label):
    differences = oracles.coordinates(sampling.everything(), 64, h=1e-3)
    noisy = np.clip(image + 0.01 * np.random.default_rng(0).uniform(size=image.shape), 0, 1).astype(np.float32)
    white, black = (
        run(named.pgd(0.15, steps=8, oracle=o), victim, noisy, label, objective=objectives.margin)
        for o in (None, differences)
    )
    assert abs(white.success.mean() - black.success.mean()) <= 1 / 48
    assert np.mean(np.abs(white.image - black.image) > 1e-4) < 0.05


def test_zoo_on_autodiff_is_a_white_box_attack_of_cw_strength(victim, image, label):
    zoo, cw = (
        run(attack, victim, image, label, objective=objectives.margin)
        for attack in (make("zoo", oracle=oracles.autodiff()), make("cw"))
    )
    both = zoo.success & cw.success
    assert both.mean() >= 0.95
    assert zoo.distance["l2"][both].mean() < 1.2 * cw.distance["l2"][both].mean()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw", "apgd", "square", "zoo"])
def test_targeted(name, victim, image, label):
    target = (label + 1) % 10
    settings = {"epsilon": 0.4} if name in ("fgsm", "pgd", "apgd", "square") else {}
    result = run(make(name, **settings), victim, image, label, objective=objective(name), target=target)
    answer = answers(victim, result.image)
    np.testing.assert_array_equal(answer == target, result.success)
    assert result.success.mean() > (0.2 if name == "fgsm" else 0.5)


class TestComposition:
    def ask(self, attack, victim, image, label, keys, **kwargs):
        return attack(objectives.margin(victim, jnp.asarray(label)), keys, jnp.asarray(image), **kwargs)

    def test_worst_of_is_never_weaker_than_a_member(self, victim, image, label, keys):
        members = [named.pgd(EPSILON, steps=3), named.noise(EPSILON, queries=5), named.fgsm(EPSILON)]
        together = self.ask(combine.worst_of(*members), victim, image, label, keys)
        alone = [self.ask(m, victim, image, label, keys) for m in members]
        for one in alone:
            assert (together.success >= one.success).all()
            assert (together.value[~one.success] <= one.value[~one.success] + 1e-6).all()
        np.testing.assert_array_equal(together.queries, sum(np.asarray(one.queries) for one in alone))

    def test_worst_of_by_distance(self, victim, image, label, keys):
        members = [named.fgsm(0.3), named.fgsm(0.15)]
        together = self.ask(combine.worst_of(*members, by="distance"), victim, image, label, keys)
        lengths = lambda r: np.where(r.success, projections.lengths(r.image - jnp.asarray(image))["l2"], np.inf)  # noqa: E731
        alone = [lengths(self.ask(m, victim, image, label, keys)) for m in members]
        np.testing.assert_allclose(lengths(together), np.minimum(*alone), rtol=1e-6)

    def test_a_cascade_breaks_as_many_and_asks_less(self, victim, image, label, keys):
        members = [named.fgsm(EPSILON), named.pgd(EPSILON, steps=5)]
        every = self.ask(combine.worst_of(*members), victim, image, label, keys)
        cascade = self.ask(combine.worst_of(*members, skip_solved=True), victim, image, label, keys)
        np.testing.assert_array_equal(every.success, cascade.success)
        assert cascade.queries.sum() < every.queries.sum()
        solved = np.asarray(self.ask(members[0], victim, image, label, keys).success)
        np.testing.assert_array_equal(cascade.queries, np.where(solved, 2, 2 + 6))

    def test_then_is_associative_and_pays_for_both(self, victim, image, label, keys):
        a, b, c = named.fgsm(0.05), named.pgd(0.1, steps=3), named.pgd(EPSILON, steps=3)
        left = self.ask(combine.then(combine.then(a, b), c), victim, image, label, keys)
        right = self.ask(combine.then(a, combine.then(b, c)), victim, image, label, keys)
        np.testing.assert_allclose(left.image, right.image, atol=1e-6)
        np.testing.assert_array_equal(left.queries, right.queries)
        assert (left.queries == 2 + 4 + 4).all()

    def test_restarts_are_the_worst_of_their_runs(self, victim, image, label, keys):
        attack = named.pgd(0.08, steps=3, random_start=True)
        once = self.ask(combine.restarts(attack, 1), victim, image, label, keys)
        often = self.ask(combine.restarts(attack, 6), victim, image, label, keys)
        assert (often.success >= once.success).all()
        assert often.success.sum() >= once.success.sum()
        spent = np.asarray(often.queries)
        assert set(spent[np.asarray(once.success)]) == {4}  # solved examples stop paying
        np.testing.assert_array_equal(spent[~np.asarray(often.success)], 24)

    def test_rows_not_asked_for_come_back_as_they_were(self, victim, image, label, keys):
        where = jnp.arange(48) % 2 == 0
        for attack in (
            named.pgd(0.1, steps=3),
            named.square(0.1, queries=5),
            make("cw"),
            combine.restarts(named.fgsm(0.1), 2),
        ):
            result = self.ask(attack, victim, image, label, keys, where=where)
            np.testing.assert_array_equal(result.image[1::2], image[1::2])
            assert result.queries[1::2].tolist() == [0] * 24
            assert not result.success[1::2].any()
            assert (result.queries[::2] > 0).all()

    def test_a_given_start_is_used(self, victim, image, label, keys):
        begun = jnp.clip(jnp.asarray(image) + 0.05, 0, 1)
        still = iterate(oracles.autodiff(), optax.scale(0.0), projections.ball("linf", 0.2), steps=1)
        np.testing.assert_allclose(self.ask(still, victim, image, label, keys, start=begun).image, begun, atol=1e-7)

    def test_a_budget_is_kept(self, victim, image, label, keys):
        attack = named.nes(0.02, samples=10, budget=40)  # three steps of 11, and the last check
        assert self.ask(attack, victim, image, label, keys).queries.max() == 34

    def test_plateaus_stop(self, victim, image, label, keys):
        still = iterate(oracles.autodiff(), optax.scale(0.0), steps=50, stop=on_plateau(5))
        # Looked at after 5 steps for the first time, and found unchanged after 10; no further check is owed.
        assert set(self.ask(still, victim, image, label, keys).queries.tolist()) == {11}

    def test_the_search_on_c_finds_nearer_images(self, victim, image, label, keys):
        one, many = (
            self.ask(
                named.cw(steps=60, learning_rate=0.02, search_steps=n, initial_weight=10.0), victim, image, label, keys
            )
            for n in (1, 5)
        )
        length = lambda r: projections.lengths(r.image - jnp.asarray(image))["l2"]  # noqa: E731
        both = one.success & many.success
        assert (many.success >= one.success).all()
        assert (length(many)[both] <= length(one)[both] + 1e-6).all()
        assert length(many)[both].mean() < 0.98 * length(one)[both].mean()

    def test_a_sweep_over_epsilon_is_one_program(self, victim, image, label, keys):
        objective = objectives.cross_entropy(victim, jnp.asarray(label))
        traces = []

        def sweep(epsilons, objective, keys, image):
            def at(epsilon):
                traces.append(None)
                return named.pgd(epsilon, steps=5)(objective, keys, image).success.mean()

            return jax.lax.map(at, epsilons)

        epsilons = np.linspace(0.0, 0.3, 3, dtype=np.float32)
        rates = jax.jit(sweep)(epsilons, objective, keys, jnp.asarray(image))
        assert len(traces) <= 2
        alone = [
            float(named.pgd(float(e), steps=5)(objective, keys, jnp.asarray(image)).success.mean()) for e in epsilons
        ]
        np.testing.assert_allclose(rates, alone, atol=1e-6)
        assert rates[0] == 0

    def test_a_second_call_does_not_trace_again(self, mlp, image, label, keys):
        apply, weights, *_ = mlp
        traces = []

        def counted(variables, image, *, train, key):
            traces.append(None)
            return apply(variables, image, train=train, key=key)

        attack, counts = named.pgd(0.1, steps=3), []
        for scale in (1.0, 0.9):  # other weights are other arguments, not another program
            scaled = jax.tree.map(lambda w: w * scale, weights)  # noqa: B023 - used at once
            self.ask(attack, victims.white_box(counted, scaled), image, label, keys)
            counts.append(len(traces))
        assert counts[0] == counts[1] > 0


def test_square_side_shrinks_as_published():
    propose = squares.squares(0.1)
    origin = jnp.full((28, 28, 1), 0.5)
    at = lambda progress: propose(jax.random.key(0), origin, origin, progress) != origin  # noqa: E731
    changed = np.asarray(jax.jit(jax.vmap(at))(np.array([0.0, 0.0011, 0.03, 0.3, 0.9], np.float32)))
    # round(sqrt(p * 784)) with p = 0.8, 0.4, 0.1, 0.0125, 0.0015625
    assert changed.any((2, 3)).sum(1).tolist() == [25, 18, 9, 3, 1]


def test_square_in_l2(victim, image, label):
    """As strong as its reputation: more than noise of the same length, and at the edge of the ball."""
    blind, noise = (
        run(attack, victim, image, label, objective=objectives.margin)
        for attack in (named.square(1.0, norm="l2", queries=150), named.noise(1.0, norm="l2", queries=150))
    )
    assert blind.distance["l2"].max() <= 1 + 1e-5
    assert blind.success.mean() >= noise.success.mean() + 0.3


def test_square_bumps_are_two_opposite_ones_of_unit_length():
    origin = jnp.full((12, 12, 1), 0.5)
    begun = jax.jit(squares.tiles(2.0))(jax.random.key(0), origin) - origin
    np.testing.assert_allclose(np.sqrt(np.sum(np.square(begun))), 2.0, rtol=1e-5)
    bumps = jax.jit(lambda place, turned: squares._bumps(place, jnp.float32(7.0), 12, 12, turned))
    window = np.asarray(bumps(np.array([2.0, 3.0], np.float32), False))
    np.testing.assert_allclose(np.sum(window**2), 1.0, rtol=1e-5)
    assert (window[2:5, 3:10] > 0).all()
    assert (window[5:9, 3:10] < 0).all()
    assert float(np.abs(window).sum() - np.abs(window[2:9, 3:10]).sum()) == 0
    turned = bumps(np.array([3.0, 2.0], np.float32), True)
    np.testing.assert_allclose(turned, window.T, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "floor"),
    [
        (named.mi_fgsm(1.5, norm="l2"), 0.8),
        (named.nes(1.5, norm="l2", steps=20, samples=20, step_size=0.3), 0.5),
        (named.spsa(1.5, norm="l2", steps=20, samples=16, learning_rate=0.05), 0.5),
    ],
    ids=["mi_fgsm", "nes", "spsa"],
)
def test_in_l2_an_attack_stays_in_its_ball_and_fools(attack, floor, victim, image, label):
    result = run(attack, victim, image, label, objective=objectives.cross_entropy)
    assert 1 < result.distance["l2"].max() <= 1.5 + 1e-5
    assert result.success.mean() >= floor


def test_a_step_of_nes_in_l2_has_the_length_that_was_typed(victim, image, label):
    one = named.nes(1.5, norm="l2", steps=1, samples=20, step_size=0.25)
    length = run(one, victim, image, label, objective=objectives.margin).distance["l2"]
    assert 0.1 < length.max() <= 0.25 + 1e-6  # shorter where the box cuts


def test_noise_reports_its_failures(victim, image, label):
    result = run(named.noise(0.001), victim, image, label, objective=objectives.margin)
    assert not result.success.any()
    assert (result.first_success == -1).all()
    assert (result.queries == 100).all()
    assert (result.distance["linf"] > 0).all()  # the best of what was tried, not the clean image


def test_objectives_by_hand():
    logits = jnp.array([[3.0, 1.0, 0.0, -1.0]])
    y, t = jnp.array([0]), jnp.array([2])
    fixed = lambda v: victims.white_box(_constant, v)  # noqa: E731
    x = jnp.zeros((1, 2, 2, 1))
    assert float(objectives.margin(fixed(logits), y)(x)[0][0]) == 2.0
    assert float(objectives.margin(fixed(logits), y, target=t)(x)[0][0]) == 3.0
    assert float(objectives.margin(fixed(logits), jnp.array([1]), kappa=0.5)(x)[0][0]) == -0.5
    np.testing.assert_allclose(objectives.dlr(fixed(logits), y)(x)[0][0], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(objectives.dlr(fixed(logits), y, target=t)(x)[0][0], 3 / 3.5, rtol=1e-6)
    moved = objectives.dlr(fixed(logits), y, toward=t)  # the same value, and any wrong class is a success
    np.testing.assert_allclose(moved(x)[0][0], 3 / 3.5, rtol=1e-6)
    assert float(objectives.gap(fixed(logits), y, toward=t)(x)[0][0]) == 3.0
    for goal in (objectives.dlr, objectives.gap):
        assert bool(goal(fixed(logits), jnp.array([1]), toward=t)(x)[1][0])
    assert not bool(objectives.dlr(fixed(logits), jnp.array([1]), target=t)(x)[1][0])
    np.testing.assert_allclose(
        objectives.divergence(fixed(logits), y, reference=jnp.zeros((1, 4)))(x)[0][0],
        -(-np.log(4) - np.mean(jax.nn.log_softmax(logits))),
        rtol=1e-5,
    )
    # An answer is not changed by dividing it; a saturated cross-entropy is.
    big = fixed(logits * 100)
    assert float(objectives.cross_entropy(big, y)(x)[0][0]) == 0.0
    assert float(objectives.cross_entropy(objectives.divided(big, 100.0), y)(x)[0][0]) < -0.1


def _constant(variables, image, *, train, key):
    from kdjax.types import Outputs

    return Outputs(variables + 0 * image.sum(), {}), {}


class TestBadInput:
    def test_kappa_asks_for_a_margin(self, victim, image, label):
        sure = lambda v, y: objectives.margin(v, y, kappa=2.0)  # noqa: E731
        result = run(named.pgd(0.2, steps=10), victim, image, label, objective=sure)
        logits = np.asarray(victim(jnp.asarray(result.image[result.success])))
        own = np.take_along_axis(logits, label[result.success, None], 1)[:, 0]
        assert (np.sort(logits, 1)[:, -1] - own >= 2 - 1e-5).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"inputs": np.full((4, 8, 8, 1), 1.5, np.float32)},
                r"image runs from 1\.5 to 1\.5: accepted are values in",
            ),
            ({"inputs": np.full((4, 8, 8, 1), np.nan, np.float32)}, "image runs from nan"),
            ({"inputs": np.zeros((4, 8, 8), np.float32)}, r"image has shape \(4, 8, 8\)"),
            ({"inputs": np.zeros((0, 8, 8, 1), np.float32)}, r"N at least 1"),
            ({"label": np.zeros(3, np.int32)}, r"label has shape \(3,\)"),
            ({"label": np.zeros(4, np.float32)}, "float32: accepted are integers"),
            ({"label": np.array([0, 1, 2, 10])}, r"label runs from 0 to 10: accepted are 0 to 9"),
            ({"target": np.array([0, 1, 2])}, r"target has shape \(3,\)"),
            ({"target": np.array([0, 1, 2, 3])}, "target equals label"),
            ({"chunk": 0}, "chunk=0"),
        ],
    )
    def test_examples(self, change, message, victim, image):
        given = {"inputs": image[:4], "label": np.array([0, 1, 2, 3]), "target": None, "chunk": 2} | change
        with pytest.raises(BadInput, match=message):
            run(
                named.fgsm(0.1), victim, given["inputs"], given["label"], target=given["target"],
                objective=objectives.margin, chunk=given["chunk"],
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: named.fgsm(-0.1), r"epsilon=-0\.1: accepted are pixel units"),
            (lambda: named.square(-0.1), r"epsilon=-0\.1"),
            (lambda: named.pgd(0.1, steps=0), "steps=0"),
            (lambda: named.pgd(0.1, norm="l3"), "norm='l3'"),
            (lambda: named.pgd(0.1, keep="best"), "keep='best': accepted are last, value, distance"),
            (
                lambda: named.nes(0.1, samples=50, budget=51),
                "budget=51: one step costs 51 queries and the last check 1",
            ),
            (lambda: named.square(0.1, queries=0), "queries=0"),
            (lambda: victims.black_box(np.asarray, num_classes=1), "num_classes=1: accepted are 2 or more"),
            (lambda: named.zoo(update="sgd"), "update='sgd': accepted are adam, newton, hybrid"),
            (lambda: named.zoo(box="cube"), "box='cube': accepted are clip, tanh"),
            (lambda: combine.restarts(named.fgsm(0.1), 0), "restarts=0"),
            (lambda: combine.worst_of(), "one or more attacks"),
            (lambda: starts.uniform("l9", 0.1), "norm='l9'"),
            (lambda: attack("pdg"), "read the name pdg; accepted: apgd, .*did you mean pgd"),
            (lambda: attack("pgd(stepz=3)"), "stepz=3; accepted: pgd takes epsilon, .*did you mean steps"),
            (lambda: attack("pgd(steps)"), "epsilon=steps of pgd; accepted: a number"),
        ],
    )
    def test_settings(self, call, message):
        with pytest.raises(BadInput, match=message):
            call()

    @pytest.mark.parametrize("on_device", [True, False])
    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True), "answers with probabilities"),
            (lambda z: z * np.nan, "NaN or infinity"),
            (lambda z: z[:, :9], r"accepted: \(\d+, 10\)"),
        ],
    )
    def test_a_victim_on_the_host(self, answer, message, on_device, counter, image, label):
        host = victims.black_box(lambda x: answer(counter(x)), num_classes=10)
        with pytest.raises(BadInput, match=message):
            run(
                named.square(0.1, queries=5),
                host,
                image[:4],
                label[:4],
                objective=objectives.margin,
                on_device=on_device,
            )

    @pytest.mark.parametrize("change", [{"label": [0, 99]}, {"label": [-1, 0]}, {"target": [10, 3]}])
    def test_classes_that_a_victim_on_the_host_does_not_have(self, change, counter, image):
        host = objectives.divided(victims.black_box(counter, num_classes=10), 2.0)
        given = {"label": [0, 1], "target": [2, 3]} | change
        with pytest.raises(BadInput, match=rf"{next(iter(change))} runs from .*: accepted are 0 to 9"):
            run(named.square(0.1, queries=5), host, image[:2], objective=objectives.margin, **given)
        assert counter.count == 0

    def test_lists_of_labels_and_targets(self, counter, image):
        seen = {}

        def attack(objective, key, image, where):
            seen.update(objective.data)
            return _rows.untouched(image)._replace(value=jnp.zeros(len(image)))

        host, given = victims.black_box(counter, num_classes=10), {"label": [0, 1], "target": [2, 3]}
        run(attack, host, image[:2], objective=objectives.margin, **given)
        assert {name: seen[name].tolist() for name in given} == given

    def test_probabilities_that_are_announced_serve_as_logits(self, counter, victim, image, label):
        def ask(x):
            z = counter(x)
            p = np.exp(z - z.max(-1, keepdims=True))
            return p / p.sum(-1, keepdims=True)

        host = victims.black_box(ask, num_classes=10, probabilities=True)
        attack = named.square(EPSILON, queries=30)
        a, b = (run(attack, v, image, label, objective=objectives.margin) for v in (host, victim))
        np.testing.assert_array_equal(a.success, b.success)

    @pytest.mark.parametrize("change", [jax.nn.softmax, lambda z: z * jnp.nan])
    def test_a_victim_on_the_device(self, change, mlp, image, label):
        apply, weights, *_ = mlp

        def broken(variables, image, *, train, key):
            outputs, state = apply(variables, image, train=train, key=key)
            return outputs._replace(logits=change(outputs.logits)), state

        with pytest.raises(BadInput, match=r"probabilities|NaN"):
            run(named.fgsm(0.1), victims.white_box(broken, weights), image, label, objective=objectives.cross_entropy)

    def test_nan_off_the_clean_images_is_not_kept_as_the_best_of_many(self, mlp, image, label):
        """What each attack makes of it as it is, `test_faults` asks."""
        apply, weights, *_ = mlp
        rows = np.flatnonzero(label == 0)[:2]  # of NaNs the first is taken for the largest: only 0 is not "fooled"
        clean = jnp.asarray(image[rows])

        def brittle(variables, x, *, train, key):
            outputs, state = apply(variables, x, train=train, key=key)
            moved = jnp.abs(x - clean).max((1, 2, 3)) > 1e-3
            return outputs._replace(logits=jnp.where(moved[:, None], jnp.nan, outputs.logits)), state

        attack, victim = named.pgd(0.1, steps=2, keep="value"), victims.white_box(brittle, weights)
        with pytest.raises(BadInput, match="not a number"):
            run(attack, victim, image[rows], label[rows], objective=objectives.margin)

    def test_gradients_of_a_black_box(self, counter, image, label):
        host = victims.black_box(counter, num_classes=10)
        for attack in (named.pgd(0.1), named.cw(), named.deepfool(), named.apgd(0.1)):
            with pytest.raises(BadInput, match="gradients"):
                run(attack, host, image[:2], label[:2], objective=objectives.margin)

    def test_dlr_needs_classes(self, victim):
        two = victims.white_box(_constant, jnp.zeros((1, 2)))
        with pytest.raises(BadInput, match="dlr: 2 classes; accepted: 3 or more"):
            objectives.dlr(two, jnp.array([0]))(jnp.zeros((1, 2, 2, 1)))


def test_pgd_may_begin_a_hair_away_and_outside_of_the_box(victim, image, label, keys):
    """TRADES: x + 0.001 N(0, I), not clipped before the first slope is taken there."""
    black = jnp.zeros_like(jnp.asarray(image))
    attack = catalogue.ATTACKS.resolve(spec.call("pgd(0.1, steps=2, start=gaussian(0.001))"))()
    aim = objectives.cross_entropy(victim, jnp.asarray(label))
    begun = np.asarray(attack.begin(aim, keys, black, None, jnp.ones(48, bool)).point)
    found = attack(aim, keys, black)
    assert begun.min() < 0 < begun.max()
    np.testing.assert_allclose(begun.std(), 0.001, rtol=0.05)
    np.testing.assert_allclose(begun.mean(), 0, atol=1e-4)
    assert float(found.image.min()) >= 0
    assert float(found.image.max()) <= 0.1 + 1e-6
    # A ball smaller than the noise holds it.
    still = named.pgd(0.0, steps=1, start=starts.gaussian(0.001))
    np.testing.assert_array_equal(still(aim, keys, jnp.asarray(image)).image, image)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pgd(start=gausian(0.1))", "read the name gausian; accepted: gaussian, .*did you mean gaussian"),
        ("pgd(start=0.1)", "read start=0.1 of pgd; accepted: gaussian, signed, stripes, uniform"),
        ("pgd(start=gaussian(0))", "sigma=0"),
        ("pgd(start=gaussian(grid(0.1, 0.2)))", "accepted: one value"),
        ("pgd(start=gaussian(0.1), random_start=True)", "accepted is one or the other"),
    ],
)
def test_starts_that_cannot_be(text, said):
    with pytest.raises(BadInput, match=said):
        catalogue.ATTACKS.resolve(spec.call(text))()

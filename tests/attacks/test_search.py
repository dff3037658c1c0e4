"""The search on the constant c, the windows of APGD, and the start of FGSM-RS, against what their papers' code does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import named, objectives, starts, victims
from kdjax.attacks.apgd import checkpoints
from kdjax.attacks.penalty import search_weight
from kdjax.attacks.run import run
from kdjax.types import Adversarial, Outputs


def tried(threshold, **settings):
    """The constants that a search tries where success comes at `threshold [B]`."""
    weights = []

    def attack_at(weight):
        def attack(objective, key, image, start=None, *, where=None):
            weights.append(np.asarray(weight))
            one = jnp.ones(len(image), jnp.int32)
            return Adversarial(image, jnp.zeros(len(image)), weight >= jnp.asarray(threshold), one, one)

        return attack

    count = len(threshold)
    keys = jax.random.split(jax.random.key(0), count)
    search_weight(attack_at, **settings)(objective(), keys, jnp.zeros((count, 2, 2, 1)))
    return np.stack(weights, -1).tolist()


def objective():
    victim = victims.white_box(lambda variables, image, *, train, key: (Outputs(image.reshape(-1, 4)), {}), ())
    return objectives.margin(victim, jnp.array([0]))


def test_the_constants_are_tenfold_until_one_works_then_halved_between():
    first, second = tried([7.0, 0.3], steps=6, initial=1.0)
    assert first == [1, 10, 5.5, 7.75, 6.625, 7.1875]
    assert second == [1, 0.5, 0.25, 0.375, 0.3125, 0.28125]


def test_a_constant_never_exceeds_the_ceiling():
    assert tried([np.inf], steps=5, initial=1.0, ceiling=50.0) == [[1, 10, 50, 50, 50]]
    assert tried([30.0], steps=5, initial=1.0, ceiling=50.0) == [[1, 10, 50, 30, 20]]


def released(steps):
    """The iterations at which the released code looks: its own counters, line by line."""
    window, least, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    found, counter = [], 0
    for i in range(steps):
        counter += 1
        if counter == window:
            found.append(i + 1)
            window, counter = max(window - shrink, least), 0
    return found


def test_windows_are_those_of_the_release_and_of_the_paper():
    for steps in range(1, 301):
        assert checkpoints(steps) == released(steps)
    assert checkpoints(20) == [4, 7, 9, *range(10, 21)]
    assert checkpoints(20, "paper") == [5, 9, 12, 14, 16, 18, 19, 20]


def test_the_windows_reach_the_attack(victim, image, label):
    @functools.cache
    def best(windows, steps):
        attack = named.apgd(0.05, steps=steps, windows=windows, random_start=False)
        return run(attack, victim, image, label, objective=objectives.cross_entropy)

    assert np.mean(best("released", 10).value) <= np.mean(best("paper", 10).value) + 1e-3
    assert not np.array_equal(best("released", 10).image, best("paper", 10).image)
    np.testing.assert_array_equal(best("released", 100).image, best("paper", 100).image)


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_fgsm_rs_takes_the_slope_at_the_start_as_drawn_outside_the_box_too(epsilon, keys):
    """Only pixels below 0 have a slope here; on a black image a start clipped to the box has none."""

    def apply(variables, image, *, train, key):
        below = jnp.sum(jnp.where(image < 0, image, 0), (1, 2, 3))
        return Outputs(jnp.stack([jnp.zeros_like(below), below], -1)), {}

    image = jnp.zeros((5, 6, 6, 1))
    goal = objectives.margin(victims.white_box(apply, ()), jnp.zeros(5, int), kappa=1e3)
    found = named.fgsm_rs(epsilon)(goal, keys[:5], image)
    drawn = jax.vmap(starts.uniform("linf", epsilon))(jax.vmap(jax.random.fold_in, (0, None))(keys[:5], 1), image)
    drawn = np.asarray(drawn)
    assert 0.2 < np.mean(drawn < 0) < 0.8
    right = np.clip(np.where(drawn < 0, drawn + 1.25 * epsilon, drawn), 0, epsilon)
    np.testing.assert_allclose(found.image, right, atol=1e-6)

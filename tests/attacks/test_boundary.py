"""The attack that reads decisions alone: distances known in closed form, queries counted by the victim."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import objectives
from kdjax.attacks.boundary import cost, hop_skip_jump
from kdjax.attacks.run import run
from kdjax.attacks.victims import Victim, black_box, queries_only
from kdjax.types import BadInput

WEIGHT = np.random.default_rng(0).normal(size=(16, 1)).astype(np.float32)
WEIGHT /= np.linalg.norm(WEIGHT)


def linear(weight, image, key, where):
    """Class 1 on one side of a hyperplane through grey, class 0 on the other."""
    score = (image - 0.5).reshape(len(image), -1) @ weight
    return jnp.concatenate([jnp.zeros_like(score), score], -1)


VICTIM = queries_only(Victim(jnp.asarray(WEIGHT), linear, white_box=True))
ATTACK = hop_skip_jump(iterations=15, probes=60, tries=20)


def images(count):
    away = 0.1 + 0.2 * np.random.default_rng(1).random((count, 1)).astype(np.float32)
    image = np.clip(0.5 - away * WEIGHT.T, 0, 1).reshape(count, 4, 4, 1)
    return image, np.zeros(count, np.int32)


def test_the_nearest_point_of_a_hyperplane_is_found():
    image, label = images(8)
    found = run(ATTACK, VICTIM, image, label, objective=objectives.margin)
    exact = np.abs((image - 0.5).reshape(8, -1) @ WEIGHT)[:, 0]
    assert found.success.all()
    assert (found.distance["l2"] >= exact * 0.999).all()
    assert np.median(found.distance["l2"] / exact) < 1.05
    assert (found.image >= 0).all()
    assert (found.image <= 1).all()
    assert (found.queries <= cost(15, 16, probes=60, tries=20)).all()
    assert (found.first_success > 0).all()


def test_queries_are_those_that_the_victim_counts_and_a_batch_is_its_examples():
    image, label = images(3)
    label[2] = 1  # wrong from the start: nothing to do
    seen = []

    def ask(rows):
        seen.append(len(rows))
        return np.asarray(linear(WEIGHT, rows, None, None))

    attack = hop_skip_jump(iterations=2, probes=8)
    victim = black_box(ask, num_classes=2)
    whole = run(attack, victim, image, label, objective=objectives.margin)
    assert sum(seen) == whole.queries.sum()
    assert whole.distance["l2"][2] == 0
    assert whole.queries[2] == 2
    single = run(attack, victim, image, label, objective=objectives.margin, chunk=1)
    np.testing.assert_allclose(single.image, whole.image, atol=1e-6)
    np.testing.assert_array_equal(single.queries, whole.queries)


def test_where_nothing_fools_the_image_comes_back_as_a_failure():
    never = Victim(jnp.asarray(0 * WEIGHT), linear, white_box=False)
    image, label = images(8)
    found = run(ATTACK, never, image, label, objective=objectives.margin)
    assert not found.success.any()
    np.testing.assert_array_equal(found.image, image)
    assert (found.queries == 1 + 20 + 1).all()


def test_chunks_of_probes_change_nothing():
    image, label = images(8)
    some = ATTACK, hop_skip_jump(iterations=15, probes=60, tries=20, chunk=7)
    a, b = (run(attack, VICTIM, image, label, objective=objectives.margin) for attack in some)
    np.testing.assert_allclose(a.image, b.image, atol=1e-6)


@pytest.mark.parametrize("name", ["iterations", "probes", "tries", "chunk"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(BadInput, match=f"{name}=0"):
        hop_skip_jump(**{name: 0})

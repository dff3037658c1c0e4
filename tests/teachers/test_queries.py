"""What each strategy asks, computed here from its formula, on a pool of a few images and a linear surrogate."""

import numpy as np
import pytest

from kdjax.spec import call
from kdjax.teachers import queries
from kdjax.teachers.queries import STRATEGIES, Known, Surrogate
from kdjax.teachers.serving.duplicates import Nearby, calibrated
from kdjax.types import BadInput

CLASSES, SIZE = 4, 30
DRAW = np.random.default_rng(5)
POOL = DRAW.random((SIZE, 2, 3, 1)).astype(np.float32)
W = DRAW.normal(size=(6, CLASSES)).astype(np.float32) * 2
ALL = ("random", "uncertainty", "k_centre", "adaptive", "jacobian", "noise")


def logits(images):
    images = images / np.float32(255) if images.dtype == np.uint8 else images
    return images.reshape(len(images), -1) @ W


def q_of(images):
    e = np.exp(logits(images).astype(np.float64))
    return e / e.sum(-1, keepdims=True)


def slope(images, classes):
    """d log q_y / dx of a linear network: w_y - Σ_k q_k w_k."""
    return (W[:, classes].T - q_of(images) @ W.T).reshape(images.shape)


def known(asked=(3, 7, 11, 20), surrogate=True, pool=POOL):
    rows = np.array(asked, np.int64)
    answers = np.log(np.roll(q_of(pool[rows]), 1, axis=-1) + 1e-9)  # not what the surrogate says
    own = Surrogate(logits, slope) if surrogate else None
    return Known(pool, np.arange(SIZE) % 3, pool[rows], rows, answers, own)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_every_strategy_is_tried_here():
    assert STRATEGIES.names() == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("surrogate", [True, False])
def test_what_is_asked_is_new_of_the_pool_of_the_right_number_and_a_function_of_the_draw(name, surrogate):
    bytes_ = np.round(POOL * 255).astype(np.uint8)
    for pool in (POOL, bytes_):
        have, strategy = (
            known(surrogate=surrogate, pool=pool),
            STRATEGIES.resolve(call(name), given=("known", "count", "rng")),
        )
        found, again, other = (strategy(have, 4, rng(seed)) for seed in (1, 1, 2))
        assert found.images.shape == (4, 2, 3, 1)
        assert found.images.dtype == pool.dtype
        np.testing.assert_array_equal(found.images, again.images)
        drawn = name in ("random", "noise") or not surrogate or name == "adaptive"
        assert np.array_equal(found.images, other.images) != drawn
        if (found.rows >= 0).all():
            np.testing.assert_array_equal(found.images, pool[found.rows])
            assert len(set(found.rows) | set(have.rows)) == 8
        else:
            np.testing.assert_array_equal(found.rows, -1)


def test_uncertainty_takes_the_largest_entropies():
    q = q_of(POOL)
    entropy = -(q * np.log(q)).sum(-1)
    entropy[[3, 7, 11, 20]] = -1
    np.testing.assert_array_equal(queries.uncertainty(known(), 5, rng()).rows, np.argsort(-entropy)[:5])


def test_k_centre_takes_the_farthest_of_all_that_are_asked_one_by_one():
    q, taken = q_of(POOL), [3, 7, 11, 20]
    for _ in range(5):
        distance = np.linalg.norm(q[:, None] - q[taken], axis=-1).min(1)
        taken.append(int(distance.argmax()))
    np.testing.assert_array_equal(queries.k_centre(known(), 5, rng()).rows, taken[4:])


def test_jacobian_steps_along_the_sign_of_the_slope_of_the_victims_class():
    have = known()
    found = queries.jacobian(have, 4, rng(), step=0.1)
    label = have.answers.argmax(-1)
    assert (label != logits(have.images).argmax(-1)).any()
    wanted = np.clip(have.images + 0.1 * np.sign(slope(have.images, label)), 0, 1)
    np.testing.assert_allclose(found.images, wanted, atol=1e-6)
    assert (np.abs(found.images - have.images) > 0.05).any()
    with pytest.raises(BadInput, match="at most double"):
        queries.jacobian(have, 5, rng())


def test_a_reservoir_keeps_every_place_alike():
    kept = np.bincount(np.concatenate([queries.reservoir(10, 3, rng(seed)) for seed in range(2000)]), minlength=10)
    assert kept.sum() == 6000
    assert np.abs(kept - 600).max() < 4 * np.sqrt(600 * 0.7)


def test_the_bandit_is_the_papers_update_over_all_that_was_asked():
    have = known((3, 7, 11, 20, 5, 8))
    p = np.exp(have.answers) / np.exp(have.answers).sum(-1, keepdims=True)
    cross = -(p * np.log(q_of(have.images))).sum(-1)
    height, count, rewards = np.zeros(3), np.zeros(3), []
    for t in range(6):
        first, second = np.sort(p[t])[::-1][:2]
        new = np.maximum(p[t] - p[:t].mean(0), 0).sum() if t else 0.0
        r = (first - second) + new + cross[t] / cross[: t + 1].max()
        z, pi = have.rows[t] % 3, np.exp(height) / np.exp(height).sum()
        baseline = np.mean(rewards) if rewards else r
        count[z] += 1
        for a in range(3):
            height[a] += (r - baseline) * ((1 - pi[a]) if a == z else -pi[a]) / count[z]
        rewards.append(r)
    wanted = np.exp(height) / np.exp(height).sum()
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(queries.preferences(have, np.arange(3)), wanted, rtol=1e-6)
    one = have._replace(classes=np.zeros(SIZE, int))
    with pytest.raises(BadInput, match="accepted: 2 or more"):
        queries.adaptive(one, 2, rng())


def test_noise_is_of_squares_whose_share_of_white_is_each_images_own():
    like = known()._replace(pool=np.zeros((SIZE, 8, 8, 1), np.uint8))
    found = queries.noise(like, 500, rng(), grain=4).images[..., 0]
    assert set(np.unique(found)) == {0, 255}
    np.testing.assert_array_equal(found, found[:, ::4, ::4].repeat(4, 1).repeat(4, 2))
    white = (queries.noise(like, 500, rng()).images > 0).mean((1, 2, 3))
    assert white.min() < 0.1 < 0.9 < white.max()
    assert abs(white.mean() - 0.5) < 0.05
    grey = queries.noise(like, 50, rng(), kind="uniform").images
    assert len(np.unique(grey)) > 200


def test_more_than_a_pool_has_is_refused():
    with pytest.raises(BadInput, match="27 more images are asked for, and the pool has 26 left"):
        queries.random(known(), 27, rng())


def test_a_detector_flags_what_is_near_earlier_questions_in_whatever_batches():
    images = np.concatenate([POOL, POOL[:1] + 0.01 * DRAW.random((12, 2, 3, 1)), POOL[5:6]]).astype(np.float32)
    flat = images.reshape(len(images), -1).astype(np.float64)
    apart = np.linalg.norm(flat[:, None] - flat, axis=-1)
    near = [np.sort(apart[i, max(0, i - 20) : i])[:3].mean() if i >= 3 else np.inf for i in range(len(images))]
    wanted = np.array(near) < 0.05
    assert 5 < wanted.sum() < 13
    for size in (1, 7, 43):
        detector = Nearby(0.05, neighbours=3, last=20)
        said = np.concatenate([detector(images[at : at + size]) for at in range(0, len(images), size)])
        np.testing.assert_array_equal(said, wanted)
        assert (detector.asked, detector.flagged) == (len(images), wanted.sum())
    honest = DRAW.random((400, 2, 3, 1)).astype(np.float32)
    assert 0 < Nearby(calibrated(honest, share=0.05))(honest).mean() <= 0.05

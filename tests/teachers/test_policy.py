"""What each policy says, from the formula, and what its client reads out of it."""

import numpy as np
import pytest

from kdjax.teachers.serving.policy import POLICIES, policy
from kdjax.types import BadInput

LOGITS = np.log(np.array([[0.1, 0.2, 0.7], [0.004, 0.9, 0.096]], np.float32)) + np.float32(3)
P = np.exp(LOGITS.astype(np.float64)) / np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True)
IMAGES = np.arange(8, dtype=np.float32).reshape(2, 4) / 8
ALL = ("soft", "logits", "top_k(2)", "hard", "rounded(2)", "smoothed(0.3)", "noisy(0.5)")


def test_every_policy_is_tried_here():
    assert POLICIES.names() == sorted(text.partition("(")[0] for text in ALL)


def test_what_is_said():
    said = {text: policy(text).answer(LOGITS, IMAGES, b"") for text in ALL}
    np.testing.assert_allclose(said["soft"]["probabilities"], P, rtol=1e-5)
    np.testing.assert_array_equal(said["logits"]["logits"], LOGITS)
    np.testing.assert_array_equal(said["hard"]["classes"], [2, 1])
    np.testing.assert_array_equal(said["top_k(2)"]["classes"], [[2, 1], [1, 2]])
    np.testing.assert_allclose(said["top_k(2)"]["probabilities"], [[0.7, 0.2], [0.9, 0.096]], rtol=1e-5)
    np.testing.assert_allclose(said["rounded(2)"]["probabilities"], [[0.1, 0.2, 0.7], [0.0, 0.9, 0.1]], atol=1e-7)
    np.testing.assert_allclose(said["smoothed(0.3)"]["probabilities"], 0.7 * P + 0.1, rtol=1e-5)
    assert {column.dtype.str for answer in said.values() for column in answer.values()} == {"<f4", "<i4"}


def read(text):
    return policy(text).read(policy(text).answer(LOGITS, IMAGES, b""), 2, 3)


def test_what_is_read():
    np.testing.assert_array_equal(read("logits"), LOGITS)
    np.testing.assert_allclose(np.exp(read("soft")), P, rtol=1e-5)
    np.testing.assert_allclose(np.exp(read("hard")), [[0, 0, 1], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(np.exp(read("smoothed(0.3)")), 0.7 * P + 0.1, rtol=1e-5)
    # What was not said is spread over the other classes: here there is one.
    np.testing.assert_allclose(np.exp(read("top_k(2)")), P, rtol=1e-4)
    np.testing.assert_allclose(np.exp(read("top_k(3)")), P, rtol=1e-4)
    np.testing.assert_allclose(np.exp(read("top_k(1)"))[0], [0.15, 0.15, 0.7], rtol=1e-4)
    # 0.00 is read as a quarter of 0.01, and all is brought to a sum of 1.
    np.testing.assert_allclose(np.exp(read("rounded(2)"))[1], np.array([0.0025, 0.9, 0.1]) / 1.0025, rtol=1e-5)


def test_noise_belongs_to_an_image_and_has_its_size():
    images = np.random.default_rng(0).random((500, 4)).astype(np.float32)
    logits = np.tile(LOGITS[:1], (500, 1))
    one, other = (policy("noisy(0.5)").answer(logits, images, s)["probabilities"] for s in (b"a", b"b"))
    again = policy("noisy(0.5)").answer(logits[7:9], images[7:9], b"a")["probabilities"]
    np.testing.assert_array_equal(again, one[7:9])
    assert not np.allclose(one, other)
    apart = np.log(one[:, 0] / one[:, 1])  # the difference of two logits: its noise has sd 0.5 sqrt(2)
    assert abs(apart.mean() - np.log(0.5)) < 0.1
    assert abs(apart.std() / (0.5 * np.sqrt(2)) - 1) < 0.1


GOOD = np.array([[0.1, 0.2, 0.7]], np.float32)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("soft", {"probabilities": np.array([[0.1, 0.2, 0.6]], np.float32)}),
        ("soft", {"probabilities": np.array([[np.nan, 0.3, 0.7]], np.float32)}),
        ("soft", {"probabilities": np.array([[-0.1, 0.4, 0.7]], np.float32)}),
        ("soft", {"probabilities": GOOD[:, :2]}),
        ("soft", {"probabilities": np.concatenate([GOOD, GOOD])}),
        ("soft", {"logits": GOOD}),
        ("soft", {"probabilities": GOOD, "logits": GOOD}),
        ("soft", {"probabilities": np.array([[0, 0, 1]])}),
        ("noisy(1.0)", {"probabilities": np.array([[0.1, 0.2, 0.6]], np.float32)}),
        ("rounded(3)", {"probabilities": np.array([[0.1, 0.2, 0.69]], np.float32)}),
        ("logits", {"logits": np.array([[1.0, np.inf, 0.0]], np.float32)}),
        ("logits", {"logits": np.array([[1.0, 1e300, 0.0]])}),
        ("hard", {"classes": np.array([3])}),
        ("hard", {"classes": np.array([-1])}),
        ("hard", {"classes": np.array([1.0])}),
        ("top_k(2)", {"probabilities": GOOD[:, :2], "classes": np.array([[1, 1]])}),
        ("top_k(2)", {"probabilities": np.array([[0.7, 0.5]], np.float32), "classes": np.array([[1, 2]])}),
        # Three classes: what is left out would be likelier than what is told.
        ("top_k(2)", {"probabilities": np.array([[0.2, 0.1]], np.float32), "classes": np.array([[0, 1]])}),
        ("top_k(1)", {"probabilities": np.array([[0.2]], np.float32), "classes": np.array([[0]])}),
        ("top_k(3)", {"probabilities": np.array([[0.1, 0.1, 0.1]], np.float32), "classes": np.array([[0, 1, 2]])}),
    ],
)
def test_what_the_policy_cannot_have_said_is_refused(text, columns):
    with pytest.raises(BadInput, match=r"the service('s probabilities| answers).*accepted"):
        policy(text).read(columns, 1, 3)


def test_two_decimals_may_miss_a_sum_of_one():
    thirds = np.full((1, 30), 0.03, np.float32)  # of 1/30 each
    assert np.isfinite(policy("rounded(2)").read({"probabilities": thirds}, 1, 30)).all()
    with pytest.raises(BadInput, match="sum to 1"):
        policy("soft").read({"probabilities": thirds}, 1, 30)


@pytest.mark.parametrize(
    "text",
    ["top_k(0)", "rounded(0)", "rounded(7)", "noisy(0.0)", "smoothed(0)", "smoothed(1)", "soft(1)", "softt", "policy"],
)
def test_settings_that_do_not_fit_are_refused_where_they_stand(text):
    with pytest.raises(BadInput, match=r"policy, column 1: .*accepted"):
        policy(text)

"""Metrics against numbers worked out by hand, and laws."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.evaluation.answers import decided
from kdjax.evaluation.classification import calibration_error, classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.evaluation.paired import paired_difference
from kdjax.losses import response
from kdjax.types import BadInput, NotNumbers

P = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4]])
LABELS = np.array([0, 1, 0, 2])


def test_every_score_by_hand():
    # Predicted 0, 1, 1, 0; right on the first two.
    s = classification(np.log(P), LABELS)
    assert s["accuracy"] == 0.5
    assert s["errors"] == 2
    assert s["examples"] == 4
    assert s["precision"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert s["recall"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert s["f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert s["nll"] == pytest.approx(-np.log([0.6, 0.7, 0.1, 0.4]).mean())
    # Fifteen bins of width 1/15: the four confidences .6, .7, .8, .5 fall into four different ones.
    assert s["ece"] == pytest.approx((0.4 + 0.3 + 0.8 + 0.5) / 4)


def test_calibration_is_zero_when_confidence_is_the_accuracy():
    logits = np.log(np.tile([[0.75, 0.25]], (4, 1)))
    assert calibration_error(logits, np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-12)
    assert calibration_error(logits, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


def test_two_examples_in_one_bin_are_averaged_before_the_gap():
    logits = np.log(np.array([[0.96, 0.04], [0.94, 0.06]]))
    assert calibration_error(logits, np.array([0, 1])) == pytest.approx(abs(0.5 - 0.95))


def test_scores_do_not_change_with_a_constant_added_or_the_order():
    rng = np.random.default_rng(0)
    logits, labels, order = rng.normal(size=(50, 5)), rng.integers(0, 5, 50), rng.permutation(50)
    a, b = classification(logits, labels), classification(logits[order] + 7, labels[order])
    assert a == pytest.approx(b)


def test_a_perfect_student_has_full_agreement_and_no_divergence():
    logits = np.random.default_rng(0).normal(size=(20, 4))
    assert fidelity(logits + 3, logits) == pytest.approx({"agreement": 1.0, "teacher_kl": 0.0}, abs=1e-12)


def test_the_divergence_is_from_the_teacher():
    one, other = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    assert fidelity(other, one)["teacher_kl"] == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    assert fidelity(one, other)["teacher_kl"] == pytest.approx(0.5 * np.log(5 / 9) + 0.5 * np.log(5))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = [paired_difference(rng.normal(1.0, 2.0, 5), np.zeros(5)) for _ in range(2000)]
    covered = np.mean([d["low"] <= 1.0 <= d["high"] for d in draws])
    assert 0.93 < covered < 0.97


def test_pairing_removes_what_the_seeds_share():
    shared = np.array([0.0, 10.0, -5.0, 3.0])
    d = paired_difference(shared + np.array([1.0, 1.1, 0.9, 1.0]), shared)
    assert d["low"] > 0.8
    assert d["high"] < 1.2


@pytest.mark.parametrize("lengths", [(1, 1), (3, 2)])
def test_too_few_or_unequal_runs_are_refused(lengths):
    with pytest.raises(BadInput, match=f"a has {lengths[0]} runs and b has {lengths[1]}"):
        paired_difference([0.0] * lengths[0], [0.0] * lengths[1])


def test_no_examples_are_refused():
    with pytest.raises(BadInput, match="at least one"):
        classification(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_are_refused(label):
    with pytest.raises(BadInput, match=f"labels run from .*{label}"):
        classification(np.zeros((2, 3)), np.array([0, label]))


Z = np.log(P)
SCORES = {
    "classification": lambda logits: classification(logits, LABELS),
    "calibration_error": lambda logits: calibration_error(logits, LABELS),
    "fidelity, student": lambda logits: fidelity(logits, Z),
    "fidelity, teacher": lambda logits: fidelity(Z, logits),
    "decided": decided,
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_numbers_are_refused_and_counted(score, value):
    for rows in ([2], [1, 3], [0, 1, 2, 3]):
        damaged = Z.copy()
        damaged[rows, 1] = value
        with pytest.raises(
            NotNumbers, match=rf"{len(rows)} of 4 examples are not numbers, the first is row {rows[0]}: \["
        ):
            SCORES[score](damaged)
    silent = Z.copy()
    silent[3] = -np.inf  # argmax would say class 0
    with pytest.raises(NotNumbers, match=r"1 of 4 examples are not numbers, the first is row 3: \[-inf, -inf, -inf\]"):
        SCORES[score](silent)


@pytest.mark.parametrize("score", SCORES)
def test_every_real_type_gives_the_same_scores(score):
    rounded = np.round(8 * Z) / 8  # numbers that every type has
    expected = SCORES[score](rounded)
    for kind in (np.float32, np.float16, jnp.bfloat16):
        np.testing.assert_equal(SCORES[score](rounded.astype(kind)), expected)


LOGITS_THAT_DO_NOT_FIT = [Z[0], Z[None], Z[..., None], np.zeros((0, 3)), np.zeros((4, 0)), Z + 0j, Z.astype(str)]


@pytest.mark.parametrize("score", [name for name in SCORES if name != "decided"])
@pytest.mark.parametrize("logits", LOGITS_THAT_DO_NOT_FIT, ids=lambda x: f"{x.shape} {x.dtype}")
def test_logits_of_another_rank_or_type_are_refused(score, logits):
    with pytest.raises(BadInput, match=r"has shape \(.*; accepted: real numbers \[N, K\], at least one example"):
        SCORES[score](logits)


@pytest.mark.parametrize("score", [classification, calibration_error])
@pytest.mark.parametrize(
    "labels",
    [LABELS[:, None], LABELS[None], LABELS[:3], LABELS[:1], np.array(0), LABELS.astype(float), np.eye(3)[LABELS],
     np.eye(3, dtype=int)[LABELS], LABELS > 0],
    ids=lambda x: f"{x.shape} {x.dtype}",
)  # fmt: skip
def test_labels_that_would_be_broadcast_are_refused(score, labels):
    with pytest.raises(BadInput, match=r"labels has shape .* for logits \(4, 3\); accepted: integers \[4\]"):
        score(Z, labels)


def test_one_set_of_answers_is_not_compared_with_another():
    for student, teacher in ((Z, Z[:1]), (Z[:1], Z), (Z, Z[:, :2]), (Z[:3], Z)):
        with pytest.raises(BadInput, match=r"student has shape .* and teacher .*; accepted: the same, \[N, K\]"):
            fidelity(student, teacher)


def ruled_out(*columns):
    logits = Z.copy()
    logits[:, columns] = -np.inf
    return logits


def test_a_class_that_both_sides_rule_out_adds_nothing():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 4))
    both = fidelity(*(np.concatenate([x, np.full((5, 1), -np.inf)], 1) for x in (student, teacher)))
    assert both == pytest.approx(fidelity(student, teacher))
    # As the loss, of which this is the mean at temperature 1.
    masked = [np.where([1, 1, 0, 1], x, -np.inf) for x in (student, teacher)]
    expected = response.kl(*map(jnp.asarray, masked), temperature=1.0).mean()
    assert fidelity(*masked)["teacher_kl"] == pytest.approx(float(expected), rel=1e-5)
    # What the teacher alone rules out is 0 log 0.
    assert np.isfinite(fidelity(Z, ruled_out(2))["teacher_kl"])


def test_infinite_scores_are_refused():
    with pytest.raises(
        BadInput, match="student rules out what teacher does not in 4 of 4 examples, the first is row 0"
    ):
        fidelity(ruled_out(1), Z)
    with pytest.raises(BadInput, match="logits rule out the label of 1 examples, the first is row 3"):
        classification(ruled_out(2), LABELS)


def test_a_class_that_is_ruled_out_and_no_label_changes_no_score():
    wide = np.concatenate([Z, np.full((4, 1), -np.inf)], 1)
    assert classification(wide, LABELS) == pytest.approx(classification(Z, LABELS))


@pytest.mark.parametrize(("a", "level"), [([1.0, np.nan], 0.95), ([np.inf, 1.0], 0.95), ([1.0, 2.0], 1.0)])
def test_differences_are_numbers(a, level):
    with pytest.raises(BadInput, match="accepted"):
        paired_difference(a, [0.0, 0.0], level=level)

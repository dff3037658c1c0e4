"""Metrics against numbers worked out by hand, and laws."""

import numpy as np
import pytest

from kdjax.evaluation.classification import calibration_error, classification
from kdjax.evaluation.fidelity import fidelity
from kdjax.evaluation.paired import paired_difference
from kdjax.types import BadInput

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

"""The map's arithmetic, on cells made by hand."""

import pytest

from experiments.map import gains


def cell(phase, arm, seed, accuracy, *, rate, labels=0, temperature=None, alpha=None):
    place = {"phase": phase, "width": 20, "arm": arm, "labels": labels, "seed": seed, "epochs": 3}
    soft = {} if temperature is None else {"temperature": temperature, "alpha": alpha}
    return {**place, **soft, "learning_rate": rate, "accuracy": accuracy}


CELLS = [
    # The rate is chosen by validation, whatever the test says.
    cell("choose", "alone", 0, 0.90, rate=0.1),
    cell("choose", "alone", 0, 0.80, rate=0.2),
    cell("choose", "distilled", 0, 0.70, rate=0.1, temperature=7.0, alpha=0.8),
    cell("choose", "distilled", 0, 0.75, rate=0.2, temperature=7.0, alpha=0.8),
    *[cell("test", "alone", s, a, rate=0.1) for s, a in enumerate([0.90, 0.92, 0.91])],
    *[cell("test", "alone", s, 0.99, rate=0.2) for s in range(3)],
    # Seeds out of order, to be paired by seed and not by place.
    *[
        cell("test", "distilled", s, a, rate=0.2, temperature=7.0, alpha=0.8)
        for s, a in [(2, 0.93), (0, 0.92), (1, 0.94)]
    ],
]


def test_rates_by_validation_and_gains_by_seed():
    best = gains.best_rates(CELLS)
    assert best[20, "alone", 0, None, None, 3] == 0.1
    assert best[20, "distilled", 0, 7.0, 0.8, 3] == 0.2
    (only,) = gains.gains(CELLS, best, few_alpha=1.0, all_alpha=0.8, labels=[0])
    assert only["alone"] == [0.90, 0.92, 0.91]
    assert only["distilled"] == [0.92, 0.94, 0.93]
    assert only["gain"]["mean"] == pytest.approx(0.02)
    assert only["gain"]["high"] - only["gain"]["low"] == pytest.approx(0, abs=1e-12)
    assert gains.sign(only) == "+"
    assert "(the notebook's cell)" in gains.table([only])


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 0.2, "+"), (-0.2, -0.1, "-"), (-0.1, 0.1, "0")])
def test_the_sign_is_the_intervals(low, high, sign):
    assert gains.sign({"gain": {"low": low, "high": high}}) == sign

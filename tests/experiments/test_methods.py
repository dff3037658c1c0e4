"""The table of methods: every loss is in it, every method fits the flags; a comparison says what it counted."""

import json

import numpy as np
import pytest

from experiments.methods import report
from kdjax.models.create import create
from kdjax.study import methods
from kdjax.study.compare import Compared
from kdjax.types import BadInput
from tests.study.studies import study_of

SHAPE = {"num_classes": 10, "image_shape": (16, 16, 1)}


def test_every_loss_belongs_to_a_method_and_names_are_told_apart():
    assert methods.missing() == set()
    assert len({methods.slug(name) for name in methods.METHODS}) == len(methods.METHODS)
    with pytest.raises(BadInput, match=r"'fitnett' is no method.*did you mean fitnet\?"):
        methods.named("kd,fitnett")
    with pytest.raises(BadInput, match="names kd twice"):
        methods.named("kd,kd")


@pytest.fixture(scope="module")
def arms():
    config = methods.Flags(methods="all", batch_size=10)
    study = study_of(SHAPE, 100)
    student, teacher = (create("cnn", **SHAPE, hidden=(4, 6, 6)) for _ in range(2))
    found, unfit = methods.arms(config, study, student, teacher, examples=100)
    assert not unfit
    return found


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_is_a_plan_whose_weights_carry_the_factor(name, arms):
    method, arm = methods.METHODS[name], arms[name]
    assert sum(stage.epochs for stage in arm.stages) == 30
    assert len(arm.stages) == (2 if method.first else 1)
    first = arm.hparams(10.0)[0]
    weights = {k.rpartition("@")[0] or k: v for k, v in first.items() if k == "alpha" or k.startswith("weight/")}
    wanted = {"alpha" if k.startswith("response.") else f"weight/{k}": 10 * v for k, v in method.losses.items()}
    if factors := {"feature.ft", "feature.ft_crd"}.intersection(
        method.losses
    ):  # first the paraphraser learns of the teacher alone, and only then the student
        (loss,) = factors
        assert weights[f"weight/{loss}"] == 0
        assert weights["weight/paraphraser"] == 1
        held = [v for k, v in arm.hparams(10.0)[1].items() if k.startswith(f"weight/{loss}")]
        assert held == [10 * method.losses[loss]]
    else:
        assert weights == pytest.approx({"alpha": 0.0, **wanted})
    if name == "SP":  # as its paper and its weight want it: the last maps, not the embeddings
        assert "weight/relation.sp@block3=block3" in first
    assert first["label_weight"] == (0 if method.first else method.labels)
    assert arm.hparams(10.0)[-1]["label_weight"] == method.labels


def test_a_method_in_stages_compares_layers():
    for name, method in methods.METHODS.items():
        assert not method.first or method.layers, name


def test_the_report_counts_what_beats_ties_and_falls_behind(tmp_path, capsys):
    noise = np.array([0.0, 0.01, -0.01])

    def scores(mean, jitter=0.0):
        found = mean + noise + jitter * np.array([1, -1, 0])
        return [{"accuracy": float(a), "nll": 0.5, "best_epoch": float(a) + 0.01, "choice": 1.0} for a in found]

    results = {
        "teacher": [{"accuracy": 0.95, "nll": 0.2}] * 3,
        "alone": scores(0.8),
        "good": scores(0.85, 0.001),
        "bad": scores(0.7, 0.001),
        "same": scores(0.801, 0.01),
    }
    report.report(tmp_path, Compared(results, {}), {"odd": "no maps"}, title="t", alone="alone")
    text = capsys.readouterr().out
    assert "Of 3 methods 1 beat the alone, 1 tie, 1 fall behind" in text
    assert "Not run: odd: no maps" in text
    order = [line.split("|")[1].strip() for line in text.splitlines()[2:7]]
    assert order == ["teacher", "good", "same", "alone", "bad"]
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["good minus alone"]["low"] > 0 > saved["bad minus alone"]["high"]
    assert (tmp_path / "methods.png").read_bytes()[:4] == b"\x89PNG"

"""The comparison of methods: every method fits the flags, carries the factor, and the report says what it counted."""

import json

import numpy as np
import pytest

from experiments.methods import report
from kdjax.methods import FAMILY
from kdjax.models.create import create
from kdjax.study import methods
from kdjax.study.compare import Compared
from kdjax.types import BadInput
from tests.study.studies import study_of

SHAPE = {"num_classes": 10, "image_shape": (16, 16, 1)}


def test_names_are_told_apart():
    names = methods.named("all")
    assert list(names) == FAMILY.names()
    assert len({methods.slug(name) for name in names}) == len(names)
    assert methods.slug("kd(temperature=2)") != methods.slug("kd(temperature=4)") != methods.slug("kd")
    with pytest.raises(BadInput, match=r"methods, column 5: read the name fitnett;.*did you mean fitnet\?"):
        methods.named("kd, fitnett")
    for twice in ("kd, kd", "kd, kd()", "kd(temperature=2), kd(temperature=2)"):
        with pytest.raises(BadInput, match="names one twice"):
            methods.named(twice)


@pytest.fixture(scope="module")
def planned():
    config = methods.Flags(methods="all", batch_size=10)
    student, teacher = (create("cnn", **SHAPE, hidden=(4, 6, 6)) for _ in range(2))
    found, unfit = methods.arms(config, study_of(SHAPE, 100), student, teacher, examples=100)
    assert not unfit
    return found


def weights(arm, hparams):
    """What the labels weigh, and what all else does: a schedule's highest number."""
    kinds = arm.stages[0].plan.kinds
    found = {place: max(v for n, v in hparams.items() if n.startswith(place) and ".share" not in n) for place in kinds}
    labels = [place for place, kind in kinds.items() if kind == "labels"]
    return sum(found.pop(place) for place in labels), found


@pytest.mark.parametrize("name", FAMILY.names())
def test_every_methods_weights_carry_the_factor_and_its_labels_do_not(name, planned):
    arm = planned[name]
    first, plain, last = arm.hparams(10.0)[0], arm.hparams(1.0)[0], arm.hparams(10.0)[-1]
    staged = arm.method.first > 0
    assert sum(stage.epochs for stage in arm.stages) == 30
    assert len(arm.stages) == 1 + staged
    labels, own = weights(arm, first)
    once, alone = weights(arm, plain)
    assert own == pytest.approx({place: 10 * x for place, x in alone.items()})
    assert last.keys() >= {place for place in first if "weight" in place}
    said = arm.stages[-1].plan.hparams
    taught = {place: x for place, x in said.items() if place.startswith("labels")}
    assert {place: last.get(place) for place in taught} == taught
    assert labels == once == (0 if staged else sum(taught.values()))
    if name in ("ft", "ft_crd"):  # first the paraphraser learns of the teacher alone, and only then the student
        assert set(own.values()) == {0}
        assert weights(arm, last)[1] == {f"feature.{name}(final).weight": 5000 if name == "ft" else 2000}
    elif staged:  # layers first, and then labels alone
        assert min(own.values()) > 0
        assert set(weights(arm, last)[1].values()) == {0}
    else:
        assert min(own.values()) > 0
    if name == "sp":  # as its paper and its weight want it: the last maps, not the embeddings
        assert arm.stages[0].plan.named == (("block3", "block3"),)


def test_a_method_in_stages_compares_layers(planned):
    for name, arm in planned.items():
        assert not arm.method.first or arm.stages[0].plan.compares_layers, name


def test_a_method_that_needs_other_layers_is_left_out_of_all_and_refused_by_name():
    student, teacher = (create("cnn", **SHAPE, hidden=hidden) for hidden in ((4, 4, 4), (4, 4)))
    study = study_of(SHAPE, 100)
    found, unfit = methods.arms(methods.Flags(batch_size=10), study, student, teacher, examples=100)
    assert {"fsp", "at", "review"} <= unfit.keys()
    assert {"kd", "rkd", "crd"} <= found.keys()
    assert "the student has 3 layers to count and the teacher 2" in unfit["fsp"]
    assert found.keys() | unfit.keys() == set(FAMILY.names())
    with pytest.raises(BadInput, match="3 layers to count"):
        methods.arms(methods.Flags(methods="kd, fsp", batch_size=10), study, student, teacher, examples=100)


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
    report.report(tmp_path, Compared(results, {"arms": {}, "rows": {}}), {"odd": "no maps"}, title="t", alone="alone")
    text = capsys.readouterr().out
    assert "Of 3 methods 1 beat the alone, 1 tie, 1 fall behind" in text
    assert "Not run: odd: no maps" in text
    order = [line.split("|")[1].strip() for line in text.splitlines()[2:7]]
    assert order == ["teacher", "good", "same", "alone", "bad"]
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["good minus alone"]["low"] > 0 > saved["bad minus alone"]["high"]
    assert (tmp_path / "methods.png").read_bytes()[:4] == b"\x89PNG"

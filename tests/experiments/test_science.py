"""The science of every experiment: who learns from whom, which split chooses, what differs, what is compared.

Laws hold over all experiments, each run once at its smallest (`studies.ran`); chains, controls and choices are then
looked at one by one, in what networks were really given and not only in what results.json says of it.
"""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest
from scipy.special import softmax

from experiments import hinton2015
from experiments.ensemble import __main__ as ensemble
from experiments.methods import __main__ as methods
from kdjax.data.source import hide_labels, labelled
from kdjax.evaluation.fidelity import fidelity
from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.study import networks, students
from kdjax.study.compare import Arm, Done, Given, Lineage, Pair, Trainer, scored
from kdjax.study.data import Common, open_study
from kdjax.study.provenance import provenance
from kdjax.types import BadInput
from tests.experiments.laws import Laws, close
from tests.experiments.studies import SEEDS, TRAINING, ran, run, says, smallest
from tests.study.test_page import Reader

ELSEWHERE = {"extract": "extraction", "robust": "robust", "transfer": "transfer"}
"""Whose laws stand in a file of its own tests, test_NAME, which look at the same run."""


class TestLaws(Laws):
    experiments = tuple(name for name in TRAINING if name not in ELSEWHERE)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_laws_are_there(name):
    there = importlib.import_module(f"tests.experiments.test_{ELSEWHERE[name]}")
    assert there.TestLaws.experiments == (name,)
    assert issubclass(there.TestLaws, Laws)


def test_an_arm_sees_the_networks_that_its_lineage_names_and_no_others(tmp_path):
    config = Common(seeds=1, train_split="train[:100]", validation_split="")
    study = open_study(config, tmp_path)
    model = create("mlp", **study.shape, hidden=(4,))
    recipe, rate = supervised(model), {"learning_rate": 0.1}

    def peeks(done):
        return Given(study.train.with_column("teacher_logits", done.answers("teacher", study.train)))

    teacher = Arm("teacher", model, recipe, 1, rate, Lineage("labels"))
    trainer, done = Trainer(study, tmp_path), Done(study, 0)
    trainer.train(teacher, done)
    trainer.train(Arm("honest", model, recipe, 1, rate, Lineage("labels", ("teacher",)), peeks), done)
    with pytest.raises(KeyError, match="teacher"):
        trainer.train(Arm("peeking", model, recipe, 1, rate, Lineage("labels"), peeks), done)
    with pytest.raises(BadInput, match="a pair names 'nobody'; accepted: teacher"):
        scored(study, tmp_path, [teacher], pairs=[Pair("nobody", "teacher")])


def taught(name, student, teacher, seed, rows=slice(None)):
    """Whether a run was given a network's answers, computed here anew."""
    found = ran(name)
    given = found.runs[f"{student}/seed-{seed}"].source.arrays
    said = found.answers(f"{teacher}/seed-{seed}", given["inputs"])
    return np.allclose(given["teacher_logits"], said, atol=1e-4)


CHAINS = {
    "assistants": {
        "direct": "teacher",
        "assistant-1": "teacher",
        "assistant-2": "assistant-1",
        "assisted": "assistant-2",
    },
    "generations": {f"generation-{k}": f"generation-{k - 1}" if k > 1 else "alone-0" for k in (1, 2, 3)},
    "distill": {"distilled": "teacher"},
    "specialists": {"distilled-generalist": "generalist"},
    "domains": {"student-big": "big"},
}


@pytest.mark.parametrize("name", CHAINS)
def test_students_were_given_the_answers_of_the_teacher_that_they_name(name):
    by_run = {arm["run"]: arm for arm in ran(name).results["arms"].values()}
    names = {arm["run"]: arm_name for arm_name, arm in ran(name).results["arms"].items()}
    for student, teacher in CHAINS[name].items():
        assert by_run[student]["teachers"] == [names[teacher]]
        for seed in range(SEEDS):
            assert taught(name, student, teacher, seed), student
            others = {run for run in by_run if f"{run}/seed-0" in ran(name).runs} - {teacher, student}
            same = [run for run in others if by_run[run]["start"] == "fresh" and not run.startswith(("expert", "gate"))]
            assert not any(taught(name, student, other, seed) for other in same)


def test_layers_are_compared_with_the_teachers_in_the_right_order_and_the_controls_in_the_wrong_one():
    found = ran("layers")
    arms = found.results["arms"]
    right = [["hidden1", "hidden2"], ["hidden2", "hidden4"], ["hidden3", "hidden6"]]
    wrong = [[student, teacher] for (student, _), (_, teacher) in zip(right, right[::-1], strict=True)]
    assert {name: arm["facts"].get("layers", []) for name, arm in arms.items()} == {
        "teacher": [], "student alone": [], "answers": [], "layers": right, "answers + layers": right,
        "answers + wrong layers": wrong,
    }  # fmt: skip
    for seed in range(SEEDS):
        one = found.runs[f"answers-and-wrong-layers/seed-{seed}"]
        assert close(one.frozen, found.runs[f"teacher/seed-{seed}"].last)
        compared = {f"feature.hint({a}, {b})" if a != b else f"feature.hint({a})" for a, b in wrong}
        assert {key for key in one.first["connectors"] if key.startswith("feature.hint")} == compared


def test_peers_of_a_cohort_learn_from_each_other_by_a_weight_and_by_nothing_else():
    found = ran("mutual")
    alone, mutual = (found.results["arms"][f"cohort, {role}"]["hparams"] for role in ("alone", "mutual"))
    assert alone == {**mutual, "weight": 0}
    assert mutual["weight"] == found.config.weight > 0


def test_fidelity_is_that_of_the_saved_networks_from_the_teacher_to_the_student():
    found = ran("distill")
    test = open_study(found.config, found.workdir).test
    teacher = networks.load_network(str(found.workdir), flag="teacher")
    for role in ("alone", "distilled"):
        student = networks.load_network(str(found.workdir), flag="student", role=role)
        for seed in range(SEEDS):
            said = [says(n.model, n.weights[seed], test.arrays["inputs"]) for n in (student, teacher)]
            wanted, turned = fidelity(*said), fidelity(*said[::-1])
            told = found.results[f"student {role}"][seed]
            assert told["teacher_kl"] == pytest.approx(wanted["teacher_kl"], rel=1e-4)
            assert told["agreement"] == wanted["agreement"]
            assert wanted["teacher_kl"] != pytest.approx(turned["teacher_kl"], rel=1e-3)


def test_fidelity_to_several_teachers_is_from_their_mean_to_the_student():
    found = ran("ensemble")
    image = open_study(found.config, found.workdir).test.arrays["inputs"]
    for seed in range(SEEDS):
        shares = [softmax(found.answers(f"teacher-{t}/seed-{seed}", image), axis=-1) for t in range(3)]
        mean, said = np.log(np.mean(shares, 0)), found.answers(f"alone/seed-{seed}", image)
        told = found.results["student alone"][seed]["teacher_kl"]
        assert told == pytest.approx(fidelity(said, mean)["teacher_kl"], rel=1e-4)
        assert told != pytest.approx(fidelity(mean, said)["teacher_kl"], rel=1e-3)


ROWS = {
    "mutual": {f"{who}, {role}": [f"cohort, {role}"] for who in ("peer", "ensemble") for role in ("alone", "mutual")},
    "generations": {
        **{name: [name] for name in (*(f"generation {k}" for k in range(4)), *(f"alone {k}" for k in (1, 2, 3)))},
        "ensemble of generations": [f"generation {k}" for k in range(4)],
        "ensemble alone": ["generation 0", "alone 1", "alone 2", "alone 3"],
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_several_networks_are_of_those_that_they_name(name):
    """An arm's scores are asked of these alone, so rows that are exchanged fail."""
    assert ran(name).results["rows"] == ROWS[name]


def test_a_student_distilled_from_a_teacher_that_knows_beats_one_alone_by_a_positive_difference():
    """Computed anew from each seed's accuracy, and printed with its sign."""
    found = ran("distill")
    accuracy = {role: [s["accuracy"] for s in found.results[f"student {role}"]] for role in ("distilled", "alone")}
    mean = np.mean(accuracy["distilled"]) - np.mean(accuracy["alone"])
    assert abs(mean) > 1e-3
    assert found.results["distilled minus alone"]["mean"] == pytest.approx(mean)
    assert f"distilled minus alone: {100 * mean:+.2f} points" in (found.workdir / "table.md").read_text()


def test_the_best_single_teacher_is_the_best_on_validation_and_is_followed():
    found = ran("ensemble")
    validation = open_study(found.config, found.workdir).validation
    assert any(row["teacher"] != 1 for row in found.results["best single teacher"]), "it could be the first at each"
    for seed, row in enumerate(found.results["best single teacher"]):
        runs = [f"teacher-{t}/seed-{seed}" for t in range(3)]
        right = [
            float((found.answers(r, validation.arrays["inputs"]).argmax(-1) == validation.labels()).mean())
            for r in runs
        ]
        assert row["validation accuracy of teachers"] == pytest.approx(right)
        assert len(set(right)) == 3
        assert row["teacher"] == np.argmax(right) + 1
        best = found.runs[f"best/seed-{seed}"].source.arrays
        said = found.answers(runs[int(np.argmax(right))], best["inputs"])
        np.testing.assert_allclose(best["teacher_logits"], said, atol=1e-4)
    assert found.results["arms"]["best single teacher"]["chosen_on"] == "validation"


def shuffled(study):
    label = np.random.default_rng(0).permutation(study.test.labels())
    return dataclasses.replace(study, test=study.test.with_column("label", label))


def test_choices_do_not_move_with_the_labels_of_the_test_split(monkeypatch):
    plain, opened = ran("methods").results, methods.open_study
    monkeypatch.setattr(methods, "open_study", lambda *args: shuffled(opened(*args)))
    moved = run("methods", methods="kd").results
    for name in ("student alone", "kd"):
        assert [s["choice"] for s in moved[name]] == [s["choice"] for s in plain[name]]
        assert moved["arms"][name]["choices"] == plain["arms"][name]["choices"]
        assert moved[name] != plain[name]
        choices = plain["arms"][name]["choices"]
        assert float(max(choices, key=choices.get)) == plain[name][0]["choice"]
    opened_there = ensemble.open_study
    monkeypatch.setattr(ensemble, "open_study", lambda *args: shuffled(opened_there(*args)))
    known = [row["teacher"] for row in ran("ensemble").results["best single teacher"]]
    found = run("ensemble", arms="mean_probability", epochs=1)
    assert [row["teacher"] for row in found.results["best single teacher"]] == known
    for seed, number in enumerate(known):
        given = found.runs[f"best/seed-{seed}"].source.arrays
        said = found.answers(f"teacher-{number - 1}/seed-{seed}", given["inputs"])
        np.testing.assert_allclose(given["teacher_logits"], said, atol=1e-4)


def test_the_maps_pairs_and_the_split_that_chose_its_rates():
    found = ran("map").results
    assert [(p["first"], p["minus"]) for p in found["pairs"]] == [("distilled", "alone")]
    assert {found["arms"][name]["chosen_on"] for name in found["rows"]["cells"]} == {"the last 300 of train"}
    assert found["arms"]["distilled"]["teachers"] == ["teacher"]
    assert found["arms"]["chooser"]["source"] == "all labels but those of the last 300 of train"
    for cell in found["cells"]:
        assert cell["gain"]["mean"] == pytest.approx(np.mean(cell["distilled"]) - np.mean(cell["alone"]))


def test_results_say_where_they_come_from():
    found = ran("distill")
    told = json.loads((found.workdir / "provenance.json").read_text())
    assert told["seeds"] == list(range(SEEDS))
    assert told.keys() == provenance(found.workdir).keys()
    assert told["versions"]["jax"] == jax.__version__
    assert told["devices"] == jax.device_count()
    assert told["seconds"] > 0
    assert told["commit"] is None or len(told["commit"]) == 40


def test_a_run_leaves_one_page_with_its_command_table_networks_and_pictures():
    workdir = ran("distill").workdir
    found = Reader((workdir / "report.html").read_text())
    assert found.open == []
    said = " ".join(text for _, text in found.texts)
    source = json.loads((workdir / "provenance.json").read_text())
    assert source["command"] in said
    results = json.loads((workdir / "results.json").read_text())
    for role in ("teacher", "student alone", "student distilled"):
        assert f"{results[role][0]['parameters']:,}" in said
        assert f"{4 * results[role][0]['parameters']:,}" in said  # bytes, float32
    assert ("th", "seconds an epoch") in found.texts
    assert found.texts.count(("td", "–")) == 2  # the teacher's agreement with itself: every network was timed
    for heading in ("Results", "Networks of the first seed", "Confusions", "Soft labels at temperature 4", "Files"):
        assert ("h2", heading) in found.texts
    assert len(found.pictures) == 10  # of test images; figures are not drawn in this run
    assert all(picture.startswith("data:image/png;base64,") for picture in found.pictures)
    assert {"table.md", "results.json"} <= set(found.links)
    assert all((workdir / link).exists() for link in found.links)


def test_images_without_a_label_are_seen_by_those_that_say_so():
    """Student alone has the labelled images; whoever distils has all, with the labels that there are."""
    found = ran("assistants")
    study = open_study(found.config, found.workdir)
    for seed in range(SEEDS):
        images = hide_labels(study.train, found.config.labels, seed)
        alone, direct = (found.runs[f"{run}/seed-{seed}"].source for run in ("alone", "direct"))
        np.testing.assert_array_equal(alone.labels(), labelled(images).labels())
        np.testing.assert_array_equal(direct.labels(), images.labels())
    assert students.seen(0) == "all labels"


class Arms(Exception):
    """What would be trained."""


def test_hintons_teacher_and_students_are_given_their_own_numbers(tmp_path, monkeypatch):
    def stop(study, workdir, arms, *_):
        raise Arms({arm.name: arm for arm in arms})

    monkeypatch.setattr(hinton2015.compare, "scored", stop)
    given = {"teacher_learning_rate": 0.5, "learning_rate": 0.25, "alpha": 0.75, "teacher_input_dropout": 0.125}
    with pytest.raises(Arms) as found:
        hinton2015.main(smallest("hinton2015", tmp_path, **given), tmp_path)
    (arms,) = found.value.args
    teacher = arms.pop("teacher, jittered")
    assert teacher.hparams == {"learning_rate": 0.5}
    assert json.loads((tmp_path / "model.json").read_text())["input_dropout"] == 0.125
    assert arms.keys() > {"student alone", "distilled", "distilled, no 3 in transfer"}
    assert all(arm.hparams == {"learning_rate": 0.25, "temperature": 20.0, "alpha": 0.75} for arm in arms.values())


def test_hintons_run_leaves_its_curves_and_its_teacher():
    folder = ran("hinton2015").workdir
    left = {f.name for f in folder.iterdir()}
    assert left >= {"metrics.jsonl", "tensorboard", "checkpoints", "curves.png", "comparison.png", "model.json"}
    assert list(folder.glob("tensorboard/**/events*"))
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"

"""The science of every experiment: who learns from whom, which split chooses, what differs, what is compared.

Laws hold over all experiments, each run once at its smallest (`studies.ran`); chains, controls and choices are then
looked at one by one, in what networks were really given and not only in what results.json says of it.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

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
from tests.experiments.studies import SEEDS, TRAINING, ran, run, says, smallest, tells_of_its_networks

COMPARED = [name for name in TRAINING if name not in ("map", "sweep")]
"""What trains arms one by one; members of a population are compared in tests of their own."""
SEVERAL_SCORES = {"regression", "robust"}
"""What subtracts more than one score of each pair."""
NETWORKS_OF_A_SEED = {"specialists": "specialist-"}
"""Which classes a specialist tells apart is found anew at every seed, so these networks differ."""


def close(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def alike(a, b):
    return jax.tree.map(np.shape, a) == jax.tree.map(np.shape, b)


def numbers(found):
    """Every paired difference in results.json, by what it is called."""
    inner = {"mean", "low", "high", "n"}
    if isinstance(found, dict):
        for name, value in found.items():
            if isinstance(value, dict) and inner <= value.keys():
                yield name, value
            elif name != "pairs":
                yield from numbers(value)


@pytest.mark.parametrize("name", TRAINING)
def test_a_second_seed_traces_nothing(name):
    found = ran(name)
    own = NETWORKS_OF_A_SEED.get(name)
    assert any(run.endswith("seed-0") for run in found.traced)
    assert [r for r in found.traced if not r.endswith("/seed-0") and not (own and r.startswith(own))] == []


@pytest.mark.parametrize("name", TRAINING)
def test_every_experiment_leaves_what_it_promises(name):
    found = ran(name)
    assert {f.name for f in found.workdir.iterdir()} >= {"config.json", "results.json", "table.md", "provenance.json"}
    assert (found.workdir / "table.md").read_text() in found.printed
    tells_of_its_networks(found.results)


@pytest.mark.parametrize("name", COMPARED)
def test_every_seed_begins_at_its_own_parameters(name):
    found = ran(name)
    roles = {run.partition("/")[0] for run in found.runs if run.endswith("seed-1")}
    assert roles
    for role in roles:
        first, second = (found.runs[f"{role}/seed-{seed}"].first for seed in range(SEEDS))
        assert not (alike(first, second) and close(first, second)), role


@pytest.mark.parametrize("name", COMPARED)
def test_arms_of_a_pair_begin_alike_and_end_apart(name):
    """So a control that is its treatment, or an arm that learns what another does, fails."""
    found = ran(name)
    arms, runs = found.results["arms"], found.runs
    trained = [arm for arm in arms.values() if f"{arm['run']}/seed-1" in runs]
    for seed in range(SEEDS):
        last = [runs[f"{arm['run']}/seed-{seed}"].last for arm in trained]
        for i, one in enumerate(last):
            assert not any(alike(one, other) and close(one, other) for other in last[:i]), trained[i]
    for pair in found.results["pairs"]:
        rows = [found.results["rows"].get(pair[side], []) for side in ("first", "minus")]
        if not all(rows) or not all(arms[of[0]] in trained for of in rows):
            continue
        one, other = (arms[of[0]] for of in rows)
        if one["seeds"] == other["seeds"] and "fresh" == one["start"] == other["start"]:
            a, b = (runs[f"{arm['run']}/seed-0"].first for arm in (one, other))
            assert not alike(a, b) or close(a, b), pair


@pytest.mark.parametrize("name", COMPARED)
def test_differences_are_first_minus_second_as_named(name):
    found = ran(name)
    by_name = dict(numbers(found.results))
    for pair in found.results["pairs"]:
        first, minus = ([float(s[pair["score"]]) for s in found.results[pair[side]]] for side in ("first", "minus"))
        assert len(first) == len(minus) == SEEDS
        assert pair["difference"]["mean"] == pytest.approx(np.mean(np.subtract(first, minus)), abs=1e-12)
        assert pair["difference"]["n"] == SEEDS
        named = f"{pair['first']} minus {pair['minus']}".replace("student distilled minus student", "distilled minus")
        said = by_name.get(named) or by_name.get(pair["first"]) or by_name.get(pair["score"])
        if name not in SEVERAL_SCORES:
            assert said == pair["difference"], pair
    for pair in found.results["pairs"] if name in SEVERAL_SCORES else ():
        told = found.results[f"{pair['first']} minus {pair['minus']}"]
        assert told[pair["score"]] == pair["difference"]


@pytest.mark.parametrize("name", COMPARED)
def test_lineages_name_what_there_is_and_the_test_split_neither_teaches_nor_chooses(name):
    found = ran(name)
    before: list[str] = []
    scored = ("validation_split", "test_split")
    splits = {f.name for f in dataclasses.fields(found.config) if f.name.endswith("_split")} - set(scored)
    taught = {getattr(found.config, split) for split in splits}
    for arm, lineage in found.results["arms"].items():
        assert {*lineage["teachers"], lineage["start"]} <= {*before, "fresh"}, arm
        assert lineage["chosen_on"] in ("none", "train", "validation")
        assert lineage["split"] in taught or (lineage["split"] == "none" and lineage["source"] == "noise")
        before.append(arm)
    for row, arms in found.results["rows"].items():
        assert len(found.results[row]) in (1, SEEDS)
        assert set(arms) <= {*before, *(f"specialist-{m}" for m in range(9))}, row


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
    "assistants": {"direct": "teacher", "assistant-1": "teacher", "assisted": "assistant-1"},
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
    tiny = {"methods": "kd", "epochs": 2, "factors": (0.0, 1.0, 30.0), "learning_rates": (1e-4, 3e-3, 3e-2)}
    tiny |= {"student": "mlp(8)", "teacher": "mlp(16)"}
    plain = run("methods", **tiny).results
    opened = methods.open_study
    monkeypatch.setattr(methods, "open_study", lambda *args: shuffled(opened(*args)))
    moved = run("methods", **tiny).results
    for name in ("student alone", "kd"):
        assert [s["choice"] for s in moved[name]] == [s["choice"] for s in plain[name]]
        assert moved["arms"][name]["choices"] == plain["arms"][name]["choices"]
        assert moved[name] != plain[name]
        choices = plain["arms"][name]["choices"]
        assert float(max(choices, key=choices.get)) == plain[name][0]["choice"]
    opened_there = ensemble.open_study
    monkeypatch.setattr(ensemble, "open_study", lambda *args: shuffled(opened_there(*args)))
    known = [row["teacher"] for row in ran("ensemble").results["best single teacher"]]
    assert [row["teacher"] for row in run("ensemble").results["best single teacher"]] == known


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

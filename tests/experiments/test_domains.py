"""The study of domains: what its gates say, what its scores count, and the command, which refuses and explains."""

import json
import pkgutil
from unittest import mock

import jax
import numpy as np
import pytest

from experiments.domains import __main__ as domains
from experiments.domains import arms
from kdjax.data import domains as typed
from kdjax.data.source import Source
from kdjax.ensembles.label_spaces import LabelSpaces
from kdjax.types import BadInput
from tests.experiments.processes import smoke

DISJOINT = typed.parse("a+b")
APART = LabelSpaces(maps=((0, 1), (2, 3)), union=4)
SCALES = {"entropy": 0.3, "confidence": 0.1}


def source(label, domain, classes):
    image = np.zeros((len(label), 1, 1, 1), np.float32)
    arrays = {"inputs": image, "label": np.array(label, np.int32), "domain": np.array(domain, np.int32)}
    return Source(arrays, classes, "made up")


def together(gate, said, spaces, temperature=1.0):
    logits, share = arms.together(gate, spaces, scales=SCALES, temperature=temperature)(said)
    return np.asarray(jax.nn.softmax(logits / temperature)), share


@pytest.fixture
def said():
    """Two experts of two classes each, on two examples; the domain classifier is right about both, at odds 3 to 1."""
    sure, unsure = [np.log(4.0), 0.0], [0.0, 0.0]
    answers = [np.array([sure, unsure], np.float32), np.array([unsure, sure], np.float32)]
    odds = np.log(np.array([[3.0, 1.0], [1.0, 3.0]], np.float32))
    return arms.ExpertAnswers(source([0, 2], [0, 1], 4), answers, odds)


def test_gates_weigh_the_experts_of_disjoint_classes(said):
    p, share = together("oracle", said, APART)
    np.testing.assert_allclose(p, [[0.8, 0.2, 0, 0], [0, 0, 0.8, 0.2]], atol=1e-6)
    np.testing.assert_array_equal(share, np.eye(2))
    p, share = together("learned", said, APART)
    np.testing.assert_allclose(share, [[0.75, 0.25], [0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(p[0], [0.6, 0.15, 0.125, 0.125], atol=1e-6)
    doubt = np.array([-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), np.log(2)])
    expected = np.exp(-doubt / 0.3) / np.exp(-doubt / 0.3).sum()
    np.testing.assert_allclose(together("entropy", said, APART)[1][0], expected, atol=1e-6)
    odds = np.exp((0.8 - 0.5) / 0.1)
    np.testing.assert_allclose(together("confidence", said, APART)[1][0, 0], odds / (1 + odds), atol=1e-6)


def test_a_gated_answer_is_tempered_before_it_is_pooled(said):
    p, _ = together("oracle", said, APART, temperature=2.0)
    np.testing.assert_allclose(p[0], [2 / 3, 1 / 3, 0, 0], atol=1e-6)


def test_without_a_gate_equal_experts_are_averaged_and_overlapping_ones_unified(said):
    same = LabelSpaces(maps=((0, 1), (0, 1)), union=2)
    p, share = together("none", said, same)
    assert share is None
    np.testing.assert_allclose(p[0], [0.65, 0.35], atol=1e-6)
    # Answers of q = (.5, .3, .2): 5 to 3, and 3 to 2.
    linked = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    answers = [np.log([[5.0, 3.0]]).astype(np.float32), np.log([[3.0, 2.0]]).astype(np.float32)]
    p, share = together("none", arms.ExpertAnswers(source([0], [0], 3), answers, None), linked)
    assert share is None
    np.testing.assert_allclose(p, [[0.5, 0.3, 0.2]], atol=1e-5)


@pytest.mark.parametrize(("gate", "traced"), [("learned", "embed_all"), ("none", "unify.cross_entropy")])
def test_what_experts_say_of_a_second_seed_traces_nothing(said, gate, traced, monkeypatch):
    where, _, name = f"experiments.domains.arms.{traced}".rpartition(".")
    real = pkgutil.resolve_name(where).__dict__[name]
    counted = mock.Mock(side_effect=real)
    monkeypatch.setattr(pkgutil.resolve_name(where), name, counted)
    spaces = APART if gate == "learned" else LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    pooled = arms.together(gate, spaces, scales=SCALES, temperature=1.0)
    first = pooled(said)[0]
    second = pooled(said._replace(answers=said.answers[::-1]))[0]
    assert counted.call_count == 1
    assert not np.array_equal(first, second)


def test_no_gate_is_left_out_where_nothing_links_the_experts_and_refused_if_asked_for():
    names, note = arms.chosen("", APART)
    assert "none" not in names
    assert "No gate was left out" in note
    linked = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    assert arms.chosen("", linked) == (list(arms.GATES), "")
    assert arms.chosen("oracle,none", linked) == (["oracle", "none"], "")
    with pytest.raises(BadInput, match=r"--gates=none: no gate is not possible here.*not identifiable"):
        arms.chosen("none", APART)
    with pytest.raises(BadInput, match=r"'orcle'; accepted: oracle, .*did you mean oracle"):
        arms.chosen("orcle", APART)


def test_scores_count_by_domain_by_space_and_by_group():
    test = source([0, 1, 2, 3], [0, 0, 1, 1], 4)
    # Right; taken for class 2, and 0 among its own; right; taken for class 0, and right among its own.
    logits = np.array([[9, 0, 0, 0], [5, 0, 9, 0], [0, 0, 9, 0], [9, 0, 0, 5]], np.float32)
    found = arms.score(logits, test, DISJOINT, APART)
    assert found["union"] == 0.5
    assert found["domains"] == {"a": 0.5, "b": 0.5}
    assert found["space given"] == 0.75
    assert found["blocks"] == [[0.5, 0.5], [0.5, 0.5]]
    overlap = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    assert [g.tolist() for g in arms.groups(overlap)] == [[0], [1], [2]]
    assert [g.tolist() for g in arms.groups(LabelSpaces(maps=((0, 1), (1, 0)), union=2))] == [[0, 1]]


def test_a_gate_is_right_if_it_names_an_expert_of_the_same_images_that_knows_the_class():
    share = np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    test = source([0, 1, 0], [0, 0, 0], 3)
    overlap = LabelSpaces(maps=((0, 1), (1, 2)), union=3)
    assert arms.gate_accuracy(
        share, test, typed.parse("a(classes=(0, 1)), a(classes=(1, 2))"), overlap
    ) == pytest.approx(2 / 3)
    assert arms.gate_accuracy(
        share, test, typed.parse("a(classes=(0, 1)), b(classes=(1, 2))"), overlap
    ) == pytest.approx(1 / 3)


def test_students_see_as_many_images_of_each_domain_and_have_as_many_labels():
    whole = source([0, 1] * 15, [0] * 20 + [1] * 10, 2)
    seen = arms.transfer_set(whole, 8, 3)
    assert np.bincount(seen.arrays["domain"]).tolist() == [8, 8]
    assert len(arms.transfer_set(whole, 0, 3)) == 30
    few = arms.scarce(whole, 4, 0)
    for d in (0, 1):
        label = few.labels()[few.arrays["domain"] == d]
        assert sorted(label[label >= 0]) == [0, 0, 1, 1]
    shown = few.labels() >= 0
    np.testing.assert_array_equal(few.labels()[shown], whole.labels()[shown])


def results(oracle, few, expert, home):
    def of(union):
        return [{"union": u, "mean": u, "domains": {"a": u, "b": u}} for u in union]

    experts = {f"expert of {n}": [{**s, "domains": {"a": h, "b": h}} for s, h in zip(of(expert), home, strict=True)]
               for n in "ab"}  # fmt: skip
    return {**experts, arms.FEW: of(few), arms.ORACLE: of(oracle)}


def test_claims_hold_where_their_intervals_do():
    good = results([0.90, 0.91, 0.92], [0.80, 0.82, 0.81], [0.5, 0.5, 0.5], [0.901, 0.911, 0.921])
    lines = arms.claims(arms.differences(good, DISJOINT))
    assert len(lines) == 3
    assert all(": held (" in line for line in lines)
    # A student 2 points below the experts, and not surely above labels.
    bad = results([0.90, 0.91, 0.92], [0.80, 0.99, 0.81], [0.5, 0.5, 0.5], [0.92, 0.93, 0.94])
    lines = arms.claims(arms.differences(bad, DISJOINT))
    assert [": held (" in line for line in lines] == [False, True, False]


def test_disjoint_domains_leave_out_no_gate_and_show_how_groups_are_confused(tmp_path):
    flags = (
        "--domains=digits(classes=range(5)) + digits(classes=range(5, 10))",
        "--seeds=1",
        "--gates=",
        "--labels=0",
        "--epochs=1",
    )
    done = smoke("domains", tmp_path, *flags)
    assert "No gate was left out" in done.stdout
    assert "No claim is tested" in done.stdout
    found = json.loads((tmp_path / "results.json").read_text())
    assert "ensemble, no gate" not in found
    assert {f"{who}, {gate} gate" for who in ("ensemble", "student") for gate in arms.GATES if gate != "none"} <= (
        found.keys()
    )
    assert found["ensemble, oracle gate"][0]["gate"] == 1
    assert np.shape(found["student, oracle gate"][0]["blocks"]) == (2, 2)
    for name in ("domains", "blocks", "comparison", "curves"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"domains": "digits(classes=range(5)) + digits(classes=range(5, 10))", "gates": "none"},
            "no gate is not possible here.*not identifiable",
        ),
        ({"domains": "digits"}, "one domain; accepted: two or more"),
        (
            {"domains": "digits, digits(classes=(3,))"},
            r"digits\(classes=\(3,\)\) has one class.*accepted: two classes or more",
        ),
        ({"domains": "digits, digits(invret)"}, "did you mean invert"),
        ({"domains": "digits, digits(invert, train='test', test='train')"}, "share examples"),
        ({"dataset": "mnist"}, "--dataset=mnist is not used here"),
        ({"validation_split": "test"}, "--validation_split=test is not used here"),
        ({"labels": 5}, "labels=5 of"),
        ({"batch_size": 2000}, "batch_size=2000"),
        ({"transfer": 10, "labels": 0}, "batch_size=64; accepted: 1 to 40"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_trains(flags, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        domains.prepare(domains.Config(**flags), tmp_path)


def test_test_images_of_another_shape_are_refused_before_anything_trains(tmp_path):
    arrays = {f"{n}_inputs": np.zeros((99, 4, 4, channels), np.uint8) for n, channels in (("train", 3), ("test", 1))}
    arrays |= {f"{n}_label": np.arange(99) % 3 for n in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, num_classes=3)
    both = f"dataset('npz:{tmp_path}/a.npz'), dataset('npz:{tmp_path}/a.npz', invert)"
    with pytest.raises(BadInput, match=r"--test_split=test has images \(4, 4, 1\); accepted: .*, \(4, 4, 3\)"):
        domains.prepare(domains.Config(domains=both, gates="oracle"), tmp_path)

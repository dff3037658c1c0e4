"""The science of transfer: on whom images are made, whom they should fool, what is counted, and what is flagged."""

import numpy as np
import pytest

from experiments.transfer import __main__ as transfer
from experiments.transfer.attacks import by_caps, joined, within_radius
from experiments.transfer.tables import at_equal_queries, points
from kdjax.attacks import named, objectives
from kdjax.attacks.run import Attacked, run
from kdjax.attacks.victims import white_box
from kdjax.study.attacks import first
from kdjax.study.data import open_study
from kdjax.study.extraction import slug
from kdjax.types import BadInput
from tests.experiments import studies
from tests.experiments.laws import Laws
from tests.experiments.studies import SEEDS, ran

DEFENDED, NETS = "mlp(16), adversarially trained", ("mlp(16)", "mlp(12, 12)")


class TestLaws(Laws):
    experiments = ("transfer",)


@pytest.fixture(scope="module")
def found():
    return ran("transfer")


def names(found):
    """Runs by what rows call them: surrogates of the last budget, by their victim, and the victim itself."""
    last = found.config.budgets[-1]
    return {
        victim: {
            "itself": slug(victim),
            **{net: slug(f"{net} of {victim}: jacobian(pool=own), {last} queries") for net in NETS},
        }
        for victim in ("mlp(16)", DEFENDED)
    }  # fmt: skip


def test_images_are_made_on_the_network_that_the_row_names_and_judged_by_its_victim(found):
    """Made anew, from each run's own variables: two surrogates or two victims that are exchanged fail."""
    image, label = first(open_study(found.config, found.workdir).test, found.config.examples)
    different = set()
    for victim, makers in names(found).items():
        for seed in range(SEEDS):
            right = found.answers(f"{slug(victim)}/seed-{seed}", image).argmax(-1) == label
            for maker, of in makers.items():
                one = found.runs[f"{of}/seed-{seed}"]
                model = white_box(one.model.apply, one.last)
                made = run(named.fgsm(0.2), model, image, label, objective=objectives.cross_entropy, on_device=False)
                wrong = found.answers(f"{slug(victim)}/seed-{seed}", made.image).argmax(-1) != label
                row = found.results[f"fgsm, 0.2: {maker} to {victim}"][seed]
                assert row["misclassified"] == pytest.approx(wrong.mean(), abs=0.026)  # one image of 40
                assert row["transfer"] == pytest.approx(wrong[right].mean(), abs=0.06)
                different.add((victim, seed, round(row["misclassified"], 3)))
    assert len(different) > 6


def test_surrogates_learn_from_their_own_victim_at_equal_queries_and_only_the_defended_one_saw_attacks(found):
    arms = found.results["arms"]
    for victim, makers in names(found).items():
        for maker, of in makers.items():
            if maker == "itself":
                assert arms[victim]["teachers"] == []
                assert arms[victim]["facts"]["attack"] == (found.config.attack if victim == DEFENDED else "")
                continue
            name = f"{maker} of {victim}: jacobian(pool=own), {found.config.budgets[-1]} queries"
            assert arms[name]["teachers"][0] == victim
            for seed in range(SEEDS):
                bought = found.runs[f"{of}/seed-{seed}"].source.arrays
                assert len(bought["inputs"]) == found.config.budgets[-1] == found.results[name][seed]["queries"]
                assert (bought["label"] == -1).all()
                said = found.answers(f"{slug(victim)}/seed-{seed}", bought["inputs"])
                odds = np.exp(said - said.max(-1, keepdims=True))
                wanted = np.log(odds / odds.sum(-1, keepdims=True))
                np.testing.assert_allclose(bought["teacher_logits"], wanted, atol=1e-3)


def test_lines_begin_at_what_was_paid_before_and_pairs_are_the_same_architecture_minus_another(found):
    budget, most = found.config.budgets, found.config.query_examples
    for victim in names(found):
        for seed in range(SEEDS):
            line = found.results[f"surrogate on {victim}"][seed]
            looks = {round(x) - b for x, b in zip(line["queries"], budget, strict=True)}
            assert len(looks) == 1
            assert 0 < min(looks) <= most
            both = found.results[f"square from the surrogate on {victim}"][seed]
            assert both["queries"][0] == budget[-1] + min(looks)  # one look at each image
            assert both["success"][0] == pytest.approx(
                found_at_first(found, victim, seed), abs=0.11
            )  # the start is what the surrogate made
            alone = found.results[f"square on {victim}"][seed]
            assert alone["queries"][0] == min(looks)
            assert max(alone["queries"]) <= found.config.query_examples * 20
            assert sorted(both["success"]) == both["success"]
    own, other = (f"pgd(steps=3), 0.2: {net} to" for net in NETS)
    told = [(p["first"], p["minus"], p["score"]) for p in found.results["pairs"]]
    assert told == [(f"{own} {v}", f"{other} {v}", "transfer") for v in names(found)]


def found_at_first(found, victim, seed):
    return found.results[f"surrogate on {victim}"][seed]["success"][-1]


def attacked(queries, first_success, linf=None):
    count = len(queries)
    success = np.array(first_success) >= 0
    distance = {"linf": np.array(linf if linf is not None else [0.1] * count)}
    none = np.zeros(count)
    return Attacked(none, none, success, np.array(queries), np.array(first_success), distance)


def test_a_line_counts_all_images_together_and_leaves_out_those_that_never_were_right():
    told = attacked([4, 100, 1, 100], [4, -1, 1, 50])
    line = by_caps(told, np.array([True, True, False, True]), paid=1000)
    at = dict(zip(line["queries"], line["success"], strict=True))
    assert at[1003] == 0
    assert at[1000 + 4 + 100 + 100] == pytest.approx(2 / 3)
    assert at[1000 + 4 + 4 + 4] == pytest.approx(1 / 3)
    point = within_radius(attacked([10, 20, 30], [3, 3, -1], [0.1, 0.3, 0.0]), np.array([True] * 3), 0.2, "linf")
    assert point == {"queries": [60.0], "success": [pytest.approx(1 / 3)]}
    nobody = np.zeros(4, bool)
    assert set(by_caps(told, nobody, paid=5)["success"]) == {0.0}
    asked_none, asked = points([by_caps(told, nobody)]), [(10.0, [0.5])]
    table = at_equal_queries({"none": asked_none, "some": asked}, count=2).splitlines()
    assert table[2:] == ["| none | – | – |", "| some | 50.0 | 50.0 |"]
    assert at_equal_queries({"none": asked_none}) == ""
    short, long = ({"queries": [1.0, 3.0, 9.0][:n], "success": [0.0, 0.5, 1.0][:n]} for n in (2, 3))
    assert points([short, long]) == [(1.0, [0.0, 0.0]), (3.0, [0.5, 0.5]), (6.0, [0.5, 1.0])]
    assert joined([line, point])["queries"] == sorted([*line["queries"], 60.0])


def test_a_network_that_hides_its_gradient_is_flagged_by_its_own_surrogate(found):
    for victim in names(found):
        for row in found.results[f"audit of {victim}"]:
            assert row["verdict"] == ("PASS" if row["gap"] <= 0.01 else "FLAG" if row["gap"] <= 0.1 else "FAIL")
            assert row["gap"] == pytest.approx(row["white"] - row["transfer"])
            assert "surrogates" in row["text"]


WRONG = {
    "asks": ("random, k_centre", "accepted: one way"),
    "begun": ("zoo", "--begun: zoo has no radius"),
    "victims": ("mlp(4), mlp(4)", "twice"),
    "attacks": ("pgd(epsilon=0.1)", "--epsilons"),
    "norm": ("l2", "bim knows linf alone"),
}


@pytest.mark.parametrize("flag", WRONG)
def test_what_cannot_run_is_refused_before_anything_trains(flag, tmp_path):
    value, said = WRONG[flag]
    config = studies.smallest(
        "transfer", tmp_path, **{"attacks": "bim", "queried": "nes", "begun": "square", flag: value}
    )
    with pytest.raises(BadInput, match=said):
        transfer.main(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()

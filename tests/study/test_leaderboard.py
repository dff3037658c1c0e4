"""The leaderboard: its page and its files agree with each other and with the runs, and an audit is of that network."""

import json
import shutil

import pytest

from kdjax.study import leaderboard
from kdjax.types import BadInput
from tests.experiments.scripts import ROOT

RESULTS = ROOT / "docs" / "results"
STUDY = "robust-mnist"
MINE = f"{STUDY}-rslad.json"


def change(file, alter):
    found = json.loads(file.read_text())
    alter(found)
    file.write_text(json.dumps(found))


@pytest.fixture
def results(tmp_path):
    """A study whose second network of rslad has a checksum, and an audit of it."""
    folder = tmp_path / "docs" / "results"
    shutil.copytree(RESULTS / STUDY, folder / STUDY)
    (folder / "leaderboard.md").write_text(f"# Students\n\nBy hand.\n\n{leaderboard.MARK}\nold\n")

    def name(found):
        for seed, scores in enumerate(found["rslad"]):
            scores["checksum"] = f"{seed}" * 8

    change(folder / STUDY / "results.json", name)
    audit = tmp_path / "audit"
    audit.mkdir()
    shutil.copy(RESULTS / STUDY / "provenance.json", audit)
    change(audit / "provenance.json", lambda told: told.update(command="python -m experiments.audit --epsilon=0.3"))
    checks = {"E1": "PASS", "E2": "FAIL", "E3": "PASS", "E4": "FLAG", "E5": "SKIPPED"}
    subject = {"checksum": "1" * 8, "norm": "linf", "epsilon": 0.3, "examples": 500}
    told = {id: {"verdict": verdict} for id, verdict in checks.items()}
    (audit / "results.json").write_text(json.dumps({**told, "subject": subject, "pairs": [], "rows": {}}))
    return folder


def test_the_page_says_what_the_files_say_and_the_files_what_the_runs_said():
    assert (RESULTS / "leaderboard.md").read_text() == leaderboard.page(RESULTS), leaderboard.__doc__
    files = {file.name: json.loads(file.read_text()) for file in (RESULTS / "leaderboard").glob("*")}
    assert files
    for study in {row["study"] for row in files.values()}:
        made = leaderboard.rows(RESULTS / study)
        there = {name: row for name, row in files.items() if row["study"] == study}
        assert {name: {**row, "audits": []} for name, row in there.items()} == made
        sums = {name: {s.get("checksum") for s in scores} for name, scores in networks(study).items()}
        assert all(one["checksum"] in sums[row["student"]] for row in there.values() for one in row["audits"])


def networks(study):
    results = json.loads((RESULTS / study / "results.json").read_text())
    return {name: results[name] for name in results["arms"]}


def test_a_row_has_the_scores_of_its_student_and_teachers_have_none(results):
    told = results / STUDY / "results.json"
    change(told, lambda found: [arm.update(teachers=[]) for arm in found["arms"].values()])  # no method asks one
    assert leaderboard.main([str(results / STUDY)]) == 0
    names = {file.name for file in (results / "leaderboard").iterdir()}
    assert not {f"{STUDY}-teacher.json", f"{STUDY}-clean-model.json"} & names
    row, scores = json.loads((results / "leaderboard" / MINE).read_text()), networks(STUDY)["rslad"]
    assert row["clean"] == [s["accuracy"] for s in scores]
    assert row["pgd"] == [s["pgd(random_start=True, steps=50)"] for s in scores]
    assert row["worst"] == [min(s[attack] for attack in row["attacks"]) for s in scores]
    page = (results / "leaderboard.md").read_text()
    assert page.startswith(f"# Students\n\nBy hand.\n\n{leaderboard.MARK}\n\n## mnist, linf 0.3\n")
    assert "\nold\n" not in page
    order = [line.partition(":")[0] for line in page.splitlines() if "fast_cnn(8" in line and line.startswith("| ")]
    assert order[:3] == ["| rslad", "| saad", "| adaad"]
    assert page.count("not audited") == len(names)
    assert page.count(f"[{STUDY}]({STUDY}/results.json), 5 seeds on 1 x cpu; attacks: ") == 1


def test_an_audit_stands_beside_the_very_network_that_it_audited(results):
    audit = results.parents[1] / "audit"
    leaderboard.main([str(results / STUDY), f"--audit={audit}"])
    rows = {file.name: json.loads(file.read_text()) for file in (results / "leaderboard").iterdir()}
    assert [name for name, row in rows.items() if row["audits"]] == [MINE]
    found = "seed 1: 2 PASS, 1 FLAG (E4), 1 FAIL (E2)"
    assert [found in line for line in leaderboard.page(results).splitlines()].count(True) == 1


@pytest.mark.parametrize(
    ("file", "alter", "said"),
    [
        ("audit/results.json", lambda x: x["subject"].update(checksum="other"), "no student of the run"),
        ("audit/results.json", lambda x: x["subject"].update(epsilon=0.1), "its threat is linf 0.1"),
        ("audit/results.json", lambda x: x.pop("subject"), "does not say which network"),
        ("audit/provenance.json", lambda x: x.update(dirty=True), "dirty is True"),
        ("study/provenance.json", lambda x: x.update(command="python -m experiments.robust"), "has no --dataset="),
        ("study/results.json", lambda x: x["arms"]["trades"].update(seeds=[0, 1, 2, 3]), "trades has 4 seeds"),
        ("study/results.json", lambda x: x["rslad"][0].pop("pgd(random_start=True, steps=50): by class"), "under PGD"),
    ],
)
def test_a_row_of_which_nobody_could_say_what_it_is_is_refused(file, alter, said, results):
    folder, _, name = file.partition("/")
    audit = results.parents[1] / "audit"
    change((audit if folder == "audit" else results / STUDY) / name, alter)
    with pytest.raises(BadInput, match=said):
        leaderboard.write(results / STUDY, [audit])
    assert not (results / "leaderboard").exists()
    assert leaderboard.main([str(results / STUDY), f"--audit={audit}"]) == 2

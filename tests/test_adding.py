"""What the page on adding things says is done, in a copy of the project, and the project's own tests accept it."""

import os
import re
import shutil
import subprocess
import sys

from tests.experiments.scripts import ROOT
from tests.test_docs import ADDING, blocks

ASKED = (
    "(hellinger and (one_number or huge or minimum or float64)) or losses.response.hellinger or adam_sign"
    " or (tiny and not vit) or has_a_floor or is_counted or the_table"
)
TESTS = (
    "tests/losses/test_laws.py",
    "tests/methods/test_distillation.py::test_the_table_has_every_method_and_every_loss_belongs_to_one",
    "tests/attacks/test_attacks.py::test_every_attack_has_a_floor",
    "tests/attacks/test_attacks.py::TestEveryAttack::test_strength",
    "tests/models/test_zoo.py::test_every_network_is_counted_here",
    "tests/models/test_zoo.py::test_parameter_counts_of_the_literature",
    "tests/models/test_zoo.py::test_features_by_name",
    "kdjax/losses/response.py",
)
BOTH = f"""
import sys, pytest
if pytest.main(["-p", "no:cacheprovider", "-k", {ASKED!r}, *{TESTS!r}]):
    sys.exit("the tests refuse it")
import experiments
sys.exit(experiments.main(["smoothing", "--smoke", "--seeds=1", "--workdir=made"]))
"""
"""In one process, which loads the library once."""


def perform(root):
    """Make every change of the page; the files that it touched."""
    touched = set()
    for block in blocks(ADDING.read_text(), "python"):
        where, _, code = block.partition("\n")
        name, _, place = where.removeprefix("# ").partition(", ")
        file = root / name
        if not place:
            assert not file.exists(), f"{name} is there already"
            file.write_text(code)
        elif place == "at the end":
            file.write_text(f"{file.read_text()}\n\n{code}")
        else:
            line, before = place.removeprefix("after "), file.read_text()
            assert before.count(f"\n{line}\n") == 1, f"{name} has no line {line!r}, or several"
            file.write_text(before.replace(f"\n{line}\n", f"\n{line}\n{code}"))
        touched.add(name)
    return touched


def test_what_the_page_adds_is_accepted_by_the_tests_and_can_be_typed(tmp_path):
    for folder in ("kdjax", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    touched = perform(tmp_path)
    assert len(touched) == 9
    done = subprocess.run(
        [sys.executable, "-c", BOTH], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) >= 15
    assert "| student of the smoothed |" in done.stdout

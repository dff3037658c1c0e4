"""What holds of every experiment that trains over seeds, in its one run of these tests (`studies.ran`).

A file of tests says which experiments it looks at:

    class TestLaws(Laws):
        experiments = ("robust",)

so that the laws and the tests of one experiment share its run.
"""

import dataclasses

import jax
import numpy as np
import pytest

from tests.experiments.studies import SEEDS, ran, tells_of_its_networks

POPULATIONS = {"map", "sweep"}
"""What trains members of a population; they are compared in tests of their own."""
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


class Laws:
    """Each law over the experiments that a subclass names; `compared` are those that train arms one by one."""

    experiments: tuple[str, ...] = ()

    def pytest_generate_tests(self, metafunc):
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.experiments)
        else:
            metafunc.parametrize("compared", [name for name in self.experiments if name not in POPULATIONS])

    def test_a_second_seed_traces_nothing(self, name):
        found = ran(name)
        own = NETWORKS_OF_A_SEED.get(name)
        assert any(run.endswith("seed-0") for run in found.traced)
        assert [r for r in found.traced if not r.endswith("/seed-0") and not (own and r.startswith(own))] == []

    def test_every_experiment_leaves_what_it_promises(self, name):
        found = ran(name)
        assert {f.name for f in found.workdir.iterdir()} >= {
            "config.json",
            "results.json",
            "table.md",
            "provenance.json",
        }
        assert (found.workdir / "table.md").read_text() in found.printed
        tells_of_its_networks(found.results)

    def test_every_seed_begins_at_its_own_parameters(self, compared):
        found = ran(compared)
        roles = {run.partition("/")[0] for run in found.runs if run.endswith("seed-1")}
        assert roles
        for role in roles:
            first, second = (found.runs[f"{role}/seed-{seed}"].first for seed in range(SEEDS))
            assert not (alike(first, second) and close(first, second)), role

    def test_arms_of_a_pair_begin_alike_and_end_apart(self, compared):
        """So a control that is its treatment, or an arm that learns what another does, fails."""
        found = ran(compared)
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

    def test_differences_are_first_minus_second_as_named(self, compared):
        found = ran(compared)
        by_name = dict(numbers(found.results))
        for pair in found.results["pairs"]:
            first, minus = ([float(s[pair["score"]]) for s in found.results[pair[side]]] for side in ("first", "minus"))
            assert len(first) == len(minus) == SEEDS
            assert pair["difference"]["mean"] == pytest.approx(np.mean(np.subtract(first, minus)), abs=1e-12)
            assert pair["difference"]["n"] == SEEDS
            named = f"{pair['first']} minus {pair['minus']}".replace(
                "student distilled minus student", "distilled minus"
            )
            said = by_name.get(named) or by_name.get(pair["first"]) or by_name.get(pair["score"])
            if compared not in SEVERAL_SCORES:
                assert said == pair["difference"], pair
        for pair in found.results["pairs"] if compared in SEVERAL_SCORES else ():
            told = found.results[f"{pair['first']} minus {pair['minus']}"]
            assert told[pair["score"]] == pair["difference"]

    def test_lineages_name_what_there_is_and_the_test_split_neither_teaches_nor_chooses(self, compared):
        found = ran(compared)
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

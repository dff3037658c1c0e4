"""The science of extraction: what each arm asks, that all ask as much, and that nobody reads the victim's labels."""

import dataclasses
import json
import time
from contextlib import closing, contextmanager, suppress
from itertools import pairwise

import httpx
import jax
import numpy as np
import pytest

from kdjax.data.load import load
from kdjax.data.source import unit_interval
from kdjax.evaluation.fidelity import fidelity
from kdjax.models.create import create
from kdjax.study import extraction, networks, service
from kdjax.study.asking import ways
from kdjax.study.data import open_study
from kdjax.study.extraction import slug
from kdjax.teachers import queries
from kdjax.teachers.queries import Known, Surrogate
from kdjax.teachers.serving import host
from kdjax.teachers.serving.ledger import Ledger
from kdjax.teachers.serving.policy import policy
from kdjax.types import BadInput
from tests.experiments import processes, studies
from tests.experiments.laws import Laws
from tests.experiments.studies import SEEDS, ran
from tests.study.studies import study_of

VICTIM = "victim/seed-{}"


class TestLaws(Laws):
    experiments = ("extract",)


@pytest.fixture(scope="module")
def found():
    return ran("extract")


@pytest.fixture(scope="module")
def pools(found):
    return extraction.pools(found.config, open_study(found.config, found.workdir))


def sets(found, way, seed):
    """What an arm's surrogates learned from, budget by budget."""
    names = [slug(f"{way.text}, {budget} queries") for budget in found.config.budgets]
    return [found.runs[f"{name}/seed-{seed}"].source.arrays for name in names]


def each(found):
    for way in ways(found.config.arms, flag="arms"):
        for seed in range(SEEDS):
            yield way, seed, sets(found, way, seed)


def among(images, pool):
    there = {image.tobytes() for image in pool}
    return np.array([image.tobytes() in there for image in images])


def test_every_arm_learns_from_the_victims_answers_as_its_policy_gives_them_and_from_no_label(found):
    for way, seed, bought in each(found):
        for one in bought:
            assert one.keys() == {"inputs", "label", "teacher_logits"}
            assert (one["label"] == -1).all()
            said = found.answers(VICTIM.format(seed), one["inputs"])
            rule = policy(way.said)
            wanted = rule.read(rule.answer(said, one["inputs"], b"%d" % seed), *said.shape)
            np.testing.assert_allclose(one["teacher_logits"], wanted, atol=1e-3)
    assert {way.said for way, *_ in each(found)} == {"soft", "hard"}


def test_all_arms_ask_as_much_to_the_last_image_and_keep_what_they_had(found):
    budgets = found.config.budgets
    for way, _, bought in each(found):
        assert [len(one["inputs"]) for one in bought] == list(budgets)
        for before, after in pairwise(bought):
            np.testing.assert_array_equal(after["inputs"][: len(before["inputs"])], before["inputs"])
        for budget in budgets:
            rows = found.results[f"{way.text}, {budget} queries"]
            assert {(row["queries"], row["price"]) for row in rows} == {(budget, budget * found.config.price)}


def test_images_come_from_where_the_arm_says(found, pools):
    own, public = (pools[name].arrays["inputs"] for name in ("own", "public"))
    assert not among(own, load("digits", found.config.train_split).arrays["inputs"]).any()
    assert not among(own, load("digits", found.config.test_split).arrays["inputs"]).any()
    assert not among(public, own).any()
    start = found.config.budgets[0]
    for way, _, bought in each(found):
        images, strategy = bought[-1]["inputs"], way.strategy.func
        wanted = np.zeros(len(images)) if strategy is queries.noise else np.ones(len(images))
        if strategy is queries.jacobian:
            wanted[start:] = 0
            near = np.abs(images[start:, None] - images[None, :start]).max((2, 3, 4)).min(1)
            np.testing.assert_allclose(near, 0.1, atol=1e-5)
        np.testing.assert_array_equal(among(images, own if way.pool == "own" else public), wanted)
        assert found.results["arms"][f"{way.text}, {start} queries"]["source"].startswith(way.pool)


def test_active_arms_ask_what_their_own_last_surrogate_and_the_victim_make_of_the_pool(found, pools):
    """So two arms that are exchanged, or that look at another's surrogate, fail."""
    seen = 0
    for way, seed, bought in each(found):
        if way.strategy.func not in (queries.uncertainty, queries.k_centre):
            continue
        seen += 1
        first, last = bought[-2:]
        pool = pools[way.pool].arrays["inputs"]
        places = {image.tobytes(): row for row, image in enumerate(pool)}
        rows = np.array([places[image.tobytes()] for image in last["inputs"]])
        count = len(first["inputs"])
        run = slug(f"{way.text}, {count} queries") + f"/seed-{seed}"
        mine = Surrogate(lambda images, run=run: found.answers(run, images), None)  # pyright: ignore[reportArgumentType]
        known = Known(pool, pools[way.pool].labels(), first["inputs"], rows[:count], first["teacher_logits"], mine)
        again = way.strategy(known, len(rows) - count, np.random.default_rng(0))
        assert len(set(again.rows) & set(rows[count:])) > 0.9 * len(again.rows)  # ties may fall otherwise
    assert seen == 2 * SEEDS


def test_the_slopes_of_another_rounds_surrogate_trace_nothing():
    model, traced = create("mlp", **(shape := {"num_classes": 3, "image_shape": (2, 2, 1)}), hidden=(2,)), []

    def apply(*given, **own):
        traced.append(1)
        return model.apply(*given, **own)

    counted = model._replace(apply=apply)
    extractor = extraction.Extractor(study_of(shape, 8), counted, None, {}, (), None)  # pyright: ignore[reportArgumentType]
    found = []
    for seed in (0, 1):
        params, state = model.init(jax.random.key(seed))
        image, label = np.full((4, 2, 2, 1), 0.5, np.float32), np.zeros(4, np.int32)
        found.append(extractor.surrogate({"params": params, **state}).slope(image, label))
    assert len(traced) == 1
    assert np.any(found[0] != found[1])


def test_hard_and_soft_answers_are_to_the_same_images_and_pairs_differ_in_one_thing(found):
    by_text = {way.text: bought for way, seed, bought in each(found) if seed == 0}
    soft, hard = by_text["random"][-1], by_text["random(answers=hard)"][-1]
    np.testing.assert_array_equal(soft["inputs"], hard["inputs"])
    last = found.config.budgets[-1]
    told = {(p["first"], p["minus"], p["score"]) for p in found.results["pairs"]}
    names = ("adaptive", "uncertainty", "k_centre", "noise", "random(answers=hard)")
    wanted = {(name, "random") for name in names}
    wanted |= {("jacobian(pool=own)", "random(pool=own)"), ("noise", "random(pool=own)")}
    assert told == {(f"{a}, {last} queries", f"{b}, {last} queries", "agreement") for a, b in wanted}


def test_scores_are_of_the_test_split_and_honest_users_get_what_the_policy_leaves(found):
    test = open_study(found.config, found.workdir).test
    for way, seed, _ in each(found):
        victim = found.answers(VICTIM.format(seed), test.arrays["inputs"])
        name = f"{way.text}, {found.config.budgets[-1]} queries"
        said = found.answers(f"{slug(name)}/seed-{seed}", test.arrays["inputs"])
        row, wanted = found.results[name][seed], fidelity(student=said, teacher=victim)
        assert row["agreement"] == wanted["agreement"]
        assert row["teacher_kl"] == pytest.approx(wanted["teacher_kl"], rel=1e-4)
        right = float((said.argmax(-1) == test.labels()).mean())
        assert (row["accuracy"], row["normalised"]) == (right, right / found.results["victim"][seed]["accuracy"])
        behind = found.results[f"honest user, {way.said}"][seed]
        assert behind["accuracy"] == found.results["victim"][seed]["accuracy"]
    assert found.results["honest user, hard"][0]["nll"] > found.results["honest user, soft"][0]["nll"] + 1
    json.dumps(found.results)


@contextmanager
def serving(model, folder):
    """A service of a run's first network, in a process of its own: its address, and a key.

    That process has one device, and the network was trained on two.
    """
    folder.mkdir()
    with host.bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    flags = (f"--model={model}", f"--port={port}", "--price=0.5", "--role=victim", "--most=64", f"--workdir={folder}")
    child = processes.FORKS.Process(target=processes._run, args=("serve", flags, folder / "out", folder / "err"))
    child.start()
    try:
        for _ in range(600):
            with suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            assert child.is_alive(), (folder / "err").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", json.loads((folder / "keys.json").read_text())["user"]
    finally:
        child.terminate()
        child.join(60)
    assert child.exitcode == 143, (folder / "err").read_text()


def test_over_http_an_extraction_pays_what_the_server_counts_and_ends_as_in_process(found, tmp_path, monkeypatch):
    """The victim of the run in process is served, and robbed again."""
    networks.save_model(found.workdir, role="victim", name="mlp", num_classes=10, image_shape=(8, 8, 1), hidden=(32,))
    clients, connect = [], service.connect
    monkeypatch.setattr(service, "connect", lambda *a, **own: clients.append(connect(*a, **own)) or clients[-1])
    with serving(found.workdir, tmp_path / "server") as (url, key):
        monkeypatch.setenv(service.KEY, key)
        robbed = studies.run("extract", victim=url, seeds=1, arms="jacobian(pool=own), adaptive")
    ((_, paid, price),) = [client.paid.totals() for client in clients]
    clients[0].close()
    with closing(Ledger(tmp_path / "server" / "ledger.sqlite")) as books:
        assert [(t.who, t.policy, t.images, t.price) for t in books.totals()] == [("user", "soft", paid, price)]
    surrogates = {name: run for name, run in robbed.runs.items() if "queries" in name}
    assert len(surrogates) == 4
    asked = [run.source.arrays["inputs"] for run in surrogates.values()]
    asked.append(open_study(robbed.config, robbed.workdir).test.arrays["inputs"])  # for the scores
    assert paid == price / 0.5 == len({unit_interval(image).tobytes() for images in asked for image in images})
    for name, run in surrogates.items():
        mine, there = run.source.arrays, found.runs[name].source.arrays
        np.testing.assert_array_equal(mine["inputs"], there["inputs"])
        np.testing.assert_allclose(mine["teacher_logits"], there["teacher_logits"], atol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run.last, found.runs[name].last)


WRONG = {
    "randm": "did you mean random",
    "random, random(pool=public)": "read random(pool=public) twice",
    "noise(pool=own)": "read pool=own; accepted: none",
    "random(pool=theirs)": "pool='theirs'",
    "random(answers=sofd)": "read the name sofd",
    "jacobian(stp=1)": "did you mean step",
}


@pytest.mark.parametrize("text", WRONG)
def test_ways_that_cannot_be_read(text):
    with pytest.raises(BadInput) as refused:
        ways(text, flag="arms")
    assert WRONG[text] in str(refused.value)


def test_what_would_end_in_the_middle_is_refused_before_anything_is_asked(found, pools):
    read = ways("random(pool=own), jacobian(pool=own)", flag="arms")
    for budgets, said in (((10, 10), "numbers that grow"), ((10, 100000), "has 575"), ((10, 30), "at most double")):
        with pytest.raises(BadInput, match=said):
            extraction.refuse_small_pools(read, pools, budgets)
    with pytest.raises(BadInput, match="batch_size=41; accepted: 1 to 40"):
        extraction.refuse_small_pools(read, pools, (20, 40), 41)
    with pytest.raises(BadInput, match="answers=hard: the service answers by soft"):
        ways("random(answers=hard)", flag="arms", says="soft")
    study = open_study(found.config, found.workdir)
    for wrong in ({"own_split": "test[:10]"}, {"public": "digits(invert)", "public_split": "test"}):
        with pytest.raises(BadInput, match=r"shares? examples"):
            extraction.pools(dataclasses.replace(found.config, **wrong), study)

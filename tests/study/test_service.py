"""Flags that name a service: what students learn from it, what attacks ask of it, and what is refused before that."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import distill, extract
from experiments.attack import __main__ as attack
from experiments.audit import __main__ as audit
from kdjax import config as configs
from kdjax.data.load import load
from kdjax.data.source import unit_interval
from kdjax.study import compare, networks, service
from kdjax.study import teacher as answering
from kdjax.study.data import open_study
from kdjax.types import BadInput, Model, Outputs
from tests.teachers.endpoints import URL, served

TRAIN = load("digits", "train")
WEIGHTS = np.linalg.lstsq(unit_interval(TRAIN.arrays["inputs"]).reshape(-1, 64), np.eye(10)[TRAIN.labels()], rcond=None)
WEIGHTS = np.float32(WEIGHTS[0])


def network(images):
    return np.stack([image.reshape(-1) @ WEIGHTS for image in images])


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Services of a linear network for the digits, which `connect` meets."""
    opened = []

    def met(**how):
        return http

    def remembered(*given, **how):
        opened.append(real(*given, **how))
        return opened[-1]

    def closed():
        while opened:
            opened.pop().close()

    with served(
        tmp_path / "server",
        said="logits",
        clients="user(budget=5000)",
        ask=network,
        shape=(8, 8, 1),
        classes=10,
        most=64,
    ) as found:
        http, real = found.http, service.connect
        monkeypatch.setattr(http, "close", lambda: None)
        monkeypatch.setattr("kdjax.teachers.service.httpx.Client", met)
        monkeypatch.setattr(service, "connect", remembered)
        monkeypatch.setenv(service.KEY, found.keys["user"])
        monkeypatch.setattr(compare, "draw", lambda *_, **__: None)
        found.transport.closed = closed
        yield found
        closed()


def flags(workdir, **own):
    how = {"teacher": f'service("{URL}", batch=64, concurrency=1)', "student": "mlp(4)", "seeds": 1, "epochs": 1}
    return distill.Config(**{
        **how, "train_split": "train[:200]", "validation_split": "", "test_split": "test[:100]", "labels": 0,
        "workdir": str(workdir), **own,
    })  # fmt: skip


def run(config, workdir):
    configs.claim(config, workdir)
    distill.main(config, workdir)


def student(workdir):
    return networks.load_network(str(workdir), flag="model", role="distilled").weights[0]


def test_a_student_learns_from_a_service_and_a_killed_run_ends_alike_and_pays_nothing_twice(digits, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(flags(whole), whole)
    digits.transport.closed()
    table = capsys.readouterr().out
    assert "| teacher |" in table
    assert json.loads((whole / "model.json").read_text())["service"] == "logits"
    test = load("digits", "test[:100]")
    right = (network(test.arrays["inputs"]).argmax(-1) == test.labels()).mean()
    assert json.loads((whole / "results.json").read_text())["teacher"][0]["accuracy"] == pytest.approx(right)
    assert digits.charged == 300  # 200 to learn from, 100 to be scored on
    left = [3]

    def lost(request, response):
        if request.method == "POST":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return response

    digits.transport.meddle = lost
    with pytest.raises(KeyboardInterrupt):
        run(flags(killed), killed)
    digits.transport.closed()
    run(flags(killed), killed)
    assert capsys.readouterr().out == table
    equal = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), student(whole), student(killed))
    assert jax.tree.all(equal)
    assert digits.charged == 600
    digits.transport.closed()
    run(flags(killed), killed)  # and once more, for nothing
    assert digits.charged == 600
    files = [f for f in killed.rglob("*") if f.is_file()]
    assert len(files) > 10
    assert [f for f in files if digits.keys["user"].encode() in f.read_bytes()] == []


def test_a_robust_student_of_a_service_is_that_of_the_same_teacher_at_hand(digits, tmp_path, monkeypatch):
    """The teacher of RSLAD is asked about clean images alone, by the attack too."""
    robust = {"method": "rslad(epsilon=0.1, steps=1)"}
    run(flags(tmp_path / "served", **robust), tmp_path / "served")

    def apply(variables, image, *, train, key, mask=None):
        return Outputs(image.reshape(len(image), -1) @ variables["params"]), {}

    linear = Model(lambda key: (WEIGHTS, {}), apply, (8, 8, 1))
    monkeypatch.setattr(networks, "teacher_of", lambda *_: (linear, [{"params": WEIGHTS}], {}))
    at_hand = flags(tmp_path / "at hand", **robust, teacher="linear", teacher_outputs="live")
    run(at_hand, tmp_path / "at hand")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *(student(tmp_path / name) for name in ("served", "at hand")),
    )


def test_a_surrogate_of_a_service_pays_for_its_budget_and_the_scored_images_and_for_no_other(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(extract.figures, "by_queries", lambda *_, **__: None)
    game = "dfme(generator_steps=1, noise=4, student_steps=1, width=2)"
    config = extract.Config(
        victim=f'service("{URL}", batch=64, concurrency=1, budget=240)', train_split="train[:50]",
        own_split="train[50:200]", test_split="test[:100]", arms=f"random(pool=own), {game}",
        surrogate="mlp(4)", budgets=(37, 70), seeds=1, epochs=1, batch_size=16, workdir=str(tmp_path / "run"),
    )  # fmt: skip
    for _ in range(2):  # and again for nothing
        configs.claim(config, tmp_path / "run")
        extract.main(config, tmp_path / "run")
        assert digits.charged == 70 + 70 + 100  # the whole of the budget
        digits.transport.closed()
    told = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {name: row[0]["queries"] for name, row in told.items() if "queries" in name and "minus" not in name} == {
        f"{way}, {budget} queries": budget for way in ("random(pool=own)", game) for budget in (37, 70)
    }
    assert told["random(pool=own), 70 queries"][0]["price"] == 70 * 0.5  # what the service says
    assert told[f"{game}, 70 queries"][0].keys() >= {"agreement", "flagged"}
    assert told["arms"][f"{game}, 70 queries"]["teachers"] == ["victim", f"{game}, 37 queries"]
    assert told["arms"]["random(pool=own), 70 queries"]["facts"]["answers"] == "logits"


def test_an_audit_of_a_service_pays_for_what_it_asks_and_once(digits, tmp_path):
    config = audit.Config(
        model=f'service("{URL}", batch=64, concurrency=1)', examples=6, epsilon=0.2, queries=10, draws=5,
        hard_iterations=2, hard_examples=2, workdir=str(tmp_path / "run"),
    )  # fmt: skip
    said = []
    for _ in range(2):
        configs.claim(config, tmp_path / "run")
        audit.main(config, tmp_path / "run")
        said.append((tmp_path / "run" / "table.md").read_text())
        assert f"answered {digits.charged:,} images" in said[-1]
        digits.transport.closed()
    assert said[0] == said[1]
    assert digits.charged > 2 * 6
    told = json.loads((tmp_path / "run" / "results.json").read_text())
    assert told["E17"]["numbers"]["worst_case"] <= told["E17"]["series"]["accuracy"]["nothing"]
    assert told["E9"]["verdict"] == "SKIPPED"


def answered(config, workdir):
    workdir.mkdir()
    study = open_study(config, workdir)
    teacher, given, described = networks.teacher_of(config, study)
    networks.save_model(workdir, **described)
    answering.check(config, study, workdir, given)
    return answering.answered(config, study, teacher, given[0], study.train, workdir, 0)


def test_answers_are_data_kept_for_runs_that_share_a_folder_and_the_pool_may_grow(digits, tmp_path):
    shared = {"answers_dir": str(tmp_path / "answers")}
    found = answered(flags(tmp_path / "one", **shared), tmp_path / "one")
    assert found.frozen is None
    np.testing.assert_allclose(
        found.source.arrays["teacher_logits"], network(load("digits", "train[:200]").arrays["inputs"]), atol=1e-4
    )
    digits.transport.closed()
    assert digits.charged == 200
    again = answered(flags(tmp_path / "two", **shared), tmp_path / "two")
    digits.transport.closed()
    np.testing.assert_array_equal(again.source.arrays["teacher_logits"], found.source.arrays["teacher_logits"])
    assert digits.charged == 200
    for rows in (250, 300):  # rounds that grow, in one workdir
        folder = tmp_path / f"of {rows}"
        grown = flags(folder, train_split=f"train[:{rows}]", answers_dir=str(tmp_path / "answers"))
        with pytest.raises(BadInput, match="and not for"):  # whole answers are one pool's; the ledger is every pool's
            answered(grown, folder)
        digits.transport.closed()
        ledger = dataclasses.replace(grown, answers_dir="", workdir=str(tmp_path / "answers"))
        answered(ledger, tmp_path / f"in memory {rows}")
        digits.transport.closed()
        assert digits.charged == rows
    digits.answerer.offer = digits.answerer.offer._replace(model="two")
    with pytest.raises(BadInput, match='model "one" there, "two" now'):
        answered(flags(tmp_path / "three", **shared), tmp_path / "three")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"augment": "random_shift(1)"}, "a service answers to images as they are stored"),
        ({"teacher_outputs": "live"}, "a service is not asked in every step; accepted: cached"),
        ({"loss": "response.kl + feature.hint(hidden1)"}, "hint"),
        ({"method": "adaad(steps=1)"}, "as they are stored, and with .* the teacher is asked about attacked images"),
        ({"teacher": 'service("http://service", badge=3)'}, r"badge=3; accepted: service takes url, budget"),
        ({"teacher": 'service("http://service", batch=0)'}, "batch=0"),
        ({"teacher": "http://nowhere.invalid:1/x y"}, "no answer|refuses"),
        ({"shape": (4, 4, 1)}, r"image_shape \(4, 4, 1\), the data set 'digits' has \(8, 8, 1\)"),
    ],
)
def test_what_a_service_cannot_teach_is_refused_before_it_is_paid(digits, tmp_path, own, message, monkeypatch):
    monkeypatch.setattr("kdjax.teachers.service._sleep", lambda given_up, seconds: None)
    digits.answerer.offer = digits.answerer.offer._replace(image_shape=own.pop("shape", (8, 8, 1)))
    with pytest.raises(BadInput, match=message):
        run(flags(tmp_path / "run", **own), tmp_path / "run")
    assert digits.charged == 0


def test_a_key_is_needed(digits, tmp_path, monkeypatch):
    monkeypatch.delenv(service.KEY)
    with pytest.raises(BadInput, match=f"no key; accepted: .* {service.KEY}=KEY"):
        run(flags(tmp_path / "other"), tmp_path / "other")


def test_a_budget_ends_a_run_and_a_larger_one_goes_on(digits, tmp_path):
    small = flags(tmp_path / "run", teacher=f'service("{URL}", batch=64, concurrency=1, budget=150)')
    with pytest.raises(BadInput, match="budget=150: 128 images are paid, and 64 more are needed"):
        run(small, tmp_path / "run")
    assert digits.charged == 128


def test_an_attack_on_a_service_counts_what_the_service_counts(digits, tmp_path, capsys):
    config = attack.Config(
        model=URL,
        dataset="digits",
        examples=5,
        attacks="square(queries=6)",
        epsilons=(0.3,),
        workdir=str(tmp_path / "a"),
    )
    for _ in range(2):  # the second time for nothing
        configs.claim(config, tmp_path / "a")
        attack.main(config, tmp_path / "a")
        digits.transport.closed()
        told = json.loads((tmp_path / "a" / "results.json").read_text())
        queries = round(5 * told["square(queries=6), 0.3"][0]["queries"])
        assert told["service"]["images"] == digits.charged == queries + 5  # and the clean images, once
        assert told["service"]["counted"] == queries
    assert f"answered {queries + 5} images, {queries} of them" in capsys.readouterr().out
    with pytest.raises(BadInput, match="--dataset=NAME"):
        attack.main(dataclasses.replace(config, dataset=""), tmp_path / "a")
    with pytest.raises(BadInput, match=r"pgd|slope|gradient"):
        attack.main(dataclasses.replace(config, attacks="pgd"), tmp_path / "a")

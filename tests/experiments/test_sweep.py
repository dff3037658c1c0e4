"""The sweep: axes from a flag, the table that comes out, and the command as a user types it."""

import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest
from scipy.special import log_softmax

from experiments.sweep import __main__ as sweep
from experiments.sweep import figures, lessons, space
from experiments.sweep.space import Axis
from kdjax import spec
from kdjax.study import students
from kdjax.study.data import open_study
from kdjax.training.stop import Interrupted
from kdjax.types import BadInput
from tests.experiments.processes import call
from tests.experiments.scripts import module


def test_axes_are_the_sets_of_an_expression():
    loss = spec.formula("response.kl(temperature=grid(1, 2.5)) + log(1e-4, 1e-2)*labels")
    assert space.axes(spec.sets(loss)) == [
        Axis("response.kl.temperature", (1.0, 2.5)),
        Axis("labels.weight", (1e-4, 1e-2), "log"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("response.kl(temprature=grid(1, 2))", "did you mean temperature"),
        ("response.kl(beta=grid(1, 2))", "accepted: response.kl takes temperature"),
        ("response.kl(temperature=grid(0, 1))", "temperature=0"),
        ("response.kl(temperature=grid(nan, 1))", "nan"),
        ("response.kl(temperature=grid(a, b))", "accepted: a number"),
        ("response.kl(temperature=grid())", "grid"),
        ("response.kl(temperature=unifrom(1, 2))", "unifrom"),
        ("response.kl(temperature=uniform(1, 2)", "loss, column"),
        ("response.kl(temperature=uniform(2, 1))", "accepted: .*low"),
        ("log(0, 1)*response.kl", "accepted: .*above 0"),
        ("grid(0.5, 0.9, 0.50)*response.kl", "accepted: one number or more, each once"),
        ("uniform(-1, 1)*response.kl", "read the weight -1 of response.kl; accepted: numbers from 0 up"),
        ("response.kl(temperature=grid(1, 1e40))", r"temperature=1e\+40; accepted: up to 1e\+18"),
    ],
)
def test_a_wrong_set_is_refused_with_what_is_accepted(text, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        planned(sweep.Config(loss=text, sample=8 * ("uniform" in text or "log" in text)), tmp_path)


def test_a_grid_holds_every_combination_once():
    grid = spec.points(spec.sets(spec.formula("grid(1, 2, 3)*a + grid(4, 5)*b")))
    assert len(grid) == 6 == len({tuple(p.values()) for p in grid})


def test_a_sample_follows_its_distributions_and_is_the_same_each_time():
    sets = {"rate": spec.log(1e-4, 1e-2), "alpha": spec.uniform(0, 1), "t": spec.grid(1, 4)}
    drawn = spec.points(sets, sample=2000)
    assert drawn == spec.points(sets, sample=2000)
    columns = {name: np.array([p[name] for p in drawn]) for name in ("rate", "alpha", "t")}
    assert set(columns["t"]) == {1.0, 4.0}
    assert columns["rate"].min() >= 1e-4
    assert columns["rate"].max() <= 1e-2
    assert np.median(np.log10(columns["rate"])) == pytest.approx(-3, abs=0.1)
    assert columns["alpha"].mean() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(BadInput, match=r"sample=0: rate=.*alpha=.* must be drawn; accepted: 1 or more"):
        spec.points(sets)


def test_a_sample_of_grids_holds_no_point_twice():
    sets = {"a": spec.grid(1, 2, 3), "b": spec.grid(4, 5)}
    drawn, grid = spec.points(sets, sample=6), spec.points(sets)
    assert drawn != grid
    assert sorted(tuple(p.values()) for p in drawn) == sorted(tuple(p.values()) for p in grid)
    with pytest.raises(BadInput, match="sample=7; accepted: up to 6"):
        spec.points(sets, sample=7)


def test_scores_of_a_population_are_those_of_each_member():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 20, 4)).astype(np.float32) * 50, rng.integers(0, 4, 20).astype(np.int32)
    found = space.scores(logits, labels)
    for i in range(3):
        assert found["accuracy"][i] == np.mean(logits[i].argmax(1) == labels)
        nll = -log_softmax(logits[i].astype(np.float64), -1)[np.arange(20), labels].mean()
        assert found["nll"][i] == pytest.approx(nll, rel=1e-6)


def row(point, seed, validation, test, status="finished"):
    numbers = {"validation_accuracy": validation, "validation_nll": 1.0, "test_accuracy": test, "test_nll": 2.0}
    if status == "diverged":
        numbers = dict.fromkeys(numbers)
    return {"point": point, "t": float(point), "seed": seed, "status": status, **numbers}


ROWS = [
    *[row(0, s, 0.8, test) for s, test in enumerate((0.90, 0.92, 0.94))],
    *[row(1, s, 0.7, 0.99) for s in range(3)],  # better on the test set, which chooses nothing
    *[row(2, 0, 0.9, 0.9), row(2, 1, None, None, "diverged"), row(2, 2, 0.9, 0.9)],
    *[row(3, s, None, None, "diverged") for s in range(3)],
]


def test_validation_chooses_and_the_interval_is_students():
    found = space.summary(ROWS, ["t"])
    assert [p["point"] for p in found] == [0, 1, 2, 3]
    # mean 0.92, sd 0.02, t(0.975; 2) = 4.3027, half = 4.3027 * 0.02 / sqrt(3) = 0.04968
    assert found[0]["low"] == pytest.approx(0.92 - 0.04968, abs=1e-5)
    assert found[0]["high"] == pytest.approx(0.92 + 0.04968, abs=1e-5)
    assert [p["diverged"] for p in found] == [0, 0, 1, 3]
    text = space.table(found, ["t"])
    assert "best on validation: t = 0: test accuracy 92.00 %, 95% interval [87.03, 96.97] over 3 seeds" in text
    assert "1 of 3 diverged" in text
    assert "3 of 3 diverged" in text
    assert "Every seed of every point diverged" in space.table(found[-1:], ["t"])


def planned(config, workdir):
    return sweep.plan_members(config, lessons.of_students(config, open_study(config, workdir), workdir))


def test_the_axes_of_a_loss_are_its_own_numbers(tmp_path):
    config = sweep.Config(loss="grid(0.5)*response.dkd(temperature=4, beta=grid(1, 8)) + 0.5*labels", seeds=2)
    axes, members, _ = planned(config, tmp_path)
    assert [a.name for a in axes] == ["response.dkd.weight", "response.dkd.beta"]
    assert len(members) == 4
    assert members[2].hparams == {
        "response.dkd.temperature": 4.0,
        "response.dkd.weight": 0.5,
        "labels.weight": 0.5,
        "learning_rate": 3e-3,
        "response.dkd.beta": 8.0,
    }
    assert members[2].seed == 0
    with pytest.raises(BadInput, match="betta"):
        planned(sweep.Config(loss="response.dkd(betta=grid(1, 2))"), tmp_path)
    with pytest.raises(BadInput, match="beta=7"):
        planned(sweep.Config(loss="response.jensen_shannon(beta=grid(0.5, 7))"), tmp_path)


def test_the_numbers_of_a_method_can_be_swept_and_the_rate_is_an_axis_too(tmp_path):
    method = "kd(temperature=grid(1, 2, 4))"
    axes, members, _ = planned(sweep.Config(method=method, learning_rate="grid(1e-3, 1e-2)"), tmp_path)
    assert [a.name for a in axes] == ["response.kl.temperature", "learning_rate"]
    assert len(members) == 3 * 2 * 4
    assert {m.hparams["labels.weight"] for m in members} == {0.1}
    with pytest.raises(BadInput, match="accepted: one or the other"):
        planned(sweep.Config(method=method, loss="grid(1, 2)*response.kl"), tmp_path)


BESIDE = ("students", "defensive", "domains", "ensemble", "generations", "map", "mutual", "specialists", "hinton2015")


@pytest.mark.parametrize("name", BESIDE)
def test_a_temperature_whose_square_overflows_is_refused_by_its_flag(name):
    config = students.Flags if name == "students" else module(name).Config
    found = [f for f in dataclasses.fields(config) if "temperature" in f.name]
    assert found
    for one in found:
        assert np.isfinite(np.float32(one.metadata["high"]) ** 2), one.name


def test_a_lone_axis_has_a_figure_too(tmp_path):
    found = [{"rate": x, "validation_accuracy": y} for x, y in ((0.1, 0.9), (0.01, 0.8), (1.0, None))]
    figures.heat_maps(found, [Axis("rate", (0.01, 0.1, 1.0), "log")], tmp_path, title="a sweep", grid=True)
    assert [file.name for file in tmp_path.iterdir()] == ["map-rate.png"]


TINY = ("--smoke", "--teacher_epochs=1", "--train_split=train[:128]", "--validation_split=train[80%:]")


def test_a_sampled_sweep_over_a_loss_leaves_rows_table_and_maps(tmp_path):
    done = call(
        "sweep", *TINY, f"--workdir={tmp_path}", "--sample=2", "--seeds=2", "--patience=1",
        "--loss=response.dkd(beta=uniform(1, 8)) + labels", "--learning_rate=grid(1e-3, 1e38)",
        "--order=shared", "--members_per_call=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert [(r["point"], r["seed"]) for r in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for r in rows:
        wild = r["learning_rate"] > 1
        assert (r["status"] == "diverged") == wild
        assert (r["test_accuracy"] is None) == wild
        assert math.isfinite(r["response.dkd.beta"])
    assert (tmp_path / "map-response.dkd.beta-learning_rate.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "table.md").read_text() in done.stdout
    arms = json.loads((tmp_path / "results.json").read_text())["arms"]
    assert list(arms) == ["teacher", "student"]
    assert arms["teacher"]["facts"]["augment"] == ""
    assert arms["student"]["teachers"] == ["teacher"]
    assert arms["student"]["chosen_on"] == "validation"
    assert arms["student"]["seeds"] == [0, 1]
    assert arms["student"]["source"] == "60 labels, all images"
    assert set(arms["student"]["swept"]) == {"response.dkd.beta", "learning_rate"}


def test_a_sweep_stopped_by_sigterm_ends_as_one_that_was_not(tmp_path, monkeypatch):
    tiny = {"train_split": "train[:128]", "teacher": "mlp(4)", "student": "mlp(4)", "teacher_epochs": 1}
    config = sweep.Config(
        seeds=1, loss="response.kl + grid(0.1, 0.9)*labels", epochs=4, checkpoint_every=3, members_per_call=2, **tiny
    )
    inner, calls = sweep.score, 0

    def cut(*args):
        nonlocal calls
        calls += 1
        if calls == 2:  # between two checkpoints
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args)

    for name in ("cut", "whole"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sweep, "score", cut)
    with pytest.raises(Interrupted):
        sweep.main(config, tmp_path / "cut")
    assert calls == 2
    assert not (tmp_path / "cut" / "results.json").exists()
    monkeypatch.setattr(sweep, "score", inner)
    for name in ("cut", "whole"):
        sweep.main(config, tmp_path / name)
    rows = [(tmp_path / name / "results.jsonl").read_text() for name in ("cut", "whole")]
    assert rows[0] == rows[1]
    # A finished study comes back from its checkpoints.
    sweep.main(config, tmp_path / "cut")
    assert (tmp_path / "cut" / "results.jsonl").read_text() == rows[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss=response.kl(temprature=grid(1, 2))"], "did you mean temperature"),
        (["--validation_split="], "--validation_split= is empty"),
    ],
)
def test_mistakes_end_with_one_clear_error_before_training(flags, message, tmp_path):
    done = call("sweep", "--smoke", f"--workdir={tmp_path}", *flags)
    assert done.returncode not in (0, 143)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("experiment", "flag", "words"),
    [
        ("distill", "--loss=grid(1, 2)*labels", "--loss: labels.weight is grid(1, 2), a set"),
        ("distill", "--method=kd(temperature=log(1, 8))", "--method: response.kl.temperature is log(1, 8), a set"),
        ("methods", "--methods=kd(temperature=grid(1, 2))", "response.kl.temperature is grid(1, 2), a set"),
        ("robust", "--methods=pgd_at, kd(temperature=grid(1, 2))", "response.kl.temperature is grid(1, 2), a set"),
    ],
)
def test_a_set_is_refused_where_one_network_is_trained(experiment, flag, words, tmp_path):
    done = call(experiment, "--smoke", flag, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert words in done.stderr

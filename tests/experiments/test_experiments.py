"""Every experiment from its command: it runs, resumes, refuses and explains; each in a process, as a user starts it."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import distill
from kdjax import models
from kdjax.methods import FAMILY
from kdjax.recipes import comparisons
from kdjax.study.data import optimizer_of
from kdjax.training import optimizers, parallel
from kdjax.training.program import chooses_scan
from kdjax.types import BadInput
from tests.experiments.processes import call, smoke, start
from tests.experiments.scripts import ROOT, SCRIPTS
from tests.experiments.studies import TRAINING, tells_of_its_networks
from tests.study.studies import study_of

LEFT = {"config.json", "results.json", "table.md", "provenance.json", "log.txt"}
TRAINS = {"train_teacher", "distill"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A command's `--smoke`, two seeds, and its folder: run once for all tests that leave it as it is."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp(name)
        return folder, smoke(name, folder)

    return run


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name in TRAINS or name not in TRAINING])
def test_every_experiment_runs_and_leaves_what_it_promises(name, plain):
    """But for those that `test_science` runs."""
    tmp_path, done = plain(name)
    left = {f.name for f in tmp_path.iterdir()}
    assert left >= LEFT
    assert (tmp_path / "table.md").read_text() in done.stdout
    if name in TRAINS:
        assert left >= {"metrics.jsonl", "tensorboard", "checkpoints", "curves.png", "comparison.png", "model.json"}
        assert list(tmp_path.glob("tensorboard/**/events*"))
        assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
        assert any(role.startswith("teacher") for role in json.loads((tmp_path / "results.json").read_text()))
    results = json.loads((tmp_path / "results.json").read_text())
    if not name.startswith("benchmarks."):
        tells_of_its_networks(results)
    if name in ("attack", "zoo2017"):
        # What its own run says of the network is said again.
        network = results["arms"]["network"]
        assert (network["loss"], network["chosen_on"], network["start"]) == ("labels", "none", "fresh")
        assert network["facts"]["from"] == str(tmp_path / "network")
        assert "test, first" in network["facts"]["attacked"]
        assert json.loads((tmp_path / "provenance.json").read_text())["seeds"] == network["seeds"]
    # A file gets plain lines: no carriage returns of a progress bar.
    assert "\r" not in done.stderr


def test_repeating_a_finished_command_gives_the_same_results_and_a_changed_one_is_refused(plain):
    tmp_path, first = plain("distill")
    rows = (tmp_path / "metrics.jsonl").read_text()
    again = smoke("distill", tmp_path)
    assert again.stdout == first.stdout
    assert (tmp_path / "metrics.jsonl").read_text() == rows
    changed = call("distill", "--smoke", f"--workdir={tmp_path}", "--method=kd(temperature=5)")
    assert changed.returncode == 2
    assert "--method: 'kd' there, 'kd(temperature=5)' now" in changed.stderr


def rows_by_run(folder: Path) -> list[dict[str, object]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return sorted(rows, key=lambda r: (r["run"], r["epoch"]))


@pytest.mark.parametrize("name", ["train_teacher", "distill"])
def test_more_seeds_go_on_and_end_as_if_they_had_been_there_from_the_start(name, tmp_path, plain):
    there, whole = plain(name)
    smoke(name, tmp_path / "grown", "--seeds=1")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "grown").glob("checkpoints/*/seed-0/*")}
    grown = smoke(name, tmp_path / "grown", "--seeds=2")
    assert grown.stdout == whole.stdout
    for file in ("results.json", "table.md"):
        assert (tmp_path / "grown" / file).read_text() == (there / file).read_text()
    assert rows_by_run(tmp_path / "grown") == rows_by_run(there)
    assert {f: f.stat().st_mtime_ns for f in before} == before  # not trained again
    fewer = call(name, "--smoke", f"--workdir={tmp_path / 'grown'}", "--seeds=1")
    assert fewer.returncode == 2
    assert "--seeds: 2 there, 1 now (it may only grow)" in fewer.stderr


def test_a_mistake_beside_more_seeds_leaves_the_run_as_it_was(tmp_path):
    smoke("train_teacher", tmp_path, "--seeds=1")
    before = {name: (tmp_path / name).read_text() for name in ("config.json", "results.json")}
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").mkdir()  # found once the folder is claimed
    wrong = call("train_teacher", "--smoke", f"--workdir={tmp_path}", "--seeds=2")
    assert wrong.returncode == 2, wrong.stderr
    assert {name: (tmp_path / name).read_text() for name in before} == before


def wait_for(process: subprocess.Popen[str], rows: Path, text: str) -> None:
    while process.poll() is None and not (rows.exists() and text in rows.read_text()):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


LONG = ("--smoke", "--seeds=1", "--epochs=4000", "--checkpoint_every=1000", "--steps_per_call=9")


def test_a_second_run_in_the_same_folder_is_refused_and_a_killed_one_is_no_hindrance(tmp_path):
    first = start("train_teacher", *LONG, f"--workdir={tmp_path}")
    wait_for(first, tmp_path / "metrics.jsonl", '"epoch": 2,')
    first.send_signal(signal.SIGSTOP)  # it keeps its folder, and takes no time while others start
    second = call("train_teacher", *LONG, f"--workdir={tmp_path}")
    assert second.returncode == 2
    assert f"process {first.pid} on " in second.stderr
    assert second.stderr.count("\n") == 1
    assert first.poll() is None
    first.kill()
    first.communicate()
    (tmp_path / "metrics.jsonl").unlink()  # or the first run's rows would be taken for the third's
    third = start("train_teacher", *LONG, f"--workdir={tmp_path}")
    wait_for(third, tmp_path / "metrics.jsonl", '"epoch": 2,')
    third.send_signal(signal.SIGINT)
    _, errors = third.communicate(timeout=60)
    assert third.returncode == 130, errors
    assert "Ctrl-C; saved at step" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.glob("checkpoints/teacher/seed-0/[0-9]*"))


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(tmp_path):
    flags = ("--smoke", "--seeds=1", "--hidden=64", "--epochs=4", "--checkpoint_every=2")
    command = f"ulimit -f 24; exec {sys.executable} -m experiments.train_teacher {' '.join(flags)} --workdir={tmp_path}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "KDJAX_CACHE": str(tmp_path / "cache")}
    full = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, text=True, capture_output=True)
    assert full.returncode == 4, full.stderr
    said = [line for line in full.stderr.splitlines() if not line[:4].isdigit()]  # the log's lines begin with a date
    assert len(said) == 1, full.stderr
    assert "(File too large)" in said[0]
    assert not list(tmp_path.rglob("*.part"))
    smoke("train_teacher", tmp_path / "whole", *flags)
    smoke("train_teacher", tmp_path, *flags)
    assert (tmp_path / "results.json").read_text() == (tmp_path / "whole" / "results.json").read_text()


@pytest.mark.parametrize(
    "flags",
    [
        ("--batch_size=1437", "--train_split=train", "--validation_split=", "--learning_rate=1e38", "--epochs=1"),
        ("--model=resnet8", "--train_split=train[:64]", "--validation_split=", "--learning_rate=1e15", "--epochs=1"),
    ],
)
def test_a_last_update_that_overflows_is_no_result(flags, tmp_path):
    done = call("train_teacher", "--seeds=1", f"--workdir={tmp_path}", *flags)
    assert done.returncode == 3, done.stderr
    assert "not finite" in done.stderr or "are not numbers" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results.json").exists()


CUT = ("--smoke", "--seeds=1", "--epochs=30", "--checkpoint_every=5", "--steps_per_call=9")


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """A run that nobody stopped, and its folder."""
    folder = tmp_path_factory.mktemp("uncut")
    return folder, smoke("distill", folder, *CUT)


def test_a_run_stopped_by_sigterm_ends_as_one_that_was_not(tmp_path, uncut):
    folder, whole = uncut
    process = start("distill", *CUT, f"--workdir={tmp_path}")
    wait_for(process, tmp_path / "metrics.jsonl", '"distilled/seed-0", "epoch": 3')
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "SIGTERM; saved at step" in errors
    again = call("distill", *CUT, f"--workdir={tmp_path}")
    assert again.stdout == whole.stdout
    assert rows_by_run(tmp_path) == rows_by_run(folder)


def test_kill_9_of_an_experiment_and_the_same_command_again(tmp_path, uncut):
    process = start("distill", *CUT, f"--workdir={tmp_path}")
    wait_for(process, tmp_path / "metrics.jsonl", '"distilled/seed-0", "epoch": 9')
    process.kill()
    process.communicate()
    again = call("distill", *CUT, f"--workdir={tmp_path}")
    assert again.returncode == 0, again.stderr
    assert again.stdout == uncut[1].stdout


def test_a_teacher_that_saw_the_test_images_is_refused(tmp_path):
    smoke(
        "train_teacher", tmp_path / "t", "--epochs=1", "--train_split=test", "--validation_split=", "--test_split=train"
    )
    refused = call("distill", "--smoke", f"--workdir={tmp_path / 'd'}", f"--teacher={tmp_path / 't'}")
    assert refused.returncode == 2
    assert "it learned from test, which shares examples with --test_split=test" in refused.stderr


def test_a_trained_teacher_is_taken_and_one_for_other_classes_or_unfinished_is_refused(tmp_path):
    smoke("train_teacher", tmp_path / "t", "--epochs=3")
    done = smoke("distill", tmp_path / "d", f"--teacher={tmp_path / 't'}")
    rows = [json.loads(line) for line in (tmp_path / "d" / "metrics.jsonl").read_text().splitlines()]
    assert {r["run"].split("/")[0] for r in rows} == {"alone", "distilled"}
    theirs = json.loads((tmp_path / "t" / "results.json").read_text())["teacher"]
    ours = json.loads((tmp_path / "d" / "results.json").read_text())["teacher"]
    assert [t["accuracy"] for t in theirs] == [t["accuracy"] for t in ours]
    assert "student distilled" in done.stdout

    model = json.loads((tmp_path / "t" / "model.json").read_text())
    (tmp_path / "t" / "model.json").write_text(json.dumps({**model, "num_classes": 7}))
    refused = call("distill", "--smoke", f"--workdir={tmp_path / 'e'}", f"--teacher={tmp_path / 't'}")
    assert refused.returncode == 2
    assert "the teacher has num_classes 7, the data set 'digits' has 10" in refused.stderr

    (tmp_path / "t" / "model.json").write_text(json.dumps(model))
    (tmp_path / "t" / "results.json").unlink()
    refused = call("distill", "--smoke", f"--workdir={tmp_path / 'e'}", f"--teacher={tmp_path / 't'}")
    assert refused.returncode == 2
    assert "accepted is the --workdir of a finished experiments.train_teacher run" in refused.stderr


def test_live_and_cached_teachers_and_both_wrappers_on_two_devices(tmp_path, monkeypatch):
    assert jax.device_count() == 2
    nll: list[float] = []
    scored = lambda *args: nll.append(args[-1].results["student distilled"][0]["nll"])  # noqa: E731
    monkeypatch.setattr(distill, "report", scored)
    ways = ({"teacher_outputs": "live", "loop": "step", "device_data_gb": 0.0}, {"parallel": "pmap"})
    for i, way in enumerate(ways):  # without dropout, which pmap draws differently
        (tmp_path / str(i)).mkdir()
        tiny = {"seeds": 1, "epochs": 2, "teacher": "mlp(16)", "teacher_epochs": 2, "student": "mlp(8)"}
        distill.main(distill.Config(**tiny, **way), tmp_path / str(i))
    assert nll[1] == pytest.approx(nll[0], rel=1e-4)


def test_helpfull():
    shown = call("distill", "--helpfull").stdout
    assert all(f"--{name}" in shown or f"--[no]{name}" in shown for name in ("method", "loss", "student"))
    shown = "".join(shown.split())  # --helpfull breaks long lines
    assert all(name in shown for name in (*comparisons.names(), *FAMILY.names()))


BAD = {
    "a misspelt flag": (["--metod=kd"], "Did you mean: method"),
    "a wrong method": (["--method=kdd"], "method, column 1: read the name kdd"),
    "a wrong keyword of a method": (["--method=kd(temprature=2)"], "did you mean temperature?"),
    "a method and a loss": (["--method=crd", "--loss=labels"], "--method=crd and --loss=labels; accepted: one or"),
    "a loss that cannot be read": (["--loss=2*respons.kl +"], "loss, column"),
    "a first stage without layers": (["--hint_epochs=1"], "--hint_epochs: no loss compares layers"),
    "nothing for the second stage": (
        ["--loss=feature.hint(hidden1)", "--hint_epochs=1"],
        "--loss=1*feature.hint(hidden1): nothing is left for the second stage",
    ),
    "a wrong loss": (["--loss=response.kll"], "response.kl"),
    "a wrong model": (["--student=mpl(20)"], "did you mean mlp?"),
    "images too small for the network": (["--student=resnet18"], "--student=resnet18: image is 8 x 8"),
    "a wrong optimizer": (["--optimizer=adm"], "did you mean adam?"),
    "a wrong number of an optimizer": (["--optimizer=sgd(momentm=0.9)"], "did you mean momentum?"),
    "a negative decay": (["--optimizer=sgd(weight_decay=-1)"], "weight_decay=-1"),
    "a wrong wrapper": (["--parallel=xmap"], "jit"),
    "a wrong type": (["--epochs=many"], "epochs"),
    "a value out of range": (["--student=mlp(20, dropout=1.5)"], "dropout=1.5; accepted: a rate in [0, 1)"),
    "a temperature of nought": (["--method=kd(temperature=0)"], "temperature=0"),
    "a temperature whose square overflows": (["--method=kd(temperature=1e20)"], "temperature=1e+20; accepted: up to"),
    "a wrong keyword of the loss": (["--loss=response.dkd(gamma=1)"], "read gamma=1; accepted: response.dkd takes"),
    "a malformed keyword": (["--loss=response.dkd(beta=)"], "loss, column"),
    "an unknown data set": (["--dataset=mnits"], "mnits"),
    "an unknown split": (["--test_split=tset"], "tset"),
    "an empty split": (["--train_split=train[:0]"], "empty"),
    "a batch larger than the data": (["--batch_size=5000"], "batch_size=5000"),
    "too many labels": (["--labels=5000"], "labels=5000"),
    "a teacher that is not there": (["--teacher=nowhere"], "--teacher=nowhere"),
    "an argument of the loss out of range": (["--loss=response.jensen_shannon(beta=1.5)"], "beta=1.5"),
    "a number that is none": (["--learning_rate=nan"], "--learning_rate=nan"),
    "no widths": (["--student=mlp"], "accepted: one or more positive widths"),
    "splits that share examples": (["--train_split=train"], "share examples"),
    "a stray argument": (["stray"], "unexpected argument 'stray'"),
    "a name in other bytes": (["--workdir=bad\udcff"], "is not UTF-8; accepted: names that are"),
    "momentum for adam": (["--optimizer=adam(momentum=0.9)"], "optimizer, column 1: momentum=0.9"),
    "a warm-up longer than the run": (["--schedule=warmup(2)"], "read share=2 of warmup; accepted: a fraction"),
    "a rate that climbs above itself": (["--schedule=linear(0, 2)"], "schedule=linear(0, 2) runs from 0 to 2"),
    "a factor above 1": (["--schedule=3"], "--schedule=3: schedule=constant(3) runs from 3 to 3; accepted: a factor"),
    "a set where a number stands": (
        ["--learning_rate=log(1e-4, 1e-2)"], "=log(1e-4, 1e-2): 'log(1e-4, 1e-2)' is no number; accepted: a"
    ),
    "an attacked view without an attack": (["--loss=response.kl(student=attacked)"], "no attack makes such a view"),
    "an attack at which no term looks": (["--loss=response.kl, pgd(0.1)"], "no term looks at the images of pgd(0.1)"),
    "a set in a schedule": (["--schedule=linear(grid(0.5, 1), 0)"], "--schedule=linear(grid(0.5, 1), 0): a set"),
    "a set of schedules": (["--schedule=grid(0.1, 1)"], "--schedule=grid(0.1, 1): a set"),
    "an odd width": (["--student=mlp(20, x)"], "student, column 1: read hidden=(20, x); accepted: whole numbers"),
    "layers that are not there": (["--loss=feature.hint(hidden9)"], "no layer 'hidden9'; accepted:"),
    "a loss on no layers": (["--loss=feature.hint"], "feature.hint names no layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_clear_error_before_training(case, tmp_path):
    flags, message = BAD[case]
    done = call("distill", "--smoke", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode not in (0, 143)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_mistake_does_not_bind_the_folder_and_a_flagfile_is_read(tmp_path):
    assert call("train_teacher", "--smoke", f"--workdir={tmp_path / 'run'}", "--batch_size=5000").returncode == 2
    (tmp_path / "flags.txt").write_text(f"--smoke\n--seeds=1\n--workdir={tmp_path / 'run'}\n")
    done = call("train_teacher", f"--flagfile={tmp_path / 'flags.txt'}")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["teacher"]) == 1


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = call("distill", "--smoke", f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_divergence_is_one_clear_error(tmp_path):
    done = call("train_teacher", "--smoke", f"--workdir={tmp_path}", "--optimizer=sgd", "--learning_rate=1e38")
    assert done.returncode == 3
    assert "is not finite at step" in done.stderr
    assert "last good checkpoint: none" in done.stderr


def test_a_layer_map_teaches_layers():
    """The student learns every second layer of its teacher, by one flag."""
    shape = {"num_classes": 10, "image_shape": (8, 8, 1)}
    study = study_of(shape, 100)
    student, teacher = (models.create("mlp", **shape, hidden=(4,) * depth) for depth in (2, 4))
    config = distill.Config(loss="0.1*labels + 0.9*response.kl(temperature=4) + feature.hint(every(2))")
    plan = distill.planned(config, study, student, teacher, 10)
    assert plan.layers == ((1, 2), (2, 4))
    assert plan.named == (("hidden1", "hidden2"), ("hidden2", "hidden4"))
    assert plan.hparams == {
        "labels.weight": 0.1,
        "response.kl.weight": 0.9,
        "response.kl.temperature": 4.0,
        "feature.hint(every).weight": 1.0,
    }
    empty = distill.Config(loss="0*labels + feature.hint(hidden1, hidden2)", hint_epochs=3)
    with pytest.raises(BadInput, match="nothing is left for the second stage"):
        distill.planned(empty, study, student, teacher, 10, second=True)


def test_every_name_that_a_flag_takes_trains(tmp_path, monkeypatch, plain):
    """Losses, schedules and models, each typed at least once, as many at a time as there are kinds; and optimizers."""
    losses = comparisons.names("response") + comparisons.names("contrastive")
    kinds = {
        "loss": [" + ".join(["labels", *losses[i::4]]) for i in range(4)],
        "schedule": ("cosine(1, 0)", "linear(1, 0.1)", "steps((1, 0.1), (0.5,))", "warmup(0.5, constant(1))"),
        "student": [f"{name}(4, 4, 4)" for name in models.names()],
    }
    tiny = {
        "seeds": 1,
        "epochs": 1,
        "labels": 20,
        "batch_size": 50,
        "train_split": "train[:100]",
    }
    for name in optimizers.OPTIMIZERS:  # what they do is tested beside them
        optimizer_of(distill.Config(optimizer=name), steps=10)
    teacher = str(plain("train_teacher")[0])
    reported: list[dict[str, list[dict[str, float]]]] = []
    monkeypatch.setattr(distill, "report", lambda *args: reported.append(args[-1].results))
    for i in range(max(map(len, kinds.values()))):
        typed = {kind: names[i % len(names)] for kind, names in kinds.items()}
        (tmp_path / str(i)).mkdir()
        config = distill.Config(validation_split="", teacher=teacher, **tiny, **typed)
        distill.main(config, tmp_path / str(i))
        assert 0 <= reported[i]["student distilled"][0]["accuracy"] <= 1, typed


def test_convolutions_are_not_scanned_on_a_cpu_unless_asked():
    kernels = {"mlp": jnp.zeros((3, 2)), "cnn": jnp.zeros((3, 3, 1, 2))}
    assert [chooses_scan("auto", {"w": w}, parallel.data_mesh()) for w in kernels.values()] == [True, False]
    assert chooses_scan("scan", {"w": kernels["cnn"]}, parallel.data_mesh())
    assert not chooses_scan("step", {"w": kernels["mlp"]}, parallel.data_mesh())


def test_the_notebooks_networks_have_the_notebooks_sizes():
    for hidden, count in (("1200,1200", "2395210"), ("20", "15910")):
        widths = tuple(map(int, hidden.split(",")))
        model = models.create("mlp", num_classes=10, image_shape=(28, 28, 1), hidden=widths)
        params, _ = jax.eval_shape(model.init, jax.random.key(0))
        assert str(models.parameter_count(params)) == count

"""Kills, damage and divergence: a run that went through them ends as one that did not, or says why it cannot."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import optax
import pytest

from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.optimizers import unit_rate
from kdjax.training.predict import Predictor
from kdjax.training.record import Recorder
from kdjax.training.state import create_state, variables
from kdjax.training.step import many_steps, train_step
from kdjax.training.stop import Interrupted
from kdjax.types import BadInput, Diverged, Outputs
from tests.training.conftest import Task, same

SCRIPT = textwrap.dedent(
    """
    import sys, time
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    from tests.training.conftest import Task
    task = Task()
    inner = task.run
    def slow(*args):  # leaves time to be killed between and during saves
        time.sleep(0.02)
        return inner(*args)
    task.run = slow
    print("ready", flush=True)
    task.fit(sys.argv[1])
    """
)


def start(directory) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def restored(task: Task, directory):
    with Checkpointer(directory, keep=3) as checkpointer:
        found = checkpointer.restore(task.state())
    assert found is not None
    return found[0]


def test_checkpointing_changes_nothing(task, finished, tmp_path):
    assert same(task.fit(tmp_path).params, finished.params)


def test_resuming_at_every_kind_of_place_is_bit_for_bit(task, finished, tmp_path):
    for stop in (1, 3):
        part = task.fit(tmp_path / str(stop), epochs=stop)
        assert not same(part.params, finished.params)
        whole = task.fit(tmp_path / str(stop))
        assert same(whole.params, finished.params)
        assert same(whole.opt_state, finished.opt_state)


def kill_9(directory, moment) -> bool:
    """Start a run and kill it at a moment; whether it was still running then."""
    process = start(directory)
    moment(process)
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


def test_kill_9_again_and_again_at_random_moments(task, finished, tmp_path):
    rng, cut = np.random.default_rng(0), 0
    for _ in range(4):  # each run goes on from what the one before left
        cut += kill_9(tmp_path, lambda process: time.sleep(rng.uniform(0.0, 1.5)))
    assert cut >= 2, "the runs ended before they were killed"
    assert same(task.fit(tmp_path).params, finished.params)


def test_kill_9_in_the_middle_of_a_save(task, finished, tmp_path):
    # Orbax writes a step under a temporary name and renames it: kill while the temporary name is there.
    def wait_for_a_save(process):
        while process.poll() is None and not list(tmp_path.glob("*orbax-checkpoint-tmp*")):
            time.sleep(0.0002)

    assert kill_9(tmp_path, wait_for_a_save)
    assert same(task.fit(tmp_path).params, finished.params)
    assert not list(tmp_path.glob("*tmp*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_and_the_next_run_goes_on(task, finished, tmp_path, number, code):
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "18").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert int(restored(task, tmp_path).step) < 72
    assert same(task.fit(tmp_path).params, finished.params)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_an_epoch_keeps_the_epochs_sums(task, tmp_path, number):
    seen: dict[int, dict[str, float]] = {}
    inner, calls = task.run, 0

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == 3:  # the first half of the second epoch
            os.kill(os.getpid(), number)
        return inner(*args)

    whole: dict[int, dict[str, float]] = {}
    task.fit(tmp_path / "whole", on_epoch=whole.__setitem__)
    task.run = interrupted
    try:
        with pytest.raises(Interrupted) as stopped:
            task.fit(tmp_path / "cut", on_epoch=seen.__setitem__)
        assert stopped.value.code == 128 + number
        assert "saved at step 27" in stopped.value.message
        assert list(seen) == [1]
        assert int(restored(task, tmp_path / "cut").step) == 27
        task.fit(tmp_path / "cut", on_epoch=seen.__setitem__)
    finally:
        task.run = inner
    assert seen == whole


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.unlink()])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(task, finished, tmp_path, caplog, damage):
    task.fit(tmp_path, epochs=3)
    damage(largest(tmp_path / "54" / "model"))
    with caplog.at_level(logging.WARNING):
        assert int(restored(task, tmp_path).step) == 36
    assert "54 is damaged and set aside" in caplog.text
    assert same(task.fit(tmp_path).params, finished.params)
    assert (tmp_path / "damaged-54").is_dir()


def test_whichever_file_is_truncated_the_state_is_a_whole_one(task, tmp_path):
    def scored(folder):
        return Checkpointer(folder, keep=3, best="score")

    with scored(tmp_path / "good") as checkpointer:
        for step in (1, 2):
            checkpointer.save(task.state().replace(step=jax.numpy.int32(step)), metrics={"score": step / 10}, meta={})
    files = [f.relative_to(tmp_path / "good") for f in (tmp_path / "good" / "2").rglob("*") if f.is_file()]
    assert len(files) > 10
    steps = set()
    for i, file in enumerate(files):
        shutil.copytree(tmp_path / "good", tmp_path / str(i))
        truncate(tmp_path / str(i) / file)
        with scored(tmp_path / str(i)) as checkpointer:
            found = checkpointer.restore(task.state())
        assert found is not None, file
        assert same(found[0].params, task.state().params), file
        steps.add(int(found[0].step))
    assert steps == {1, 2}  # some files are only notes, and their loss costs nothing


def test_another_structure_is_refused_and_nothing_is_set_aside(task, tmp_path):
    task.fit(tmp_path, epochs=1)
    other = create_state(task.model, unit_rate(optax.sgd(1.0)), jax.random.key(0), hparams={"learning_rate": 0.1})
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(BadInput, match="training was saved with another structure"):
            checkpointer.restore(other)
        assert checkpointer.steps() == [18]


def test_if_all_are_damaged_the_run_does_not_silently_start_again(task, tmp_path):
    task.fit(tmp_path, epochs=1)
    truncate(largest(tmp_path / "18" / "model"))
    with pytest.raises(BadInput, match=r"all of \[18\] are damaged"):
        task.fit(tmp_path)


def test_a_read_only_checkpointer_changes_nothing(task, tmp_path):
    task.fit(tmp_path, epochs=2)
    truncate(largest(tmp_path / "36" / "model"))
    before = sorted(tmp_path.rglob("*"))
    params, model_state = (tree["student"] for tree in (task.state().params, task.state().model_state))
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.restore_variables(params, model_state)["params"].keys() == params.keys()
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoints_without_a_metric_do_not_pile_up(task, tmp_path):
    with Checkpointer(tmp_path, keep=1, best="score") as checkpointer:
        for step, metrics in enumerate([{"score": 0.5}, None, None, {"score": 0.1}], start=1):
            checkpointer.save(task.state().replace(step=jax.numpy.int32(step)), metrics=metrics)
        checkpointer.wait()
        assert checkpointer.steps() == [1, 4]


def test_only_the_newest_and_the_best_are_kept(task, tmp_path):
    scores = iter([0.1, 0.9, 0.2, 0.3])
    with Checkpointer(tmp_path, keep=1, best="score") as checkpointer:
        for step in (1, 2, 3, 4):
            state = task.state()
            checkpointer.save(state.replace(step=state.step + step), metrics={"score": next(scores)})
        checkpointer.wait()
        assert checkpointer.steps() == [2, 4]
        best = checkpointer.restore(task.state(), best=True)
        assert best is not None
        assert int(best[0].step) == 2
    # A process that starts later knows the best one too.
    with Checkpointer(tmp_path, keep=1, best="score") as checkpointer:
        again = checkpointer.restore(task.state(), best=True)
        assert again is not None
        assert int(again[0].step) == 2


def test_all_of_the_state_comes_back(task, tmp_path):
    end = task.fit(tmp_path)
    back = restored(task, tmp_path)
    for name in ("step", "params", "opt_state", "model_state", "hparams"):
        assert same(getattr(end, name), getattr(back, name)), name
    assert same(jax.random.key_data(end.key), jax.random.key_data(back.key))


@pytest.mark.parametrize("bad_step", [1, 11, 30])
def test_nan_stops_with_step_metric_and_last_good_checkpoint(task, tmp_path, bad_step):
    inner = task.loss_fn

    def poisoned(params, state, batch, key):
        losses, aux = inner(params, state, batch, key)
        bad = state.step == bad_step - 1
        return losses + jax.numpy.where(bad, jax.numpy.nan, 0.0), aux

    def make(axis_name):
        return many_steps(train_step(poisoned, task.tx, axis_name=axis_name))

    run = task.run
    task.run = parallel.wrap("jit", make, task.mesh, batch_axis=1)
    try:
        with pytest.raises(Diverged, match=rf"loss is not finite at step {bad_step};") as error:
            task.fit(tmp_path)
    finally:
        task.run = run
    good = bad_step > 18
    assert (f"step 18 in {tmp_path}" if good else "last good checkpoint: none") in str(error.value)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps() == ([18] if good else [])


def test_parameters_that_overflow_after_finite_metrics_are_not_saved(task, tmp_path):
    inner, calls = task.run, 0

    def overflowing(*args):
        nonlocal calls
        calls += 1
        state, out = inner(*args)
        if calls == 4:  # the end of the second epoch
            state = state.replace(params=jax.tree.map(lambda x: x * jax.numpy.inf, state.params))
        return state, out

    task.run = overflowing
    try:
        with pytest.raises(Diverged, match=r"params is not finite at step 36; last good checkpoint: step 18"):
            task.fit(tmp_path)
    finally:
        task.run = inner


def overflow(part):
    """A run whose fourth call, the end of the second epoch, leaves infinite numbers in a part of the state."""

    def wrap(inner):
        calls = 0

        def run(*args):
            nonlocal calls
            calls += 1
            state, out = inner(*args)
            if calls == 4:
                state = state.replace(**{part: jax.tree.map(lambda x: x + jax.numpy.inf, getattr(state, part))})
            return state, out

        return run

    return wrap


@pytest.mark.parametrize("part", ["params", "model_state"])
@pytest.mark.parametrize("saves", [False, True])
def test_an_overflow_that_no_metric_shows_ends_the_run(part, saves, tmp_path, monkeypatch):
    task = Task()
    inner, overflows = task.run, overflow(part)

    def run(state, *rest):  # the network has no statistics, so they are put beside it
        new, out = inner(state.replace(model_state={"student": {}}), *rest)
        return new.replace(model_state=state.model_state), out

    monkeypatch.setattr(task, "run", overflows(run))
    state = task.state().replace(model_state={"student": {"statistics": jax.numpy.ones(3)}})
    monkeypatch.setattr(task, "state", lambda: state)
    rows = []
    last = f"step 18 in {tmp_path}" if saves else "none"
    with pytest.raises(Diverged, match=rf"{part} is not finite at step 36; last good checkpoint: {last}\."):
        task.fit(tmp_path if saves else None, epochs=2, on_epoch=lambda epoch, row: rows.append(epoch))
    assert rows == [1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_evaluation_that_is_not_finite_ends_the_run(task, tmp_path, bad):
    scores = iter([0.5, bad])
    with pytest.raises(Diverged, match=r"validation_nll is not finite at step 36; last good checkpoint: step 18 in"):
        task.fit(tmp_path, evaluate=lambda state: {"validation_nll": next(scores)})


def test_answers_that_are_not_finite_are_no_answers(task, tmp_path):
    state, mesh = task.state(), task.mesh
    batch = {"inputs": task.source.arrays["inputs"][:4], "mask": np.ones(4)}

    def answer(value, column=2):
        def apply(variables, image, *, train, key):
            logits = jax.numpy.zeros((len(image), 3)).at[1, column].set(value)
            return Outputs(logits), {}

        return Predictor(apply, mesh)(variables(state), [batch])

    assert answer(-np.inf)[1, 2] == -np.inf  # a class that is ruled out
    for value, column in ((np.nan, 2), (np.inf, 2), (-np.inf, slice(None))):
        with pytest.raises(Diverged, match=r"the answers to 1 of 4 examples are not numbers \(the first is row 1\)"):
            answer(value, column)
    with pytest.raises(Diverged, match=r"run: .* are not numbers \(.*\) at step 18; last good checkpoint: none"):
        task.fit(tmp_path, evaluate=lambda state: {"x": float(answer(np.nan).sum())})


def test_a_row_that_is_not_finite_is_not_written(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin("a/seed-0", 0)
    with pytest.raises(Diverged, match="a/seed-0, epoch 1: nll is nan"):
        recorder.write("a/seed-0", 1, {"nll": float("nan")})
    assert recorder.rows() == []


def test_records_of_a_killed_run_have_no_hole_and_no_double(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin("a/seed-0", 0)
    recorder.begin("b/seed-0", 0)
    for epoch in (1, 2, 3):
        recorder.write("a/seed-0", epoch, {"loss": 1 / epoch})
        recorder.write("b/seed-0", epoch, {"loss": 2 / epoch})
    with recorder.file.open("a") as file:
        file.write('{"run": "a/seed-0", "epo')  # killed here
    again = Recorder(tmp_path)
    again.begin("a/seed-0", 2)
    again.write("a/seed-0", 3, {"loss": 0.5})
    rows = {(r["run"], r["epoch"]): r["loss"] for r in again.rows()}
    assert rows["a/seed-0", 3] == 0.5
    assert len(rows) == len(again.rows()) == 6
    assert list((tmp_path / "tensorboard" / "a" / "seed-0").glob("events*"))


def test_the_order_of_rows_is_kept(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin("a", 0)
    for epoch in range(1, 4):
        recorder.write("a", epoch, {"x": np.float32(epoch).item()})
    assert [r["epoch"] for r in recorder.rows()] == [1, 2, 3]

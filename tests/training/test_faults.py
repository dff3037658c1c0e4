"""Kills, damage and divergence: a run that went through them ends as one that did not, or says why it cannot."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest

from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import Diverged, Interrupted
from kdjax.training.record import Recorder
from kdjax.training.step import many_steps, train_step
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


@pytest.mark.parametrize("delay", [0.0, 0.7, 1.1, 1.6])
def test_kill_9_at_random_moments_then_resume(task, finished, tmp_path, delay):
    # The delays fall before, between and during the four saves; each kill leaves what it leaves.
    process = start(tmp_path)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert same(task.fit(tmp_path).params, finished.params)


def test_kill_9_in_the_middle_of_a_save(task, finished, tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    # Orbax writes a step under a temporary name and renames it: kill while the temporary name is there.
    while not list(tmp_path.glob("*orbax-checkpoint-tmp*")) and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert same(task.fit(tmp_path).params, finished.params)
    assert not list(tmp_path.glob("*tmp*"))


def test_sigterm_saves_and_exits_and_the_next_run_goes_on(task, finished, tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "18").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert int(restored(task, tmp_path).step) < 72
    assert same(task.fit(tmp_path).params, finished.params)


def test_sigterm_in_the_middle_of_an_epoch_keeps_the_epochs_sums(task, tmp_path):
    seen: dict[int, dict[str, float]] = {}
    inner, calls = task.run, 0

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == 3:  # the first half of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args)

    whole: dict[int, dict[str, float]] = {}
    task.fit(tmp_path / "whole", on_epoch=whole.__setitem__)
    task.run = interrupted
    try:
        with pytest.raises(Interrupted):
            task.fit(tmp_path / "cut", on_epoch=seen.__setitem__)
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
        losses, (model_state, metrics) = inner(params, state, batch, key)
        bad = state.step == bad_step - 1
        return losses + jax.numpy.where(bad, jax.numpy.nan, 0.0), (model_state, metrics)

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

"""What a checkpoint gives back, under any name, and what is said where it cannot be written."""

import json
import shutil
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from kdjax.files import NotSaved
from kdjax.training import checkpoint, record
from kdjax.training.checkpoint import Checkpointer
from kdjax.types import BadInput, TrainState
from tests.training.conftest import same

TX = optax.adam(1e-3)


def state(seed: int = 0, **changes) -> TrainState:
    """A small state, every part of which another seed gives another value."""
    drawn = jax.random.normal(jax.random.key(seed), (3,))
    params = {"student": {"w": drawn}, "connectors": {"linear": drawn - 1}}
    return TrainState(
        step=jnp.int32(7 + seed),
        params=params,
        model_state={"student": {"batch_stats": {"mean": drawn + 1}}, "connectors": {"margins": {"mean": drawn - 2}}},
        opt_state=(jax.tree.map(lambda x: x + seed + 1, TX.init(params)),),
        key=jax.random.key(100 + seed),
        hparams={"learning_rate": jnp.float32(0.1 + seed), "temperature": jnp.float32(4 + seed)},
        frozen={"teacher": drawn + 3},
        memory={"crd": drawn + 2},
    ).replace(**changes)


PARTS = ("step", "params", "model_state", "opt_state", "key", "hparams", "memory")


def raw(state: TrainState, part: str):
    value = getattr(state, part)
    return jax.random.key_data(value) if part == "key" else value


def test_everything_comes_back_into_a_state_that_has_another_value_everywhere(tmp_path):
    saved, other = state(0), state(1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(saved)
        found = checkpointer.restore(other)
    assert found is not None
    for part in PARTS:
        assert not same(raw(saved, part), raw(other, part)), f"{part}: the test can see nothing"
        assert same(raw(found[0], part), raw(saved, part)), part
    assert same(found[0].frozen, other.frozen)  # teachers are not in a checkpoint


def test_one_network_of_several_can_be_read_alone(tmp_path):
    saved, other = state(0), state(1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(saved)
        for network in ("student", "connectors"):
            like = other.params[network], other.model_state[network]
            read = checkpointer.restore_variables(*like, network=network)
            assert same(read, {"params": saved.params[network], **saved.model_state[network]})
        for like, network in (((other.params["student"], {}), "student"), ((other.params["student"], {}), "critic")):
            with pytest.raises(BadInput, match="another structure"):
                checkpointer.restore_variables(*like, network=network)


NAMES = [
    " leading", "trailing ", "two words", "tab\t", "new\nline", "lr[0.1]", "[]", "a\\b", "\\", "a*b", "*", "a?b",
    "{a,b}", "100%", "%41", "#1", "a:b", "gs:", "file:", "it's", '"quoted"', "$HOME", "a|b", "a&b;c", "!x", "(x)",
    "-rf", "--x=1", "dot.", "...", "~", "a~", "-", "ü–λ", "日本", "\udcff", "x" * 200, "1", "1.orbax-checkpoint-tmp",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_checkpoint_under_any_name_reads_back(tmp_path, name):
    saved, folder = state(), tmp_path / name / "checkpoints"
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(saved)
    assert [f.name for f in folder.iterdir()] == ["7"]
    with Checkpointer(folder, read_only=True) as checkpointer:
        read = checkpointer.restore_variables(state(1).params["student"], state(1).model_state["student"])
    assert same(read, {"params": saved.params["student"], **saved.model_state["student"]})
    recorder = record.Recorder(tmp_path / name)
    recorder.begin("a/seed-0", 0)
    recorder.write("a/seed-0", 1, {"loss": 1.0})
    recorder.end("a/seed-0")
    assert recorder.rows() == [{"run": "a/seed-0", "epoch": 1, "loss": 1.0}]


def test_a_name_that_matches_another_folder_does_not_read_from_it(tmp_path):
    with Checkpointer(tmp_path / "x1") as plain, Checkpointer(tmp_path / "x[1]") as odd:
        plain.save(state(0))
        odd.save(state(1, step=jnp.int32(7)))
    for name, seed in (("x1", 0), ("x[1]", 1)):
        with Checkpointer(tmp_path / name) as checkpointer:
            found = checkpointer.restore(state(2))
        assert found is not None
        assert same(found[0].params, state(seed).params)


def test_a_first_checkpoint_that_cannot_be_read_ends_the_run_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_linked", nullcontext)  # as if no way around the name were known
    with Checkpointer(tmp_path / "x[1]") as checkpointer:
        with pytest.raises(
            NotSaved, match=r"7'?: cannot be written \(written, it cannot be read: .*checkpoint: none\."
        ):
            checkpointer.save(state())
        assert checkpointer.steps() == []


def test_only_the_first_checkpoint_of_a_run_is_read_back(tmp_path, monkeypatch):
    read, steps = Checkpointer._read, []

    def counted(self, step, like, part=""):
        steps.append(step)
        return read(self, step, like, part)

    monkeypatch.setattr(Checkpointer, "_read", counted)
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(state(step=jnp.int32(step)))
    assert steps == [1]
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        checkpointer.restore(state())
        checkpointer.save(state(step=jnp.int32(4)))
    assert steps == [1, 3]


def whole(folder) -> set[str]:
    return {f.name for f in folder.iterdir() if "tmp" not in f.name}


FILL = textwrap.dedent(
    """
    import json, resource, sys, time
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    from pathlib import Path
    from tests.training.conftest import Task
    from kdjax.files import NotSaved
    from kdjax.training.record import Recorder
    task, said = Task(), {}

    def train(folder, limit):
        recorder = Recorder(folder)

        def on_epoch(epoch, row):
            if epoch == 3:
                while not (folder / "checkpoints" / "36").exists():  # saved beside the training
                    time.sleep(0.01)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            recorder.write("a", epoch, row)

        task.fit(folder / "checkpoints", on_start=lambda done: recorder.begin("a", done), on_epoch=on_epoch)

    for limit in sys.argv[2:]:
        folder = Path(sys.argv[1]) / limit
        folder.mkdir()
        try:
            train(folder, int(limit))
        except NotSaved as error:
            said[limit] = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(json.dumps(said))
    """
)
LIMITS = ("0", "100", "1000", "4000")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The folders of runs whose disk was full at so many bytes a file, and what each run said."""
    folder = tmp_path_factory.mktemp("filled")
    command = [sys.executable, "-c", FILL, str(folder), *LIMITS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_disk_that_fills_up_costs_nothing_that_was_saved(task, finished, filled, limit):
    folder = filled[0] / limit
    assert f"last good checkpoint: step 36 in {folder / 'checkpoints'}. The same command goes on" in filled[1][limit]
    assert whole(folder / "checkpoints") == {"18", "36"}
    assert (folder / "metrics.jsonl").read_text().endswith("\n")
    recorder = record.Recorder(folder)
    task.fit(
        folder / "checkpoints",
        on_start=lambda done: recorder.begin("a", done),
        on_epoch=lambda epoch, row: recorder.write("a", epoch, row),
    )
    with Checkpointer(folder / "checkpoints", keep=3) as checkpointer:
        found = checkpointer.restore(task.state())
    assert found is not None
    assert same(found[0].params, finished.params)
    assert [r["epoch"] for r in recorder.rows()] == [1, 2, 3, 4]
    assert not list(folder.rglob("*tmp*"))
    assert not list(folder.rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_is_said_and_goes_on_when_there_is_room(small_disk):
    filler = small_disk / "filler"

    def save_on_a_full_disk():
        with Checkpointer(small_disk / "run", keep=9) as checkpointer:
            checkpointer.save(state(step=jnp.int32(1)))
            with pytest.raises(OSError, match="No space"):
                filler.write_bytes(bytes(2**20))
            checkpointer.save(state(step=jnp.int32(2)))

    with pytest.raises(
        NotSaved, match=r"cannot be written \(No space left on device\); last good checkpoint: step 1 in"
    ):
        save_on_a_full_disk()
    filler.unlink()
    assert whole(small_disk / "run") == {"1"}
    with Checkpointer(small_disk / "run", keep=9) as checkpointer:
        found = checkpointer.restore(state(1))
        assert found is not None
        assert same(found[0].params, state().params)
        checkpointer.save(state(step=jnp.int32(3)))
        checkpointer.wait()
        assert checkpointer.steps() == [1, 3]


def test_links_to_odd_names_are_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.tempfile, "tempdir", str(tmp_path / "links"))
    Path(tmp_path / "links").mkdir()
    with Checkpointer(tmp_path / "a\\b") as checkpointer:
        checkpointer.save(state())
        assert list((tmp_path / "links").iterdir())
    assert not list((tmp_path / "links").iterdir())
    assert (tmp_path / "a\\b" / "7").is_dir()

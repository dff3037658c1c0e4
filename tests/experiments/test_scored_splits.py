"""What cannot be scored is refused: splits before anything trains, by every experiment, and answers of imports."""

import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import import_teacher, train_teacher
from experiments.attack import __main__ as attack
from experiments.audit import __main__ as audit
from experiments.domains import __main__ as domains
from kdjax import config as configs
from kdjax.models.create import create
from kdjax.models.import_torch import to_torch
from kdjax.study.data import open_study
from kdjax.types import BadInput, Diverged
from tests.data.helpers import prepare

SPLITS = {"train": 40, "known": 12, "none": 12, "some": 12}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three sets of one name: labels are unknown where the split is called `none`, and for the last of `some`."""
    folder = tmp_path_factory.mktemp("tfds")

    def label(split, index):
        return -1 if split == "none" or (split == "some" and index == 11) else index % 4

    prepare(folder, splits=SPLITS, shape=(8, 8, 1), label=label)
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KDJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(made, **changed):
    base = train_teacher.Config(
        dataset="tiny", data_dir=made, train_split="train[:30]", validation_split="train[30:]", test_split="known",
        batch_size=10, epochs=1, seeds=1, hidden=(4,),
    )  # fmt: skip
    return replace(base, **changed)


@pytest.mark.parametrize("flag", ["test_split", "validation_split"])
@pytest.mark.parametrize(("split", "wrong"), [("none", 12), ("some", 1)])
def test_unknown_labels_are_refused_before_training(made, tmp_path, flag, split, wrong):
    with pytest.raises(BadInput, match=rf"--{flag}: {wrong} of 12 examples of tiny/{split} have no label"):
        train_teacher.main(config(made, **{flag: split}), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_of_another_size_are_refused_before_training(tmp_path, split):
    sides = {"train": 4, "test": 4, "validation": 4, split: 5}
    arrays = {f"{name}_inputs": np.zeros((10, side, side, 1), np.uint8) for name, side in sides.items()}
    np.savez(tmp_path / "a.npz", **arrays, **{f"{name}_label": np.arange(10) for name in sides}, num_classes=10)
    own = {f"{name}_split": name for name in sides} | {"dataset": f"npz:{tmp_path / 'a.npz'}", "data_dir": ""}
    with pytest.raises(BadInput, match=rf"--{split}_split={split} has images \(5, 5, 1\); accepted: .*, \(4, 4, 1\)"):
        open_study(config("", **own), tmp_path)


def test_a_network_that_learns_from_labels_alone_needs_one(made, tmp_path):
    said = r"--train_split: none of the 12 examples of tiny/none has a label"
    with pytest.raises(BadInput, match=said):
        train_teacher.main(config(made, train_split="none", validation_split=""), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_images_to_learn_from_may_lack_labels(made, tmp_path):
    study = open_study(config(made, train_split="none"), tmp_path)
    assert (study.train.labels() == -1).all()


def test_attacks_and_audits_refuse_them_too(made, tmp_path):
    learned = config(made)
    train_teacher.main(learned, configs.claim(learned, tmp_path / "teacher")[0])
    given = {"model": str(tmp_path / "teacher"), "dataset": "tiny", "data_dir": made, "examples": 12}
    with pytest.raises(BadInput, match="--split: 12 of 12 examples of tiny/none"):
        attack.main(replace(attack.Config(), **given, split="none"), tmp_path)
    with pytest.raises(BadInput, match="--test_split: 12 of 12 examples of tiny/none"):
        audit.main(replace(audit.Config(), **given, test_split="none"), tmp_path)


def test_a_domain_without_labels_is_refused(made, tmp_path):
    chosen = replace(
        domains.Config(), data_dir=made, domains="tiny, tiny(invert)", train_split="train", test_split="some"
    )
    with pytest.raises(BadInput, match="--test_split: 2 of 24 examples"):
        domains.prepare(chosen, tmp_path)


def test_images_in_two_splits_are_warned_about(tmp_path, caplog, monkeypatch):
    # The set is written twice under two names, as a benchmark is that was copied.
    monkeypatch.setattr(logging.getLogger("kdjax"), "propagate", True)
    prepare(tmp_path, splits={"train": 30, "copy": 30}, shape=(8, 8, 1))
    open_study(config(str(tmp_path), test_split="copy", train_split="train[:20]", validation_split=""), tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("20 of the 30 images of --test_split looked at are images of --train_split too")


def test_an_imported_network_whose_answers_are_no_numbers_teaches_nobody(made, tmp_path):
    shape = {"num_classes": 4, "image_shape": (8, 8, 1)}
    model = create("resnet8", **shape)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    rng, ones = np.random.default_rng(0), lambda x: np.ones(x.shape, np.float32)
    params = jax.tree.map(lambda x: np.float32(rng.normal(0, 0.1, x.shape)) if len(x.shape) > 1 else ones(x), params)
    state = jax.tree.map(ones, state)
    arrays = to_torch({"params": params, **state}, "resnet8")
    said = r"tiny/known: the answers to \d+ of 12 examples are not numbers"
    flags = {"batch_size": 10, "dataset": "tiny", "data_dir": made, "train_split": "train[:30]", "validation_split": ""}
    chosen = import_teacher.Config(model="resnet8", test_split="known", weights=str(tmp_path / "w.npz"), **flags)
    for damage, error, words in (
        ({"bn1.running_var": -arrays["bn1.running_var"]}, BadInput, "bn1.running_var has -1"),
        # Finite weights of which each says a finite thing, and all together more than float32 holds.
        (
            {"fc.weight": 3e38 * np.sign(arrays["fc.weight"])},
            Diverged,
            said,
        ),
    ):
        np.savez(tmp_path / "w.npz", **(arrays | damage))
        with pytest.raises(error, match=words):
            import_teacher.main(chosen, tmp_path)
        assert not (tmp_path / "model.json").exists()
        assert not (tmp_path / "checkpoints").exists()
    np.savez(tmp_path / "w.npz", **arrays)
    import_teacher.main(chosen, tmp_path)
    assert (tmp_path / "model.json").exists()

"""Networks and views from flags: every name, what is refused before training, and what model.json brings back."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import distill, train_teacher
from experiments.defensive import __main__ as defensive
from kdjax.data import views
from kdjax.data.embedded import digits
from kdjax.data.moments import channel_moments
from kdjax.data.source import Source
from kdjax.data.stream import Stream
from kdjax.models.create import NORMS, accepts, all_names, create
from kdjax.study import networks
from kdjax.study import train as training
from kdjax.study.data import open_study
from kdjax.types import BadInput
from tests.data.helpers import png

SMALL = {"num_classes": 10, "image_shape": (28, 28, 1)}
TOO_SMALL_FOR = ("mobilenet_v2", "resnet18", "resnet34", "resnet50")  # MNIST's images


def tuples(description):
    """A description as load_network reads it."""
    return {n: tuple(x) if isinstance(x, list) else x for n, x in json.loads(json.dumps(description)).items()}


@pytest.mark.parametrize("name", all_names())
def test_every_network_can_be_named_and_said_again(name, monkeypatch):
    shape = {**SMALL, "image_shape": (32, 32, 3)} if name in TOO_SMALL_FOR else SMALL
    taken = accepts(name)
    widths = ["4", "5", "6"] if "hidden" in taken else []
    settings = [f"{key}={value}" for key, value in (("dropout", 0.25), ("norm", "group")) if key in taken]
    text = f"{name}({', '.join([*widths, *settings])})"
    description = networks.named(text, shape, flag="student").description
    assert description.keys() == {"name", *shape} | ({"hidden", "dropout", "norm"} & taken)
    assert description.get("hidden", (4, 5, 6)) == (4, 5, 6)
    again = tuples(description)
    assert again == description
    create(**again)
    # And by the flags of the experiments that name a network in parts; its layers were traced above.
    monkeypatch.setattr(networks.jax, "eval_shape", lambda *_: None)
    config = train_teacher.Config(model=name, dropout=0.0, hidden=(4, 5, 6) if widths else train_teacher.Config.hidden)
    described = networks.from_flags(config, shape).description
    assert {"hidden", "dropout", "norm"} & described.keys() == {"hidden", "dropout", "norm"} & taken


def test_images_that_are_too_small_are_refused_before_training():
    with pytest.raises(BadInput, match=r"--teacher=mobilenet_v2: image is 28 x 28; accepted by this network: 32 x 32"):
        networks.named("mobilenet_v2", SMALL, flag="teacher")
    with pytest.raises(BadInput, match=r"--model=mobilenet_v2: image is 28 x 28; accepted by this network: 32 x 32"):
        networks.from_flags(train_teacher.Config(model="mobilenet_v2", dropout=0.0), SMALL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnet8(30)", r"student, column 1: read 30: resnet8 takes no widths; accepted: .* cnn, fast_cnn, mlp"),
        ("resnet8(dropout=0.1)", r"read dropout=0.1: resnet8 takes no dropout; accepted: .* cnn, .*wrn_16_1"),
        ("vit_tiny(norm=group)", r"read norm=group: vit_tiny takes no norm"),
        ("resnet8(norm=grup)", r"norm='grup'; accepted: batch, group"),
        ("resnet8(norm=2)", r"read norm=2; accepted: a name, such as norm=group"),
        ("mlp", r"hidden=\(\); accepted: one or more positive widths"),
        ("mlp(0)", r"hidden=\(0,\); accepted: one or more positive widths"),
        ("mlp(2.5)", r"read hidden=\(2.5,\); accepted: whole numbers"),
        ("mlp(grid(2, 4))", r"read hidden=.*; accepted: whole numbers"),
        ("mlp(20, dropout=1)", r"dropout=1.0; accepted: a rate in \[0, 1\)"),
        ("mlp(20, dropout=high)", r"read dropout=high; accepted: a rate"),
        ("mlp(20, width=3)", r"read width=3; accepted: dropout, input_dropout, norm"),
        ("mlp(20, hidden=3)", r"read hidden=3"),
        ("mpl(20)", r"student, column 1: read the name mpl; accepted: cnn, .*did you mean mlp\?"),
        ("20", r"student, column 1: "),
    ],
)
def test_what_a_network_does_not_take_is_refused_with_the_place(text, words):
    with pytest.raises(BadInput, match=words):
        networks.named(text, SMALL, flag="student")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"hidden": (30,)}, r"--hidden=30: resnet8 takes no hidden; accepted: .* cnn, fast_cnn, mlp"),
        ({"dropout": 0.1}, r"--dropout=0.1: resnet8 takes no dropout; accepted: .* cnn, .*wrn_16_1"),
        ({"model": "vit_tiny", "norm": "group"}, r"--norm=group: vit_tiny takes no norm"),
    ],
)  # fmt: skip
def test_what_a_network_does_not_take_is_refused_once_it_was_changed(changed, words):
    config = replace(train_teacher.Config(model="resnet8"), **changed)
    with pytest.raises(BadInput, match=words):
        networks.from_flags(config, SMALL)


def test_defaults_smoke_values_and_nought_are_left_alone():
    for changed in ({}, {"hidden": (16,), "dropout": 0.0}):
        config = replace(train_teacher.Config(model="resnet8"), **changed)
        assert networks.from_flags(config, SMALL).description == {"name": "resnet8", **SMALL, "norm": "batch"}
    assert networks.from_flags(defensive.Config(), SMALL).description["hidden"] == (200,)
    assert networks.named("resnet8", SMALL, flag="student").description == {"name": "resnet8", **SMALL}


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_that_was_asked_for(norm):
    found = networks.named(f"resnet8(norm={norm})", SMALL, flag="student")
    _, state = jax.eval_shape(found.model.init, jax.random.key(0))
    assert bool(state) == (norm == "batch")


def test_a_text_that_is_a_folder_is_one_and_another_is_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("mlp", f"mlp({', '.join(['100'] * 80)})", "~nobody_has_this_home"):  # longer than a name may be
        assert not networks.is_run(text)
    (tmp_path / "mlp").mkdir()
    assert networks.is_run("mlp")
    with pytest.raises(BadInput, match=r"--teacher=mlp: model.json, .* is missing or damaged"):
        distill.main(distill.Config(teacher="mlp"), tmp_path)
    with pytest.raises(BadInput, match=r"--teacher: 'a+' cannot be a path \(File name too long\); accepted"):
        networks.load_network("a" * 300, flag="teacher")
    with pytest.raises(BadInput, match="--teacher=runs/nowhere: no folder, and teacher, column"):
        distill.main(distill.Config(teacher="runs/nowhere"), tmp_path)


def test_moments_are_numpys_streamed_or_not():
    image = np.random.default_rng(0).integers(0, 256, (2300, 3, 2, 3), np.uint8)
    source = Source({"inputs": image, "label": np.zeros(2300, np.int32)}, 2, "made")
    files = [png(x).read() for x in image]
    stream = Stream(lambda at: [(files[i], 0) for i in at], np.arange(2300), (3, 2, 3), 2, "made")
    expected = [getattr(image.astype(np.float64) / 255, f)((0, 1, 2)) for f in ("mean", "std")]
    for examples in (source, stream):
        np.testing.assert_allclose(channel_moments(examples), expected, rtol=1e-6)
    with pytest.raises(BadInput, match="channel 1 of made is the same in every pixel"):
        channel_moments(replace(source, arrays={**source.arrays, "inputs": image * np.array([1, 0, 1], np.uint8)}))


def test_standardised_networks_see_the_training_split_at_mean_0_and_deviation_1():
    train = digits("train")
    model, description = networks.named(
        "mlp(20)", {"num_classes": 10, "image_shape": (8, 8, 1)}, flag="student", train=train
    )
    assert (description["mean"], description["std"]) == channel_moments(train)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0))[0])
    # Plain numpy, on images that are normalised by hand.
    image = train.arrays["inputs"][:5].astype(np.float64)
    x = (image - train.arrays["inputs"].mean(dtype=np.float64)) / train.arrays["inputs"].std(dtype=np.float64)
    hidden = np.maximum(x.reshape(5, -1) @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    logits = model.apply({"params": params}, jax.numpy.asarray(train.arrays["inputs"][:5]), train=False, key=None)[
        0
    ].logits
    np.testing.assert_allclose(logits, hidden @ params["logits"]["kernel"] + params["logits"]["bias"], atol=1e-5)


def test_a_teacher_of_published_widths_keeps_its_moments_and_teaches_augmented_mixtures(tmp_path, monkeypatch):
    tiny = {"train_split": "train[:100]", "validation_split": "", "seeds": 1, "batch_size": 50, "epochs": 1}
    folder, config = tmp_path / "t", train_teacher.Config(model="lenet", standardize=True, **tiny)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dataset": "digits", "train_split": "train[:100]"}))
    train_teacher.main(replace(config, augment="random_shift(1), random_flip"), folder)
    with pytest.raises(BadInput, match=r"--augment=mixup: mixup shows mixtures.*all is learned from labels here"):
        train_teacher.main(replace(config, augment="mixup"), tmp_path)

    monkeypatch.setattr(distill.answering, "refuse_guessing", lambda *_: None)  # this one is hardly trained
    (tmp_path / "d").mkdir()
    every = ", ".join(views.AUGMENTATIONS.names()).replace("crop_and_flip", "crop_and_flip(1)")
    student = distill.Config(teacher=str(folder), labels=20, method="patient", augment=every, student="mlp(4)", **tiny)
    distill.main(student, tmp_path / "d")
    study = open_study(student, tmp_path)
    model, weights = networks.load_teachers(study, str(folder))
    found = json.loads((tmp_path / "d" / "results.json").read_text())
    logits = training.predict(study, model, weights[0], study.test)
    accuracy = float((logits.argmax(-1) == study.test.labels()).mean())
    assert found["teacher"][0]["accuracy"] == pytest.approx(accuracy)
    described = json.loads((folder / "model.json").read_text())
    assert described.keys() == {"name", "mean", "std", *SMALL}
    assert (*described["mean"], *described["std"]) == sum(channel_moments(study.train), ())
    assert json.loads((tmp_path / "d" / "model-distilled.json").read_text()).keys() == {
        "name",
        "hidden",
        *SMALL,
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"augment": "mixup"}, "--augment=mixup: mixup shows mixtures.*labels have weight here"),
        (
            {"augment": "random_flip", "answers_dir": "a"},
            "--answers_dir=a keeps answers to images as they are stored, and with .*response.kl.* images are augmented",
        ),
        ({"loss": "labels", "answers_dir": "a"}, "--answers_dir=a: 1.labels asks no teacher"),
        ({"augment": "random_shift(8)"}, r"--augment=random_shift\(8\): pixels=8; accepted: 0 to 7"),
        ({"augment": "random_shift(-1)"}, "pixels=-1; accepted: 0 to 7"),
        ({"augment": "random_flop"}, "did you mean random_flip"),
        ({"student": "mobilenet_v2"}, "--student=mobilenet_v2: image is 8 x 8"),
    ],
)
def test_what_cannot_be_is_refused_before_training(changed, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        distill.main(replace(distill.Config(), **changed), tmp_path)
    assert not (tmp_path / "checkpoints").exists()

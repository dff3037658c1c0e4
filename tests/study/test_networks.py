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
def test_every_network_can_be_named_and_said_again(name):
    config = distill.Config(student_model=name, teacher_model=name)
    shape = {**SMALL, "image_shape": (32, 32, 3)} if name in TOO_SMALL_FOR else SMALL
    description = networks.from_flags(config, shape, "student").description
    assert {"hidden", "dropout", "norm"} & description.keys() == {"hidden", "dropout", "norm"} & accepts(name)
    again = tuples(description)
    assert again == description
    create(**again)


@pytest.mark.parametrize("name", ["mobilenet_v2"])
def test_images_that_are_too_small_are_refused_before_training(name):
    with pytest.raises(BadInput, match=rf"--teacher_model={name}: image is 28 x 28; accepted by this network: 32 x 32"):
        networks.from_flags(distill.Config(teacher_model=name), SMALL, "teacher")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"student_hidden": (30,)}, r"--student_hidden=30: resnet8 takes no hidden; accepted: .* cnn, fast_cnn, mlp"),
        ({"student_dropout": 0.1}, r"--student_dropout=0.1: resnet8 takes no dropout; accepted: .* cnn, .*wrn_16_1"),
        ({"student_model": "vit_tiny", "student_norm": "group"}, r"--student_norm=group: vit_tiny takes no norm"),
    ],
)  # fmt: skip
def test_what_a_network_does_not_take_is_refused_once_it_was_changed(changed, words):
    config = replace(distill.Config(student_model="resnet8"), **changed)
    with pytest.raises(BadInput, match=words):
        networks.from_flags(config, SMALL, "student")


def test_defaults_smoke_values_and_nought_are_left_alone():
    smoke = {"student_hidden": (8,), "student_dropout": 0.0}
    for changed in ({}, smoke):
        config = replace(distill.Config(student_model="resnet8"), **changed)
        assert networks.from_flags(config, SMALL, "student").description == {
            "name": "resnet8",
            **SMALL,
            "norm": "batch",
        }
    nought = train_teacher.Config(model="resnet8", dropout=0.0)
    assert "dropout" not in networks.from_flags(nought, SMALL).description
    assert networks.from_flags(defensive.Config(), SMALL).description["hidden"] == (200,)


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_that_was_asked_for(norm):
    config = distill.Config(student_model="resnet8", student_norm=norm)
    _, state = jax.eval_shape(networks.from_flags(config, SMALL, "student").model.init, jax.random.key(0))
    assert bool(state) == (norm == "batch")


def test_moments_are_numpys_streamed_or_not():
    image = np.random.default_rng(0).integers(0, 256, (2300, 3, 2, 3), np.uint8)
    source = Source({"image": image, "label": np.zeros(2300, np.int32)}, 2, "made")
    files = [png(x).read() for x in image]
    stream = Stream(lambda at: [(files[i], 0) for i in at], np.arange(2300), (3, 2, 3), 2, "made")
    expected = [getattr(image.astype(np.float64) / 255, f)((0, 1, 2)) for f in ("mean", "std")]
    for examples in (source, stream):
        np.testing.assert_allclose(channel_moments(examples), expected, rtol=1e-6)
    with pytest.raises(BadInput, match="channel 1 of made is the same in every pixel"):
        channel_moments(replace(source, arrays={**source.arrays, "image": image * np.array([1, 0, 1], np.uint8)}))


def test_standardised_networks_see_the_training_split_at_mean_0_and_deviation_1():
    train = digits("train")
    config = distill.Config(standardize=True)
    model, description = networks.from_flags(
        config, {"num_classes": 10, "image_shape": (8, 8, 1)}, "student", train=train
    )
    assert (description["mean"], description["std"]) == channel_moments(train)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0))[0])
    # Plain numpy, on images that are normalised by hand.
    image = train.arrays["image"][:5].astype(np.float64)
    x = (image - train.arrays["image"].mean(dtype=np.float64)) / train.arrays["image"].std(dtype=np.float64)
    hidden = np.maximum(x.reshape(5, -1) @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    logits = model.apply({"params": params}, jax.numpy.asarray(train.arrays["image"][:5]), train=False, key=None)[
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

    (tmp_path / "d").mkdir()
    every = ", ".join(views.AUGMENTATIONS.names()).replace("crop_and_flip", "crop_and_flip(1)")
    student = distill.Config(
        teacher=str(folder), labels=20, method="patient", augment=every, student_hidden=(4,), **tiny
    )
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
        "dropout",
        *SMALL,
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"augment": "mixup"}, "--augment=mixup: mixup shows mixtures.*labels have weight here"),
        ({"augment": "random_flip", "answers_dir": "a"}, "--augment=random_flip: --answers_dir and --answers_top_k"),
        ({"augment": "random_shift(8)"}, r"--augment=random_shift\(8\): pixels=8; accepted: 0 to 7"),
        ({"augment": "random_shift(-1)"}, "pixels=-1; accepted: 0 to 7"),
        ({"augment": "random_flop"}, "did you mean random_flip"),
        ({"student_model": "mobilenet_v2"}, "--student_model=mobilenet_v2: image is 8 x 8"),
    ],
)
def test_what_cannot_be_is_refused_before_training(changed, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        distill.main(replace(distill.Config(), **changed), tmp_path)
    assert not (tmp_path / "checkpoints").exists()

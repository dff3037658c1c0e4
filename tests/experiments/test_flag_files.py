"""Every file of flags, through the flags' own parser, to a plan that was tried on shapes."""

from dataclasses import replace

import pytest

from experiments import distill, train_teacher
from kdjax.study import networks, views
from kdjax.study.data import optimizer_of
from tests.experiments.scripts import ROOT, parsed
from tests.study.studies import study_of

FOLDER = ROOT / "experiments" / "flags"
SHAPE = {"num_classes": 10, "image_shape": (32, 32, 3)}
# A method is typed as --method=NAME; what is left to a file is how long and how fast all of them train.
RECIPES = {"cifar": (), "mobile": ("cifar",), "patient": ("cifar",)}


def files(*names):
    return [f"--flagfile={FOLDER / name}.flags" for name in names]


@pytest.fixture(scope="module")
def network():
    config = parsed(distill.Config, "--student=resnet8")
    return networks.named(config.student, SHAPE, flag="student").model


def test_every_file_is_here():
    assert {f.stem for f in FOLDER.glob("*")} == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_makes_a_plan(name, network):
    config = parsed(distill.Config, *files(*RECIPES[name], name))
    plan = distill.planned(config, study_of(SHAPE, 50_000), network, network, steps=config.epochs * 782)
    patient = {"response.kl.weight": 1.0, "response.kl.temperature": 1.0}
    hinton = {"labels.weight": 0.1, "response.kl.weight": 0.9, "response.kl.temperature": 4.0}
    assert plan.hparams == (patient if name == "patient" else hinton)
    assert plan.live
    assert plan.augmented
    for epochs in (config.epochs, config.teacher_epochs):
        optimizer_of(config, steps=epochs * 782)
    assert all(views.from_flag(config.augment, SHAPE))


def test_a_method_beside_the_recipe_is_one_flag(network):
    config = parsed(distill.Config, *files("cifar"), "--method=sp")
    plan = distill.planned(config, study_of(SHAPE, 50_000), network, network, steps=config.epochs * 782)
    assert plan.hparams == {"labels.weight": 1.0, "relation.sp(final).weight": 3000.0}
    assert plan.named == (("stage3", "stage3"),)


DROPS = "steps((1, 0.1, 0.01, 0.001), (0.625, 0.75, 0.875))"
"""At 150, 180 and 210 of 240 epochs."""


def test_the_recipe_is_the_fields_for_teacher_and_student():
    for kind in (distill.Config, train_teacher.Config):
        config = parsed(kind, *files("cifar"))
        assert (config.epochs, config.batch_size, config.schedule) == (240, 64, DROPS)
        assert config.optimizer == "sgd(momentum=0.9, weight_decay=5e-4)"
        assert (config.learning_rate, config.augment, config.standardize) == (0.05, "crop_and_flip", True)
        assert (config.train_split, config.validation_split, config.test_split) == ("train", "", "test")
    taught = parsed(distill.Config, *files("cifar"))
    assert (taught.labels, taught.teacher_epochs, taught.teacher_learning_rate) == (0, 240, 0.05)
    # A wide ResNet takes dropout, and the recipe has none.
    wide = replace(parsed(train_teacher.Config, *files("cifar")), model="wrn_16_2", standardize=False)
    assert networks.from_flags(wide, SHAPE).description["dropout"] == 0
    assert "dropout" not in networks.named("wrn_16_2", SHAPE, flag="teacher").description
    alone = replace(parsed(train_teacher.Config, *files("cifar")), model="resnet20", standardize=False)
    assert "dropout" not in networks.from_flags(alone, SHAPE).description
    assert parsed(distill.Config, *files("cifar", "mobile")).learning_rate == 0.01
    assert parsed(distill.Config, *files("cifar"), "--epochs=3", "--dataset=cifar100").epochs == 3

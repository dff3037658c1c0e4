"""Every file of flags, through the flags' own parser, to a plan that was tried on shapes."""

from dataclasses import replace

import pytest
from absl import flags

from experiments import distill, train_teacher
from kdjax import config as configs
from kdjax.study import networks, views
from kdjax.study.data import optimizer_of
from tests.experiments.scripts import ROOT
from tests.study.studies import study_of

FOLDER = ROOT / "experiments" / "flags"
SHAPE = {"num_classes": 10, "image_shape": (32, 32, 3)}
RECIPES = {"cifar", "mobile"}
SIDES = {"fsp": ("stem-stage1", "stage1-stage2", "stage2-stage3"), "ab": ("stage1_pre", "stage2_pre", "stage3_pre")}
LAST = ("stage1", "stage2", "stage3")
# The weights of the field's code, typed from its tables: labels, answers, and what else is compared, layer by layer.
REVIEWED = "-".join(["stage1_pre", "stage2_pre", "stage3_pre", "embedding"])
WEIGHTS = {
    "kd": (0.1, 0.9, {}),
    "ls": (0.1, 9.0, {}),
    "dkd": (1.0, 1.0, {}),
    "fitnet": (1.0, 0.0, {"feature.hint@stage2=stage2": 100.0}),
    "at": (1.0, 0.0, {f"feature.attention@{s}={s}": 1000.0 for s in LAST}),
    "nst": (1.0, 0.0, {f"feature.nst@{s}={s}": 50.0 for s in LAST}),
    "vid": (1.0, 0.0, {f"feature.vid@{s}={s}": 1.0 for s in LAST}),
    "fsp": (1.0, 0.0, {f"feature.fsp@{s}={s}": 50.0 for s in SIDES["fsp"]}),
    "ab": (1.0, 0.0, {f"feature.ab@{s}={s}": 0.003 / 2**i for i, s in enumerate(reversed(SIDES["ab"]))}),
    "ofd": (1.0, 0.0, {f"feature.ofd@{s}={s}": 0.001 / 2**i for i, s in enumerate(reversed(SIDES["ab"]))}),
    "ft": (1.0, 0.0, {"feature.ft@stage3=stage3": 500.0, "paraphraser@stage3=stage3": 1.0}),
    "crd": (1.0, 0.0, {"contrastive.crd@embedding=embedding": 0.8}),
    "review": (1.0, 0.0, {f"feature.review@{REVIEWED}={REVIEWED}": 5.0}),
    "sp": (1.0, 0.0, {"relation.sp@stage3=stage3": 3000.0}),
    "cc": (1.0, 0.0, {"relation.cc_neighbours@embedding=embedding": 0.02}),
    "pkt": (1.0, 0.0, {"relation.pkt@embedding=embedding": 30000.0}),
    "rkd": (
        1.0,
        0.0,
        {"relation.rkd_distance@embedding=embedding": 25.0, "relation.rkd_angle@embedding=embedding": 50.0},
    ),
    "patient": (0.0, 1.0, {}),
}


def parsed(kind, *argv):
    values = flags.FlagValues()
    flags.DEFINE_flag(flags.BooleanFlag("help", False, ""), values)
    configs.define_flags(kind, values)
    values(["program", *argv])
    return configs.from_flags(kind, values)


def files(*names):
    return [f"--flagfile={FOLDER / name}.flags" for name in names]


@pytest.fixture(scope="module")
def network():
    config = parsed(distill.Config, "--student_model=resnet8")
    return networks.from_flags(config, SHAPE, "student").model


def test_every_file_is_here():
    assert {f.stem for f in FOLDER.glob("*")} == WEIGHTS.keys() | RECIPES


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_methods_file_makes_the_fields_plan(name, network):
    config = parsed(distill.Config, *files("cifar", name))
    study = study_of(SHAPE, 50_000)
    plan = distill.planned(config, study, network, network, steps=config.epochs * 782)
    labels, answers, others = WEIGHTS[name]
    assert plan.hparams["alpha"] == answers
    assert plan.hparams.get("label_weight", 1 - plan.hparams["alpha"]) == pytest.approx(labels)
    weights = {n.removeprefix("weight/"): x for n, x in plan.hparams.items() if n.startswith("weight/")}
    assert weights == pytest.approx(others)
    assert plan.hparams["temperature"] == {"patient": 1.0, "ls": 2.0}.get(name, 4.0)
    assert plan.outputs(config).teacher_outputs == "live"
    assert config.hint_epochs == (30 if name in ("ab", "fsp", "ft") else 0)
    if name == "dkd":
        rise = [plan.recipe.keywords["schedules"]["alpha"](epoch * 782) for epoch in (0, 10, 20, 240)]
        assert rise == pytest.approx([0, 0.5, 1, 1], abs=1e-4)
    for epochs in (config.epochs, config.teacher_epochs):
        optimizer_of(config, steps=epochs * 782)
    assert all(views.from_flag(config.augment, SHAPE))


def test_the_recipe_is_the_fields_for_teacher_and_student():
    for kind in (distill.Config, train_teacher.Config):
        config = parsed(kind, *files("cifar"))
        assert (config.epochs, config.batch_size, config.schedule) == (240, 64, "step")
        assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)
        assert (config.learning_rate, config.augment, config.standardize) == (0.05, "crop_and_flip", True)
        assert (config.train_split, config.validation_split, config.test_split) == ("train", "", "test")
    taught = parsed(distill.Config, *files("cifar"))
    assert (taught.labels, taught.teacher_epochs, taught.teacher_learning_rate) == (0, 240, 0.05)
    # A wide ResNet takes dropout, and the recipe has none.
    wide = replace(taught, teacher_model="wrn_16_2", standardize=False)
    assert networks.from_flags(wide, SHAPE, "teacher").description["dropout"] == 0
    alone = replace(parsed(train_teacher.Config, *files("cifar")), model="resnet20", standardize=False)
    assert "dropout" not in networks.from_flags(alone, SHAPE).description
    assert parsed(distill.Config, *files("cifar", "mobile")).learning_rate == 0.01
    assert parsed(distill.Config, *files("cifar"), "--epochs=3", "--dataset=cifar100").epochs == 3

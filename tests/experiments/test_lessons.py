"""What members of a sweep learn: each is the plain run of the same flags, and every axis is a traced number."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import distill, train_teacher
from experiments.sweep import __main__ as sweep
from experiments.sweep import lessons, space
from kdjax.data.load import load
from kdjax.data.source import hide_labels, unit_interval
from kdjax.models.create import create
from kdjax.study import command, figures, networks
from kdjax.study.data import open_study
from kdjax.teachers.stored import cached
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, initializer
from kdjax.types import BadInput

TINY = {
    "train_split": "train[:150]",
    "teacher": "mlp(6, dropout=0.2)",
    "teacher_epochs": 2,
    "student": "mlp(5)",
    "seeds": 2,
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    for name in ("curves", "comparison"):
        monkeypatch.setattr(figures, name, lambda *_, **__: None)


def ran(experiment, config, workdir):
    """What a finished run leaves in its folder, as `command.start` makes it."""
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    experiment.main(config, workdir)
    return json.loads((workdir / "results.json").read_text())


def test_a_swept_teacher_is_the_one_that_train_teacher_makes_with_that_epsilon(tmp_path):
    config = sweep.Config(
        members="teachers", attack="fgsm_rs(grid(0.02, 0.3))", label_smoothing="0.1", under="fgsm", **TINY
    )
    swept = ran(sweep, config, tmp_path / "swept")
    first, last = swept["points"]
    assert first["validation_attacked"] >= last["validation_attacked"]
    plain = train_teacher.Config(
        train_split="train[:150]", hidden=(6,), epochs=2, seeds=1, label_smoothing=0.1,
        attack=f"fgsm_rs({last['epsilon']})",
    )  # fmt: skip
    alone = ran(train_teacher, plain, tmp_path / "plain")["teacher"][0]["nll"]
    nll = {m["epsilon"]: m["test_nll"] for m in swept["members"] if m["seed"] == 0}
    assert nll[last["epsilon"]] == pytest.approx(alone, rel=1e-5)
    assert nll[first["epsilon"]] != pytest.approx(alone, rel=1e-5)
    # What it leaves is a teacher: the networks of the best point, seed by seed.
    kept = networks.load_network(str(tmp_path / "swept"), flag="teacher")
    image = jnp.asarray(unit_interval(load("digits", "test").arrays["inputs"]))
    for seed, weights in enumerate(kept.weights):
        logits = np.asarray(kept.model.apply(weights, image, train=False, key=None)[0].logits)
        mine = [m for m in swept["members"] if m["seed"] == seed and m["point"] == first["point"]]
        said = space.scores(logits[None], load("digits", "test").labels())["nll"][0]
        assert said == pytest.approx(mine[0]["test_nll"], rel=1e-5)


def test_a_swept_student_with_its_own_labels_learns_what_distill_teaches_of_several_losses(tmp_path):
    same = {**TINY, "labels": 20, "teacher_epochs": 1, "workdir": str(tmp_path)}
    said = "0.8*response.dkd(temperature=2, beta={}) + {}*response.dist(temperature=2) + 0.2*labels"
    config = sweep.Config(**same, loss=said.format("grid(2)", "grid(0, 9)"), own_labels=True)
    study = open_study(config, tmp_path)
    lesson = lessons.of_students(config, study, tmp_path)
    members = sweep.plan_members(config, lesson)[1]
    taught = lesson.prepare(tmp_path)
    arrays = {name: jnp.asarray(column) for name, column in taught.source.arrays.items()}
    init = initializer(lesson.model)
    batch = {**arrays, "inputs": unit_interval(arrays["inputs"]), "mask": jnp.ones(150)}
    teacher = create("mlp", **study.shape, hidden=(6,))
    assert [m.hparams["response.dist.weight"] for m in members] == [0, 0, 9, 9]
    assert [m.hparams["response.dkd.beta"] for m in members] == [2] * 4
    swept, plans = jax.jit(taught.loss_fn), {}
    for member in members:
        state = create_state(
            lesson.model, unit_rate(optax.sgd(1.0)), jax.random.key(member.seed), hparams=member.hparams, init=init
        )
        found, _ = swept(state.params, state, batch, state.key)
        loss = said.format(2, f"{member.hparams['response.dist.weight']:g}")
        if loss not in plans:  # one plan and one program for both seeds
            plan = distill.planned(distill.Config(**same, loss=loss), study, lesson.network, teacher, 1)
            plans[loss] = plan.hparams, jax.jit(plan.taught_by(cached()))
        hparams, learned = plans[loss]
        plain = state.replace(hparams={name: jnp.float32(x) for name, x in hparams.items()})
        label = jnp.asarray(hide_labels(study.train, 20, member.seed).labels())
        want, _ = learned(plain.params, plain, {**batch, "label": label}, state.key)
        np.testing.assert_allclose(found, want, rtol=1e-5)
        assert (np.asarray(label) >= 0).sum() == 20
    assert "and draw of labels" in sweep.seen(config)
    assert "one draw of labels" in sweep.seen(dataclasses.replace(config, own_labels=False))


def test_a_method_of_two_teachers_is_swept_as_distill_teaches_it(tmp_path, monkeypatch):
    method, same = "akd2(epsilon={}, steps=1, natural='it')", {**TINY, "workdir": str(tmp_path)}
    config = sweep.Config(**same, method=method.format("grid(0.1, 0.3)"))
    study, key = open_study(config, tmp_path), jax.random.key(5)
    natural, teacher = (create("mlp", **study.shape, hidden=(n,)) for n in (4, 6))
    monkeypatch.setattr(networks, "load_teachers", lambda study, path, *, flag: (natural, [drawn(natural)]))
    monkeypatch.setattr(networks, "teacher_of", lambda *_: (teacher, [drawn(teacher)], {}))
    monkeypatch.setattr(lessons.answering, "refuse_guessing", lambda *_: None)
    monkeypatch.setattr(lessons, "trained_elsewhere", lambda *_: {})
    lesson = lessons.of_students(config, study, tmp_path)
    assert lesson.lineage.facts["further teachers"] == {"natural": "it"}
    assert "steps=1" in lesson.lineage.facts["attack"]
    taught = lesson.prepare(tmp_path)
    some, said = study.train.select(np.arange(9)), []
    batch = {"inputs": unit_interval(some.arrays["inputs"]), "label": some.labels(), "mask": np.ones(9, np.float32)}
    flags, others = distill.Config(**same, method=method.format(0.1)), {"natural": natural}
    plain = distill.planned(flags, study, lesson.network, teacher, 1, others=others)
    swept = jax.jit(taught.loss_fn)
    members = [member.hparams for member in sweep.plan_members(config, lesson)[1][::2]]
    for step, hparams in zip((swept, swept, jax.jit(plain.loss_fn)), (*members, plain.hparams), strict=True):
        own = {**hparams, "learning_rate": 0.1}
        state = create_state(lesson.model, unit_rate(optax.sgd(1.0)), key, hparams=own, frozen=taught.frozen)
        said.append(np.asarray(step(state.params, state, batch, key)[0]))
    np.testing.assert_allclose(said[0], said[2], rtol=1e-5)
    assert not np.allclose(said[0], said[1], rtol=1e-3)
    with pytest.raises(BadInput, match="no teacher called natural; accepted"):
        lessons.of_students(dataclasses.replace(config, method="mtard"), study, tmp_path)


def drawn(model):
    return {"params": model.init(jax.random.key(3))[0]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attack": "deepfool(epsilon=grid(0.1, 1))"}, "epsilon=grid.*; accepted: deepfool takes steps"),
        ({"attack": "pgd(grid(0.1, 8))"}, r"attack, column 1: epsilon=8: .*8/255 is 0\.0314"),
        ({"attack": "pgd(grid(-0.1, 0.1))"}, "attack, column 1: epsilon=-0.1: accepted"),
        ({"attack": "pgd(steps=grid(1, 2))"}, r"steps=grid\(1, 2\) of pgd; accepted: one value"),
        ({"attack": "pgd(linear(0, 0.1))"}, "epsilon=linear.* of pgd; accepted: one value"),
        ({"under": "pgd(eps=1)"}, "under, column 1: read eps=1; accepted: pgd takes epsilon"),
        ({"under": "pgd(grid(0.1, 0.2))"}, "under, column 1: .* of pgd; accepted: one value"),
    ],
)
def test_attacks_that_no_sweep_can_use_are_refused(changed, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        sweep.main(sweep.Config(members="teachers", **TINY, **changed), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_axes_without_what_they_need_are_refused(tmp_path):
    for changed, message in (
        ({"loss": "response.kl"}, r"nothing is swept of students; accepted: a set where a number stands, such as grid"),
        ({"members": "teachers", "attack": "pgd"}, "nothing is swept of teachers"),
        ({"members": "teachers", "attack": "deepfool(epsilon=grid(0.1, 0.2))"}, "epsilon"),
        ({"members": "teachers", "attack": "pgd(grid(-0.1, 0.1))"}, "-0.1"),
        ({"members": "teachers", "label_smoothing": "grid(0, 1.5)"}, "--label_smoothing=.*1.5; accepted: numbers from"),
        (
            {"learning_rate": "linear(1, 0)"},
            r"--learning_rate=linear\(1, 0\): a schedule; accepted: a number, or a set",
        ),
        ({"learning_rate": "log(1e-4, 1e-2)"}, r"--sample=0: learning_rate=log\(.*must be drawn; accepted: 1 or more"),
        ({"learning_rate": "grid(-1, 1)"}, "--learning_rate=.*-1; accepted: numbers from 0"),
        ({"loss": "grid(-1, 1)*response.kl"}, "read the weight -1 of response.kl; accepted: numbers from 0 up"),
        ({"loss": "response.kl(temperature=grid(0, 1))"}, "response.kl: temperature=0"),
        ({"loss": "respons.kl"}, r"loss, column 1: .*did you mean response\.kl\?"),
        ({"method": "kd(temperature=grid(1, 2))", "loss": "labels"}, "--method=.* and --loss=labels"),
        ({"attack": "pgd"}, "--attack and --label_smoothing are for --members=teachers"),
        ({"own_labels": True, "labels": 0}, "--own_labels: with --labels=0"),
        ({"members": "teachers", "own_labels": True}, "teachers have all labels"),
        ({"method": "ab", "loss": ""}, "--method=ab has two stages; accepted in sweeps: methods of one"),
        ({"student": "mlp(5, dropuot=0.1)"}, "student, column 1: .*did you mean dropout"),
        ({"teacher": "mpl(5)"}, r"--teacher=mpl\(5\): no folder, and teacher, column 1: .*did you mean mlp"),
        ({"under": "pgd(eps=1)"}, "under, column 1: read eps=1"),
    ):
        with pytest.raises(BadInput, match=message):
            sweep.main(sweep.Config(**{**TINY, **changed}), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_goes_on_on_other_devices_says_so(tmp_path, caplog):
    command._compare_devices(tmp_path)
    command._compare_devices(tmp_path)
    assert not caplog.records
    (tmp_path / "devices.txt").write_text("7 other\n")
    with caplog.at_level("WARNING", logger="kdjax.experiments"):
        command._compare_devices(tmp_path)
    assert "begun on 7 other, going on on 2 " in caplog.text

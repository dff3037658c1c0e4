"""Robust distillation: who learns from whom, what scores, which split chooses, and what is refused before training."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from experiments.robust import __main__ as robust
from experiments.robust import learned, report, scores
from kdjax import spec
from kdjax.attacks import named, objectives
from kdjax.attacks.run import run
from kdjax.attacks.victims import white_box
from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.study import attacks, networks
from kdjax.study import teacher as answering
from kdjax.study.compare import Arm, Done, Lineage, Trainer
from kdjax.study.data import Common, open_study
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.state import create_state
from kdjax.types import BadInput
from tests.experiments.laws import Laws, close
from tests.experiments.studies import SEEDS, ran, smallest

FIRST, LAST = "fgsm", "pgd(steps=2)"
CLIMB = "response.kl(student=attacked, teacher=clean, temperature=1.0)"
SNIPPET = "labels + 0.1*response.logit_l1"
ARMS = {
    "clean model": ("labels", [], None),
    "teacher": ("1.0*labels(student=attacked)", [], "labels(student=attacked)"),
    "student alone": ("labels", [], None),
    "pgd_at": ("1.0*labels(student=attacked)", [], "labels(student=attacked)"),
    "snippet": (SNIPPET, ["teacher"], ""),
    "snippet_training": (SNIPPET, ["teacher"], ""),
    "rslad": (f"0.8333333333333334*{CLIMB} + 0.166666666667*response.kl(temperature=1.0)", ["teacher"], CLIMB),
    "mtard": (None, ["clean model", "teacher"], "labels(student=attacked)"),
}
"""By arm: its loss, whom it learns from, what its attack climbs."""


class TestLaws(Laws):
    experiments = ("robust",)


def test_every_arm_learns_what_its_name_says_from_the_teachers_that_it_names():
    found = ran("robust").results["arms"]
    assert list(found) == list(ARMS)
    for name, (loss, teachers, climbs) in ARMS.items():
        assert found[name]["loss"] == loss or loss is None, name
        assert found[name]["teachers"] == teachers
        assert found[name]["facts"].get("teacher in training mode", False) == (name == "snippet_training")
        attack = found[name]["facts"].get("attack")
        assert bool(attack) == bool(climbs), name
        assert not climbs or (f"objective={climbs}" in attack and found[name]["hparams"]["pgd.epsilon"] == 0.1)
    assert found["clean model"]["epochs"] == found["teacher"]["epochs"] == ran("robust").config.teacher_epochs


def test_the_steps_are_given_the_variables_of_those_teachers():
    found = ran("robust")
    for seed in range(SEEDS):
        clean, teacher = (found.runs[f"{name}/seed-{seed}"].last for name in ("clean", "teacher"))
        assert not close(clean, teacher)
        for name in ("snippet", "snippet_training", "rslad"):
            assert close(found.runs[f"student-{name}/seed-{seed}"].frozen, teacher), name
        both = found.runs[f"student-mtard/seed-{seed}"].frozen
        assert close(both.teacher, teacher)
        assert close(both.others["natural"], clean)
        for name in ("clean", "teacher", "alone", "student-pgd_at"):
            assert found.runs[f"{name}/seed-{seed}"].frozen is None


def test_what_attacks_by_label_sees_labelled_images_alone_and_the_rest_all():
    found = ran("robust")
    images, labels = len(open_study(found.config, found.workdir).train), found.config.labels
    assert 0 < labels < images
    sees = {"alone": labels, "student-pgd_at": labels, "student-mtard": labels, "student-snippet": images}
    for name, size in {**sees, "student-rslad": images}.items():
        for seed in range(SEEDS):
            label = found.runs[f"{name}/seed-{seed}"].source.labels()
            assert (len(label), (label >= 0).sum()) == (size, labels), name
    for name in ("clean", "teacher"):
        assert (found.runs[f"{name}/seed-0"].source.labels() >= 0).sum() == images
    arms = found.results["arms"]
    assert arms["rslad"]["source"] == f"{labels} labels, all images"
    assert arms["pgd_at"]["source"] == f"{labels} labels"


def test_each_student_is_compared_with_the_first_method_under_the_last_attack_and_clean():
    pairs = [(p["first"], p["minus"], p["score"]) for p in ran("robust").results["pairs"]]
    others = ["snippet", "snippet_training", "rslad", "mtard", "student alone"]
    assert pairs == [(name, "pgd_at", score) for name in others for score in (LAST, "accuracy")]


def test_scores_are_those_of_the_saved_networks_on_the_test_images_attacked_for_each_of_them():
    found = ran("robust")
    image, label = attacks.first(open_study(found.config, found.workdir).test, 40)
    student, teacher = (
        networks.load_network(str(found.workdir), flag="model", role=role) for role in ("student-rslad", "teacher")
    )
    own, other = (white_box(n.model.apply, n.weights[1]) for n in (student, teacher))
    made = run(named.fgsm(0.1), own, image, label, objective=objectives.cross_entropy).image
    mine, theirs = (np.asarray(victim(jnp.asarray(made))) for victim in (own, other))
    told, p = found.results["rslad"][1], log_softmax(theirs.astype(float), -1)
    fooled = mine.argmax(-1) != label
    assert told[FIRST] == np.mean(~fooled)
    assert told[f"{FIRST}: teacher's entropy"] == pytest.approx(-(np.exp(p) * p).sum(-1).mean(), rel=1e-4)
    assert told[f"{FIRST}: fool teacher"] == pytest.approx(np.mean(theirs.argmax(-1)[fooled] != label[fooled]))
    assert np.mean(told["by class"]["recall"]) == pytest.approx(told["recall"])
    assert np.mean(told["by class"]["f1"]) == pytest.approx(told["f1"])
    assert told["bytes"] == 4 * told["parameters"]
    for row in found.results["teacher"]:
        assert row[f"{FIRST}: fool teacher"] in (None, 1.0)
    assert "seconds an epoch" in (found.workdir / "table.md").read_text()


def test_validation_images_choose_the_best_epoch_and_the_last_one_is_reported():
    found = ran("robust")
    study = open_study(found.config, found.workdir)
    held_out = attacks.first(study.validation, 40)
    rows = [json.loads(line) for line in (found.workdir / "metrics.jsonl").read_text().splitlines()]
    student = networks.load_network(str(found.workdir), flag="model", role="student-snippet")
    like = jax.eval_shape(student.model.init, jax.random.key(0))
    for seed in range(SEEDS):
        told, name = found.results["snippet"][seed], f"student-snippet/seed-{seed}"
        chosen = [row["chosen"] for row in rows if row["run"] == name]
        victim = white_box(student.model.apply, student.weights[seed])
        assert chosen[-1] == pytest.approx(1 - run(named.fgsm(0.1), victim, *held_out).success.mean())
        with Checkpointer(found.workdir / "checkpoints" / name, best="chosen", read_only=True) as checkpointer:
            assert len(checkpointer.steps()) == len(chosen) == 2
            best = checkpointer.restore_variables(*like, best=True)
        last = close(best, student.weights[seed])
        assert last or chosen[0] >= chosen[1]
        assert not last or chosen[1] >= chosen[0]
        assert (told["best: accuracy"] == told["accuracy"]) or not last
    legend = "`best: ...`: of the epoch that gets most of the first 40 validation images right under {}."
    assert (found.workdir / "table.md").read_text().rstrip().endswith(legend.format("fgsm"))
    assert report.best(["fgsm", "pgd(steps=2)"], 40) == legend.format("all of fgsm, pgd(steps=2)")
    assert "chosen" not in {key for row in rows if row["run"].startswith(("teacher", "clean")) for key in row}


def test_the_best_epoch_is_kept_beside_the_last(tmp_path):
    config = Common(seeds=1, train_split="train[:100]", validation_split="", checkpoint_every=1, keep=1)
    study = open_study(config, tmp_path)
    model, seen = create("mlp", **study.shape, hidden=(4,)), []

    def choose(weights):
        seen.append(jax.device_get(weights))
        return 1.0 if len(seen) == 2 else 0.0

    arm = Arm("one", model, supervised(model), 4, {"learning_rate": 0.1}, Lineage("labels"), choose=choose)
    trained = Trainer(study, tmp_path).train(arm, Done(study, 0))
    assert len(seen) == 4
    assert close(trained.best, seen[1])
    assert close(trained.weights, seen[3])
    assert not close(trained.best, trained.weights)


LABELLED = {"trades", "iad_i", "mtard", "peer_aid"}
"""What learns from labelled images alone: nobody is asked, or the attack climbs the labels' cross-entropy."""
ASKS = {
    "trades": (), "kd": ("teacher",), "iad_i": ("teacher",), "mtard": ("natural", "teacher"),
    "adaad + igdm": ("teacher",), "saad": ("teacher",), "peer_aid": (), "0.5*labels + 2*labels(student=attacked)": None,
}  # fmt: skip


@pytest.mark.parametrize("name", ASKS)
def test_a_lesson_says_which_teachers_it_asks(name):
    model = create("mlp", num_classes=10, image_shape=(4, 4, 1), hidden=(3,))
    [(shown, method)] = learned.named(name, 0.2).items()
    if ASKS[name] is None:
        with pytest.raises(BadInput):
            learned.training_of(shown, method, model, model, steps=2, batch_size=4)
        return
    found = learned.training_of(shown, method, model, model, steps=2, batch_size=4)
    assert (shown, found.asks) == (name, ASKS[name])
    assert found.from_labelled == (name in LABELLED)
    assert found.hparams.get("pgd.epsilon", 0.2) == 0.2


def test_peer_aids_peer_is_a_second_network_of_the_teachers_kind(monkeypatch):
    student, teacher = (create("mlp", num_classes=10, image_shape=(4, 4, 1), hidden=(n,)) for n in (3, 5))
    [(shown, one)] = learned.named("peer_aid", spec.number("linear(0, 0.2)")).items()
    for wrong, said in {
        "2*peer_aid": "accepted: peer_aid by itself",
        "peer_aid + igdm": "accepted: peer_aid by itself",
        "peer_aid(form=papre)": "did you mean paper",
        "peer_aid(temprature=2)": "did you mean temperature",
        "peer_aid(temperature=0)": "temperature=0; accepted: numbers from 0 up, a temperature above 0",
        "peer_aid(own=grid(0, 1))": "accepted: one value",
    }.items():
        with pytest.raises(BadInput, match=said):
            learned.named(wrong, 0.2)
    found = learned.training_of(shown, one, student, teacher, steps=2, batch_size=4)
    state = create_state(found.model, optax.sgd(0.1), jax.random.key(0), hparams=dict(found.hparams))
    widths = {name: min(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in state.params.items()}
    assert widths == {"student": 3, "peer": 5}
    batch = {"inputs": jnp.ones((4, 4, 4, 1)), "label": jnp.zeros(4, int), "mask": jnp.ones(4), "epoch": jnp.zeros(4)}
    loss, aux = jax.eval_shape(found.recipe, state.params, state, batch, jax.random.key(0))
    assert loss.shape == (4,)
    assert set(aux.model_state) == {"student", "peer"}
    given = []
    monkeypatch.setattr(learned.peer, "peer_aid", lambda *_, **own: given.append(own) or found.recipe)
    [(shown, one)] = learned.named("peer_aid(form=release, peer=0.5)", 0.2).items()
    typed = learned.training_of(shown, one, student, teacher, steps=2, batch_size=4)
    assert (shown, given[0]["form"]) == ("peer_aid(form=release, peer=0.5)", "release")
    assert typed.hparams == {**found.hparams, "peer": 0.5}


def test_a_radius_of_a_methods_own_is_kept():
    found = learned.named("pgd_at(0.05), rslad(epsilon=0.07), ard", 0.2)
    assert [dict(one.attack.kwargs)["epsilon"] for one in found.values()] == [0.05, 0.07, 0.2]


def test_a_teacher_in_training_mode_draws_what_no_student_draws():
    model = create("mlp", num_classes=10, image_shape=(4, 4, 1), hidden=(9,), dropout=0.5)
    params, state = model.init(jax.random.key(0))
    batch = {"inputs": jnp.ones((4, 4, 4, 1)), "mask": jnp.ones(4), "label": jnp.zeros(4, int)}
    seen = {}

    def recipe(params, state, batch, key):
        seen.update(batch, student=key)

    learned.with_key(recipe)(None, None, batch, jax.random.key(5))
    assert seen[learned.TEACHER_KEY] != seen["student"]
    said = learned.in_training(model)({"params": params, **state}, seen).logits
    key = seen[learned.TEACHER_KEY]
    drawn, still = (
        model.apply({"params": params, **state}, batch["inputs"], train=train, key=key)[0].logits
        for train in (True, False)
    )
    np.testing.assert_allclose(said, drawn, rtol=1e-6)
    assert not np.allclose(said, still)


BAD = {
    "a ball larger than all images": ({"epsilon": 8.0}, "--epsilon=8: .*Did you mean 255ths"),
    "a schedule that ends below nought": (
        {"train_epsilon": "linear(0.1, -0.05)"}, r"n=linear\(0.1, -0.05\) comes to epsilon=-0.05: accepted"
    ),
    "a schedule that dips below nought": (
        {"train_epsilon": "steps((0.1, -0.1, 0.1), (0.31, 0.34))"}, r"\)\) comes to epsilon=-0.1: accepted are pixel"
    ),
    "a radius of training of nought": ({"train_epsilon": "0"}, "--train_epsilon=0: .* above 0"),
    "a radius of training that is none": ({"train_epsilon": "8"}, "--train_epsilon=8: .*255ths"),
    "a set of radii": ({"train_epsilon": "grid(0.1, 0.2)"}, "a set; accepted: one number, or a schedule"),
    "a service": ({"teacher": "http://127.0.0.1:1"}, "a service is not asked in every step"),
    "a teacher that asks one": ({"teacher_method": "rslad"}, "accepted: one method that asks no teacher"),
    "two ways for a teacher": ({"teacher_method": "pgd_at, trades"}, "accepted: one method that asks no teacher"),
    "an attack without a radius": ({"attacks": "pgd, deepfool"}, "accepted: attacks with a radius"),
    "an attack with one of its own": ({"attacks": "pgd(0.2)"}, "accepted: --epsilon"),
    "no attack": ({"attacks": ""}, "--attacks= is empty"),
    "no split that chooses": ({"validation_split": "", "best_under": "pgd"}, "accepted: a split that chooses"),
    "a method twice": ({"methods": "pgd_at, kd, kd"}, "names kd twice"),
    "no method": ({"methods": "pgd_at, rsald"}, "did you mean rslad"),
    "no control": ({"methods": "pgd_at, snipet"}, "peer_aid, .*did you mean snippet"),
    "a natural teacher from elsewhere": ({"methods": "pgd_at, mtard(natural='x')"}, "the natural teacher is trained"),
    "a control that equals what it controls": (
        {"teacher": "mlp(4)", "methods": "pgd_at, snippet_training"}, "the same in training mode",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_refused_before_anything_is_trained(case, tmp_path):
    flags, said = BAD[case]
    with pytest.raises(BadInput, match=said):
        robust.main(smallest("robust", tmp_path, **{"methods": "pgd_at", **flags}), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_teacher_of_other_classes_or_one_that_guesses_is_refused(tmp_path):
    found, folder = ran("robust"), tmp_path / "given"
    shutil.copytree(found.workdir, folder)
    described = folder / "model-teacher.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "num_classes": 7}))
    with pytest.raises(BadInput, match="the teacher has num_classes 7, the data set 'digits' has 10"):
        robust.main(smallest("robust", tmp_path, teacher=str(folder), methods="pgd_at"), tmp_path)
    study, teacher = open_study(found.config, found.workdir), networks.load_network(str(found.workdir), flag="t")
    lost = jax.tree.map(jnp.zeros_like, teacher.weights[0])
    with pytest.raises(BadInput, match=r"and who guesses about .*; accepted: a teacher of the same classes"):
        answering.refuse_guessing(study, {"natural=n": (teacher.model, [teacher.weights[0], lost])})


def test_what_was_measured_is_not_measured_again(tmp_path):
    file, calls = tmp_path / "scores.jsonl", []
    for _ in range(2):
        assert scores.once(file, "a", lambda: calls.append(1) or {"x": 0.5}) == {"x": 0.5}
    with file.open("a") as cut:
        cut.write('{"key": "b", "sco')
    assert scores.once(file, "a", dict) == {"x": 0.5}
    assert calls == [1]

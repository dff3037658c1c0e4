"""The pieces of experiments that attack: flags, targets, the worst case, and what is measured on a defence."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import distill, train_teacher, zoo2017
from experiments.attack import __main__ as attack
from experiments.attack import outcomes, targets
from experiments.audit import __main__ as audit
from experiments.defensive import slopes
from kdjax import config as configs
from kdjax.attacks import catalogue, objectives
from kdjax.attacks.run import Attacked, run
from kdjax.attacks.victims import white_box
from kdjax.data import npz
from kdjax.data.load import load
from kdjax.models.create import create
from kdjax.study import attacks, networks
from kdjax.study.data import Data, open_study
from kdjax.types import BadInput

MODEL = create("mlp", num_classes=4, image_shape=(4, 4, 1), hidden=(8,))


@pytest.fixture
def case(key):
    params, state = MODEL.init(key)
    victim = white_box(MODEL.apply, {"params": params, **state})
    image = np.asarray(jax.random.uniform(key, (16, 4, 4, 1)))
    logits = attacks.answers(victim, image)
    label = logits.argmax(-1)
    label[0] = (label[0] + 1) % 4
    return outcomes.Case(victim, image, label, logits, None)


@pytest.mark.parametrize("name", catalogue.ATTACKS.names())
def test_every_attack_that_can_be_typed_is_made(name):
    found = attacks.named(f"{name}(objective=dlr, restarts=2)", flag="attacks")
    assert found.objective is objectives.dlr
    assert callable(found.repeated(found.make(epsilon=0.2, norm="linf")))
    assert attacks.named(name, flag="attacks").objective is catalogue.OBJECTIVES[catalogue.objective_of(name)]


def test_settings_reach_the_attack():
    found = attacks.named("pgd(steps=7, random_start=True)", flag="attacks")
    assert found.make(epsilon=0.1).steps == 7  # pyright: ignore[reportAttributeAccessIssue]
    assert found.settings == {"steps": 7, "random_start": True}
    assert attacks.named("zoo(sides=(2, 4), importance=True)", flag="attacks").settings["sides"] == (2, 4)


BAD = {
    "fgsn": "did you mean fgsm",
    "pgd(step=3)": "did you mean steps",
    "pgd(objective=marginn)": "accepted: 'cross_entropy' or 'dlr' or 'margin'; did you mean margin",
    "pgd(steps=1.5)": "steps=1.5 of pgd; accepted: a whole number",
    "pgd(steps=0)": "steps=0: accepted",
    "pgd(step_size=-1)": "step_size=-1: accepted",
    "pgd(random_start=1)": "random_start=1 of pgd; accepted: True or False",
    "pgd(random_start=true)": "random_start=true of pgd; accepted: True or False",
    "pgd(oracle=autodiff)": "oracle=autodiff; accepted: pgd takes",
    "pgd(norm=l7)": "norm='l7': accepted",
    "pgd(restarts=0)": "restarts=0: accepted",
    "pgd(restarts=grid(1, 2))": "restarts=grid(1, 2) of pgd; accepted: one value",
    "pgd(step_size=linear(1, 0))": "step_size=linear(1, 0) of pgd; accepted: one value",
    "pgd(epsilon=0.1)": "accepted: --epsilons, for epsilon is the same for all attacks",
    "pgd(0.1)": "accepted: --epsilons, for epsilon is the same for all attacks",
    "pgd(epsilon)": "epsilon=epsilon of pgd; accepted: a number",
    "square(queries=0)": "queries=0: accepted",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_used_is_one_clear_error_that_names_the_flag(text):
    with pytest.raises(BadInput, match=r"attacks, column 7: ") as error:
        attacks.several(f"fgsm, {text}", flag="attacks", fixed={"epsilon": "--epsilons"})
    assert BAD[text] in str(error.value)


def test_settings_that_cannot_be_typed_are_not_advertised():
    with pytest.raises(
        BadInput, match=r"oracle=x; accepted: pgd takes epsilon, steps, .*, keep, objective, restarts\n"
    ) as error:
        attacks.several("pgd(oracle=x)", flag="attacks", fixed={"epsilon": "--epsilons"})
    assert "oracle," not in str(error.value)


def test_the_training_attack_of_an_audit_is_read_as_any_other():
    config = audit.Config(training_attack="pgd(steps=7, objective=dlr)", epsilon=0.2)
    name, made, objective = audit.parse_attack(config)
    assert (name, made.steps, objective) == ("pgd(objective=dlr, steps=7)", 7, objectives.dlr)
    with pytest.raises(BadInput, match=r"training_attack, column 1: .*steps=abc of pgd; accepted: a whole number"):
        audit.parse_attack(audit.Config(training_attack="pgd(steps=abc)"))


def test_a_share_of_attacked_images_needs_an_attack(tmp_path):
    with pytest.raises(BadInput, match=r"--attacked=0\.5: nothing is attacked without --attack"):
        train_teacher.main(train_teacher.Config(attacked=0.5, seeds=1, epochs=1), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "read nothing"),
        (",", "column 1: read ','"),
        ("fgsm, fgsm", "column 7: read fgsm twice; .*each once"),
        ("pgd(0.1, steps=3), fgsm, pgd( steps=3,epsilon = 0.10)", "column 26: read pgd.* twice"),
        ("fgsm + pgd", "accepted: NAME or NAME"),
    ],
)
def test_an_empty_or_doubled_list_is_refused(text, words):
    with pytest.raises(BadInput, match=words):
        attacks.several(text, flag="attacks", fixed={})


@pytest.mark.parametrize("text", [*targets.TARGETS, "3"])
def test_a_target_is_never_the_label(text):
    targets.check_target(text)
    logits, label = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    wanted = targets.targets(text, logits, label)
    assert wanted is not None
    assert np.all((wanted != label) & (wanted >= 0) & (wanted < 4))


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="did you mean random"):
        targets.check_target("randon")
    for text in ("2", "4"):
        with pytest.raises(BadInput, match=f"--target={text}"):
            targets.targets(text, np.zeros((3, 4)), np.arange(3))


def test_the_worst_case_is_never_better_than_a_member_and_stays_in_the_ball(case):
    done = {}
    for text in ("fgsm", "deepfool(steps=3)"):
        one = attacks.named(text, flag="attacks")
        for epsilon in (0.02, 0.1) if one.has("epsilon") else (None,):
            found = run(one.make(epsilon=epsilon), case.victim, case.image, case.label, objective=one.objective)
            done[text, epsilon] = outcomes.Outcome(found, attacks.answers(case.victim, found.image))
    for epsilon in (0.02, 0.1):
        logits, image = outcomes.worst_case(case, done, epsilon, "linf")
        assert np.abs(image - case.image).max() <= epsilon + 1e-6
        np.testing.assert_allclose(attacks.answers(case.victim, image), logits, atol=1e-5)
        hit = case.hit(logits)
        assert hit[0]  # it was wrong before
        for (_, at), one in done.items():
            inside = one.found.distance["linf"] <= epsilon
            assert at not in (None, epsilon) or np.all(hit >= (case.hit(one.logits) & inside))


def digits_network():
    """A network that knows most digits, trained here in a second."""
    source = load("digits", "train")
    shape = {"num_classes": 10, "image_shape": (8, 8, 1)}
    model, tx = create("mlp", **shape, hidden=(24,)), optax.adam(0.02)
    params, _ = model.init(jax.random.key(0))
    x, y = (jnp.asarray(source.arrays[name]) for name in ("inputs", "label"))

    def loss(params):
        logits = model.apply({"params": params}, x, train=True, key=None)[0].logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(_, carry):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params, _ = jax.lax.fori_loop(0, 60, step, (params, tx.init(params)))
    return networks.Network(model, [{"params": params}], {"name": "mlp", **shape}, {"dataset": "digits"})


def test_the_attacked_images_are_kept_and_are_a_data_set(tmp_path, monkeypatch):
    """Of each image the worst case, else what the first attack made; with what made it; read by its split's name."""
    network, file, text = digits_network(), tmp_path / "attacked.npz", "fgsm, pgd(steps=2)"
    monkeypatch.setattr(networks, "load_network", lambda path, **_: network)
    for figure in ("curves", "picture"):
        monkeypatch.setattr(attack.figures, figure, lambda *_: None)
    given = {"model": "runs/it", "attacks": text, "split": "test[:40]", "examples": 30, "save_adversarial": str(file)}
    with pytest.raises(BadInput, match="networks: 1, radii: 2; accepted: one --seed and one of --epsilons"):
        attack.main(attack.Config(**given, epsilons=(0.1, 0.2)), tmp_path)
    monkeypatch.setattr(sys, "argv", ["attack", "--these=flags"])
    attack.main(attack.Config(**given, epsilons=(0.1,)), tmp_path)
    before = file.read_bytes()
    monkeypatch.setattr(attack, "run", lambda *_, **__: pytest.fail("an attack runs"))
    for argv, said in ((["attack"], "made by attack --these=flags"), (sys.argv, "an attack runs")):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises((BadInput, pytest.fail.Exception), match=said):
            attack.main(attack.Config(**given, epsilons=(0.1,)), tmp_path)
    np.savez(tmp_path / "mine.npz", x=1)
    for other, said in (("mine.npz", "which does not say"), ("mine.txt", "txt: .* accepted: a .npz file")):
        mine = {**given, "save_adversarial": str(tmp_path / other)}
        with pytest.raises(BadInput, match=f"--save_adversarial=.*{said}"):
            attack.main(attack.Config(**mine, epsilons=(0.1,)), tmp_path)
    assert file.read_bytes() == before
    clean, found = load("digits", "test[:30]"), load(f"npz:{file}", "test")
    np.testing.assert_array_equal(found.labels(), clean.labels())
    moved = np.abs(found.arrays["inputs"] - clean.arrays["inputs"]).max((1, 2, 3))
    victim = white_box(network.model.apply, network.weights[0])
    right = attacks.answers(victim, clean.arrays["inputs"]).argmax(-1) == clean.labels()
    np.testing.assert_allclose(moved[right], 0.1, atol=1e-6)  # those nobody fooled with too
    stands = attacks.answers(victim, found.arrays["inputs"]).argmax(-1) == found.labels()
    assert 0 < stands.sum() < right.sum()
    rows = json.loads((tmp_path / "results.json").read_text())
    made_by = json.loads(str(np.load(file)["made_by"]))
    assert rows["worst case, 0.1"][0]["accuracy"] == made_by["accuracy"] == stands.mean()
    assert (made_by["attacks"], made_by["model"], made_by["epsilon"]) == (text, "runs/it", 0.1)
    assert {"command", "commit", "seed", "norm", "split", "dataset"} <= made_by.keys()
    assert npz.attacked(f"npz:{file}")
    assert not npz.attacked("digits")
    splits = {"train_split": "test[:20]", "validation_split": "", "test_split": "test[20:]", "batch_size": 4}
    study = open_study(Data(dataset=f"npz:{file}", workdir=str(tmp_path), **splits), tmp_path)
    assert (len(study.train), len(study.test)) == (20, 10)


def test_a_sweep_of_the_experiment_compiles_once_restarts_included(case):
    traced = []

    def counted(variables, image, *, train, key):
        traced.append(1)
        return MODEL.apply(variables, image, train=train, key=key)

    victim = white_box(counted, case.victim.variables)
    one = attacks.named("pgd(steps=3, random_start=True, restarts=2)", flag="attacks")
    at, looks = attack.programs(attack.Config(), one), []
    for epsilon in (0.01, 0.1, 0.2):
        run(at(epsilon), victim, case.image, case.label, objective=one.objective, on_device=False)
        looks.append(len(traced))
    assert looks[0] > 0
    assert set(np.diff(looks)) == {0}


def test_scores_speak_of_the_attacked_answers(case):
    one = attacks.named("fgsm", flag="attacks")
    found = run(one.make(epsilon=0.3), case.victim, case.image, case.label, objective=one.objective)
    logits = attacks.answers(case.victim, found.image)
    scores = outcomes.scores(case, logits, found)
    assert scores["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == case.label))
    assert scores["success"] == pytest.approx(found.success.mean())
    assert scores["queries"] == 2
    assert "linf" not in outcomes.scores(case, case.logits)


def test_what_a_failed_attack_has_no_length_for_is_left_out():
    images, length = np.zeros((2, 4, 4, 1)), np.array([3.0, 1.0])

    def attacked(*success):
        first = np.where(success, 7, -1)
        return Attacked(images, length, np.array(success), np.array([7, 9]), first, {"l2": length})

    none, first, both = attacked(False, False), attacked(True, False), attacked(True, True)
    shared = {"images": 2, "queries": 8.0, "seconds an image": 2.0}
    assert zoo2017.compared(none, both, 4.0) == {
        **shared, "success": 0.0, "first success": -1.0, "L2 of each": [None, None]
    }  # fmt: skip
    assert zoo2017.compared(first, both, 4.0) == {
        **shared, "success": 0.5, "first success": 7.0, "L2": 3.0, "L2 against C&W": 1.0, "L2 of each": [3.0, None]
    }  # fmt: skip
    assert "L2 against C&W" not in zoo2017.compared(first, none, 4.0)


def test_dividing_logits_in_training_is_papernots_loss_and_changes_no_variables(key):
    params, state = MODEL.init(key)
    image = jax.random.uniform(key, (5, 4, 4, 1))
    soft = slopes.at_temperature(MODEL, 20.0)
    assert jax.tree.structure(soft.init(key)) == jax.tree.structure((params, state))
    z = MODEL.apply({"params": params}, image, train=False, key=None)[0].logits
    np.testing.assert_allclose(soft.apply({"params": params}, image, train=False, key=None)[0].logits, z / 20)


def test_saturated_logits_have_zero_gradients_and_divided_ones_do_not(case):
    loud = objectives.divided(case.victim, 1e-5)
    label = case.logits.argmax(-1)
    hidden = slopes.gradients(loud, case.image, label)
    assert hidden["zero gradients"] == 1
    assert hidden["gradient median"] == 0
    assert hidden["margin gradient"] > 0
    calm = objectives.divided(loud, 1e5)
    assert slopes.gradients(calm, case.image, label)["zero gradients"] == 0
    naive = slopes.smallest_step(loud, loud, case.image, label)
    honest = slopes.smallest_step(loud, calm, case.image, label)
    assert np.all(naive == 1)
    assert np.all(np.asarray(honest) <= 1)
    assert np.mean(honest) < 1


def test_the_smallest_step_fools_and_the_one_before_does_not(case):
    label = jnp.asarray(case.logits.argmax(-1))
    size = np.asarray(slopes.smallest_step(case.victim, case.victim, case.image, label, sizes=50))
    step = jnp.sign(-slopes.slopes(objectives.cross_entropy(case.victim, label), jnp.asarray(case.image)))
    for scale, fooled in ((size, True), (size - 1 / 50, False)):
        attacked = jnp.clip(case.image + scale[:, None, None, None].astype(np.float32) * step, 0, 1)
        some = size < 1
        assert some.any()
        assert np.all((attacks.answers(case.victim, np.asarray(attacked)).argmax(-1) != label)[some] == fooled)


def test_every_role_whose_checkpoints_a_run_left_can_be_read(tmp_path, monkeypatch):
    tiny = {"seeds": 1, "epochs": 1, "teacher_epochs": 1, "teacher": "mlp(5)", "student": "mlp(4)", "labels": 20}
    config = distill.Config(train_split="train[:64]", validation_split="", workdir=str(tmp_path), **tiny)
    configs.claim(config, config.workdir)
    monkeypatch.setattr(distill, "report", lambda *_: (tmp_path / "results.json").write_text("{}"))
    distill.main(config, tmp_path)
    widths = {}
    for role in ("teacher", "alone", "distilled"):
        network = networks.load_network(str(tmp_path), flag="model", role=role)
        assert len(network.weights) == 1
        widths[role] = network.weights[0]["params"]["logits"]["kernel"].shape[0]
    assert widths == {"teacher": 5, "alone": 4, "distilled": 4}
    for refused in (
        lambda: audit.given(audit.Config(twin_role="foo"), load("digits", "test"), str(tmp_path), "twin"),
        lambda: attack.main(attack.Config(model=str(tmp_path), role="foo", attacks="fgsm"), tmp_path),
    ):
        with pytest.raises(BadInput, match="no role 'foo' there; accepted are alone, distilled, teacher"):
            refused()
    # A folder from before students were described: the teacher as ever, and words about the rest.
    for role in ("alone", "distilled"):
        (tmp_path / f"model-{role}.json").unlink()
    assert networks.load_network(str(tmp_path), flag="model").description["hidden"] == (5,)
    with pytest.raises(BadInput, match=r"role 'distilled', described by model\.json: .*another structure"):
        networks.load_network(str(tmp_path), flag="model", role="distilled")

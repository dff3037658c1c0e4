"""Experiments that share a teacher's answers through a folder train what they would have trained without it."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from experiments import distill
from experiments.sweep import __main__ as sweep
from experiments.sweep import lessons
from kdjax import models
from kdjax.data import npz
from kdjax.data.source import hide_labels
from kdjax.study import networks, teacher, train
from kdjax.study.data import open_study
from kdjax.types import BadInput
from tests.study.studies import study_of


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A run's folder with model.json, the teacher, and its variables."""
    workdir = tmp_path_factory.mktemp("run")
    described = {"num_classes": 10, "image_shape": (8, 8, 1), "hidden": (6,)}
    model = models.create("mlp", **described)
    networks.save_model(workdir, name="mlp", **described)
    params, model_state = model.init(jax.random.key(7))
    return workdir, model, {"params": params, **model_state}


@pytest.fixture
def asked(monkeypatch):
    """The first example of every batch that a teacher was asked about."""
    return count(monkeypatch, batch_size=400)


def count(monkeypatch, *, batch_size, dies_at=None, real=train.predictions):
    calls = []

    def counted(study, model, weights, source, *, first):
        for image, logits in real(study, model, weights, source, first=first, batch_size=batch_size):
            if first == dies_at:
                raise KeyboardInterrupt
            calls.append(first)
            first += len(image)
            yield image, logits

    monkeypatch.setattr(train, "predictions", counted)
    return calls


def ask(given, tmp_path, weights=None, labels=0, **flags):
    """What `distill` would train its student on."""
    workdir, model, own = given
    config = distill.Config(answers_dir=str(tmp_path / "answers"), validation_split="", **flags)
    (tmp_path / "record").mkdir(exist_ok=True)
    study = open_study(config, tmp_path / "record")
    weights = own if weights is None else weights
    teacher.check(config, study, workdir, [weights])
    source = hide_labels(study.train, labels, 0) if labels else study.train
    found = teacher.answered(config, study, model, weights, source, workdir, 0)
    return study, found, train.predict(study, model, weights, source, batch_size=400)


def test_a_second_run_and_a_part_of_the_images_ask_no_teacher(given, tmp_path, asked):
    study, first, expected = ask(given, tmp_path, train_split="train")
    assert asked == [0, 400, 800, 1200]
    assert first.source.arrays["teacher_logits"].tobytes() == expected.tobytes()
    _, second, _ = ask(given, tmp_path, labels=60, train_split="train")
    assert second.source.arrays["teacher_logits"].tobytes() == expected.tobytes()
    part, third, _ = ask(given, tmp_path, train_split="train[50%:]")
    assert third.source.arrays["teacher_logits"].tobytes() == expected[-len(part.train) :].tobytes()
    assert len(asked) == 4
    # Columns of the same types and shapes as from memory: training compiles the same program, data on the device.
    plain = study.train.with_column("teacher_logits", expected).arrays
    described = [{n: (a.dtype, a.shape, type(a)) for n, a in x.items()} for x in (plain, first.source.arrays)]
    assert described[0] == described[1]


def test_a_run_that_was_stopped_goes_on_amid_a_batch(given, tmp_path, monkeypatch):
    count(monkeypatch, batch_size=300, dies_at=900)
    with pytest.raises(KeyboardInterrupt):
        ask(given, tmp_path)
    calls = count(monkeypatch, batch_size=400)
    _, found, expected = ask(given, tmp_path)
    assert calls == [900]
    np.testing.assert_allclose(found.source.arrays["teacher_logits"], expected, rtol=1e-6)


def test_top_k_is_stored_short(given, tmp_path, asked):
    _, found, expected = ask(given, tmp_path, answers_top_k=3)
    _, again, _ = ask(given, tmp_path, answers_top_k=3)
    assert asked == [0, 400, 800]
    for name, shape in (("values", (3,)), ("classes", (3,)), ("rest", ())):
        column = found.source.arrays[f"teacher_{name}"]
        assert column.shape == (len(expected), *shape)
        np.testing.assert_array_equal(column, again.source.arrays[f"teacher_{name}"])
    said = found.teacher(None, found.source.arrays).logits
    np.testing.assert_array_equal(np.sort(said)[:, -3:], np.sort(expected)[:, -3:])
    np.testing.assert_allclose(jax.nn.logsumexp(said, axis=1), jax.nn.logsumexp(expected, axis=1), rtol=1e-5)


def test_what_is_stale_is_refused_before_training(given, tmp_path, asked):
    ask(given, tmp_path)
    weights = given[2]
    nudged = jax.tree.map(lambda x: np.nextafter(x, np.float32(9)), weights)
    for refused, message in (
        ({"weights": nudged}, "teacher: "),
        ({"answers_top_k": 3}, "top_k: 0 there, 3 now"),
        ({"train_split": "test", "test_split": "train"}, "split: 'train' there, 'test' now"),
        ({"train_split": "train"}, "has answers for 1150 examples, and not for 287 of these 1437"),
    ):
        with pytest.raises(BadInput, match=message):
            ask(given, tmp_path, **refused)
    with jax.default_matmul_precision("highest"), pytest.raises(BadInput, match="precision: 'default of cpu' there"):
        ask(given, tmp_path)
    assert len(asked) == 3


def test_flags_that_do_not_fit_are_refused(given, tmp_path):
    for flags, message in (
        ({"teacher_outputs": "live"}, "--answers_dir=.*live keeps no answers"),
        ({"answers_top_k": 11}, "--answers_top_k=11; accepted: 0 to 10"),
    ):
        with pytest.raises(BadInput, match=message):
            ask(given, tmp_path, **flags)


def test_distill_reports_the_same_with_answers_from_disk(given, tmp_path, monkeypatch):
    workdir, model, weights = given
    calls = count(monkeypatch, batch_size=1000)
    monkeypatch.setattr(networks, "load_teachers", lambda study, path, **flag: (model, [weights]))
    monkeypatch.setattr(teacher, "refuse_guessing", lambda *_: None)  # this one is not trained
    reported = []
    # Without the page, which says how long an answer takes.
    monkeypatch.setattr(distill, "report", lambda *args: reported.append(args[-1]._replace(networks="")))
    config = distill.Config(
        teacher=str(workdir), seeds=1, epochs=1, student="mlp(4)", validation_split="", train_split="train[:600]"
    )
    for name, answers_dir in (("memory", ""), ("disk", str(tmp_path / "answers"))):
        (tmp_path / name).mkdir()
        distill.main(dataclasses.replace(config, answers_dir=answers_dir), tmp_path / name)
    assert reported[0] == reported[1]
    assert calls == [0]


def test_distill_and_sweep_refuse_a_teacher_that_guesses_where_a_loss_asks_it(given, tmp_path, monkeypatch):
    workdir, model, weights = given  # it is not trained
    monkeypatch.setattr(networks, "load_teachers", lambda study, path, **flag: (model, [weights]))
    monkeypatch.setattr(lessons, "trained_elsewhere", lambda *_: {})
    monkeypatch.setattr(teacher, "teacher_of_step", lambda *_: pytest.fail("it goes on"))
    own = {"teacher": str(workdir), "seeds": 1, "student": "mlp(4)", "workdir": str(tmp_path)}
    for loss, said in (("response.kl", "and who guesses about"), ("labels", "it goes on")):
        with pytest.raises((BadInput, pytest.fail.Exception), match=said):
            distill.main(distill.Config(**own, loss=loss), tmp_path)
    swept = sweep.Config(**own, loss="response.kl", learning_rate="grid(0.1, 0.2)")
    study = open_study(swept, tmp_path)
    with pytest.raises(BadInput, match="and who guesses about"):
        lessons.of_students(swept, study, tmp_path)
    lessons.of_students(dataclasses.replace(swept, loss="labels"), study, tmp_path)
    # Further teachers are asked too, and of all of them no more seeds than there are students.
    seen = []
    monkeypatch.setattr(networks, "load_teachers", lambda study, path, **flag: (model, 3 * [weights]))
    monkeypatch.setattr(
        teacher, "refuse_guessing", lambda study, asked: seen.append([(typed, len(a[1])) for typed, a in asked.items()])
    )
    method = {"method": "akd2(natural='runs/n', steps=1)", "loss": ""}
    with pytest.raises(pytest.fail.Exception, match="it goes on"):
        distill.main(distill.Config(**own, **method), tmp_path)
    lessons.of_students(dataclasses.replace(swept, **method), study, tmp_path)
    assert seen == 2 * [[(f"--teacher={workdir}", 1), ("natural=runs/n", 1)]]


GUESSES = {
    "two classes, 60 % right": ([0, 1], 0.6, None),
    "two classes, as a coin": ([0, 1], 0.5, "and who guesses about 50"),
    "nine of ten in one class, and that one said always": (
        [0] * 9 + [1],
        0.0,
        "90.0 % of 1000 training images, and who guesses about 90.0 %",
    ),
    "nine of ten in one class, most of both known": ([0] * 9 + [1], 0.95, None),
    "ten classes, a fifth right": (list(range(10)), 0.2, None),
    "ten classes, a tenth right": (list(range(10)), 0.1, "and who guesses about 10"),
    "ten classes, all known": (list(range(10)), 1.0, None),
    "no label": ([-1], 0.0, None),
}
"""By what a teacher knows: the labels, the share of images whose label it says, and what is said of it."""


@pytest.mark.parametrize("case", GUESSES)
def test_a_given_teacher_that_guesses_is_refused(case, monkeypatch):
    kinds, knows, said = GUESSES[case]
    classes, rng = max(max(kinds) + 1, 2), np.random.default_rng(0)
    label = np.sort(np.resize(kinds, 5000)).astype(np.int32)
    study = study_of({"num_classes": classes, "image_shape": (1, 1, 1)}, 5000)
    study = dataclasses.replace(study, config=distill.Config(), train=study.train.with_column("label", label))

    def says(study, model, weights, some):
        others = (some.labels() + rng.integers(1, classes, len(some))) % classes
        right = np.arange(len(some)) % 20 < 20 * knows
        return np.eye(classes)[np.where(right, some.labels(), others) if knows else np.zeros(len(some), int)]

    monkeypatch.setattr(train, "predict", says)
    with pytest.raises(BadInput, match=f"natural=runs/it: seed 0 .*{said}") if said else contextlib.nullcontext():
        teacher.refuse_guessing(study, {"natural=runs/it": (None, [None])})
    teacher.refuse_guessing(study, {"natural=runs/it": (None, [])})
    # Of few images none can tell, and of attacked ones a right teacher is wrong.
    few = dataclasses.replace(study, train=study.train.select(np.arange(0, 5000, 100)[: 50 if classes == 10 else 20]))
    teacher.refuse_guessing(few, {"natural=runs/it": (None, [None])})
    monkeypatch.setattr(npz, "attacked", lambda dataset: dataset == "npz:attacked.npz")
    study = dataclasses.replace(study, config=dataclasses.replace(study.config, dataset="npz:attacked.npz"))
    teacher.refuse_guessing(study, {"natural=runs/it": (None, [None])})

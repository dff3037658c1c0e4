"""A lesson: an expression read, checked on shapes, and taught: connectors, weights, schedules, sets, devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import models, spec
from kdjax.attacks import named
from kdjax.ensembles import pools
from kdjax.losses import feature
from kdjax.models.connect import connectors
from kdjax.recipes import comparisons
from kdjax.recipes.attacked import Attacked
from kdjax.recipes.lesson import lesson
from kdjax.teachers.live import live
from kdjax.teachers.several import stack, stacked, together
from kdjax.training import parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.optimizers import unit_rate
from kdjax.training.state import create_state, variables
from kdjax.training.step import one_step, train_step
from kdjax.types import BadInput
from tests.methods.states import initializer
from tests.training.conftest import same

SHAPE = {"num_classes": 3, "image_shape": (8, 8, 1)}
TEACHER = models.create("cnn", **SHAPE, hidden=(6, 6, 6))
STUDENT = models.create("cnn", **SHAPE, hidden=(6, 4, 6))
MLP, MLP_TEACHER = (models.create("mlp", **SHAPE, hidden=hidden) for hidden in ((5, 4), (7, 6, 6, 4)))


def variables_of(model, seed=7):
    params, state = jax.jit(model.init)(jax.random.key(seed))
    return {"params": params, **state}


WEIGHTS, MLP_WEIGHTS = variables_of(TEACHER), variables_of(MLP_TEACHER)
IMAGE = np.random.default_rng(0).uniform(size=(8, 8, 8, 1)).astype(np.float32)
BATCH = {
    "inputs": IMAGE,
    "label": np.array([0, 1, 2, 0, 1, -1, -1, 0], np.int32),
    "mask": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
    "index": np.arange(8, dtype=np.int32),
}
TX = unit_rate(optax.sgd(1.0))
HINT = "feature.hint(hidden1, hidden2)"


def small(expression, **given):
    """A lesson of two MLPs, which compile soon."""
    return lesson(expression, MLP, MLP_TEACHER, **given)


def state_of(made, key=0, frozen=MLP_WEIGHTS, **hparams):
    given = {"learning_rate": 0.1, **made.hparams, **hparams}
    return create_state(made.model, TX, jax.random.key(key), hparams=given, frozen=frozen, init=initializer(made.model))


def means(metrics):
    return {name: float(s / c) for name, (s, c) in metrics.items()}


def test_every_loss_that_can_be_typed_teaches_the_student():
    """One program of all losses, whose weights are 1 for one loss at a time."""
    names = comparisons.names()
    at = {"feature.fsp": "((block1, block2))", "feature.review": "((block1, block2))"}
    own = {"contrastive.crd": "(negatives=5, dims=4)", "contrastive.queue": "(slots=9, dims=4)"}
    layers = {"feature": "(block1, block2)"}
    calls = {n: n + at.get(n, own.get(n, layers.get(n.partition(".")[0], ""))) for n in names}
    # As many channels as the teacher's, since FSP's matrices must.
    student = models.create("cnn", **SHAPE, hidden=(6, 6))
    text = " + ".join(["0*labels", *(f"0*{call}" for call in calls.values())])
    made = lesson(text, student, TEACHER, examples=20, batch_size=8)
    frozen = made.frozen(WEIGHTS, lambda: np.arange(20) % 3)
    state, step = state_of(made, frozen=frozen), jax.jit(train_step(made.loss_fn, TX))
    weights = [place for place in made.hparams if place.endswith(".weight")]
    assert len(weights) == len(names) + 1 == len(made.kinds)
    # Twice where a queue is empty at first.
    begun = step(state, BATCH)[0].memory
    for weight in weights:
        only = {**state.hparams, **{name: jnp.float32(name == weight) for name in weights}}
        new, metrics = step(state.replace(hparams=only, memory=begun), BATCH)
        assert np.isfinite(metrics["loss"][0]), weight
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *jax.device_get((state.params, new.params)))
        assert max(jax.tree.leaves(moved["student"])) > 0, weight
    assert sorted(begun) == sorted(n for n in metrics if n.startswith("contrastive."))


def test_the_student_beside_connectors_begins_and_answers_as_it_would_alone():
    made = lesson("response.kl + feature.hint(block2, block3) + feature.ab(block1)", STUDENT, TEACHER)
    state = create_state(made.model, optax.sgd(0.1), jax.random.key(0), hparams=made.hparams)
    alone = create_state(STUDENT, optax.sgd(0.1), jax.random.key(0))
    assert set(state.params) == {"student", "connectors"}
    assert same(variables(state), variables(alone))


def test_weights_and_numbers_are_hyper_parameters_by_their_place():
    made = small(f"0.5*labels + 2*response.kl(temperature=8) + 100*{HINT}")
    assert made.hparams == {
        "labels.weight": 0.5, "response.kl.weight": 2.0, "response.kl.temperature": 8.0, f"{HINT}.weight": 100.0,
    }  # fmt: skip
    assert made.kinds == {"labels.weight": "labels", "response.kl.weight": "answers", f"{HINT}.weight": "layers"}
    assert made.hparams == {place: float(x) for place, x in spec.numbers(made.expression).items()}
    _, metrics = jax.jit(train_step(made.loss_fn, TX))(state_of(made), BATCH)
    mean = means(metrics)
    known = float(metrics["labels"][1]) / float(metrics["loss"][1])
    whole = 2 * mean["response.kl"] + 0.5 * known * mean["labels"] + 100 * mean[HINT]
    np.testing.assert_allclose(mean["loss"], whole, rtol=1e-5)


def test_text_and_python_give_equal_lessons():
    response, layers, names = spec.Names("response"), spec.Names("feature"), spec.Names()
    typed = small(f"0.9*response.kl(temperature=4) + 0.1*labels + linear(3, 0)*{HINT}", steps=4)
    written = small(
        0.9 * response.kl(temperature=4)
        + 0.1 * names.labels
        + spec.linear(3, 0) * layers.hint(names.hidden1, names.hidden2),
        steps=4,
    )
    assert typed.expression == written.expression
    assert typed.hparams == written.hparams
    assert typed.named == written.named == (("hidden1", "hidden2"),)
    ends = [jax.jit(train_step(made.loss_fn, TX))(state_of(made), BATCH) for made in (typed, written)]
    jax.tree.map(np.testing.assert_array_equal, (ends[0][0].params, ends[0][1]), (ends[1][0].params, ends[1][1]))


def test_a_schedule_costs_no_compilation_and_is_the_number_at_that_step():
    steps = 10
    made = small(f"response.kl(temperature=linear(8, 2)) + cosine(100, 0)*{HINT}", steps=steps)
    assert made.hparams == {
        "response.kl.weight": 1.0,
        "response.kl.temperature.start": 8.0,
        "response.kl.temperature.end": 2.0,
        f"{HINT}.weight.start": 100.0,
        f"{HINT}.weight.end": 0.0,
    }
    state, step = state_of(made), jax.jit(train_step(made.loss_fn, TX))
    plain = small(f"response.kl(temperature=3) + 1*{HINT}")
    fixed, same_step = state_of(plain), jax.jit(train_step(plain.loss_fn, TX))
    for at in (0, 3, 5, 10):
        share = at / steps
        temperature, weight = 8 - 6 * share, 50 * (1 + np.cos(np.pi * share))
        _, metrics = step(state.replace(step=jnp.asarray(at, jnp.int32)), BATCH)
        numbers = {"response.kl.temperature": jnp.float32(temperature), f"{HINT}.weight": jnp.float32(weight)}
        _, there = same_step(fixed.replace(hparams={**fixed.hparams, **numbers}), BATCH)
        for name in ("response.kl", HINT, "loss"):
            np.testing.assert_allclose(means(metrics)[name], means(there)[name], rtol=1e-3, atol=1e-6)
        mean = means(metrics)
        np.testing.assert_allclose(mean["loss"], mean["response.kl"] + weight * mean[HINT], rtol=1e-4, atol=1e-6)
    # Another end of a schedule is another number and no other program.
    step(state.replace(hparams={**state.hparams, "response.kl.temperature.end": jnp.float32(1)}), BATCH)
    assert step._cache_size() == same_step._cache_size() == 1


def test_a_set_gives_the_numbers_of_one_member_and_says_what_others_have():
    made = small(f"grid(0.5, 0.9)*response.kl(temperature=log(1, 16)) + 0.1*labels + uniform(1, 2)*{HINT}")
    assert made.sets == {
        "response.kl.weight": spec.grid(0.5, 0.9),
        "response.kl.temperature": spec.log(1, 16),
        f"{HINT}.weight": spec.uniform(1, 2),
    }
    assert made.hparams.keys() == {*made.sets, "labels.weight"}
    assert made.hparams["response.kl.weight"] in (0.5, 0.9)
    assert 1 <= made.hparams["response.kl.temperature"] <= 16
    step = jax.jit(train_step(made.loss_fn, TX))
    losses = set()
    for member in spec.points(made.sets, sample=3):
        _, metrics = step(state_of(made, **member), BATCH)
        losses.add(means(metrics)["loss"])
    assert len(losses) == 3
    assert step._cache_size() == 1


def test_a_member_of_a_set_that_weighs_labels_uses_them():
    assert small("grid(0, 1)*labels + response.kl").uses_labels
    assert not small("0*labels + response.kl").uses_labels
    assert not small("response.kl").uses_labels
    assert small("linear(0, 1)*labels + response.kl", steps=3).uses_labels


def test_what_a_lesson_says_of_itself():
    made = small(f"response.kl + {HINT}")
    assert made.compares_layers
    assert made.live
    plain = small("response.kl + labels")
    assert not plain.compares_layers
    assert not plain.live
    assert small("response.kl", augment=lambda key, image, mask: image).live
    for asked in ("clean", "attacked", "attacked - mirrored"):
        by = f"pgd(0.1, objective=response.kl(student=attacked, teacher={asked.split()[0]}))"
        for made in (
            small(f"response.kl(student=attacked, teacher={asked})", attacked="fgsm"),
            small("labels(student=attacked)", attacked=by),
        ):
            assert (made.live, list(made.asks)) == (asked != "clean", ["teacher"])
    assert not small("labels(student=attacked)", attacked=Attacked(named.fgsm(0.1))).live
    assert small("response.kl + feature.hint(every(2))").layers == ((1, 2), (2, 4))


def test_one_stage_of_several_keeps_its_own_weights():
    made = small(f"linear(1, 0)*response.kl + labels + 100*{HINT}", steps=3)
    hints = made.with_weights("layers")
    assert hints[f"{HINT}.weight"] == 100
    assert hints["labels.weight"] == hints["response.kl.weight.start"] == hints["response.kl.weight.end"] == 0
    rest = made.with_weights("answers", "labels")
    assert rest == {**made.hparams, f"{HINT}.weight": 0.0}


def test_relations_see_the_global_batch_on_any_number_of_devices():
    made = small("labels + response.dist + 5*relation.rkd_distance + 3*relation.sp(hidden1, hidden2)", batch_size=8)
    mesh, results = parallel.data_mesh(), []
    for wrapper in ("jit", "pmap"):
        run = parallel.wrap(wrapper, lambda axis: one_step(train_step(made.loss_fn, TX, axis_name=axis)), mesh)
        new, metrics = run(parallel.place(state_of(made), mesh, wrapper), {}, BATCH)
        results.append((new.params, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *results)


def test_layers_of_several_teachers_are_averaged_where_shapes_agree():
    weights = [variables_of(MLP_TEACHER, seed) for seed in (1, 2, 3)]
    made = small(f"response.kl(temperature=2) + {HINT}", ensemble=pools.resolve("mean_probability"))
    state = state_of(made, frozen=stack(weights))
    step = jax.jit(train_step(made.taught_by(stacked(MLP_TEACHER.apply)), TX))
    _, metrics = step(state, BATCH)
    seen = lambda model, w: jax.jit(lambda w, x: model.apply(w, x, train=False, key=None)[0])(w, IMAGE)  # noqa: E731
    said, own = [seen(MLP_TEACHER, w) for w in weights], seen(MLP, variables(state))
    linear = state.params["connectors"][HINT]["linear"]
    mine = own.features["hidden1"] @ linear["kernel"] + linear["bias"][None]
    theirs = jnp.mean(jnp.stack([outputs.features["hidden2"] for outputs in said]), axis=0)
    np.testing.assert_allclose(means(metrics)[HINT], feature.hint(mine, theirs)[:7].mean(), rtol=1e-4)
    # Copies of one teacher teach what it teaches alone.
    alone = small(f"response.kl(temperature=2) + {HINT}")
    _, one = jax.jit(train_step(alone.loss_fn, TX))(state.replace(frozen=weights[0]), BATCH)
    crowd = step(state.replace(frozen=stack(weights[:1] * 3)), BATCH)
    np.testing.assert_allclose(means(crowd[1])["loss"], means(one)["loss"], rtol=1e-4)
    # Teachers that are run one by one are averaged alike; a layer that is not alike in all is refused by name.
    apart = together(dict.fromkeys("acb", MLP_TEACHER.apply))
    state = state.replace(frozen=dict(zip("acb", weights, strict=True)))
    _, again = jax.jit(train_step(made.taught_by(apart), TX))(state, BATCH)
    np.testing.assert_allclose(means(again)["loss"], means(metrics)["loss"], rtol=1e-4)
    mixed, frozen = together({"a": MLP_TEACHER.apply, "b": MLP.apply}), {"a": weights[0], "b": variables_of(MLP)}
    shapes = (
        r"hidden2, whose shapes are \{'a/hidden2': \(8, 6\), 'b/hidden2': \(8, 4\)\}; accepted: .*: embedding, logits"
    )
    with pytest.raises(BadInput, match=rf"{re.escape(HINT)} looks at the teacher's {shapes}"):
        jax.eval_shape(train_step(made.taught_by(mixed), TX), state.replace(frozen=frozen), BATCH)


def test_a_kill_costs_a_lesson_nothing_and_the_student_can_be_read_alone(tmp_path):
    text = (
        f"response.kl(temperature=4) + 10*{HINT} + contrastive.queue(slots=16, dims=3) + feature.ofd(hidden2, hidden3)"
    )
    made = small(text, batch_size=8)
    tx = unit_rate(optax.adam(1.0))

    def begun(seed, **changed):
        hparams = {"learning_rate": 0.01, **made.hparams, **changed}
        return create_state(
            made.model,
            tx,
            jax.random.key(seed),
            hparams=hparams,
            frozen=made.frozen(MLP_WEIGHTS, lambda: np.zeros(8, int)),
        )

    step = jax.jit(train_step(made.loss_fn, tx))
    half = step(step(begun(0), BATCH)[0], BATCH)[0]
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(half)
        fresh = begun(1, **{"response.kl.temperature": 9.0, "learning_rate": 0.5})
        found = checkpointer.restore(fresh)
        read = checkpointer.restore_variables(fresh.params["student"], fresh.model_state["student"])
        linear = checkpointer.restore_variables(
            fresh.params["connectors"], fresh.model_state["connectors"], network="connectors"
        )
    assert found is not None
    for part in ("step", "params", "model_state", "opt_state", "hparams", "memory", "key"):
        saved, other, back = (getattr(s, part) for s in (half, fresh, found[0]))
        if part == "key":
            saved, other, back = map(jax.random.key_data, (saved, other, back))
        elif part == "model_state":  # the student has none; its connectors do
            assert not same(saved["connectors"], other["connectors"])
        if part != "model_state":
            assert not same(saved, other), f"{part}: the test can see nothing"
        assert same(back, saved), part
    assert int(half.memory["contrastive.queue(embedding)"].filled) == 14
    assert same(read, variables(half))
    assert same(linear, variables(half, "connectors"))
    ends = [step(state, BATCH)[0] for state in (half, found[0])]
    assert same(ends[0].params, ends[1].params)
    assert same(ends[0].memory, ends[1].memory)


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("feature.hint", {}, "column 1: feature.hint names no layer"),
        (
            "labels + feature.hint(hidden9)",
            {},
            "column 10: feature.hint: the student has no layer 'hidden9'; accepted: .*hidden1.*did you mean",
        ),
        ("feature.hint(hidden1, block2)", {}, "column 1: feature.hint: the teacher has no layer 'block2'"),
        ("labels + feature.hint(every(3))", {}, "column 23: every pairs layer 2 of the student with 6"),
        ("labels + respons.kl", {}, r"column 10: .*did you mean response\.kl\?\n  labels \+ respons\.kl\n +\^"),
        ("labels + response.kl(temprature=2)", {}, "column 10: .*did you mean temperature"),
        ("labels + response.kl(hidden1)", {}, "column 10: .*compares answers; accepted is no layer"),
        ("labels(hidden1)", {}, "column 1: .*accepted: labels, or labels"),
        ("labels(weight=2)", {}, "column 1: .*accepted: labels, or labels"),
        ("labels(teacher=attacked)", {"attacked": "pgd(0.1)"}, "column 1: .*labels"),
        ("labels(stop=False)", {}, "column 1: read stop=False"),
        (
            "labels + labels + response.kl(student=mixed)",
            {},
            "column 19: read mixed, and no attack makes such a view; accepted: clean",
        ),
        (
            "response.kl(student=mixed)",
            {"attacked": "pgd(0.1)"},
            "column 1: read the view mixed; accepted: clean, attacked",
        ),
        ("response.kl", {"attacked": "pgd(0.1)"}, r"loss=.*kl: no term looks at the images of pgd\(0.1\); accepted: a"),
        ("labels - 2*labels(student=clean)", {}, r"column 10: .*weight -2 of labels.*\n +labels - 2.*\n {11}\^"),
        ("labels + -1*labels", {}, r"column 10: .*weight -1 of labels.*\n +labels \+ -1.*\n {11}\^"),
        ("response.kl(student=teacher(clean))", {}, "column 1: read student=teacher; accepted: a view of the student"),
        ("response.kl(stop=2)", {}, "column 1: read stop=2; accepted: True or False"),
        ("response.kl(stop=False)", {}, "column 1: .*stop=False"),
        ("feature.hint(hidden1, teacher=student(clean))", {}, "column 1: .*teacher"),
        (f"{HINT} + 5*{HINT}", {}, "is named twice; accepted is each once"),
        (f"feature.hint(pairs((1, 2))) + 5*{HINT}", {}, "named twice"),
        ("response.kl + feature.fsp(pairs((1, 2)))", {}, "column 15: feature.fsp stands between two layers"),
        (
            "labels + response.kl(temperature=0)",
            {},
            "column 10: response.kl: temperature=0.*; accepted: a number above",
        ),
        ("labels + response.kl(temperature=warmup(0.1, 4))", {"steps": 9}, "response.kl: temperature=0"),
        ("labels + response.kl(temperature=linear(4, 0))", {"steps": 9}, "response.kl: temperature=0"),
        ("response.kl(temperature=steps((1, 0, 1), (0.31, 0.34)))", {"steps": 9}, "response.kl: temperature=0"),
        ("labels + response.kl(temperature=grid(4, 0, 2))", {}, "response.kl: temperature=0"),
        ("linear(1, 0)*labels", {}, r"steps=None: labels\.weight=linear\(1, 0\) follows the run"),
        ("relation.sp", {"batch_size": 1}, "batch_size=1: relation.sp compares examples of a batch; accepted: from 2"),
        ("relation.rkd_angle", {"batch_size": 2}, "batch_size=2: relation.rkd_angle.*accepted: from 3"),
        ("response.dist", {"batch_size": 1}, "batch_size=1: response.dist"),
        (
            "labels(student=attacked)",
            {},
            "column 1: read attacked, and no attack makes .*; accepted: clean, or attacked",
        ),
        ("feature.vid(hidden1, variance=2)", {}, "column 1: read variance=2, which is given"),
        ("feature.ofd(hidden1, margin=-1)", {}, "column 1: read margin=-1, which is given"),
        ("contrastive.crd", {}, "examples=None: contrastive.crd has a bank"),
        ("labels + contrastive.queue(temperature=linear(1, 2))", {"steps": 3}, "column 10: .*temperature"),
        ("labels + contrastive.queue(dims=grid(1, 2))", {}, "column 10: .*dims"),
    ],
)
def test_refused_before_training(text, given, said):
    with pytest.raises(BadInput, match=said):
        small(text, **given)


def test_matrices_of_flow_need_the_same_channels():
    # In these tests jaxtyping refuses first.
    with pytest.raises(Exception, match=r"feature.fsp\(block1-block2\): .*shape|f32\[4,6,6\]"):
        lesson("feature.fsp((block1, block2))", STUDENT, TEACHER)


def test_a_network_that_says_no_shape_is_refused():
    with pytest.raises(BadInput, match="input_shape"):
        lesson("response.kl", MLP._replace(input_shape=()), MLP_TEACHER)


def test_a_teacher_of_other_inputs_or_classes_is_refused():
    other = ({"image_shape": (9, 9, 1)}, {"num_classes": 2})
    larger, fewer = (models.create("mlp", **{**SHAPE, **own}, hidden=(4,)) for own in other)
    for given in ({"teacher": larger}, {"teacher": MLP_TEACHER, "others": {"natural": larger}}):
        with pytest.raises(BadInput, match=r"input_shape=\(9, 9, 1\); accepted: the student's, \(8, 8, 1\)"):
            lesson("response.kl", MLP, **given)
    with pytest.raises(
        BadInput, match="teacher answers with 2 classes; accepted: as many as the student, 3, or losses"
    ):
        lesson("response.kl", MLP, fewer)
    lesson("labels + feature.hint(hidden1)", MLP, fewer)


def test_a_teacher_of_the_lesson_is_run_in_every_step():
    made = small("response.kl")
    state = state_of(made)
    a, b = (
        recipe(state.params, state, BATCH, jax.random.key(1))[0]
        for recipe in (made.loss_fn, made.taught_by(live(MLP_TEACHER.apply)))
    )
    np.testing.assert_array_equal(a, b)


def test_numbered_layers():
    assert connectors.numbered(["stem", "block10", "block2", "embedding"]) == ["block2", "block10"]
    assert connectors.numbered(["hidden1", "embedding"]) == ["hidden1"]

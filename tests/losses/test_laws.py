"""Laws of every loss that can be named; a new loss is tested as soon as it exists."""

import functools
import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from kdjax.losses import response
from kdjax.recipes.comparisons import LOSSES, names
from kdjax.types import BadInput

NAMES = names("response")
BATCH, CLASSES = 6, 5
ROWS = np.random.default_rng(0).normal(size=(2, BATCH, CLASSES)) * 2
LABELS = np.array([0, 4, -1, 2, 2, 1], np.int32)
EVERYONE = np.ones(BATCH, bool)

# What a loss is at student = teacher, as a function of the logits and the default T. Losses not named: 0.
STATED = {
    "response.soft_cross_entropy": lambda v, t: t**2 * -(jax.nn.softmax(v / t) * jax.nn.log_softmax(v / t)).sum(1),
    "response.hard_label": lambda v, t: -jax.nn.log_softmax(v).max(1),
}
# Cross-entropy to a decision is smallest for an endlessly sure student, so student = teacher is no minimum of it.
NO_MINIMUM = {"response.hard_label"}


def default(name, parameter):
    return inspect.signature(LOSSES.functions[name]).parameters[parameter].default


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def loss(name):
    """The loss with known labels in place, so that only student, teacher and the law's own keyword are left."""

    def loss(student, teacher, **keywords):
        sides = jnp.asarray(student), jnp.asarray(teacher)
        return LOSSES.functions[name](*sides, labels=jnp.asarray(LABELS), **keywords)

    return loss


@pytest.fixture
def student():
    return ROWS[0].astype(np.float32)


@pytest.fixture
def teacher():
    return ROWS[1].astype(np.float32)


def with_at(x, place, value):
    """A copy that holds a value at a place."""
    x = x.copy()
    x[place] = value
    return x


@functools.cache
def compiled(name, **numbers):
    """`(student, teacher, labels, where) -> [batch], (slope by student, slope by teacher)`, one program."""

    def both(student, teacher, labels, where):
        loss = functools.partial(LOSSES.functions[name], labels=labels, where=where, **numbers)
        value, pull = jax.vjp(loss, student, teacher)
        return value, pull(jnp.ones_like(value))

    return jax.jit(both)


@pytest.fixture
def run(name):
    """The compiled loss; that it is the loss is a law of its own."""

    def run(student, teacher, labels=LABELS, where=EVERYONE, **numbers):
        return jax.device_get(compiled(name, **numbers)(student, teacher, labels, where))

    return run


def test_one_number_per_example(loss, student, teacher):
    value = loss(student, teacher)
    assert value.shape == (BATCH,)
    assert value.dtype == jnp.float32


@pytest.mark.parametrize(
    ("s", "t"),
    [
        ([1e4, -1e4, -1e4, -1e4, -1e4], [-1e4, 1e4, -1e4, -1e4, -1e4]),
        ([-1e4, 1e4, 1e4, 1e4, 1e4], [1e4, -1e4, 0, 0, 0]),
        ([1e4, -1e4, 0, 0, 0], [1e4, -1e4, 0, 0, 0]),
        ([1e4, 1e4, 1e4, 1e4, 1e4], [-1e4, -1e4, -1e4, -1e4, -1e4]),
        ([0, 0, 0, 0, 0], [1e4, -1e4, 1e4, -1e4, 0]),
    ],
)
def test_finite_at_huge_logits(run, s, t):
    student, teacher = (np.tile(np.array(x, np.float32), (BATCH, 1)) for x in (s, t))
    student[0] = np.roll(student[0], 1)  # so that the columns vary too
    value, slopes = run(student, teacher)
    for found in (value, *slopes):
        assert np.isfinite(found).all()


def test_nan_is_not_hidden(run, student, teacher):
    for damage in (np.nan, np.inf):
        for sides in (with_at(student, (1, 2), damage), teacher), (student, with_at(teacher, (1, 2), damage)):
            value, slopes = run(*sides)
            assert not np.isfinite(value[1])
            assert not np.isfinite(slopes[0][1]).all(), "the student would go on unmoved"


# These count it: one divides by the number of classes, the other relates their probabilities, 0 among them.
COUNTS_WHAT_IS_RULED_OUT = {"response.mean_kl", "response.dist"}


def test_a_teacher_without_a_largest_class_is_not_hidden(run, student, teacher):
    assert not np.isfinite(run(student, with_at(teacher, 1, -np.inf))[0][1])


@pytest.mark.parametrize("place", [0, CLASSES])
@pytest.mark.parametrize("name", sorted(set(NAMES) - COUNTS_WHAT_IS_RULED_OUT))
def test_a_class_that_both_sides_rule_out_adds_nothing(name, place, run, student, teacher):
    masked = [np.insert(x, place, -np.inf, axis=1) for x in (student, teacher)]
    value, slopes = run(*masked, labels=np.where(place <= LABELS, LABELS + 1, LABELS))
    same, same_slopes = run(student, teacher)
    np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-6)
    for got, want in zip(slopes, same_slopes, strict=True):
        np.testing.assert_allclose(np.delete(got, place, axis=1), want, rtol=1e-4, atol=1e-5)
        assert (got[:, place] == 0).all()


@pytest.mark.parametrize("name", sorted(COUNTS_WHAT_IS_RULED_OUT))
def test_a_class_that_both_sides_rule_out_is_no_nan(run, student, teacher):
    value, slopes = run(*[with_at(x, (slice(None), 3), -np.inf) for x in (student, teacher)])
    for found in (value, *slopes):
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"response.hard_label"}))
def test_a_class_that_the_student_alone_rules_out_is_no_agreement(name, run, teacher):
    value = run(with_at(teacher, (1, 2), -np.inf), teacher)[0][1]
    assert value > run(teacher, teacher)[0][1] + 1e-3 or not np.isfinite(value)


def test_arrays_of_numpy_are_taken_as_they_are(name, student, teacher, unchecked, recwarn):
    """Numbers of 64 bits among them, NumPy's own, with no word of JAX's about what it lacks."""
    function, keep = LOSSES.functions[name], np.arange(BATCH) % 2
    plain = {"labels": np.asarray(LABELS, np.int64), "where": keep}
    found = function(*ROWS, **plain)
    np.testing.assert_allclose(found, function(student, teacher, labels=LABELS, where=jnp.asarray(keep)), rtol=1e-6)
    assert found.dtype == jnp.float32
    assert not [str(warning.message) for warning in recwarn]


def numbers(name):
    """The keywords of a loss that are single numbers, the temperature among them."""
    parameters = inspect.signature(LOSSES.functions[name]).parameters
    return [p.name for p in parameters.values() if type(p.default) is float]


@pytest.fixture
def unchecked():
    """Without the shape checker of these tests, which would refuse first: a user has none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def outcome(call):
    try:
        return np.asarray(call(), np.float32)
    except BadInput as error:
        return str(error).partition("=")[0]


@pytest.mark.parametrize("kind", [np.float32, jnp.float32, jnp.bfloat16, lambda x: np.array(x, np.float32)])
def test_a_number_in_an_array_is_checked_as_a_plain_one_is(name, kind, student, teacher, unchecked):
    call = functools.partial(LOSSES.functions[name], student, teacher, labels=LABELS)
    for keyword in numbers(name):
        for value in (-1.0, -0.125, 0.0, 0.5, 1.0, 1.5, jnp.nan, jnp.inf):
            plain, held = (outcome(lambda x=x, k=keyword: call(**{k: x})) for x in (value, kind(value)))
            if isinstance(plain, str):
                assert held == plain == keyword
            else:
                np.testing.assert_allclose(held, plain, rtol=1e-2, atol=1e-2)


def test_several_numbers_in_place_of_one_are_refused(name, student, teacher, unchecked):
    call = functools.partial(LOSSES.functions[name], student, teacher, labels=LABELS)
    for keyword in numbers(name):
        if keyword == "temperature" and "temperature: ignored" in inspect.getdoc(LOSSES.functions[name]):
            continue
        for shape in ((BATCH, 1), (1, CLASSES), (1,), (BATCH,)):
            if name == "response.dkd" and shape == (BATCH,) and keyword != "temperature":
                continue  # a weight for each example
            with pytest.raises(BadInput, match=rf"{keyword} .*accepted"):
                call(**{keyword: jnp.ones(shape)})


def test_a_number_is_checked_under_jit_where_it_is_not_traced(student, teacher):
    held = jnp.float32(-1)
    with pytest.raises(BadInput, match=r"temperature=-1\.0; accepted: a number above 0"):
        jax.jit(lambda z: response.kl(z, jnp.asarray(teacher), temperature=held))(student)


@pytest.mark.parametrize("labels", [LABELS.astype(np.float32), LABELS > 0, np.eye(CLASSES, dtype=np.float32)[LABELS]])
def test_labels_that_are_no_class_numbers_are_refused(labels, student, teacher, unchecked):
    words = r"labels (is (float32|bool) of shape \(6,\); accepted: integers|\(6, 5\); accepted: \(6,\))"
    with pytest.raises(BadInput, match=words):
        response.cross_entropy(student, labels)
    with pytest.raises(BadInput, match=words):
        response.dkd(student, teacher, labels=labels)


def test_jit_and_a_mask_of_ones_change_nothing(loss, run, student, teacher):
    np.testing.assert_allclose(run(student, teacher)[0], loss(student, teacher), rtol=2e-5, atol=1e-6)


def test_permuting_the_batch_permutes_the_result(run, student, teacher):
    order = np.array([3, 1, 5, 0, 4, 2])
    permuted, _ = run(student[order], teacher[order], labels=LABELS[order])
    np.testing.assert_allclose(permuted, run(student, teacher)[0][order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "garbage"), [(np.bool_, np.nan), (np.float32, np.inf), (np.float32, 1e30)])
def test_rows_left_out_change_nothing(run, student, teacher, dtype, garbage):
    kept, out = np.array([0, 2, 3, 5]), np.array([1, 4])
    where = np.array([1, 0, 1, 1, 0, 1], dtype)
    dirty = [with_at(x, out, garbage) for x in (student, teacher)]

    value, slopes = run(*dirty, labels=with_at(LABELS, out, 99), where=where)
    alone, alone_slopes = run(student[kept], teacher[kept], labels=LABELS[kept], where=EVERYONE[kept])
    assert (value[out] == 0).all()
    np.testing.assert_allclose(value[kept], alone, rtol=1e-5, atol=1e-6)
    for got, want in zip(slopes, alone_slopes, strict=True):
        assert (got[out] == 0).all()
        np.testing.assert_allclose(got[kept], want, rtol=2e-4, atol=1e-5)


def test_nothing_kept_is_zero(run, student, teacher):
    value, slopes = run(student, teacher, where=~EVERYONE)
    for found in (value, *slopes):
        assert (found == 0).all()


def test_value_at_student_equal_to_teacher(name, run, teacher):
    stated = STATED.get(name, lambda v, t: jnp.zeros(BATCH))
    expected = stated(teacher, default(name, "temperature"))
    np.testing.assert_allclose(run(teacher, teacher)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_MINIMUM))
def test_student_equal_to_teacher_is_a_minimum(run, teacher):
    value, slopes = run(teacher, teacher)
    np.testing.assert_allclose(slopes[0], 0, atol=1e-4)
    direction = np.random.default_rng(1).normal(size=(BATCH, CLASSES)).astype(np.float32)
    for size in (-1.0, -0.3, 0.3, 1.0):
        assert (run(teacher + np.float32(size) * direction, teacher)[0] > value + 5e-5).all()


def test_float32_agrees_with_float64(run, student, teacher):
    single, slopes = run(student, teacher)
    with jax.enable_x64(True):
        double, double_slopes = run(student.astype(np.float64), teacher.astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-6)
    for got, want in zip(slopes, double_slopes, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_are_computed_in_float32(loss, student, teacher, dtype):
    halves = [jnp.asarray(x, dtype) for x in (student, teacher)]
    value = loss(*halves)
    assert value.dtype == jnp.float32
    # Equal and not just close: the rounding of the inputs is the only one that halves may cost.
    np.testing.assert_array_equal(value, loss(*[x.astype(jnp.float32) for x in halves]))


def test_vmap_over_temperature_is_a_loop(loss, student, teacher):
    temperatures = np.array([0.5, 1.0, 4.0], np.float32)
    together = jax.jit(jax.vmap(lambda t: loss(student, teacher, temperature=t)))(temperatures)
    one_by_one = [loss(student, teacher, temperature=float(t)) for t in temperatures]
    np.testing.assert_allclose(together, np.stack(one_by_one), rtol=1e-5, atol=1e-6)


def test_vmap_over_own_hyper_parameters_is_a_loop(name, loss, student, teacher):
    numbers = {"alpha", "beta", "gamma", "label_smoothing"} & set(inspect.signature(LOSSES.functions[name]).parameters)
    for hyper in sorted(numbers):
        values = np.array([0.0, 0.3, 1.0], np.float32)
        together = jax.jit(jax.vmap(lambda x, hyper=hyper: loss(student, teacher, **{hyper: x})))(values)
        one_by_one = [loss(student, teacher, **{hyper: float(x)}) for x in values]
        np.testing.assert_allclose(together, np.stack(one_by_one), rtol=1e-5, atol=1e-6)
        assert not np.allclose(together[0], together[1]), f"{name} does not use {hyper}"


def test_a_batch_of_one_is_a_row_of_the_batch(name, run, student, teacher):
    # The one loss whose rows know of each other; its batch of one is in test_response.
    numbers = {"gamma": 0.0} if name == "response.dist" else {}
    alone, _ = run(student[:1], teacher[:1], labels=LABELS[:1], where=EVERYONE[:1], **numbers)
    np.testing.assert_allclose(alone, run(student, teacher, **numbers)[0][:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(BATCH, CLASSES + 1), (BATCH, 1), (1, CLASSES), (CLASSES,)])
def test_a_message_names_both_shapes(name, student, shape):
    # Unwrapped: in these tests jaxtyping refuses first, but a user has no checker.
    function = inspect.unwrap(LOSSES.functions[name])
    with pytest.raises(ValueError, match=r"student has shape \(6, 5\) and teacher") as info:
        function(jnp.asarray(student), jnp.zeros(shape), labels=jnp.asarray(LABELS))
    assert str(shape) in str(info.value)


def test_a_mask_of_another_length_is_refused(name, student, teacher):
    function = inspect.unwrap(LOSSES.functions[name])
    with pytest.raises(ValueError, match=r"\(6, 5\) and where \(3,\)"):
        function(*map(jnp.asarray, (student, teacher)), labels=jnp.asarray(LABELS), where=jnp.ones(3, bool))

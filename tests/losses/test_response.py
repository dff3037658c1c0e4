"""Numbers and identities that each loss on logits must reproduce. What holds for all of them is in test_laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from kdjax.losses import response
from kdjax.types import BadInput

close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)


def log(*rows):
    """Logits of probabilities written out."""
    return jnp.log(jnp.array(rows, jnp.float32))


def student_gradient(loss, student, teacher, **kwargs):
    return jax.grad(lambda s: loss(s, teacher, **kwargs).sum())(student)


RNG = np.random.default_rng(0)
Z, V = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, 8, 6)) * 3)
LABELS = jnp.arange(8) % 6


# Knowledge distillation. z = (0, 0), v = (ln 9, 0), hence p = (.9, .1) at T = 1 and (.75, .25) at T = 2.


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, 0.3680642),  # ln 2 - H(.9)
        (2.0, 0.5232481),  # 4 (ln 2 - H(.75)); without T² 0.1308120, as a mean over classes 0.2616241
        (4.0, 0.5814525),
        (20.0, 0.6025652),
    ],
)
def test_kl_by_hand(temperature, expected):
    close(response.kl(jnp.zeros((1, 2)), log([9, 1]), temperature=temperature), [expected], rtol=2e-4)
    with jax.enable_x64(True):
        teacher = jnp.array([[math.log(9), 0.0]])
        close(response.kl(jnp.zeros((1, 2)), teacher, temperature=temperature), [expected], rtol=1e-7, atol=5e-8)


def test_soft_cross_entropy_and_reverse_kl_by_hand():
    zero, teacher = jnp.zeros((1, 2)), log([9, 1])
    close(response.soft_cross_entropy(zero, teacher, temperature=2.0), [4 * math.log(2)])
    close(response.reverse_kl(zero, teacher), [math.log(5 / 3)])  # ½ ln(.5/.9) + ½ ln(.5/.1)
    close(response.reverse_kl(teacher, zero), [0.3680642])  # the sides exchanged: ln 2 - H(.9) again


def test_kl_and_cross_entropy_of_torch():
    """torch 2.13, float64, z, v and y as below, T = 3:

    F.kl_div(F.log_softmax(z/3, 1), F.log_softmax(v/3, 1), reduction="none", log_target=True).sum(1) * 9
    F.cross_entropy(z, y, reduction="none"), and again with label_smoothing=0.1
    """
    z = jnp.array([[1.5, -0.5, 0.25, 2.0], [0.0, 3.0, -1.0, 0.5]])
    v = jnp.array([[2.0, 0.5, -1.0, 1.0], [-0.5, 1.0, 4.0, 0.0]])
    y = jnp.array([3, 0])
    close(response.kl(z, v, temperature=3.0), [0.40453948838063825, 4.475946741058129])
    close(response.cross_entropy(z, y), [0.621860395306458, 3.139925151560595])
    close(response.cross_entropy(z, y, label_smoothing=0.1), [0.740610395306458, 3.077425151560595])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_gradient_of_kl_is_T_times_q_minus_p(temperature):
    difference = jax.nn.softmax(Z / temperature) - jax.nn.softmax(V / temperature)
    close(student_gradient(response.kl, Z, V, temperature=temperature), temperature * difference)


def test_gradient_of_kl_by_hand():
    zero, teacher = jnp.zeros((1, 2)), log([9, 1])
    close(student_gradient(response.kl, zero, teacher, temperature=1.0), [[-0.4, 0.4]])
    close(student_gradient(response.kl, zero, teacher, temperature=2.0), [[-0.5, 0.5]])


def test_cross_entropy_and_kl_pull_the_student_alike_and_differ_by_the_entropy():
    close(student_gradient(response.soft_cross_entropy, Z, V), student_gradient(response.kl, Z, V))
    p = jax.nn.softmax(V / 4)
    close(response.soft_cross_entropy(Z, V) - response.kl(Z, V), -16 * (p * jnp.log(p)).sum(1))


def test_hot_limit_is_half_the_centred_mse_and_is_approached_like_one_over_T():
    """T²·KL → (1/2C)‖(z-z̄)-(v-v̄)‖², gradient → ((z-z̄)-(v-v̄))/C; doubling T must halve both errors."""
    with jax.enable_x64(True):
        z, v = jnp.array([[1.0, -2.0, 0.5, 3.0]]), jnp.array([[2.0, 1.0, -3.0, 0.5]])
        limit = response.centred_logit_mse(z, v) / 2
        slope_limit = ((z - z.mean()) - (v - v.mean())) / 4
        errors = []
        for temperature in (50.0, 100.0, 200.0, 400.0):
            value = response.kl(z, v, temperature=temperature)
            slope = student_gradient(response.kl, z, v, temperature=temperature)
            errors.append([abs(value - limit)[0], jnp.linalg.norm(slope - slope_limit)])
        errors = np.array(errors)
        assert (errors[-1] < [0.01 * limit[0], 0.01 * jnp.linalg.norm(slope_limit)]).all()
    ratios = errors[:-1] / errors[1:]
    assert ((ratios > 1.8) & (ratios < 2.2)).all(), ratios


def test_hot_limit_by_hand():
    """(ln 9)²/8 for z = (0, 0), v = (ln 9, 0)."""
    close(response.centred_logit_mse(jnp.zeros((1, 2)), log([9, 1])) / 2, [math.log(9) ** 2 / 8])
    close(response.centred_logit_mse(jnp.zeros((1, 2)), log([9, 1])) / 2, [0.6034745])


def test_raw_logit_mse_sees_a_constant_that_no_softmax_sees():
    shifted = V + 5
    assert not np.allclose(student_gradient(response.logit_mse, Z, V), student_gradient(response.logit_mse, Z, shifted))
    # (z - (v + 5))² has its mean at (z - v)² - 10 (z - v) + 25
    close(response.logit_mse(Z, shifted) - response.logit_mse(Z, V), 25 - 10 * (Z - V).mean(1), rtol=1e-4)
    close(response.centred_logit_mse(Z, shifted), response.centred_logit_mse(Z, V), rtol=1e-4)
    close(student_gradient(response.kl, Z, shifted), student_gradient(response.kl, Z, V))


@pytest.mark.parametrize(
    "loss",
    [
        response.kl,
        response.soft_cross_entropy,
        response.reverse_kl,
        response.jensen_shannon,
        response.standardized_kl,
        response.centred_logit_mse,
        response.dkd,
        response.dist,
        response.hard_label,
    ],
)
@pytest.mark.parametrize("shift", [(7.0, 0.0), (0.0, 7.0), (-3.0, 2.0)])
def test_a_constant_added_to_either_side_changes_nothing(loss, shift):
    shifted = loss(Z + shift[0], V + shift[1], labels=LABELS)
    close(shifted, loss(Z, V, labels=LABELS), rtol=1e-4, atol=1e-5)


def test_a_class_that_the_teacher_excludes_counts_as_zero_times_log_zero():
    """p = (1, 0): KL = -ln q₁, and T(q - p) still holds."""
    student, teacher = log([0.25, 0.75]), jnp.array([[0.0, -jnp.inf]])
    close(response.kl(student, teacher, temperature=1.0), [math.log(4)])
    close(student_gradient(response.kl, student, teacher, temperature=1.0), [[-0.75, 0.75]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (response.logit_mse, lambda z, v: np.mean((z - v) ** 2)),
        (response.logit_l1, lambda z, v: np.mean(np.abs(z - v))),
        (response.centred_logit_mse, lambda z, v: np.var(z - v)),
        (response.standardized_kl, lambda z, v: 4 * entropy(*(softmax(x / x.std(ddof=1) / 2) for x in (v, z)))),
    ],
)
def test_what_both_sides_rule_out_is_left_out_of_numbers_compared(loss, expected):
    """Rows of other classes, as where tasks share a network; the numbers are NumPy's and SciPy's, of the rest alone."""
    z, v = np.random.default_rng(5).normal(size=(2, 3, 6))
    out = np.array([[1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    close(
        loss(*(jnp.asarray(np.where(out, -np.inf, x), jnp.float32) for x in (z, v))),
        [expected(a[~row], b[~row]) for a, b, row in zip(z, v, out, strict=True)],
    )


def test_no_overflow_in_float32():
    """p = (0, 1) and -ln q₂ = 1e4/4 exactly: 16 · 2500."""
    student, teacher = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    close(response.kl(student, teacher, temperature=4.0), [40000.0])
    close(response.cross_entropy(student, jnp.array([1])), [1e4])


# Cross-entropy to labels and to the teacher's decision.


def test_cross_entropy_of_optax():
    close(response.cross_entropy(Z, LABELS), optax.softmax_cross_entropy_with_integer_labels(Z, LABELS))
    smooth = optax.smooth_labels(jax.nn.one_hot(LABELS, 6), 0.2)
    close(response.cross_entropy(Z, LABELS, label_smoothing=0.2), optax.softmax_cross_entropy(Z, smooth))


def test_label_smoothing_in_the_form_of_tf_kd():
    """0.9 on the label, 0.1/5 on each other class, is ε = 0.1·6/5."""
    target = jnp.where(jax.nn.one_hot(LABELS, 6, dtype=bool), 0.9, 0.02)
    expected = -(target * jax.nn.log_softmax(Z)).sum(1)
    close(response.cross_entropy(Z, LABELS, label_smoothing=0.12), expected)


def test_unknown_labels_cost_nothing_and_pull_nothing():
    labels = LABELS.at[jnp.array([1, 6])].set(-1)
    student = Z.at[1].set(jnp.nan)
    value, slope = jax.value_and_grad(lambda s: response.cross_entropy(s, labels, label_smoothing=0.1).sum())(student)
    known = (labels >= 0).astype(jnp.float32)
    close(value, (known * response.cross_entropy(Z, LABELS, label_smoothing=0.1)).sum())
    assert (slope[jnp.array([1, 6])] == 0).all()
    assert (jnp.abs(slope).max(1) > 0).sum() == 6


def test_a_label_beyond_the_classes_is_not_passed_over():
    assert jnp.isnan(response.cross_entropy(Z, LABELS.at[2].set(6))).tolist() == [i == 2 for i in range(8)]
    assert jnp.isnan(response.dkd(Z, V, labels=LABELS.at[2].set(6))).tolist() == [i == 2 for i in range(8)]


def test_hard_label_is_cross_entropy_to_the_largest_teacher_logit():
    student, teacher = log([0.7, 0.2, 0.1], [0.7, 0.2, 0.1]), jnp.array([[1.0, 5.0, 2.0], [0.0, -2.0, 0.0]])
    close(response.hard_label(student, teacher), [-math.log(0.2), -math.log(0.7)])  # of equals the first
    smoothed = response.hard_label(student, teacher, label_smoothing=0.3)
    everything = -(math.log(0.7) + math.log(0.2) + math.log(0.1)) / 3
    close(smoothed, [-0.7 * math.log(0.2) + 0.3 * everything, -0.7 * math.log(0.7) + 0.3 * everything])


# Standardised logits.


def test_standardize_divides_by_the_sample_deviation():
    close(response.standardize(jnp.array([[3.0, 1.0, -1.0]])), [[1.0, 0.0, -1.0]])  # over C: ±1.2247449
    close(response.standardize(jnp.array([[5.0, -3.0]])), [[0.7071068, -0.7071068]])


def test_standardized_kl_by_hand():
    """(3, 1, -1) → (1, 0, -1), and its mirror image; at T = 1 then Σ p (log p - log q) = 2 (p₁ - p₃)."""
    e = math.e
    expected = 2 * (e - 1 / e) / (e + 1 + 1 / e)
    close(response.standardized_kl(jnp.array([[-1.0, 1, 3]]), jnp.array([[3.0, 1, -1]]), temperature=1.0), [expected])


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.0), (5.0, -2.0), (100.0, 30.0)])
def test_standardized_kl_ignores_scale_and_shift(a, b):
    close(response.standardized_kl(a * Z + b, V), response.standardized_kl(Z, V), rtol=1e-4, atol=1e-5)
    close(response.standardized_kl(Z, a * V + b), response.standardized_kl(Z, V), rtol=1e-4, atol=1e-5)


def test_standardized_kl_of_two_classes_sees_only_which_is_larger():
    """Both sides are ±0.7071068: d = √2 apart, and KL = d·tanh(d/2) where the order differs."""
    student, teacher = jnp.array([[9.0, 0.0], [9.0, 0.0]]), jnp.array([[0.1, 0.0], [0.0, 0.1]])
    d = math.sqrt(2)
    close(response.standardized_kl(student, teacher, temperature=1.0), [0.0, d * math.tanh(d / 2)])


def test_a_row_without_direction_gets_no_gradient_instead_of_an_endless_one():
    """The head of a fresh student may be all zeros. Plain formulas then divide by 1e-7 (or 1e-8), or by 0."""
    for loss in (response.standardized_kl, response.dist):
        for constant in (0.0, 0.3):
            slope = student_gradient(loss, jnp.full_like(Z, constant), V)
            assert (slope == 0).all(), loss


# Decoupled distillation. T = 1, t = 0, p = (.7, .2, .1), q uniform.


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (1.0, 0.0, 0.2798038),  # TCKD = .7 ln(.7·3) + .3 ln(.3·3/2)
        (0.0, 1.0, 0.0566330),  # NCKD = ⅔ ln(⅔·2) + ⅓ ln(⅓·2)
        (1.0, 8.0, 0.7328679),
        (1.0, 0.3, 0.2967937),  # = KL
    ],
)
def test_dkd_by_hand(alpha, beta, expected):
    teacher, labels = log([0.7, 0.2, 0.1]), jnp.array([0])
    value = response.dkd(jnp.zeros((1, 3)), teacher, labels=labels, temperature=1.0, alpha=alpha, beta=beta)
    close(value, [expected])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_with_beta_one_minus_p_t_is_kl(temperature):
    p_t = jnp.take_along_axis(jax.nn.softmax(V / temperature), LABELS[:, None], axis=1)[:, 0]
    assert p_t.min() < 0.1, "the identity must be tried where the teacher is wrong too"
    dkd = functools.partial(response.dkd, labels=LABELS, temperature=temperature, alpha=1.0, beta=1 - p_t)
    close(dkd(Z, V), response.kl(Z, V, temperature=temperature))
    expected = student_gradient(response.kl, Z, V, temperature=temperature)
    close(student_gradient(dkd, Z, V), expected, rtol=1e-4, atol=1e-5)


def test_dkd_of_two_classes_has_no_second_term():
    z, v, labels = Z[:, :2], V[:, :2], LABELS % 2
    np.testing.assert_array_equal(response.dkd(z, v, labels=labels, alpha=0.0), jnp.zeros(8))
    np.testing.assert_array_equal(student_gradient(response.dkd, z, v, labels=labels, alpha=0.0), jnp.zeros((8, 2)))
    close(response.dkd(z, v, labels=labels), response.kl(z, v))


def test_dkd_takes_the_largest_class_of_the_teacher_where_the_label_is_unknown():
    unknown = response.dkd(Z, V, labels=LABELS.at[jnp.array([0, 3])].set(-1))
    expected = response.dkd(Z, V, labels=LABELS.at[jnp.array([0, 3])].set(jnp.argmax(V, 1)[jnp.array([0, 3])]))
    np.testing.assert_array_equal(unknown, expected)
    assert not np.allclose(unknown, response.dkd(Z, V, labels=LABELS))


def test_dkd_of_a_student_that_is_sure_and_wrong():
    """TCKD = -ln q_t = 1e4, whose two-way probabilities are 0 and 1 in float32; NCKD, (½, ½) against (1, e^-1e4), is
    ½·1e4 - ln 2."""
    value = response.dkd(
        jnp.array([[0.0, 1e4, 0.0]]), jnp.array([[1e4, 0.0, 0.0]]), labels=jnp.array([0]), temperature=1.0
    )
    close(value, [1e4 + 8 * (5e3 - math.log(2))])


def test_dkd_needs_labels():
    with pytest.raises(BadInput, match=r"labels=None.*\[batch\]"):
        response.dkd(Z, V)


# Relations.


def test_dist_by_hand():
    """q rows (.7, .2, .1), (.2, .7, .1); p rows (.6, .3, .1), (.1, .8, .1).

    Classes within a row, centred and times 30: (11, -4, -7) and (8, -1, -7), then (-4, 11, -7) and (-7, 14, -7).
    Rows within a class: classes 1 and 2 move together, class 3 does not move and counts as 0: 1 - 2/3.
    """
    z, v = log([0.7, 0.2, 0.1], [0.2, 0.7, 0.1]), log([0.6, 0.3, 0.1], [0.1, 0.8, 0.1])
    first, second = 141 / math.sqrt(186 * 114), 231 / math.sqrt(186 * 294)
    close(response.dist(z, v, gamma=0.0), [1 - first, 1 - second])
    close(response.dist(z, v, gamma=0.0).mean(), 0.0219351)
    close(response.dist(z, v, beta=0.0), [1 / 3, 1 / 3], rtol=1e-4)
    close(response.dist(z, v, beta=2.0, gamma=3.0).mean(), 2 * 0.0219351 + 3 / 3, rtol=1e-4)


def test_dist_at_a_temperature_is_dist_of_tempered_logits_times_its_square():
    close(response.dist(Z, V, temperature=4.0), 16 * response.dist(Z / 4, V / 4))


def test_dist_of_one_example_pays_the_whole_second_term():
    """Whether the batch is one example or only one is kept: nothing varies, so nothing correlates."""
    first = response.dist(Z[:1], V[:1], gamma=0.0)
    close(response.dist(Z[:1], V[:1], gamma=0.7), first + 0.7)
    one_kept = response.dist(Z, V, gamma=0.7, where=jnp.arange(8) == 0)
    close(one_kept, jnp.zeros(8).at[0].set(first[0] + 0.7))


# Generalised Jensen-Shannon. p = (.9, .1), q = (.1, .9).


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.5, 0.3680642),  # m = (.5, .5): ln 2 - H(.9)
        (0.1, 0.1463105),  # m = (.18, .82)
        (0.0, 1.7577797),  # KL(p‖q) = .8 ln 9
        (1.0, 1.7577797),  # KL(q‖p), the same by symmetry
    ],
)
def test_jensen_shannon_by_hand(beta, expected):
    student, teacher = log([0.1, 0.9]), log([0.9, 0.1])
    close(response.jensen_shannon(student, teacher, beta=beta), [expected])
    close(jax.jit(response.jensen_shannon)(student, teacher, beta=jnp.float32(beta)), [expected])


def test_jensen_shannon_at_its_ends_is_kl_and_reverse_kl():
    for temperature in (1.0, 3.0):
        for beta, end in [(0.0, response.kl), (1.0, response.reverse_kl)]:
            close(response.jensen_shannon(Z, V, temperature=temperature, beta=beta), end(Z, V, temperature=temperature))
            traced = jax.grad(lambda s, b, t=temperature: response.jensen_shannon(s, V, temperature=t, beta=b).sum())
            close(traced(Z, jnp.float32(beta)), student_gradient(end, Z, V, temperature=temperature))


def test_jensen_shannon_over_beta_tends_to_its_end():
    """JSD_β/β → KL(p‖q) for β → 0 says which side β weighs; exchanged it would tend to KL(q‖p)."""
    with jax.enable_x64(True):
        student, teacher = jnp.array([[0.0, 1.0, -1.0]]), jnp.array([[2.0, 0.0, 0.5]])
        ratio = response.jensen_shannon(student, teacher, beta=1e-6) / 1e-6
        close(ratio, response.kl(student, teacher, temperature=1.0))
        assert not np.allclose(ratio, response.reverse_kl(student, teacher), rtol=1e-2)


def test_jensen_shannon_is_symmetric_and_at_most_ln_2():
    close(response.jensen_shannon(Z, V), response.jensen_shannon(V, Z))
    assert not np.allclose(response.jensen_shannon(Z, V, beta=0.2), response.jensen_shannon(V, Z, beta=0.2), rtol=1e-2)
    close(response.jensen_shannon(jnp.array([[1e4, -1e4]]), jnp.array([[-1e4, 1e4]])), [math.log(2)])


# What is refused.


@pytest.mark.parametrize("temperature", [0, 0.0, -2.0, math.nan])
@pytest.mark.parametrize(
    "loss",
    [
        response.kl,
        response.soft_cross_entropy,
        response.reverse_kl,
        response.jensen_shannon,
        response.standardized_kl,
        response.dkd,
        response.dist,
    ],
)
def test_a_temperature_that_is_not_positive_is_refused(loss, temperature):
    with pytest.raises(BadInput, match=f"temperature={temperature}; accepted: a number above 0"):
        loss(Z, V, labels=LABELS, temperature=temperature)


def test_fractions_outside_zero_and_one_are_refused():
    with pytest.raises(BadInput, match=r"beta=1\.5; accepted: a number from 0 to 1"):
        response.jensen_shannon(Z, V, beta=1.5)
    with pytest.raises(BadInput, match=r"label_smoothing=-0\.1; accepted: a number from 0 to 1"):
        response.cross_entropy(Z, LABELS, label_smoothing=-0.1)
    with pytest.raises(BadInput, match=r"label_smoothing=2; accepted: a number from 0 to 1"):
        response.hard_label(Z, V, label_smoothing=2)


@pytest.mark.parametrize("loss", ["cross_entropy", "dkd"])
def test_labels_of_another_length_are_refused(loss):
    """Unwrapped: in these tests jaxtyping refuses first, but a user has no checker."""
    function = getattr(response, loss).__wrapped__
    args = (Z, LABELS[:3]) if loss == "cross_entropy" else (Z, V)
    kwargs = {} if loss == "cross_entropy" else {"labels": LABELS[:3]}
    with pytest.raises(BadInput, match=r"student has shape \(8, 6\) and labels \(3,\); accepted: \(8,\)"):
        function(*args, **kwargs)

"""Pools and gates: laws of every one that can be named, identities, hand-computed numbers, an independent solver."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from kdjax.ensembles import gates, pools
from kdjax.ensembles._minimum_norm import minimum_norm
from kdjax.losses import response
from kdjax.types import BadInput

TEACHERS, BATCH, CLASSES = 3, 4, 5
RNG = np.random.default_rng(0)
ANSWERS = jnp.asarray(RNG.normal(size=(TEACHERS, BATCH, CLASSES)) * 2, jnp.float32)
STUDENT = jnp.asarray(RNG.normal(size=(BATCH, CLASSES)), jnp.float32)
LABELS = jnp.array([0, 4, -1, 2])
DOMAIN = jnp.array([2, 0, -1, 1])
EVEN = jnp.full((BATCH, TEACHERS), 1 / TEACHERS)
UNEVEN = jnp.asarray(RNG.dirichlet(np.ones(TEACHERS), BATCH), jnp.float32)
PAIR = jnp.log(jnp.array([[[9.0, 1.0]], [[1.0, 1.0]]]))  # the reference's two teachers: (.9, .1) and (.5, .5)
HALVES = jnp.full((1, 2), 0.5)


def gate(name, teachers=TEACHERS):
    """A gate by name, with what it needs in place but the logits."""
    own = {"fixed": {"shares": tuple(range(1, teachers + 1))}}.get(name, {})
    domain = UNEVEN[:, :teachers] if name == "given" else jnp.minimum(DOMAIN, teachers - 1)
    return functools.partial(getattr(gates, name), labels=LABELS, student=STUDENT, domain=domain, **own)


def pool(name):
    """A pool by name, giving logits alone."""

    def call(logits, shares, **hyper):
        result = getattr(pools, name)(logits, shares, **hyper)
        return result.logits if isinstance(result, pools.Vote) else result

    return call


POOLS = pytest.mark.parametrize("name", pools.POOLS.names())
GATES = pytest.mark.parametrize("name", pools.GATES.names())


def test_the_names():
    """Spelled out: whoever types a name relies on it."""
    assert pools.POOLS.names() == [
        "geometric", "majority", "mean_logit", "mean_probability", "mean_probability_then_temper", "vote",
    ]  # fmt: skip
    assert pools.GATES.names() == [
        "confidence_aware", "ebkd", "entropy", "fixed", "given", "gradient_space", "max_probability", "oracle",
        "uniform",
    ]  # fmt: skip


# Every gate.


@functools.cache
def compiled(name):
    return jax.jit(getattr(gates, name))


def weigh(name, logits, **changes):
    """A gate's weights, from one program per gate."""
    given = {**gate(name).keywords, **changes}
    if "shares" in given:
        given["shares"] = jnp.array(given["shares"], jnp.float32)
    return compiled(name)(logits, **given)


@GATES
def test_weights_sum_to_one(name):
    found = weigh(name, ANSWERS)
    assert found.shape == (BATCH, TEACHERS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert (found >= 0).all()


@pytest.mark.parametrize("name", ["confidence_aware", "ebkd", "gradient_space"])
def test_compiling_changes_nothing(name):
    np.testing.assert_allclose(gate(name)(ANSWERS), weigh(name, ANSWERS), rtol=1e-4, atol=1e-6)


@GATES
def test_a_lone_teacher_has_all_the_weight(name):
    np.testing.assert_allclose(gate(name, 1)(ANSWERS[:1]), 1, rtol=1e-6)


@GATES
def test_renumbering_the_teachers_renumbers_the_weights(name):
    order = jnp.array([2, 0, 1])
    moved = {
        "oracle": {"domain": jnp.where(DOMAIN < 0, -1, jnp.argsort(order)[DOMAIN])},
        "given": {"domain": UNEVEN[:, order]},
        "fixed": {"shares": (3, 1, 2)},
    }
    found = weigh(name, ANSWERS[order], **moved.get(name, {}))
    np.testing.assert_allclose(found, weigh(name, ANSWERS)[:, order], rtol=1e-4, atol=1e-5)


@GATES
def test_each_example_is_weighed_by_itself(name):
    own = gate(name).keywords
    turned = {key: own[key][::-1] for key in ("labels", "student", "domain")}
    found = weigh(name, ANSWERS[:, ::-1], **turned)
    np.testing.assert_allclose(found, weigh(name, ANSWERS)[::-1], rtol=1e-5, atol=1e-6)


@GATES
def test_weights_and_their_gradients_are_finite_at_huge_logits(name):
    huge = jnp.array([[[1e4, -1e4, 0], [0, 0, 0]], [[-1e4, 1e4, 1e4], [1e4, 0, 0]], [[1e4, -1e4, 0], [-1e4, 0, 0]]])
    call = functools.partial(
        gate(name), labels=jnp.array([0, 2]), student=huge[0], domain=UNEVEN[:2] if name == "given" else DOMAIN[:2]
    )
    found, grads = jax.jit(lambda z: (call(z), jax.grad(lambda z: (call(z) * jnp.arange(3.0)[None]).sum())(z)))(huge)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert jnp.isfinite(grads).all()


@GATES
def test_what_a_gate_lacks_or_cannot_fit_is_said(name):
    function = inspect.unwrap(gate(name).func)
    own = gate(name).keywords
    with pytest.raises(BadInput, match=r"logits has shape \(4, 5\); accepted: three axes"):
        function(STUDENT, **own)
    needs = {"confidence_aware": "labels", "gradient_space": "student", "oracle": "domain", "given": "domain"}
    if name in needs:
        with pytest.raises(BadInput, match=f"{needs[name]}=None: {name}"):
            function(ANSWERS, **{**own, needs[name]: None})
        with pytest.raises(BadInput, match=rf"logits has shape \(3, 4, 5\) and {needs[name]}"):
            function(ANSWERS, **{**own, needs[name]: own[needs[name]][:2]})


# One gate each.


def test_confidence_aware_weighs_as_the_reference():
    for costs, want in (((0.1, 1.1), (0.7310586, 0.2689414)), ((0.1, 0.5, 2.0), (0.4455202, 0.4187257, 0.1357540))):
        right = jnp.exp(-jnp.array(costs))
        said = jnp.log(jnp.stack([right, 1 - right], 1))[:, None]
        np.testing.assert_allclose(gates.confidence_aware(said, labels=jnp.array([0]))[0], want, atol=1e-6)
    np.testing.assert_allclose(gate("confidence_aware")(ANSWERS)[2], 1 / TEACHERS, rtol=1e-6)  # label -1
    assert jnp.isnan(gates.confidence_aware(ANSWERS, labels=LABELS.at[0].set(CLASSES))[0]).all()


def test_ebkd_is_the_published_weight_over_teachers_less_one():
    p = np.exp(np.asarray(jax.nn.log_softmax(ANSWERS), np.float64))
    h = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(gates.ebkd(ANSWERS) * (TEACHERS - 1), (1 - h / h.sum(0)).T, rtol=1e-5)
    np.testing.assert_allclose(gates.ebkd(jnp.eye(3)[:, None] * 1e4), [[1 / 3] * 3], rtol=1e-6)  # no doubt at all


def test_a_small_scale_asks_only_the_surest():
    for name in ("entropy", "max_probability"):
        sharp = getattr(gates, name)(ANSWERS, scale=1e-3)
        np.testing.assert_array_equal(sharp.argmax(1), jax.nn.softmax(ANSWERS).max(-1).argmax(0))
        assert (sharp.max(1) > 0.999).all()


def test_the_oracle_and_given_and_fixed_weights():
    np.testing.assert_allclose(gates.oracle(ANSWERS, domain=DOMAIN)[:2], [[0, 0, 1], [1, 0, 0]])
    assert jnp.isnan(gates.oracle(ANSWERS, domain=DOMAIN.at[1].set(3))[1]).all()
    with pytest.raises(BadInput, match="float32 of shape"):
        gates.oracle(ANSWERS, domain=UNEVEN)
    np.testing.assert_allclose(
        gates.given(ANSWERS, domain=4 * UNEVEN.at[1].set(0))[:2], [UNEVEN[0], EVEN[1]], rtol=1e-6
    )
    traced = jax.jit(lambda s: gates.fixed(ANSWERS, shares=s))(jnp.array([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(traced[0], [0.25, 0.25, 0.5])
    for shares in ((1, 2), (1, -1, 2), (0, 0, 0), (1, float("nan"), 1)):
        with pytest.raises(BadInput, match="accepted: 3 numbers, none negative, at least one positive"):
            gates.fixed(ANSWERS, shares=shares)


# The quadratic programme of AE-KD.


def gram(vectors):
    return np.einsum("bij,bkj->bik", vectors, vectors)


def test_the_reference_s_two_gradients():
    g = jnp.asarray(gram(np.array([[[2.0, 0.0], [0.0, 1.0]]])), jnp.float32)
    solve = jax.jit(minimum_norm)
    np.testing.assert_allclose(solve(g, 1.0)[0], [0.2, 0.8], atol=1e-5)
    np.testing.assert_allclose(solve(g, 0.6)[0], [0.4, 0.6], atol=1e-5)
    equal = jnp.stack([jnp.ones((3, 3)), jnp.zeros((3, 3))])
    np.testing.assert_allclose(solve(equal, 0.6), 1 / 3, atol=1e-5)


def test_two_gradients_have_a_closed_form():
    v = np.random.default_rng(1).normal(size=(200, 2, 4))
    difference = v[:, 1] - v[:, 0]
    a = (difference * v[:, 1]).sum(1) / (difference**2).sum(1)
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(minimum_norm)(jnp.asarray(gram(v)), 0.7))
    np.testing.assert_allclose(found, np.stack([np.clip(a, 0.3, 0.7), np.clip(1 - a, 0.3, 0.7)], 1), atol=1e-9)


@pytest.mark.parametrize(("n", "bound"), [(3, 0.5), (4, 1.0), (5, 0.3)])
def test_the_programme_is_solved_as_by_an_independent_solver(n, bound):
    v = np.random.default_rng(n).normal(size=(6, n, 9)) + 0.5
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(minimum_norm)(jnp.asarray(gram(v)), bound))
    assert ((found > -1e-12) & (found < bound + 1e-12)).all()
    for g, a in zip(gram(v), found, strict=True):
        best = optimize.minimize(
            lambda x, g=g: x @ g @ x,
            np.full(n, 1 / n),
            jac=lambda x, g=g: 2 * g @ x,
            bounds=[(0, bound)] * n,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(a, best.x, atol=1e-5)
        assert a @ g @ a <= best.fun + 1e-9


def test_twenty_dependent_gradients_still_meet_the_optimality_conditions():
    """More teachers than classes: the matrix is singular. No pair of weights may be worth shifting."""
    v = np.random.default_rng(2).normal(size=(30, 20, 3)) + 1.0
    v[:10, 1] = v[:10, 0]
    g = gram(v)
    a = np.asarray(jax.jit(minimum_norm)(jnp.asarray(g, jnp.float32), 0.2), np.float64)
    np.testing.assert_allclose(a.sum(1), 1, atol=1e-6)
    slope = np.einsum("bij,bj->bi", g, a)
    rise = np.where(a > 1e-6, slope, -np.inf).max(1) - np.where(a < 0.2 - 1e-6, slope, np.inf).min(1)
    assert (rise < 1e-3 * np.trace(g, axis1=1, axis2=2) / 20).all()


def test_gradient_space_balances_the_teachers_of_each_example():
    """Without a bound, every teacher that counts pulls equally along the common direction, the others no less."""
    temperature = 3.0
    teach = functools.partial(response.kl, temperature=temperature)
    grads = jax.jit(jax.vmap(jax.grad(lambda z, v: teach(z, v).sum()), in_axes=(None, 0)))(STUDENT, ANSWERS)
    a = compiled("gradient_space")(ANSWERS, student=STUDENT, temperature=temperature, bound=1.0)
    grads, a = np.asarray(grads, np.float64), np.asarray(a)
    direction = np.einsum("bt,tbk->bk", a, grads)
    pulls = np.einsum("tbk,bk->bt", grads / np.linalg.norm(grads, axis=-1, keepdims=True), direction)
    low = pulls.min(1, keepdims=True)
    assert (low > 0).all()
    np.testing.assert_allclose(np.where(a > 1e-5, pulls / low, 1), 1, rtol=1e-3)
    # Without normalising, and one set of weights for the batch: the programme itself, on the whole batch's gradients.
    shared = functools.partial(gates.gradient_space, shared=True, normalize=False)
    one = jax.jit(shared)(ANSWERS, student=STUDENT, temperature=temperature)
    flat = gram(np.tile(grads.reshape(1, TEACHERS, -1), (BATCH, 1, 1)))
    np.testing.assert_allclose(one, jax.jit(minimum_norm)(jnp.asarray(flat, jnp.float32), 0.6), atol=1e-4)
    with pytest.raises(BadInput, match=r"bound=0\.3; accepted: a number from 1/3 to 1, as 3 weights sum to 1"):
        gates.gradient_space(ANSWERS, student=STUDENT, bound=0.3)


# Every pool.


@POOLS
def test_one_teacher_s_decision_is_its_own(name):
    alone = pool(name)(ANSWERS[:1], jnp.ones((BATCH, 1)), temperature=2.0)
    assert alone.shape == (BATCH, CLASSES)
    assert alone.dtype == jnp.float32
    np.testing.assert_array_equal(alone.argmax(1), ANSWERS[0].argmax(1))
    if name not in ("majority", "vote", "mean_probability_then_temper"):
        np.testing.assert_allclose(jax.nn.softmax(alone / 2), jax.nn.softmax(ANSWERS[0] / 2), rtol=1e-5)


@POOLS
def test_a_teacher_of_no_weight_says_nothing_whatever_it_holds(name):
    shares = jnp.tile(jnp.array([[0.25, 0.0, 0.75]]), (BATCH, 1))
    without = pool(name)(ANSWERS[::2], shares[:, ::2], temperature=2.0)
    heard = jax.jit(jax.value_and_grad(lambda z: (pool(name)(z, shares, temperature=2.0) * STUDENT).sum()))
    for junk in (jnp.nan, jnp.inf, 1e30):
        found, slope = heard(ANSWERS.at[1].set(junk))
        np.testing.assert_allclose(found, (without * STUDENT).sum(), rtol=1e-5)
        assert jnp.isfinite(slope).all()


@POOLS
def test_pools_and_their_gradients_are_finite_at_huge_logits_and_nan_is_seen(name):
    huge = jnp.array([[[1e4, -1e4, 0], [0, 0, 0]], [[-1e4, 1e4, 1e4], [1e4, 0, 0]], [[1e4, -1e4, 0], [-1e4, 0, 0]]])
    call = functools.partial(pool(name), temperature=0.5)
    slope = jax.grad(lambda z, w: (call(z, w) * jnp.arange(3.0)[None]).sum(), argnums=(0, 1))
    pooled, grads = jax.jit(lambda z, w: (call(z, w), slope(z, w)))(huge, EVEN[:2])
    assert jnp.isfinite(pooled).all()
    assert all(jnp.isfinite(g).all() for g in grads)
    broken = pool(name)(ANSWERS.at[0, 1, 2].set(jnp.nan), EVEN)
    assert jnp.isnan(broken[1]).any()
    assert not jnp.isnan(broken[0]).any()


@POOLS
def test_shapes_that_do_not_fit_are_named(name):
    function = inspect.unwrap(getattr(pools, name))
    with pytest.raises(BadInput, match=r"logits has shape \(3, 4, 5\) and weights \(3, 4\); accepted: \(4, 3\)"):
        function(ANSWERS, EVEN.T)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_mean_loss_and_loss_of_the_mean_have_one_gradient_and_differ_by_a_constant(temperature):
    def mean_loss(z):
        return sum(UNEVEN[:, k] * response.kl(z, ANSWERS[k], temperature=temperature) for k in range(TEACHERS))

    def loss_of_mean(z):
        return response.kl(z, pooled, temperature=temperature)

    pooled = pools.mean_probability(ANSWERS, UNEVEN, temperature=temperature)
    slopes, gap = jax.jit(
        lambda z: (
            [jax.grad(lambda z, f=f: f(z).sum())(z) for f in (mean_loss, loss_of_mean)],
            mean_loss(z) - loss_of_mean(z),
        )
    )(STUDENT)
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-6)
    # The constant by its other name: the entropy of the mean less the mean entropy.
    p = np.exp(np.asarray(jax.nn.log_softmax(ANSWERS / temperature), np.float64))
    mean = np.einsum("bt,tbk->bk", np.asarray(UNEVEN, np.float64), p)
    constant = -(mean * np.log(mean)).sum(1) + np.einsum("bt,tbk->b", np.asarray(UNEVEN, np.float64), p * np.log(p))
    np.testing.assert_allclose(gap, temperature**2 * constant, rtol=1e-4, atol=1e-5)


def test_the_constant_of_the_reference():
    mean = response.kl(jnp.zeros((1, 2)), pools.mean_probability(PAIR, HALVES), temperature=1.0)
    each = jnp.stack([response.kl(jnp.zeros((1, 2)), p, temperature=1.0) for p in PAIR]).mean()
    np.testing.assert_allclose([each, mean[0], each - mean[0]], [0.1840321, 0.0822829, 0.1017492], atol=1e-6)


def test_the_four_means_of_the_reference():
    def at(name, temperature):
        return jax.nn.softmax(pool(name)(PAIR, HALVES, temperature=temperature) / temperature)[0]

    np.testing.assert_allclose(at("mean_probability", 1.0), [0.7, 0.3], rtol=1e-6)
    np.testing.assert_allclose(at("mean_logit", 1.0), [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(at("mean_probability", 2.0), [0.625, 0.375], rtol=1e-6)
    np.testing.assert_allclose(at("mean_probability_then_temper", 2.0), [0.6043561, 0.3956439], rtol=1e-6)


def test_the_geometric_mean_is_the_mean_logit_but_for_a_constant_per_example():
    for temperature in (1.0, 4.0):
        p = jax.nn.softmax(ANSWERS / temperature)
        product = jnp.prod(p ** UNEVEN.T[:, :, None], axis=0)
        geometric = pools.geometric(ANSWERS, UNEVEN, temperature=temperature)
        np.testing.assert_allclose(
            jax.nn.softmax(geometric / temperature), product / product.sum(1, keepdims=True), rtol=1e-4
        )
        gap = geometric - pools.mean_logit(ANSWERS, UNEVEN)
        np.testing.assert_allclose(gap - gap.mean(1, keepdims=True), 0, atol=1e-5)


def log_p(*rows):
    return jnp.log(jnp.array(rows))[:, None]


def test_majority_counts_teachers_and_breaks_ties_by_confidence():
    elect = jax.jit(lambda p, w: pools.majority(p, w).logits.argmax())
    two_to_one = log_p([0.51, 0.49], [0.51, 0.49], [0.01, 0.99])
    assert elect(two_to_one, EVEN[:1]) == 0
    assert elect(two_to_one, jnp.array([[0.2, 0.2, 0.6]])) == 1
    assert elect(log_p([0.6, 0.4], [0.3, 0.7], [0.9, 0.1]), jnp.array([[0.5, 0.5, 0.0]])) == 1


def test_a_vote_is_of_those_who_are_sure_and_weighs_nothing_without_them():
    said = jnp.concatenate([log_p([0.95, 0.05], [0.2, 0.8], [0.2, 0.8]), log_p([0.8, 0.2], [0.3, 0.7], [0.4, 0.6])], 1)
    vote = jax.jit(pools.vote)
    result = vote(said, EVEN[:2], threshold=0.9, temperature=1.0)
    np.testing.assert_array_equal(result.logits.argmax(1), [0, 1])  # nobody is sure of the second: all vote
    np.testing.assert_allclose(result.weight, [0.95, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(jax.nn.softmax(result.logits)[0], [1, 0])
    everyone = vote(said, EVEN[:2], threshold=0.0, temperature=5.0)
    np.testing.assert_allclose(everyone.weight, [1.6, 1.3], rtol=1e-6)
    np.testing.assert_array_equal(jax.nn.softmax(everyone.logits / 5), [[0, 1], [0, 1]])
    with pytest.raises(BadInput, match=r"threshold=1\.5"):
        pools.vote(said, EVEN[:2], threshold=1.5)


# The feature term.


def test_the_feature_term_weighs_mean_squares_by_confidence():
    shape = (TEACHERS, BATCH, 2, 3)
    mine, theirs = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for _ in range(2))
    w = np.asarray(gates.confidence_aware(ANSWERS, labels=LABELS))
    want = sum(w[:, k] * ((np.asarray(mine) - theirs) ** 2)[k].mean((1, 2)) for k in range(TEACHERS))
    call = functools.partial(pools.confidence_aware_features, labels=LABELS)

    @jax.jit
    def slopes(student, logits, where):
        def total(s, z):
            return call(s, theirs, logits=z, where=where).sum()

        return jax.value_and_grad(total, argnums=(0, 1))(student, logits)

    np.testing.assert_allclose(jax.jit(call)(mine, theirs, logits=ANSWERS), want, rtol=1e-5)
    where = jnp.array([1.0, 0.0, 1.0, 1.0])
    found, (slope, to_weights) = slopes(mine.at[:, 1].set(jnp.nan), ANSWERS, where)
    np.testing.assert_allclose(found, np.asarray(want)[[0, 2, 3]].sum(), rtol=1e-5)
    assert jnp.isfinite(slope).all()
    assert not to_weights.any()  # the weights are constants
    with pytest.raises(BadInput, match=r"student has shapes \[\(4, 2, 3\), .*\], teacher \[\(4, 2, 2\), "):
        call(mine, theirs[..., :2], logits=ANSWERS)
    # Teachers' features may differ in shape: a constant gap of k + 1 has that mean square however wide it is.
    uneven = [jnp.full((BATCH, 3 + k), float(k + 1)) for k in range(TEACHERS)]
    found = call(uneven, [jnp.zeros_like(x) for x in uneven], logits=ANSWERS)
    np.testing.assert_allclose(found, w @ [(k + 1) ** 2 for k in range(TEACHERS)], rtol=1e-5)


# Names.


def test_names_give_the_functions_and_hyper_parameters_go_where_they_belong():
    made = pools.resolve("vote(threshold=0.5) + fixed(shares=(1, 1, 2))")
    by_hand = pools.combine(
        functools.partial(pools.vote, threshold=0.5), functools.partial(gates.fixed, shares=(1, 1, 2))
    )
    for found, want in zip(made(ANSWERS, temperature=2.0), by_hand(ANSWERS, temperature=2.0), strict=True):
        np.testing.assert_array_equal(found, want)
    plain = pools.combine(pools.mean_probability)(ANSWERS, temperature=2.0)
    np.testing.assert_array_equal(plain, pools.mean_probability(ANSWERS, EVEN, temperature=2.0))


@pytest.mark.parametrize("name", ["fixed", "gradient_space"])
def test_a_gate_feeds_a_pool_and_sees_the_temperature(name):
    own = "(shares=(1, 2, 3))" if name == "fixed" else ""
    made = pools.resolve(f"{name}{own} + mean_probability")
    call = functools.partial(
        made, student=STUDENT, labels=LABELS, domain=UNEVEN if name == "given" else DOMAIN
    )  # fmt: skip
    found = jax.jit(lambda t: call(ANSWERS, temperature=t))(jnp.float32(4.0))
    want = pools.mean_probability(ANSWERS, gate(name)(ANSWERS, temperature=4.0), temperature=4.0)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mean_logits", "column 1: read the name mean_logits; accepted: the pools geo.*did you mean mean_logit"),
        ("vote + entropi", "column 8: read the name entropi; .*the gates confidence_aware.*did you mean entropy"),
        ("mean_logit + entropy(scal=1)", "scal=1; accepted: entropy takes scale; did you mean scale"),
        ("mean_logit(student=1)", "student=1, which is given with each call; accepted: .*takes no arguments"),
        ("mean_logit + fixed", "read fixed without shares; accepted: fixed takes shares"),
        ("mean_logit + fixed(shares=1)", "shares=1 of fixed; accepted: a tuple"),
        ("entropy", "without a pool"),
        ("vote + majority", r"1\*majority; accepted: POOL or POOL \+ GATE, of each one"),
        ("vote + uniform + entropy", r"1\*entropy; accepted: POOL or POOL \+ GATE, of each one"),
        ("vote + 2*entropy", r"2\*entropy; .*no weights"),
        ("grid(1, 2)*vote", r"grid\(1, 2\)\*vote; .*no weights"),
        ("vote(threshold=grid(0.1, 0.2))", "threshold=grid.* of vote; accepted: one value"),
    ],
)
def test_what_cannot_be_resolved_is_explained(text, words):
    with pytest.raises(BadInput, match=words):
        pools.resolve(text)


@POOLS
def test_a_teacher_that_says_nothing_is_seen_by_every_pool(name):
    """argmax would take a NaN for the largest, and class 0 where all are ruled out."""
    for junk in (ANSWERS.at[0, 1, 2].set(jnp.nan), ANSWERS.at[0, 1, 2].set(jnp.inf), ANSWERS.at[0, 1].set(-jnp.inf)):
        broken = pool(name)(junk, EVEN)
        assert not jnp.isfinite(broken[1]).all()
        assert jnp.isfinite(jnp.delete(broken, 1, axis=0)).all()

"""Victims that fail: what they raise reaches their user, and no answer that is no number passes for robustness."""

import dataclasses
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.attacks import named, objectives, oracles, victims
from kdjax.attacks.run import run
from kdjax.types import BadInput, Outputs
from tests.attacks.test_attacks import BLACK, NAMES, make, objective


class TooManyRequests(Exception):
    """A service's own."""


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("name", BLACK)
def test_a_black_box_own_exception_reaches_its_user(name, on_device, counter, image, label):
    calls = []

    def ask(x):
        calls.append(len(x))
        if len(calls) == 3:
            raise TooManyRequests("429, try again in 7 s")
        return counter(x)

    host = objectives.divided(victims.black_box(ask, num_classes=10), 2.0)
    attack = make(name, epsilon=0.001) if name in ("noise", "square") else make(name)
    with pytest.raises(TooManyRequests, match="try again in 7 s") as error:
        run(attack, host, image[:2], label[:2], objective=objective(name), on_device=on_device)
    assert "ask" in [frame.name for frame in traceback.extract_tb(error.value.__traceback__)]
    assert error.value.__suppress_context__  # no page of XLA's before it


def test_exceptions_that_nobody_met_are_not_kept_for_ever(image, label):
    def ask(x):
        raise TooManyRequests("again")

    host = victims.black_box(ask, num_classes=10)
    for _ in range(20):
        with pytest.raises(jax.errors.JaxRuntimeError, match="TooManyRequests: again"):
            jax.block_until_ready(host(jnp.asarray(image[:1])))
    assert len(victims._raised) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_refused(name):
    def apply(variables, image, *, train, key):
        return Outputs(image.reshape(len(image), -1)[:, :1]), {}

    with pytest.raises(BadInput, match="the victim knows 1 class; accepted: 2 or more"):
        run(
            make(name), victims.white_box(apply, ()), np.full((2, 8, 8, 1), 0.5, np.float32), np.zeros(2, int),
            objective=objective(name),
        )  # fmt: skip
    goal = objective(name)(victims.white_box(apply, ()), jnp.zeros(2, int))
    with pytest.raises(BadInput, match="1 class; accepted: 2 or more"):
        goal(jnp.zeros((2, 8, 8, 1)))


@pytest.fixture(scope="module")
def zeros(image, label):
    """Two images of class 0: of NaNs the first is taken for the largest, so that only 0 is not "fooled" by them."""
    rows = np.flatnonzero(label == 0)[:2]
    return image[rows], label[rows]


@pytest.mark.parametrize("name", NAMES)
def test_nan_off_the_clean_images_is_no_silent_clean_image(name, mlp, zeros):
    apply, weights, *_ = mlp
    image, label = zeros
    clean = jnp.asarray(image)

    def brittle(variables, x, *, train, key):
        outputs, state = apply(variables, x, train=train, key=key)
        moved = jnp.abs(x - clean).max((1, 2, 3)) > 1e-5
        return outputs._replace(logits=jnp.where(moved[:, None], jnp.nan, outputs.logits)), state

    with pytest.raises(BadInput, match="not a number"):
        run(make(name), victims.white_box(brittle, weights), image, label, objective=objective(name))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in BLACK])
def test_slopes_that_are_not_numbers_are_seen_where_the_network_hides_them(name, mlp, zeros):
    """sqrt(0) has no slope, and max(NaN, 0) is 0 for a `where`: every answer of this network is finite."""
    apply, weights, *_ = mlp
    image, label = zeros

    def hidden(variables, x, *, train, key):
        x = jnp.where(x > 0, x, 0)
        outputs, state = apply(variables, x, train=train, key=key)
        pit = jnp.sqrt(jnp.sum(0 * x, (1, 2, 3)))
        return outputs._replace(logits=outputs.logits + pit[:, None]), state

    with pytest.raises(BadInput, match="its slope there, is not a number"):
        run(make(name), victims.white_box(hidden, weights), image, label, objective=objective(name))


def test_nan_does_not_fool(label):
    def apply(variables, image, *, train, key):
        return Outputs(jnp.full((len(image), 3), jnp.nan)), {}

    victim = victims.white_box(apply, ())
    for goal in (objectives.cross_entropy, objectives.margin, objectives.dlr):
        value, success = goal(victim, jnp.array([1, 2]))(jnp.zeros((2, 2, 2, 1)))
        assert jnp.isnan(value).all()
        assert not success.any()


def test_what_is_no_victim_is_no_white_box(image, label, keys):
    def logits(image, *, key=None, where=None):
        return image.reshape(len(image), -1)[:, :10]

    known = objectives.margin(victims.black_box(np.asarray, num_classes=10), jnp.asarray(label[:2]))
    goal = dataclasses.replace(known, victim=jax.tree_util.Partial(logits))
    assert not goal.white_box
    for attack in (named.pgd(), named.cw(), named.deepfool()):
        with pytest.raises(BadInput, match="gradients"):
            attack(goal, keys[:2], jnp.asarray(image[:2]))
    seen = oracles.seen_through(oracles.autodiff(), oracles.resize_and_pad())
    with pytest.raises(BadInput, match="gradients"):
        seen(goal, keys[:2], jnp.asarray(image[:2]), jnp.asarray(image[:2]), where=jnp.ones(2, bool))

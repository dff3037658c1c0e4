"""PeerAiD: its formula and its code's in numpy, whose gradient moves whom, and that a run trains both networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kdjax
from kdjax import data
from kdjax.attacks.catalogue import ATTACKS
from kdjax.models.create import create
from kdjax.recipes.peer import ATTACK, HPARAMS, PEER, peer_aid, peers
from kdjax.training.state import create_state
from kdjax.types import STUDENT, Adversarial, BadInput

SHAPE = {"num_classes": 4, "image_shape": (3, 3, 1)}
NETWORKS = {name: create("mlp", **SHAPE, hidden=(n,)) for name, n in ((STUDENT, 5), (PEER, 7))}
IMAGE = jax.random.uniform(jax.random.key(1), (6, 3, 3, 1))
MOVED = jnp.clip(IMAGE + 0.3 * jnp.sin(jnp.arange(9.0)).reshape(1, 3, 3, 1), 0, 1)
LABEL = np.array([0, 1, 2, 3, 0, -1])
ROWS = {"inputs": IMAGE, "label": jnp.asarray(LABEL), "mask": jnp.ones(6)}
NUMBERS = {"temperature": 2.0, "labels": 0.3, "peer": 0.7, "own": 0.9, "peer_labels": 1.1, "peer_student": 0.4}


@pytest.fixture
def seen(monkeypatch):
    """What the attack is given; it returns images that are known."""
    found = []

    def attack(objective, key, image, start=None, *, where=None):
        found.append((objective, where))
        rows = jnp.zeros(len(image), jnp.int32)
        return Adversarial(MOVED, rows.astype(jnp.float32), rows > 0, rows, rows)

    named = ATTACKS.functions["pgd"]
    monkeypatch.setitem(ATTACKS.functions, "pgd", functools.wraps(named)(lambda **settings: attack))
    return found


def state_of(recipe, **numbers):
    return create_state(peers(*NETWORKS.values()), optax.sgd(0.1), jax.random.key(3), hparams=recipe.hparams | numbers)


def log_p(params, name, image, t=1.0):
    z = NETWORKS[name].apply({"params": params[name]}, image, train=False, key=None)[0].logits
    return np.asarray(jax.nn.log_softmax(jnp.asarray(z) / t), np.float64)


def kl(right, left):
    return (np.exp(right) * (right - left)).sum(1)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_the_loss_is_the_papers_and_its_gradient_the_forms(form, seen):
    recipe = peer_aid(*NETWORKS.values(), form=form)
    state = state_of(recipe, **NUMBERS)
    losses, aux = recipe(state.params, state, ROWS, jax.random.key(0))
    said = lambda name, image, t=1.0: log_p(state.params, name, image, t)  # noqa: E731
    ce = lambda name: np.where(LABEL < 0, 0, -said(name, MOVED)[np.arange(6), LABEL])  # noqa: E731
    mean = 4 if form == "release" else 1
    t, s = 2.0, said(STUDENT, MOVED, 2.0)
    expected = 0.3 * ce(STUDENT) + 0.7 * t**2 * kl(said(PEER, MOVED, t), s) / mean
    expected += 0.9 * t**2 * kl(said(STUDENT, IMAGE, t), s) / mean
    expected += 1.1 * ce(PEER) + 0.4 * kl(said(STUDENT, MOVED), said(PEER, MOVED)) / mean
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    objective, where = seen[0]
    assert np.asarray(where).all()  # the attack needs no label
    np.testing.assert_allclose(-objective(MOVED)[0], kl(said(PEER, IMAGE), said(STUDENT, MOVED)), rtol=1e-4, atol=1e-6)
    assert set(aux.metrics) == {"accuracy", "attacked_accuracy", "peer_accuracy", *NUMBERS} - {"temperature"}

    def slope(**numbers):
        weights = {name: jnp.float32(numbers.get(name, 0)) for name in NUMBERS if name != "temperature"}
        own = state.replace(hparams=state.hparams | weights)
        grads = jax.grad(lambda p: recipe(p, own, ROWS, jax.random.key(0))[0].sum())(state.params)
        return {name: float(optax.tree.norm(grads[name])) for name in grads}

    of_student, of_peer = slope(labels=1, peer=1), slope(peer_labels=1, peer_student=1)
    assert of_student[STUDENT] > 0
    assert of_student[PEER] == 0
    assert of_peer[PEER] > 0
    assert (of_peer[STUDENT] > 0) == (form == "release")
    z = lambda p, x: NETWORKS[STUDENT].apply({"params": p}, x, train=False, key=None)[0].logits / t  # noqa: E731
    held = state.params[STUDENT]

    def itself(p, clean):
        right, left = jax.nn.log_softmax(z(clean, IMAGE)), jax.nn.log_softmax(z(p, MOVED))
        return t**2 * jnp.sum(jnp.exp(right) * (right - left)) / mean

    grads = jax.grad(lambda p: itself(p, p if form == "release" else held))(held)
    np.testing.assert_allclose(slope(own=1)[STUDENT], float(optax.tree.norm(grads)), rtol=1e-4)


def test_fit_trains_both_and_the_attack_attacks():
    digits = data.load("digits", "train")
    nets = [create("mlp", hidden=(n,), like=digits) for n in (24, 32)]
    recipe = peer_aid(*nets, attack=ATTACK.replace("8/255, steps=10", "0.1, steps=1"))
    assert recipe.hparams.items() >= {**HPARAMS, "pgd.epsilon": 0.1}.items()
    found = kdjax.fit(peers(*nets), recipe, digits, tx=optax.adam(0.01), epochs=4, hparams={"labels": 1.0})
    image, label = jnp.asarray(digits.arrays["inputs"][:500]), digits.arrays["label"][:500]
    for name, net in zip((STUDENT, PEER), nets, strict=True):
        logits = net.apply(found[name], image, train=False, key=None)[0].logits
        assert (np.argmax(logits, 1) == label).mean() > 0.5, name


def test_refusals():
    with pytest.raises(BadInput, match="form='papre'; accepted: paper, release"):
        peer_aid(*NETWORKS.values(), form="papre")
    with pytest.raises(BadInput, match="read the view"):
        peer_aid(*NETWORKS.values(), attack=ATTACK.replace("peer(", "friend("))

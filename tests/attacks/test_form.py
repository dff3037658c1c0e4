"""The loop of an attack inside a compiled program: by the network's convolutions and the program's platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax.attacks import _form, named, objectives, victims
from kdjax.attacks._form import convolves_out_of_order
from kdjax.models.create import create
from kdjax.types import Outputs

IMAGE = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
LABEL, KEYS = jnp.array([0, 1, 2, 3]), jax.random.split(jax.random.key(2), 4)


class Plain(nn.Module):
    """A network of somebody else's: its slope is XLA's."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Conv(5, (3, 3))(x)).mean((1, 2)))


def plain(variables, image, *, train, key, mask=None):
    return Outputs(Plain().apply({"params": variables["params"]}, image)), {}


PARAMS = {"params": Plain().init(jax.random.key(0), IMAGE)["params"]}
PGD = named.pgd(0.1, steps=3)


def attacked(variables, image, attack=PGD):
    objective = objectives.cross_entropy(victims.white_box(plain, variables), LABEL)
    return attack(objective, KEYS, image)


def slope_is_out_of_order(name, **shape):
    model = create(name, num_classes=4, image_shape=(8, 8, 3), **shape)
    params, state = jax.eval_shape(model.init, jax.random.key(0))

    def slope(variables, image):
        objective = objectives.cross_entropy(victims.white_box(model.apply, variables), LABEL)
        return jax.grad(lambda x: objective(x)[0].sum())(image)

    return convolves_out_of_order(slope, {"params": params, **state}, IMAGE)


def test_networks_are_told_apart_by_the_slopes_of_their_convolutions():
    assert convolves_out_of_order(jax.grad(lambda x: plain(PARAMS, x, train=False, key=None)[0].logits.sum()), IMAGE)
    assert not convolves_out_of_order(lambda x: plain(PARAMS, x, train=False, key=None)[0].logits.sum(), IMAGE)
    # Ours name the axes of slopes as those of values: with strides and kernels of one pixel among them.
    assert not slope_is_out_of_order("resnet8")
    assert not slope_is_out_of_order("mlp", hidden=(5,))
    assert not slope_is_out_of_order("fast_cnn", hidden=(4, 5, 6))


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 2 * 3 + 1), ("tpu", 2 + 1), ("cuda", 2 + 1)])
def test_the_programs_platform_decides_and_not_this_processs(platform, convolutions):
    """Three steps of two convolutions and the last look, or one step's in a loop."""
    program = jax.jit(attacked).trace(PARAMS, IMAGE).lower(lowering_platforms=(platform,))
    assert program.as_text().count("stablehlo.convolution") == convolutions


def test_a_long_attack_is_a_loop_everywhere(monkeypatch):
    monkeypatch.setattr(_form, "UNROLLED", 2)
    long = named.pgd(0.1, steps=3)
    text = jax.jit(lambda v, x: attacked(v, x, long)).trace(PARAMS, IMAGE).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.convolution") == 3


def test_all_forms_find_the_same_images():
    stepped = attacked(PARAMS, IMAGE)
    unrolled = jax.jit(attacked)(PARAMS, IMAGE)
    early = named.apgd(0.3, steps=6)
    for whole, steps in ((unrolled, stepped), (jax.jit(lambda v, x: attacked(v, x, early))(PARAMS, IMAGE), None)):
        other = attacked(PARAMS, IMAGE, early) if steps is None else steps
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert float(jnp.abs(stepped.image - IMAGE).max()) > 0.05


def test_members_of_a_population_share_the_form():
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    found = jax.jit(jax.vmap(attacked, (0, None)))(several, IMAGE)
    for member in range(2):
        alone = attacked(jax.tree.map(lambda leaf, m=member: leaf[m], several), IMAGE)
        np.testing.assert_allclose(found.image[member], alone.image, atol=1e-6)

"""A sweep over radii: the same results as single attacks, from programs that are compiled once."""

import jax
import numpy as np
import pytest

from kdjax.attacks import named, objectives, victims
from kdjax.attacks.run import run
from kdjax.attacks.sweep import at_radius
from kdjax.models.create import create
from kdjax.types import BadInput

MODEL = create("mlp", num_classes=4, image_shape=(4, 4, 1), hidden=(8,))
RADII = (0.0, 0.02, 0.1, 0.3)
ATTACKS = {
    "fgsm": named.fgsm,
    "pgd": lambda e: named.pgd(e, steps=4, random_start=True),
    "apgd": lambda e: named.apgd(e, steps=5),
    "square": lambda e: named.square(e, queries=10),
}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_sweep_is_its_single_attacks_and_compiles_once(name, on_device, key):
    looks = []

    def counted(variables, image, *, train, key):
        looks.append(image.shape)
        return MODEL.apply(variables, image, train=train, key=key)

    params, state = MODEL.init(key)
    x = np.asarray(jax.random.uniform(key, (12, 4, 4, 1)))
    y = np.arange(12) % 4
    watched = victims.white_box(counted, {"params": params, **state})
    plain = victims.white_box(MODEL.apply, {"params": params, **state})
    attack_at = at_radius(ATTACKS[name], on_device=on_device)
    traced = []
    for epsilon in RADII:
        swept = run(attack_at(epsilon), watched, x, y, objective=objectives.cross_entropy, chunk=8, on_device=False)
        single = run(ATTACKS[name](epsilon), plain, x, y, objective=objectives.cross_entropy, chunk=8)
        np.testing.assert_allclose(swept.image, single.image, atol=1e-6)
        np.testing.assert_array_equal(swept.queries, single.queries)
        # The one look per call is `run`'s own, which checks the victim's answers outside any program.
        traced.append(len(looks))
    assert set(np.diff(traced)) == {1}


def test_a_negative_radius_is_refused():
    with pytest.raises(BadInput, match=r"epsilon=-0\.1"):
        at_radius(named.fgsm)(-0.1)

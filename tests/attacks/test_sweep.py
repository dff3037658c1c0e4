"""A sweep over radii: the same results as single attacks, from programs that are compiled once."""

import jax
import numpy as np
import pytest

from kdjax.attacks import named, objectives, victims
from kdjax.attacks.combine import worst_of
from kdjax.attacks.run import run
from kdjax.attacks.sweep import at_radius
from kdjax.models.create import create
from kdjax.types import BadInput

MODEL = create("mlp", num_classes=4, image_shape=(4, 4, 1), hidden=(8,))
RADII = (0.0, 0.02, 0.1, 0.3)
ATTACKS = {
    "fgsm": named.fgsm,
    "pgd": lambda e: named.pgd(e, steps=3, random_start=True),
    "square": lambda e: named.square(e, queries=10),
    "both": lambda e: worst_of(named.pgd(e, steps=2), named.square(e, queries=3), skip_solved=True),
}


@pytest.mark.parametrize(
    ("name", "on_device"), [("fgsm", False), ("pgd", False), ("pgd", True), ("square", False), ("both", False)]
)
def test_a_sweep_is_its_single_attacks_and_compiles_once(name, on_device, key):
    looks, counts, swept = [], [], {}

    def counted(variables, image, *, train, key):
        looks.append(image.shape)
        return MODEL.apply(variables, image, train=train, key=key)

    params, state = MODEL.init(key)
    x, y = np.asarray(jax.random.uniform(key, (12, 4, 4, 1))), np.arange(12) % 4
    watched = victims.white_box(counted, {"params": params, **state})
    attack_at = at_radius(ATTACKS[name], on_device=on_device)
    for epsilon in RADII:
        swept[epsilon] = run(
            attack_at(epsilon), watched, x, y, objective=objectives.cross_entropy, chunk=8, on_device=False
        )
        counts.append(len(looks))
    assert counts[0] > 0
    assert set(np.diff(counts)) == {0}  # a further radius traces nothing again
    single = run(ATTACKS[name](0.1), watched, x, y, objective=objectives.cross_entropy, chunk=8)
    np.testing.assert_allclose(swept[0.1].image, single.image, atol=1e-6)
    np.testing.assert_array_equal(swept[0.1].queries, single.queries)
    np.testing.assert_array_equal(swept[0.0].image, x)


def test_a_negative_radius_is_refused():
    with pytest.raises(BadInput, match=r"epsilon=-0\.1"):
        at_radius(named.fgsm)(-0.1)

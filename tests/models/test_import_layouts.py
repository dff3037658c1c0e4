"""State dicts of other repositories: the function that their network computes, from weights under its names."""

import jax
import numpy as np
import pytest

from experiments.import_teacher import Config, normalisation
from kdjax.models.import_torch import converted, from_torch, to_torch
from kdjax.models.mobilenet import MobileNetV2
from kdjax.models.state_dict import moments
from kdjax.models.wrn import WideResNet
from kdjax.types import BadInput
from tests.models import numpy_zoo

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


def image(side=16):
    return np.random.default_rng(1).uniform(size=(2, side, side, 3)).astype(np.float32)


def channels(numbers):
    return np.reshape(np.float32(numbers), (3, 1, 1))


def answered(module, arrays, x):
    variables = converted(arrays, module, x.shape[1:], name="net")
    return np.asarray(jax.jit(lambda v, x: module.apply(v, x, train=False).logits)(variables, x))


def assert_same_function(module, forward, *, side=16, spelled=str):
    """Our module's answers from the state dict of a numpy network are the numpy network's."""
    x, state = image(side), numpy_zoo.StateDict()
    wanted = forward(state, x.transpose(0, 3, 1, 2).astype(np.float64))
    arrays = {spelled(name): array for name, array in state.arrays.items()}
    np.testing.assert_allclose(answered(module, arrays, x), wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)
    assert np.ptp(wanted, axis=0).max() > 0.01 * np.abs(wanted).max(), "the images must matter"
    return arrays


def test_robust_bench_wide_resnets():
    """With a stage that is never called, moments of images, and a wrapper's prefix."""
    x, state = image(), numpy_zoo.StateDict()
    inside = (x.transpose(0, 3, 1, 2).astype(np.float64) - channels(MEAN)) / channels(STD)
    wanted = numpy_zoo.trades_wide(state, inside, 1, (8, 12, 16), 8, 5)
    assert any(name.startswith("sub_block1.") for name in state.arrays)
    arrays = state.arrays | {"mu": channels(MEAN), "sigma": channels(STD)[None]}
    arrays = {f"module.model.{name}": array for name, array in arrays.items()}
    module = WideResNet(5, 1, (8, 12, 16), 8, mean=MEAN, std=STD)
    np.testing.assert_allclose(answered(module, arrays, x), wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)
    for other in ({}, {"mean": MEAN, "std": (0.25, 0.25, 0.25)}):
        with pytest.raises(BadInput, match=r"(mean|std)=.* of net, whose state dict normalises images by (mean|std)="):
            answered(WideResNet(5, 1, (8, 12, 16), 8, **other), arrays, x)
    with pytest.raises(BadInput, match="no place for sub_block2"):
        answered(module, arrays | {"module.model.sub_block2.layer.0.bn1.weight": channels(MEAN)}, x)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"model.mu": channels(MEAN)}, "the state dict has mean of images alone"),
        ({"mu": channels(MEAN), "sigma": np.ones(2)}, "sigma is the std of 2 channels, alone; accepted: one std, of 3"),
        ({"mu": channels(MEAN), "mean": channels(MEAN)}, "mean is the mean of 3 channels, the second one"),
    ],
)
def test_moments_that_cannot_be(arrays, words):
    with pytest.raises(BadInput, match=words):
        moments(arrays, 3)


def test_moments_come_from_the_file_unless_they_were_typed(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, mean=channels(MEAN), std=np.float32(0.25))
    taken = normalisation(Config(weights=str(path)), 3)
    assert taken == {"mean": MEAN, "std": (0.25,) * 3}
    assert normalisation(Config(weights=str(path), mean=(0.5,), std=(0.5,)), 3) == {
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    np.savez(path, fc=np.ones(3))
    assert normalisation(Config(weights=str(path)), 3) == {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    with pytest.raises(BadInput, match=r"--mean=\(0.5, 0.5\); accepted: 1 number, or 3"):
        normalisation(Config(weights=str(path), mean=(0.5, 0.5)), 3)


def test_a_file_with_moments_is_read_for_a_network_that_has_them(tmp_path):
    shape = {"num_classes": 3, "image_shape": (8, 8, 3)}
    x, state = image(8), numpy_zoo.StateDict()
    numpy_zoo.trades_wide(state, x.transpose(0, 3, 1, 2), 2, (16, 32, 64), 16, 3)
    path = tmp_path / "weights.npz"
    np.savez(path, mu=channels(MEAN), sigma=channels(STD), **state.arrays)
    with pytest.raises(BadInput, match=r"mean=None of wrn_16_1, whose state dict normalises images by mean=\(0.4914"):
        from_torch(path, "wrn_16_1", **shape)
    back = to_torch(from_torch(path, "wrn_16_1", **shape, mean=MEAN, std=STD), "wrn_16_1")
    np.testing.assert_array_equal(back["block2.layer.1.conv1.weight"], state.arrays["block2.layer.1.conv1.weight"])


def test_the_mobile_net_of_adversarial_distillation():
    """Its stem keeps the size, and blocks whose channels alone change have shortcuts."""
    module = MobileNetV2(5, width=0.25, cifar=True, full=True)
    arrays = assert_same_function(module, lambda state, x: numpy_zoo.ard_mobile(state, x, 0.25, 5))
    assert sum("shortcut.0" in name for name in arrays) == 4
    back = to_torch(converted(arrays, module, (16, 16, 3), name="net"), "mobilenet_v2_cifar")
    assert back.keys() == arrays.keys()
    with pytest.raises(BadInput, match=r"layers.0.downsample.* is missing for net"):
        answered(module, {n: a for n, a in arrays.items() if "layers.0.shortcut" not in n}, image())


def test_the_pre_activation_network_without_a_last_normalisation():
    """Its weights fit the other form but for `bn`, and would be another function there."""
    widths = (6, 8, 10, 12)
    module = WideResNet(5, 2, widths, 6, raw=True, last=False)
    arrays = assert_same_function(module, lambda state, x: numpy_zoo.raw_preact(state, x, 2, widths, 5))
    back = to_torch(converted(arrays, module, (16, 16, 3), name="net"), "preact_resnet18_raw")
    assert back.keys() == arrays.keys()
    with pytest.raises(BadInput, match=r"bn.* is missing for net"):
        answered(WideResNet(5, 2, widths, 6), arrays, image())
    other = {f"bn.{part}": np.ones(12, np.float32) for part in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(BadInput, match=r"net has no place for bn\.weight"):
        answered(module, arrays | other, image())
    active = answered(WideResNet(5, 2, widths, 6, last=False), arrays, image())
    assert np.abs(active - answered(module, arrays, image())).max() > 0.01, "a shortcut behind the ReLU is another one"


@pytest.mark.parametrize("widths", [(6, 8, 10), (6, 8, 10, 12)], ids=["wide", "pre-activation"])
def test_the_networks_of_deepmind(widths):
    form = {} if len(widths) == 3 else {"raw": True, "shortcut": 3}
    module = WideResNet(5, 2, widths, 4 if len(widths) == 3 else 6, deepmind=True, **form)
    arrays = assert_same_function(module, lambda state, x: numpy_zoo.deepmind(state, x, 2, widths, module.stem, 5))
    assert sum(".shortcut." in name for name in arrays) == 3

"""The networks of published widths: their sizes to the last parameter, their features, their laws, their refusals."""

import functools
import itertools
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax.models import layers
from kdjax.models.create import accepts, all_names, create, from_linen, names, parameter_count
from kdjax.models.fitnet import Layer, Maxout
from kdjax.models.layers import max_pool, norm, normalized, relu
from kdjax.models.lenet import LeNet
from kdjax.models.mobilenet import Inverted
from kdjax.models.resnet import ResNet
from kdjax.models.shufflenet import ShuffleNet
from kdjax.models.vgg import VGG
from kdjax.models.vit import ViT
from kdjax.models.wrn import WideResNet
from kdjax.models.zoo import FIXED, WITH_WIDTHS
from kdjax.types import BadInput

PUBLISHED = {
    # Contrastive representation distillation's networks with 100 classes.
    ("resnet8", 100): 83_892, ("resnet14", 100): 181_108, ("resnet20", 100): 278_324, ("resnet32", 100): 472_756,
    ("resnet44", 100): 667_188, ("resnet56", 100): 861_620, ("resnet110", 100): 1_736_564,
    ("resnet8x4", 100): 1_233_540, ("resnet32x4", 100): 7_433_860,
    ("wrn_16_1", 100): 180_916, ("wrn_16_2", 100): 703_284, ("wrn_40_1", 100): 569_780, ("wrn_40_2", 100): 2_255_156,
    ("vgg8", 100): 3_965_028, ("vgg11", 100): 9_277_284, ("vgg13", 100): 9_462_180, ("vgg16", 100): 14_774_436,
    ("vgg19", 100): 20_086_692, ("resnet50_cifar", 100): 23_705_252,
    ("mobilenet_v2_half", 100): 812_836, ("shufflenet_v1", 100): 949_258, ("shufflenet_v2", 100): 1_355_528,
    # Adversarial training's networks with 10.
    ("wrn_28_10", 10): 36_479_194, ("wrn_34_10", 10): 46_160_474, ("wrn_34_20", 10): 184_531_674,
    ("wrn_70_16", 10): 266_796_506, ("preact_resnet18", 10): 11_172_170,
    ("resnet18_cifar", 10): 11_173_962, ("resnet34_cifar", 10): 21_282_122,
    ("mobilenet_v2_cifar", 10): 2_296_922, ("preact_resnet18_raw", 10): 11_171_146,
    ("dm_wrn_28_10", 10): 36_479_194, ("dm_wrn_34_10", 10): 46_160_474, ("dm_wrn_70_16", 10): 266_796_506,
    ("dm_wrn_94_16", 10): 365_915_610, ("dm_preact_resnet18", 10): 12_548_426,
    # torchvision's with 1000; the transformer's with patches of 4 is below.
    ("resnet18", 1000): 11_689_512, ("resnet34", 1000): 21_797_672, ("resnet50", 1000): 25_557_032,
    ("mobilenet_v2", 1000): 3_504_872,
    # MNIST's.
    ("lenet", 10): 61_706, ("fitnet_teacher", 10): 361_066, ("fitnet_student", 10): 30_130,
}  # fmt: skip


def side_and_channels(name):
    if name in ("lenet", "fitnet_teacher", "fitnet_student"):
        return 28, 1
    return (64 if name in ("resnet18", "resnet34", "resnet50", "mobilenet_v2") else 32), 3


@functools.cache
def shapes(name, num_classes):
    """Parameters, state and outputs of a network as shapes, in one pass through it; nothing is computed."""
    side, channels = side_and_channels(name)
    assert create(name, num_classes=num_classes, image_shape=(side, side, channels)).input_shape[-1] == channels
    begin = functools.partial(FIXED[name](num_classes=num_classes).init_with_output, train=False)
    image = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    said, variables = jax.eval_shape(begin, jax.random.key(0), image)
    return variables["params"], {kept: tree for kept, tree in variables.items() if kept != "params"}, said


def test_every_network_is_counted_here():
    assert {name for name, _ in PUBLISHED} == FIXED.keys() - {"vit_tiny"}
    assert set(all_names()) == FIXED.keys() | set(names())


@pytest.mark.parametrize(("name", "num_classes"), PUBLISHED)
def test_parameter_counts_of_the_literature(name, num_classes):
    assert parameter_count(shapes(name, num_classes)[0]) == PUBLISHED[name, num_classes]


def conv(inputs, outputs, size, groups=1, bias=False):
    """A convolution and its BatchNorm."""
    return inputs // groups * outputs * size**2 + outputs * (3 if bias else 2)


def count_cifar(depth, stem, widths, classes):
    total, inputs = conv(3, stem, 3), stem
    for width in widths:
        total += conv(inputs, width, 3) + ((depth - 2) // 3 - 1) * conv(width, width, 3)
        total += conv(inputs, width, 1) if inputs != width or width != widths[0] else 0
        inputs = width
    return total + (inputs + 1) * classes


def count_large(counts, bottleneck, classes, stem=7):
    total, inputs = conv(3, 64, stem), 64
    for stage, count in enumerate(counts):
        width = 64 * 2**stage
        for _ in range(count):
            if bottleneck:
                outputs = 4 * width
                total += conv(inputs, width, 1) + conv(width, width, 3) + conv(width, outputs, 1)
            else:
                outputs = width
                total += conv(inputs, width, 3) + conv(width, width, 3)
            total += conv(inputs, outputs, 1) if inputs != outputs else 0
            inputs = outputs
    return total + (inputs + 1) * classes


def count_wide(blocks, stem, widths, classes):
    total, inputs = 27 * stem, stem
    for width in widths:
        for _ in range(blocks):
            total += 2 * inputs + 9 * inputs * width + 2 * width + 9 * width**2
            total += inputs * width if inputs != width else 0
            inputs = width
    return total + 2 * inputs + (inputs + 1) * classes


def count_vgg(counts, classes):
    channels = [3] + [width for width, n in zip((64, 128, 256, 512, 512), counts, strict=True) for _ in range(n)]
    return sum(conv(a, b, 3, bias=True) for a, b in itertools.pairwise(channels)) + 513 * classes


def count_mobile(width, first, shortcuts, classes):
    total, inputs = conv(3, int(32 * width), 3), int(32 * width)
    settings = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    for factor, channels, count in settings:
        for _ in range(count):
            inner, outputs = factor * inputs, int(channels * width)
            # Of stride 1: 16, 24, 96 and 320 channels.
            total += (
                conv(inputs, outputs, 1) if shortcuts and inputs != outputs and channels in (16, 24, 96, 320) else 0
            )
            total += conv(inputs, inner, 1) if factor > 1 or first else 0
            total += conv(inner, inner, 3, inner) + conv(inner, outputs, 1)
            inputs = outputs
    return total + conv(inputs, 1280, 1) + 1281 * classes


def count_shuffle1(classes):
    total, inputs = conv(3, 24, 1), 24
    for width, count in ((240, 4), (480, 8), (960, 4)):
        for place in range(count):
            outputs = width - inputs if place == 0 else width
            inner = outputs // 4
            total += conv(inputs, inner, 1, 1 if inputs == 24 else 3) + conv(inner, inner, 3, inner)
            total += conv(inner, outputs, 1, 3)
            inputs = width
    return total + 961 * classes


def count_shuffle2(classes):
    total, inputs = conv(3, 24, 1), 24
    for width, count in ((116, 4), (232, 8), (464, 4)):
        half = width // 2
        unit = conv(half, half, 3, half) + conv(half, half, 1)
        total += conv(inputs, inputs, 3, inputs) + conv(inputs, half, 1) + conv(inputs, half, 1) + unit
        total += (count - 1) * (conv(half, half, 1) + unit)
        inputs = width
    return total + conv(464, 1024, 1) + 1025 * classes


def test_published_counts_are_those_of_arithmetic():
    for (name, classes), published in PUBLISHED.items():
        family, *numbers = name.replace("resnet", "resnet_").split("_")
        if name in ("resnet18", "resnet34", "resnet50") or (family == "resnet" and name.endswith("_cifar")):
            counts = (2, 2, 2, 2) if "18" in name else (3, 4, 6, 3)
            counted = count_large(counts, "50" in name, classes, 3 if "cifar" in name else 7)
        elif family == "resnet":
            depth, _, four = numbers[0].partition("x")
            widths = (64, 128, 256) if four else (16, 32, 64)
            counted = count_cifar(int(depth), 32 if four else 16, widths, classes)
        elif "wrn_" in name:
            depth, factor = map(int, numbers[-2:])
            counted = count_wide((depth - 4) // 6, 16, [16 * factor, 32 * factor, 64 * factor], classes)
        elif "preact" in name:
            counted = count_wide(2, 64, (64, 128, 256, 512), classes)
            counted -= 2 * 512 if "raw" in name else 0  # its last normalisation
            counted += 8 * sum(a * b for a, b in itertools.pairwise((64, 128, 256, 512))) if "dm" in name else 0
        elif name.startswith("vgg"):
            dense = {8: (1,) * 5, 11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
            counted = count_vgg(dense[int(name[3:])], classes)
        elif family == "mobilenet":
            counted = count_mobile(
                0.5 if "half" in name else 1, name != "mobilenet_v2", name.endswith("cifar"), classes
            )
        elif family == "shufflenet":
            counted = count_shuffle1(classes) if name.endswith("1") else count_shuffle2(classes)
        elif name == "lenet":
            counted = 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 850
        elif name == "fitnet_teacher":
            counted = 96 * (64 + 1) + 96 * (48 * 64 + 1) + 48 * (48 * 25 + 1) + 10 * (24 * 9 + 1)
        else:
            counted = 32 * 26 + 32 * 145 + 32 * 401 + 32 * 145 + 24 * 145 + 24 * 109 + 10 * 109
        assert counted == published, name


def test_parameter_count_of_the_tiny_transformer():
    model = from_linen(ViT(num_classes=1000, patch=16), (224, 224, 3))
    count = parameter_count(jax.eval_shape(model.init, jax.random.key(0))[0])
    d, tokens = 192, 14**2 + 1
    block = 4 * d + 4 * (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d
    assert count == (3 * 16**2 + 1) * d + d + tokens * d + 12 * block + 2 * d + (d + 1) * 1000
    assert count == 5_717_416  # DeiT-Ti: "5M"


@pytest.mark.parametrize("name", FIXED)
def test_features_by_name(name):
    classes = next((number for known, number in PUBLISHED if known == name), 10)
    _, state, (logits, features) = shapes(name, classes)
    assert logits.shape == (2, classes)
    assert len(features["embedding"].shape) == 2
    blocks = {key for key in features if key.startswith("block")}
    assert blocks == {f"block{number}" for number in range(1, len(blocks) + 1)}
    stages = {key for key in features if key.startswith("stage")}
    for key in stages:
        assert features[key].shape == features[key.removesuffix("_pre")].shape
        assert any(features[key].shape == features[block].shape for block in blocks)
    assert ("stem" in features) == (name not in ("lenet", "fitnet_teacher", "fitnet_student"))
    assert set(state) == ({"batch_stats"} if "norm" in accepts(name) else set())


@pytest.mark.parametrize(
    ("name", "blocks", "maps", "embedding"),
    [
        ("resnet20", 9, {"stem": (32, 16), "stage1": (32, 16), "stage2": (16, 32), "stage3": (8, 64)}, 64),
        ("wrn_40_2", 18, {"stem": (32, 16), "stage1": (32, 32), "stage2": (16, 64), "stage3_pre": (8, 128)}, 128),
        ("vgg13", 10, {"stem": (32, 64), "stage1": (16, 128), "stage3": (4, 512), "stage4_pre": (4, 512)}, 512),
        ("resnet50", 16, {"stem": (32, 64), "stage1": (16, 256), "stage2": (8, 512), "stage4": (2, 2048)}, 2048),
        ("mobilenet_v2_cifar", 17, {"stem": (32, 32), "stage1": (32, 24), "stage3": (8, 96), "stage4": (4, 320)}, 1280),
        ("mobilenet_v2_half", 17, {"stem": (16, 16), "stage1": (16, 12), "stage3": (4, 48), "stage4": (2, 160)}, 1280),
        ("shufflenet_v1", 16, {"stem": (32, 24), "stage1": (16, 240), "stage3_pre": (4, 960)}, 960),
        ("shufflenet_v2", 16, {"stem": (32, 24), "stage1": (16, 116), "stage3": (4, 464)}, 1024),
        ("fitnet_teacher", 3, {"block1": (10, 48), "block2": (4, 48), "block3": (3, 24)}, 216),
        ("fitnet_student", 6, {"block2": (10, 16), "block4": (4, 16), "block6": (3, 12)}, 108),
        ("lenet", 2, {"block1": (14, 6), "block2": (5, 16)}, 84),
    ],
)
def test_shapes_of_features(name, blocks, maps, embedding):
    _, _, (_, features) = shapes(name, next(number for known, number in PUBLISHED if known == name))
    assert sum(key.startswith("block") for key in features) == blocks
    assert {key: features[key].shape for key in maps} == {key: (2, s, s, c) for key, (s, c) in maps.items()}
    assert features["embedding"].shape == (2, embedding)


SMALL = {
    "resnet": ResNet(3, (1, 2), (8, 12), 8),
    "bottleneck": ResNet(3, (1, 1), (4, 6), 8, bottleneck=True, imagenet_stem=True, norm="group"),
    "wide": WideResNet(3, 1, (8, 12), 8),
    "vgg": VGG(3, (1, 1, 2), (8, 8, 12)),
    "shuffle1": ShuffleNet(3, (48, 96), 3, (2, 2)),
    "shuffle2": ShuffleNet(3, (16, 24), None, (2, 2), 32),
}


@pytest.fixture(scope="module")
def trained():
    """Small networks of every family: variables, images, what they say of them while training, their new state."""
    image = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))

    def run(module):
        model = from_linen(module, image.shape[1:])

        @jax.jit
        def go(key):
            params, state = model.init(key)
            return params, state, *model.apply({"params": params, **state}, image, train=True, key=key)

        return go(jax.random.key(0))

    return image, functools.cache(lambda name: run(SMALL[name]))


@pytest.mark.parametrize("name", SMALL)
def test_stages_are_seen_before_and_after_the_relu(name, trained):
    params, _, (logits, features), _ = trained[1](name)
    stages = [key for key in features if key.endswith("_pre")]
    assert len(stages) == 2
    for key in stages:
        before, after = (np.asarray(features[k]) for k in (key, key.removesuffix("_pre")))
        assert before.min() < 0 < before.max()
        if name == "wide":  # the next normalisation stands between the two
            assert abs(before.mean()) < 1e-4
            np.testing.assert_allclose(before.std((0, 1, 2)), 1, atol=0.01)
        else:
            np.testing.assert_array_equal(np.maximum(before, 0), after)
    last = features[stages[-1]].clip(0)
    if name != "shuffle2":
        np.testing.assert_allclose(features["embedding"], last.mean((1, 2)), rtol=1e-4, atol=1e-5)
    dense = params["logits"]
    expected = features["embedding"] @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_what_normalisation_keeps(trained):
    image, run = trained
    assert run("bottleneck")[1] == run("bottleneck")[3] == {}, "GroupNorm keeps nothing"
    params, before, _, after = run("resnet")
    dimensions = ("NHWC", "HWIO", "NHWC")
    kernel = params["stem_conv"]["kernel"]
    x = jax.lax.conv_general_dilated(image, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=dimensions)
    found = after["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    assert jax.tree.structure(before) == jax.tree.structure(after)


class Normed(nn.Module):
    """GroupNorm alone."""

    @nn.compact
    def __call__(self, x):
        return norm(x, "group", train=True, name="norm")


def test_group_norm_reads_one_image_and_four_channels_at_a_time():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype(np.float32)
    grouped = x.reshape(2, 9, 2, 4)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    found, _ = jax.jit(Normed().init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_kernels_begin_as_he_et_al_say():
    variables = jax.jit(layers.conv(64, 3, 2, name="conv").init)(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))
    np.testing.assert_allclose(np.std(variables["params"]["kernel"]), (2 / (9 * 64)) ** 0.5, rtol=0.02)
    dense = jax.jit(layers.classifier(10).init)(jax.random.key(0), jnp.zeros((1, 256)))["params"]
    assert 0.95 / 16 < np.abs(dense["kernel"]).max() <= 1 / 16
    assert not dense["bias"].any()


@pytest.mark.parametrize(
    "module",
    [
        LeNet(3),
        ViT(3, patch=8, width=12, depth=1, heads=2),
        Maxout(3, (Layer(4, 5, 0, 4, 2), Layer(3, 3, 1, 3, 2))),
    ],
    ids=lambda module: type(module).__name__,
)
def test_gradient_reaches_every_parameter(module):
    image = jax.random.uniform(jax.random.key(1), (4, 32, 32, 1))
    model = from_linen(module, image.shape[1:])

    @jax.jit
    def gradient(key):
        params, _ = model.init(key)

        def loss(params):
            return (model.apply({"params": params}, image, train=True, key=None)[0].logits ** 2).sum()

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(jax.random.key(0))):
        assert np.isfinite(leaf).all()
        # A constant added to every key moves no attention.
        assert np.abs(leaf).max() > 0 or "key" in jax.tree_util.keystr(path)


@pytest.mark.parametrize("stride", [1, 2])
def test_inverted_blocks_cut_at_six_and_end_linear(stride):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    block = Inverted(3, 18, stride, True, True, "batch")

    @jax.jit
    def run(key):
        variables = block.init(key, x, train=False)
        # Twenty times the scale, so that ReLU6 cuts.
        variables["params"]["norm1"]["scale"] *= 20
        keep = {"mutable": ["batch_stats", "intermediates"], "capture_intermediates": True}
        y, state = block.apply(variables, x, train=True, **keep)
        return y, state["intermediates"], variables["params"]["conv2"]["kernel"]

    y, inside, kernel = jax.tree.map(np.asarray, run(jax.random.key(1)))
    seen = {name: inside[name]["__call__"][0] for name in ("norm1", "conv2", "norm3")}
    assert seen["norm3"].min() < 0 < seen["norm3"].max()
    np.testing.assert_allclose(y, x + seen["norm3"] if stride == 1 else seen["norm3"], rtol=1e-5, atol=1e-6)
    expanded = seen["norm1"].clip(0, 6)
    assert (expanded == 6).any()
    padded = np.pad(expanded, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = 4 // stride
    shifts = [padded[:, i:, j:][:, :4:stride, :4:stride] * kernel[i, j, 0] for i in range(3) for j in range(3)]
    assert shifts[0].shape == (2, side, side, 18)
    np.testing.assert_allclose(seen["conv2"], np.sum(shifts, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, (0, 0)), (3, 2, (1, 1)), (4, 2, (0, 1)), (1, 1, (0, 0))]
)
def test_max_pool_is_linens_and_so_is_its_slope(size, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)

    def linens(x):
        return nn.max_pool(x, (size, size), (stride, stride), (padding, padding))

    def ours(x):
        return max_pool(x, size, stride, padding=padding)

    @partial(jax.jit, static_argnums=0)
    def value_and_slope(f, x):
        return f(x), jax.grad(lambda x: jnp.sin(f(x)).sum())(x)

    (value, slope), (expected, steepness) = (value_and_slope(f, x) for f in (ours, linens))
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(slope, steepness, rtol=1e-6)


def test_images_are_normalised_inside():
    image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 2))
    mean, std = (0.5, 0.1), (0.25, 0.9)
    shape = {"num_classes": 3, "image_shape": (8, 8, 2)}
    inside, plain = create("lenet", **shape, mean=mean, std=std), create("lenet", **shape)
    params, _ = jax.jit(plain.init)(jax.random.key(0))
    normalised = (np.asarray(image) - np.array(mean, np.float32)) / np.array(std, np.float32)
    found, expected = jax.jit(
        lambda *images: [
            model.apply({"params": params}, x, train=False, key=None)[0].logits
            for model, x in zip((inside, plain), images, strict=True)
        ]
    )(image, normalised)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("resnet20", {"hidden": (256, 256)}, r"hidden=\(256, 256\) for resnet20; accepted besides: mean, norm, std"),
        ("vgg8", {"dropout": 0.5}, "dropout=0.5 for vgg8; accepted besides: mean, norm, std"),
        ("lenet", {"norm": "group"}, "norm='group' for lenet; accepted besides: mean, std"),
        ("wrn_16_2", {"input_dropout": 0.1}, "input_dropout=0.1 for wrn_16_2"),
        ("wrn_16_2", {"dropout": 1.0}, r"dropout=1.0; accepted: a rate in \[0, 1\)"),
        ("mlp", {"hidden": (20,), "norm": "group"}, r"norm='group' for mlp; accepted besides: dropout, hidden"),
        ("mlp", {}, r"hidden=\(\); accepted: one or more positive widths"),
        ("resnet20", {"norm": "layer"}, "norm='layer'; accepted: batch, group"),
        ("resnet21", {}, "name='resnet21' is no model; .*did you mean resnet"),
    ],
)
def test_what_a_network_does_not_take(name, given, words):
    with pytest.raises(BadInput, match=words):
        create(name, num_classes=10, image_shape=(32, 32, 3), **given)


@pytest.mark.parametrize(
    ("name", "side", "given", "words"),
    [
        ("resnet20", 3, {}, "image is 3 x 3; accepted by this network: 4 x 4 or more"),
        ("resnet50", 28, {}, "image is 28 x 28; accepted by this network: 32 x 32 or more"),
        ("mobilenet_v2_half", 8, {}, "16 x 16 or more"),
        ("vgg8", 4, {}, "8 x 8 or more"),
        ("shufflenet_v1", 7, {}, "8 x 8 or more"),
        ("fitnet_student", 27, {}, "28 x 28 or more"),
        ("vit_tiny", 30, {}, "4 x 4 or more, each a multiple of 4"),
        ("fast_cnn", 3, {"hidden": (4, 4, 9)}, "image is 3 x 3; accepted by this network: 4 x 4 or more"),
    ],
)
def test_images_that_a_network_does_not_take(name, side, given, words):
    model = create(name, num_classes=10, image_shape=(side, side, 3), **given)
    with pytest.raises(BadInput, match=words):
        jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize("name", [name for name in all_names() if "mean" in accepts(name)])
@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.5,), (0.5,), "accepted: 3 numbers each"),
        ((0.5,) * 3, None, "std=None; accepted: 3 numbers each"),
        ((0.5,) * 3, (1.0, 0.0, 1.0), r"std=\(1.0, 0.0, 1.0\) of images in \[0, 1\]; accepted: numbers above 0 and at"),
        (
            (125.3, 123.0, 113.9),
            (0.25,) * 3,
            r"mean=.*; 125.3/255 = 0.4914 was probably meant; accepted: numbers from 0",
        ),
        ((0.5,) * 3, (0.25, 0.25, 63.0), r"std=.*; 63/255 = 0.2471 was probably meant; accepted: numbers above 0"),
        (
            (0.5, -0.1, 0.5),
            (0.25,) * 3,
            r"mean=\(0.5, -0.1, 0.5\) of images in \[0, 1\]; accepted: numbers from 0 to 1",
        ),
        ((0.5, math.nan, 0.5), (0.25,) * 3, "mean=.*nan.*accepted: numbers from 0 to 1"),
        ((0.5,) * 3, (0.25, math.inf, 0.25), "std=.*inf.*accepted: numbers above 0"),
        ((1000.0,) * 3, (0.25,) * 3, r"mean=.* of images in \[0, 1\]; accepted"),
    ],
)
def test_moments_that_are_not_of_images_in_the_unit_interval(name, mean, std, words):
    hidden = {"hidden": (4, 4, 9)} if name in WITH_WIDTHS else {}
    with pytest.raises(BadInput, match=words):
        create(name, num_classes=10, image_shape=(32, 32, 3), mean=mean, std=std, **hidden)
    # A module that is not made by `create` asks as well.
    with pytest.raises(BadInput, match=words):
        normalized(jnp.zeros((1, 32, 32, 3)), mean, std, least=4)


def test_dropout_of_a_wide_resnet_asks_for_a_key():
    model = create("wrn_16_1", num_classes=3, image_shape=(8, 8, 3), dropout=0.3)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(BadInput, match="key=None while training with dropout"):
        model.apply({"params": params, **state}, jnp.zeros((2, 8, 8, 3)), train=True, key=None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_is_jaxs_in_value_and_slopes(dtype):
    x = jnp.array([-jnp.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3.0, jnp.inf, jnp.nan], dtype)

    @partial(jax.jit, static_argnums=0)
    def everything(f, x):
        finite = x[1:-2]
        return [
            f(x),
            jax.vmap(f)(x),
            jax.vjp(f, x[:-1])[1](jnp.ones_like(x[:-1]))[0],
            jax.jvp(f, (finite,), (finite + 2,))[1],
            jax.vmap(jax.grad(jax.grad(f)))(finite),
        ]

    for ours, theirs in zip(everything(relu, x), everything(jax.nn.relu, x), strict=True):
        assert ours.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(theirs, np.float32))


class Chain(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        for number in range(self.depth):
            x = relu(x + layers.conv(4, 3, name=f"conv{number}")(x))
        return x.sum()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's CPU backend")
def test_no_residual_block_computes_the_blocks_before_it_again():
    def widest(depth):
        """The most operands of a fused computation in the compiled gradient."""
        model, x = Chain(depth), jnp.zeros((2, 4, 4, 4))
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        text = jax.jit(jax.grad(model.apply)).lower(params, x).compile().as_text()
        return max(len(re.findall("%", operands)) for operands in re.findall(r" fusion\(([^)]*)\)", text))

    assert widest(9) <= widest(5)

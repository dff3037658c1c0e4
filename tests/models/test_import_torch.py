"""Weights from PyTorch: the same logits, and nothing left over, missing or of another shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models.create import create
from kdjax.models.import_torch import converted, from_torch, to_torch
from kdjax.models.shufflenet import ShuffleNet
from kdjax.models.zoo import FIXED
from kdjax.types import BadInput

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from tests.models import torch_zoo  # noqa: E402 - PyTorch may be absent

NETWORKS = {
    "resnet8": (lambda: torch_zoo.ResNet(5, (1, 1, 1), (16, 32, 64), 16), 16),
    "wrn_16_1": (lambda: torch_zoo.WideResNet(5, 2, (16, 32, 64), 16), 16),
    "preact_resnet18": (lambda: torch_zoo.WideResNet(5, 2, (64, 128, 256, 512), 64), 8),
    "vgg8": (lambda: torch_zoo.VGG(5, (1,) * 5), 32),
    "resnet50": (
        lambda: torch_zoo.ResNet(5, (3, 4, 6, 3), (64, 128, 256, 512), 64, bottleneck=True, imagenet_stem=True), 64,
    ),
}  # fmt: skip


def state_dict(net):
    return {name: array.numpy() for name, array in net.state_dict().items()}


def spelled_as_preact(key):
    """The pre-activation ResNet-18's repositories write ResNet's names."""
    key = "bn" + key.removeprefix("bn1") if key.startswith("bn1") else key
    key = "layer" + key.removeprefix("block").replace(".layer", "", 1) if key.startswith("block") else key
    return key.replace("convShortcut", "shortcut.0").replace("fc.", "linear.")


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".npz") for name in NETWORKS), ("resnet8", ".safetensors")])
def test_same_logits(name, suffix, tmp_path):
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    net = torch_zoo.randomised(build())
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        spelled = spelled_as_preact if name == "preact_resnet18" else str
        np.savez(path, **{spelled(key): array for key, array in state_dict(net).items()})
    else:
        save_file(net.state_dict(), path)
    shape = {"num_classes": 5, "image_shape": (side, side, 3)}
    variables = from_torch(path, name, **shape)
    image = np.random.default_rng(0).uniform(size=(2, side, side, 3)).astype(np.float32)
    apply = jax.jit(lambda variables, image: create(name, **shape).apply(variables, image, train=False, key=None)[0])
    with torch.no_grad():
        expected = net(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    largest = np.abs(expected).max()
    np.testing.assert_allclose(apply(variables, image).logits / largest, expected / largest, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.01 * largest, "the images must matter"


@pytest.mark.parametrize(("widths", "groups", "last"), [((48, 96), 3, 0), ((16, 24), None, 32)])
def test_shuffle_nets_are_pytorchs(widths, groups, last):
    module = ShuffleNet(3, widths, groups, (2, 3), last)
    random = np.random.default_rng(0)
    image = random.uniform(size=(2, 16, 16, 3)).astype(np.float32)
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(image), train=False))
    variables = jax.tree.map(lambda leaf: random.normal(0.3, 0.3, leaf.shape).astype(np.float32), tree)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    found = jax.jit(lambda variables, image: module.apply(variables, image, train=False).logits)(variables, image)
    arrays = jax.tree.map(torch.from_numpy, variables)
    expected = torch_zoo.shuffle_net(arrays, torch.from_numpy(image).permute(0, 3, 1, 2), (2, 3), groups).numpy()
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.01 * largest, "the images must matter"


@pytest.fixture(scope="module")
def arrays():
    torch.manual_seed(0)
    return state_dict(torch_zoo.randomised(NETWORKS["resnet8"][0]()))


def load(tmp_path, arrays, name="resnet8", num_classes=5):
    np.savez(tmp_path / "weights.npz", **arrays)
    return from_torch(tmp_path / "weights.npz", name, num_classes=num_classes, image_shape=(16, 16, 3))


def test_other_spellings(arrays, tmp_path):
    spelled = {
        "module." + key.replace("downsample", "shortcut").replace("fc.", "linear."): array
        for key, array in arrays.items()
    }
    for ours, theirs in zip(
        *(jax.tree.leaves(load(tmp_path, given)) for given in (arrays, spelled)), strict=True
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


def test_every_variable_is_filled(arrays, tmp_path):
    variables = load(tmp_path, arrays)
    params, state = jax.eval_shape(create("resnet8", num_classes=5, image_shape=(16, 16, 3)).init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, jnp.dtype("float32")), {"params": params, **state}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("layer2.0.bn1.running_var"), "layer2.0.bn1.running_var is missing for resnet8"),
        (lambda a: a.update({"layer1.0.conv9.weight": a["fc.bias"]}), "has no place for layer1.0.conv9.weight"),
        (lambda a: a.update({"fc.bias": a["fc.bias"] * np.nan}), "fc.bias is not finite"),
        (lambda a: a.update({"fc.weight": a["fc.weight"][:, :-1]}), r"fc.weight is of shape \(63, 5\).*\(64, 5\)"),
    ],
)
def test_arrays_that_do_not_fit(arrays, change, words, tmp_path):
    changed = dict(arrays)
    change(changed)
    with pytest.raises(BadInput, match=words):
        load(tmp_path, changed)


def test_what_is_not_read(arrays, tmp_path):
    with pytest.raises(BadInput, match="name='lenet'; accepted: ResNets"):
        load(tmp_path, arrays, "lenet")
    for name in ("resnet9", "mlp"):
        with pytest.raises(BadInput, match=f"name='{name}'"):
            load(tmp_path, arrays, name)
    with pytest.raises(BadInput, match=r"weights.pth'; accepted: .* \.safetensors file, as safetensors.torch.save_f"):
        from_torch(tmp_path / "weights.pth", "resnet8", num_classes=5, image_shape=(16, 16, 3))
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    with (tmp_path / "array.npz").open("wb") as one:
        np.save(one, np.zeros(3))
    for name in ("junk.npz", "junk.safetensors", "pickled.npz", "array.npz"):
        if name.startswith("junk"):
            (tmp_path / name).write_text("junk")
        with pytest.raises(BadInput, match=f"{name}' is damaged or holds what is no array"):
            from_torch(tmp_path / name, "resnet8", num_classes=5, image_shape=(16, 16, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_back_to_pytorch(name):
    build, side = NETWORKS[name]
    net = torch_zoo.randomised(build())
    arrays = {key: array for key, array in state_dict(net).items() if not key.endswith("num_batches_tracked")}
    if name == "preact_resnet18":
        arrays = {spelled_as_preact(key): array for key, array in arrays.items()}
    variables = converted(arrays, FIXED[name](num_classes=5), (side, side, 3), name=name)
    back = to_torch(variables, name)
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)

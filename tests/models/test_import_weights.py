"""State dicts as people have them: under any prefix, of any float, or refused with what is wrong."""

import logging

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from kdjax.models.create import create
from kdjax.models.import_torch import from_torch, to_torch
from kdjax.models.state_dict import unwrapped
from kdjax.types import BadInput

SHAPE = {"num_classes": 3, "image_shape": (32, 32, 3)}
FAMILIES = ("resnet8", "wrn_16_1", "preact_resnet18", "vgg8")


def random_arrays(name):
    """A state dict of a network, at random."""
    model = create(name, **SHAPE)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    draw = np.random.default_rng(0)
    tree = jax.tree.map(lambda leaf: draw.uniform(0.1, 1, leaf.shape).astype(np.float32), {"params": params, **state})
    return to_torch(tree, name)


@pytest.fixture(scope="module")
def every():
    return {name: random_arrays(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def arrays(every):
    return every["resnet8"]


def load(folder, arrays, name="resnet8", file="weights.npz"):
    save = np.savez if file.lower().endswith("npz") else lambda path, **given: save_file(given, path)
    with (folder / file).open("wb") as opened:
        save(opened if save is np.savez else folder / file, **arrays)
    return from_torch(folder / file, name, **SHAPE)


def assert_same(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "state_dict.", "_orig_mod.module.", "state_dict.model.module.",
    "a.b.c.d.",
)  # fmt: skip


def under(prefix, arrays):
    """A state dict with every name under a prefix, and a counter."""
    counters = {f"{prefix}layer1.0.bn1.num_batches_tracked": np.array(7)}
    return {prefix + key: array for key, array in arrays.items()} | counters


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_taken_off_the_names_of_every_family(every, name, prefix):
    plain, nothing = unwrapped(every[name])
    bare, said = unwrapped(under(prefix, every[name]))
    assert nothing == ""
    assert bare.keys() == plain.keys()
    assert all(bare[key] is plain[key] for key in plain)
    assert all(word in said for word in prefix.split(".") if word)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [*((name, PREFIXES[-1]) for name in FAMILIES), *(("resnet8", prefix) for prefix in PREFIXES[:-1])],
)
def test_prefixes_are_named_where_weights_are_taken(every, name, prefix, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("kdjax"), "propagate", True)
    caplog.set_level(logging.INFO)
    plain = load(tmp_path, every[name], name)
    assert not caplog.records
    assert_same(load(tmp_path, under(prefix, every[name]), name), plain)
    (said,) = [record.getMessage() for record in caplog.records]
    assert all(word in said for word in prefix.split(".") if word)


def test_a_wrapper_may_stand_anywhere(arrays, tmp_path):
    """A layer that was compiled or wrapped alone, in a network that was wrapped whole."""
    inside = {
        "model.module." + key.replace("layer1.0.", "layer1._orig_mod.0.module."): array for key, array in arrays.items()
    }
    assert_same(load(tmp_path, inside), load(tmp_path, arrays))


def test_an_average_of_weights_is_a_network(arrays, tmp_path):
    """`torch.optim.swa_utils.AveragedModel` counts what it averaged."""
    averaged = {f"module.{key}": array for key, array in arrays.items()} | {"n_averaged": np.array(7)}
    assert_same(load(tmp_path, averaged), load(tmp_path, arrays))


def test_what_lies_beside_the_network_is_named(arrays, tmp_path):
    wrapped = {f"module.{key}": array for key, array in arrays.items()}
    with pytest.raises(BadInput, match=r"no place for criterion.weight \(taken off .*: module.\)"):
        load(tmp_path, wrapped | {"criterion.weight": arrays["fc.bias"]})
    with pytest.raises(BadInput, match=r"fc.bias is there twice, the second time as fc.bias|module.fc.bias"):
        load(tmp_path, wrapped | {"fc.bias": arrays["fc.bias"]})
    gone = {key: array for key, array in wrapped.items() if not key.endswith("fc.bias")}
    with pytest.raises(BadInput, match=r"fc.bias is missing for resnet8 \(taken off .*: module.\)"):
        load(tmp_path, gone)


@pytest.mark.parametrize(
    "kind",
    [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)
def test_every_float_is_taken_as_it_is(arrays, kind, tmp_path):
    stored = {key: array.astype(kind) for key, array in arrays.items()}
    expected = load(tmp_path, {key: array.astype(np.float32) for key, array in stored.items()})
    assert_same(load(tmp_path, stored, file="weights.safetensors"), expected)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("file", ["weights.npz", "weights.safetensors"])
def test_integers_are_no_weights(arrays, kind, file, tmp_path):
    codes = {**arrays, "layer1.0.conv1.weight": (100 * arrays["layer1.0.conv1.weight"]).astype(kind)}
    words = rf"layer1.0.conv1.weight is of {np.dtype(kind)}; accepted by resnet8: floats"
    with pytest.raises(BadInput, match=words):
        load(tmp_path, codes, file=file)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("bn1.running_var", -0.5, "bn1.running_var has -0.5; accepted by resnet8: variances, which are 0 or more"),
        ("bn1.running_var", np.nan, "bn1.running_var is not finite"),
        ("bn1.weight", np.inf, "bn1.weight is not finite"),
        ("bn1.running_mean", 1e300, "bn1.running_mean is not finite"),
        ("fc.bias", 1j, "fc.bias is of complex128"),
    ],
)
def test_numbers_that_no_network_has_are_refused(arrays, key, value, words, tmp_path):
    array = arrays[key].astype(np.result_type(value, np.float64))
    array[1] = value
    with pytest.raises(BadInput, match=words):
        load(tmp_path, {**arrays, key: array})


def test_kinds_that_npz_cannot_say_are_refused(arrays, tmp_path):
    # NumPy writes bfloat16 as two bytes of nothing.
    with pytest.raises(BadInput, match=r"is of .*; accepted by resnet8: floats"):
        load(tmp_path, {key: array.astype(ml_dtypes.bfloat16) for key, array in arrays.items()})


def test_home_and_capitals(arrays, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = load(tmp_path, arrays)
    for file in ("w.NPZ", "w.SafeTensors"):
        assert_same(load(tmp_path, arrays, file=file), plain)
        assert_same(from_torch(f"~/{file}", "resnet8", **SHAPE), plain)
    for data in (b"", b"\xff" * 64, (tmp_path / "w.NPZ").read_bytes()[:5000]):
        for file in ("damaged.npz", "damaged.SAFETENSORS"):
            (tmp_path / file).write_bytes(data)
            with pytest.raises(BadInput, match=f"{file}' is damaged or holds what is no array"):
                from_torch(tmp_path / file, "resnet8", **SHAPE)

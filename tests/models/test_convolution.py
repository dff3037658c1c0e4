"""The fast convolutions are Linen's, in value and in every slope."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax.models.convolution import StridedConv, in_order, in_parts
from kdjax.types import BadInput


@partial(jax.jit, static_argnums=0)
def everything(model, variables, x):
    """The value, slopes in both arguments, a tangent in each, a tangent of a slope, and members side by side."""

    def value(variables, x):
        return jnp.sum(jnp.sin(model.apply(variables, x)))

    slope, along = jax.grad(value, (0, 1)), jax.tree.map(jnp.cos, (variables, x))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), (variables, x))
    found = model.apply(variables, x), slope(variables, x), jax.vmap(slope)(*twice)
    return jax.tree.leaves((*found, jax.jvp(value, (variables, x), along), jax.jvp(slope, (variables, x), along)))


@partial(jax.jit, static_argnums=0)
def begun(model, x):
    return model.init(jax.random.key(1), x)


def assert_same(fast, plain, x):
    variables = begun(plain, x)
    assert jax.tree.map(jnp.shape, begun(fast, x)) == jax.tree.map(jnp.shape, variables)
    for ours, theirs in zip(everything(fast, variables, x), everything(plain, variables, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def written(function, argument, platform):
    """The orders of axes of all convolutions of a program for this platform, lowered on any other."""
    text = jax.jit(function).trace(argument).lower(lowering_platforms=(platform,)).compiler_ir("hlo").as_hlo_text()
    return re.findall(r" convolution\(.*dim_labels=(\S+?)[, \n]", text)


def convolutions(function, argument, platform):
    """How many a program for this platform computes, lowered on any other."""
    return len(written(function, argument, platform))


@pytest.mark.parametrize(
    ("size", "stride", "padding", "side"), [(4, 2, 1, 8), (4, 2, 1, 9), (3, 3, 0, 10), (2, 1, 1, 5)]
)
def test_it_is_linens_convolution_and_so_are_its_slopes(size, stride, padding, side):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
    assert_same(StridedConv(5, size, stride, padding), nn.Conv(5, (size, size), strides=stride, padding=padding), x)


@pytest.mark.parametrize(("batch", "stride", "parts"), [(16, 1, 8), (12, 2, 4), (5, 1, 1)])
def test_a_slope_in_parts_is_the_whole_slope(batch, stride, parts):
    x = jax.random.normal(jax.random.key(0), (batch, 6, 7, 3))
    plain = nn.Conv(5, (3, 3), strides=stride, padding=1)
    fast = plain.clone(conv_general_dilated=in_parts)
    assert_same(fast, plain, x)
    variables = begun(plain, x)
    assert convolutions(jax.grad(lambda variables: fast.apply(variables, x).sum()), variables, "cpu") == parts
    assert convolutions(jax.grad(lambda variables: fast.apply(variables, x).sum()), variables, "tpu") == 1


def test_the_platform_that_a_program_is_for_decides_how_a_strided_slope_is_written():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    fast = StridedConv(5, 4, 2, 1)
    variables = begun(fast, x)
    slope = jax.grad(lambda x: fast.apply(variables, x).sum())
    assert written(slope, x, "cpu") == []
    plain = jax.grad(lambda x: nn.Conv(5, (4, 4), strides=2, padding=1).apply({"params": variables["params"]}, x).sum())
    assert written(slope, x, "cuda") == written(slope, x, "tpu") == written(plain, x, "tpu")


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 2, 1), (3, 1, 4), (3, 2, 2)])
def test_slopes_name_the_axes_as_values_do_on_a_cpu_alone(size, stride, groups):
    x = jax.random.normal(jax.random.key(0), (4, 6, 7, 4))
    plain = nn.Conv(8, (size, size), strides=stride, padding=size // 2, feature_group_count=groups)
    fast = plain.clone(conv_general_dilated=in_order)
    assert_same(fast, plain, x)
    variables = begun(plain, x)
    slopes = [jax.grad(lambda x, net=net: net.apply(variables, x).sum()) for net in (fast, plain)]
    on_cpu, on_gpu = ([written(slope, x, platform) for slope in slopes] for platform in ("cpu", "cuda"))
    assert on_cpu == [["b01f_01io->b01f"], ["b01f_01oi->b01f"]]
    assert on_gpu[0] == on_gpu[1] == on_cpu[1]


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(BadInput, match="size=3, stride=2"):
        StridedConv(5, 3, 2, 1).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize("image", [jnp.float32, jnp.float64, jnp.bfloat16])
@pytest.mark.parametrize("held", [jnp.float32, jnp.float64])
def test_types_are_linens_in_double_precision(image, held):
    with jax.enable_x64(True):
        fast, plain = StridedConv(5, 4, 2, 1), nn.Conv(5, (4, 4), strides=2, padding=1)
        x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)).astype(image)
        made = [begun(net, x) for net in (fast, plain)]
        assert [leaf.dtype for leaf in jax.tree.leaves(made[0])] == [jnp.float32] * 2
        assert jax.tree.map(jnp.shape, made[0]) == jax.tree.map(jnp.shape, made[1])
        variables = jax.tree.map(lambda leaf: leaf.astype(held), made[1])

        def run(net):
            return jax.jit(jax.value_and_grad(lambda v, x: jnp.sum(net.apply(v, x) ** 2), (0, 1)))(variables, x)

        for ours, theirs in zip(*map(jax.tree.leaves, map(run, (fast, plain))), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(
                np.asarray(ours, np.float64),
                np.asarray(theirs, np.float64),
                rtol=2e-2 if image == jnp.bfloat16 else 1e-5,
            )

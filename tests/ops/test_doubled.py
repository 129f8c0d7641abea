"""The convolution of a doubled image and another one, against XLA's of the two side by side."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax.ops import conv, dilated, doubled

CASES = {
    "doubled, as Winograd's is the faster": ((5, 4), (10, 8), 3),
    "cut": ((5, 4), (9, 7), 3),
    "large and cut, nothing beside": ((16, 15), (31, 30), 0),
    "transposed": ((16, 15), (32, 30), 3),
    "transposed, nothing beside": ((16, 15), (32, 30), 0),
    "one pixel": ((1, 1), (2, 2), 2),
}


def arrays(case, dtype: Any = np.float64) -> Any:
    (height, width), size, channels = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 6)).astype(dtype)
    beside = rng.normal(size=(2, *size, channels)).astype(dtype) if channels else None
    kernel = rng.normal(size=(3, 3, 6 + channels, 4)).astype(dtype)
    return x, beside, kernel


def plain(x, beside, kernel, size):
    x = x.repeat(2, 1).repeat(2, 2)[:, : size[0], : size[1]]
    x = x if beside is None else jnp.concatenate([x, beside], -1)
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)


def fast(x, beside, kernel, size, forward_only=False):
    with conv.fast_on_cpu(forward_only):
        return conv.conv_of_doubled(x, beside, kernel, size)


close = partial(chex.assert_trees_all_close, rtol=1e-10, atol=1e-10)


def test_by_hand():
    """A pixel of 2, four times: each of the results sees the taps that lie on one of the four."""
    x: Any = np.full((1, 1, 1, 1), 2.0)
    kernel: Any = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]).reshape(3, 3, 1, 1)
    expected = 2 * np.array([[5 + 6 + 8 + 9, 4 + 5 + 7 + 8], [2 + 3 + 5 + 6, 1 + 2 + 4 + 5]])
    with jax.enable_x64(True):
        y = conv.conv_of_doubled(x, None, kernel, (2, 2))
        transposed = doubled.transposing(conv._xla_conv_transpose, x, kernel, dilated.UNDILATED)
    np.testing.assert_allclose(np.asarray(y)[0, :, :, 0], expected)
    np.testing.assert_allclose(np.asarray(transposed)[0, :, :, 0], expected)


@pytest.mark.parametrize("case", CASES)
def test_results(case):
    size = CASES[case][1]
    with jax.enable_x64(True):
        args = arrays(case)
        expected = plain(*args, size=size)
        close(conv.conv_of_doubled(*args, size=size), expected)
        for forward_only in (False, True):
            close(jax.jit(partial(fast, size=size, forward_only=forward_only))(*args), expected)


@pytest.mark.parametrize("constant", ["nothing", "first", "beside", "kernel", "images"])
@pytest.mark.parametrize("case", CASES)
def test_derivatives(case, constant):
    """In reverse and in forward mode, also where a frozen backbone gives one of the images."""
    size = CASES[case][1]
    fixed = {"nothing": (), "first": (0,), "beside": (1,), "kernel": (2,), "images": (0, 1)}
    with jax.enable_x64(True):
        args = arrays(case)
        varied = [i for i in range(3) if i not in fixed[constant]]

        def whole(function, *values):
            def of(*some):
                every = list(args)
                for i, value in zip(varied, some, strict=True):
                    every[i] = value
                return (function(*every, size=size) ** 2).sum(), function(*every, size=size)

            value, back = jax.vjp(lambda *some: of(*some)[0], *values)
            forward = jax.jvp(lambda *some: of(*some)[1], values, values)
            return value, back(jnp.ones(())), forward

        values = [args[i] for i in varied]
        found, expected = (jax.jit(partial(whole, f))(*values) for f in (fast, plain))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_second_derivative_and_vmap():
    size = CASES["transposed"][1]

    def curvature(function, x, beside, kernel):
        def slope(kernel):
            return jax.grad(lambda x: (function(x, beside, kernel, size=size) ** 3).sum())(x).sum()

        return jax.grad(slope)(kernel)

    with jax.enable_x64(True):
        args = arrays("transposed")
        close(curvature(fast, *args), curvature(plain, *args), rtol=1e-9)
        three = [jnp.stack([a, 2 * a, -a]) for a in args]
        mapped = (jax.vmap(partial(f, size=size))(*three) for f in (fast, plain))
        close(*mapped)


@pytest.mark.parametrize("case", ["cut", "transposed", "large and cut, nothing beside"])
def test_a_cpu_runs_no_slow_convolution(case):
    """Inside a conditional XLA leaves a kernel in an order that a CPU is 15 times slower with."""
    size, args = CASES[case][1], arrays(case, np.float32)

    def whole(x, beside, kernel):
        y, back = jax.vjp(partial(fast, size=size), x, beside, kernel)
        return back(y)

    text = str(jax.jit(whole).lower(*args).compile().as_text())
    assert "dim_labels=b01f_01io->b01f" in text
    assert "_01oi" not in text


@pytest.mark.parametrize(("case", "is_transposed"), [("transposed", True), ("cut", False)])
def test_large_images_are_not_doubled(case, is_transposed):
    size, args = CASES[case][1], arrays(case, np.float32)
    for forward_only in (False, True):
        f = partial(fast, size=size, forward_only=forward_only)
        doubled_shape = f"f32[2,{size[0]},{size[1]},6]"
        text = str(jax.jit(f).lower(*args).compile().as_text())
        assert (doubled_shape not in text) == is_transposed


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_accelerator_convolves_the_two_side_by_side(platform):
    size, args = CASES["transposed"][1], arrays("transposed", np.float32)
    f = partial(fast, size=size)
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "tensor<2x32x30x9xf32>" in text


@pytest.mark.parametrize("case", ["doubled, as Winograd's is the faster", "transposed"])
def test_bfloat16_sums_in_float32(case):
    size = CASES[case][1]
    low = [a.astype(jnp.bfloat16) for a in arrays(case, np.float32)]
    found = jax.jit(partial(fast, size=size))(*low)
    expected = plain(*(a.astype(np.float32) for a in low), size=size)
    assert found.dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, np.float32) - expected).max()
    assert error <= 2**-8 * np.abs(expected).max()

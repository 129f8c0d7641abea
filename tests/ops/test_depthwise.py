"""Depthwise convolutions against XLA's own and PyTorch's, in every mode of autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax import lax

from fcn_jax.ops import conv
from tests.ops.test_conv import arrays, close, gradients, quick, windows


def xla_depthwise(x, kernel, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)):
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, feature_group_count=x.shape[3],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def asked(x, kernel, **options):
    """The result too by the CPU's algorithm."""
    with conv.fast_on_cpu():
        return conv.depthwise_conv(x, kernel, **options)


def test_by_hand():
    x = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1) * jnp.array([[[[1.0, 10.0]]]])
    kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1) * jnp.array([[[[1.0, 0.5]]]])
    y = jax.jit(asked)(x, kernel)
    expected = np.array([[77, 67], [47, 37]])  # 5*1 + 6*2 + 8*3 + 9*4, ...
    np.testing.assert_array_equal(y[0, :, :, 0], expected)
    np.testing.assert_array_equal(y[0, :, :, 1], 5 * expected)


NETWORKS = [  # size, taps, stride, dilation
    ((20, 11), 3, 1, 1), ((17, 10), 3, 2, 1),
    ((18, 9), 5, 2, 1), ((9, 7), 5, 1, 2), ((2, 1), 5, 1, 2),
]  # fmt: skip


@pytest.mark.parametrize(("size", "taps", "stride", "dilation"), NETWORKS)
def test_it_is_xlas_on_the_networks_windows(size, taps, stride, dilation):
    pad = dilation * (taps // 2)
    options = {
        "stride": (stride, stride),
        "padding": ((pad, pad), (pad, pad)),
        "dilation": (dilation, dilation),
    }
    with jax.enable_x64(True):
        x, kernel = arrays((3, *size, 5), (taps, taps, 1, 5))
        ours, stock = partial(asked, **options), partial(xla_depthwise, **options)
        close(jax.jit(ours)(x, kernel), stock(x, kernel), 1e-13)
        close(gradients(ours)(x, kernel), gradients(stock)(x, kernel), 1e-13)


def test_it_is_xlas_in_float32():
    x, kernel = arrays((4, 19, 8, 5), (3, 3, 1, 5), np.float32)
    close(jax.jit(asked)(x, kernel), xla_depthwise(x, kernel), 1e-6)
    close(gradients(asked)(x, kernel), gradients(xla_depthwise)(x, kernel), 1e-6)


@quick
@given(windows())
def test_it_is_pytorchs_on_any_window(case):
    torch = pytest.importorskip("torch")
    x_shape, (kh, kw, *_), options = case
    channels = x_shape[3]
    x, kernel = arrays(x_shape, (kh, kw, 1, channels))
    tx, tk = (
        torch.tensor(v.transpose(axes).copy(), requires_grad=True)
        for v, axes in ((x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
    )
    (top, bottom), (left, right) = options["padding"]
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    ty = torch.nn.functional.conv2d(
        padded, tk, stride=options["stride"], dilation=options["dilation"], groups=channels
    )
    dx, dk = torch.autograd.grad(ty.sin().sum(), (tx, tk))
    expected = dx.permute(0, 2, 3, 1), dk.permute(2, 3, 1, 0)
    with jax.enable_x64(True):
        ours = partial(asked, **options)
        close(ours(x, kernel), ty.detach().permute(0, 2, 3, 1), 1e-13)
        close(gradients(ours)(x, kernel), expected, 1e-13)


def test_every_mode_of_differentiation():
    with jax.enable_x64(True):
        x, kernel = arrays((2, 6, 5, 3), (3, 3, 1, 3))
        dx, dk = arrays(x.shape, kernel.shape, seed=1)
        f, g = (partial(h, stride=(2, 1)) for h in (asked, xla_depthwise))

        def product(f):
            return jax.jvp(gradients(f), (x, kernel), (dx, dk))

        close(product(f), product(g), 1e-12)
        close(jax.jvp(f, (x, kernel), (dx, dk)), jax.jvp(g, (x, kernel), (dx, dk)), 1e-13)
        xs, kernels = np.stack([x, 2 * x, -x]), np.stack([kernel, kernel - 1, 3 * kernel])
        for axes, a, b in (((0, 0), xs, kernels), ((None, 0), x, kernels), ((0, None), xs, kernel)):
            mapped, expected = (jax.vmap(gradients(h), axes) for h in (f, g))
            close(mapped(a, b), expected(a, b), 1e-13)


def test_bfloat16_sums_in_float32():
    x, kernel = arrays((2, 24, 24, 8), (3, 3, 1, 8), np.float32)
    low = [jnp.asarray(v, jnp.bfloat16) for v in (x + 1.0, kernel)]
    dy = jnp.ones(x.shape, jnp.bfloat16)
    got = jax.jit(lambda x, k, dy: jax.vjp(asked, x, k)[1](dy))(*low, dy)
    assert [g.dtype for g in got] == [jnp.bfloat16, jnp.bfloat16]
    wide = [v.astype(jnp.float32) for v in low]
    close(got, jax.vjp(xla_depthwise, *wide)[1](dy.astype(jnp.float32)), 2**-8)


def loops(size, argument):
    """How many the compiled gradient of the image (0) or of the kernel (1) consists of."""
    x, kernel = arrays((2, 12, 12, 4), (size, size, 1, 4), np.float32)
    pad = (size // 2, size // 2)
    gradient = jax.grad(lambda *args: asked(*args, padding=(pad, pad)).sum(), argument)
    return str(jax.jit(gradient).lower(x, kernel).compile().as_text()).count(" fusion(")


def test_a_gradient_has_at_most_one_loop_a_tap():
    """Each costs 10 to 40 ms to compile, and a network has hundreds of taps."""
    assert loops(5, 0) - loops(3, 0) == 0
    assert loops(5, 1) - loops(3, 1) == 5 * 5 - 3 * 3


def test_only_a_cpu_has_its_algorithms():
    x, kernel = arrays((2, 6, 6, 4), (3, 3, 1, 4), np.float32)
    whole = jax.jit(jax.value_and_grad(lambda x, k: (asked(x, k) ** 2).sum(), (0, 1)))
    traced = whole.trace(x, kernel)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 3  # forward, dx, dkernel
    assert "stablehlo.while" not in text
    assert " convolution(" not in str(whole.lower(x, kernel).compile().as_text())
    plain = jax.jit(conv.depthwise_conv).lower(x, kernel).compile().as_text() or ""
    assert plain.count(" convolution(") == 1  # a result alone, unless asked for

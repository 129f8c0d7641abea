"""conv and conv_transpose against XLA's own, PyTorch and float64, in every mode of autodiff."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from jax import lax

from fcn_jax.ops import conv, dilated, transposed, winograd
from fcn_jax.ops import im2col as patches

quick = settings(max_examples=7, deadline=None, derandomize=True)
with_fixture = settings(
    quick, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the same for all examples


def xla_conv(x, kernel, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=dimensions
    )


def xla_conv_transpose(x, kernel, stride=(2, 2), padding=((1, 1), (1, 1)), output_padding=(1, 1)):
    """By the definition: the transpose of the convolution with the same window."""
    sizes = [
        (x.shape[1 + i] - 1) * stride[i] - sum(padding[i]) + kernel.shape[i] + output_padding[i]
        for i in (0, 1)
    ]
    pads = [(p[0], p[1]) for p in padding]
    like = jax.ShapeDtypeStruct((x.shape[0], *sizes, kernel.shape[3]), x.dtype)

    def down(y):
        z = xla_conv(y, kernel.transpose(0, 1, 3, 2), stride, pads)
        return z[:, : x.shape[1], : x.shape[2]]

    return jax.linear_transpose(down, like)(x)[0]


def plain_conv_transpose(x, kernel, window):
    """What each pixel of the image adds to the result, summed in numpy."""
    (n, *size, _), (kh, kw, _, features), (sh, sw) = x.shape, kernel.shape, window.stride
    (top, bottom), (left, right) = window.padding  # cuts; below 0 it adds zeros
    spread = (size[0] - 1) * sh + 1, (size[1] - 1) * sw + 1
    whole = spread[0] + kh - 1, spread[1] + kw - 1
    y = np.zeros((n, whole[0] + max(0, -bottom), whole[1] + max(0, -right), features))
    for a, b in np.ndindex(kh, kw):
        y[:, a : a + spread[0] : sh, b : b + spread[1] : sw] += x @ kernel[a, b]
    return y[:, top : whole[0] - bottom, left : whole[1] - right]


def close(actual, expected, tolerance):
    """Largest error relative to the largest value: sums of both signs cancel."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        assert np.abs(a - e).max() <= tolerance * max(np.abs(e).max(), 1e-30)


def arrays(x_shape, kernel_shape, dtype: Any = np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=x_shape).astype(dtype), rng.normal(size=kernel_shape).astype(dtype)


IMAGE = (0, 3, 1, 2)
"""NHWC to NCHW."""


def torch_leaf(torch, value, axes):
    """In PyTorch's own layout: its transposed convolution's gradient wants contiguous weights."""
    return torch.tensor(value.transpose(axes).copy(), requires_grad=True)


def gradients(f):
    """Gradients of a function that is not linear in y, so that dy is not constant."""
    return jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1)))


@st.composite
def windows(draw):
    small, pad = st.integers(1, 3), st.integers(0, 3)
    taps = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    size = (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    options = {
        "stride": (draw(small), draw(small)),
        "padding": ((draw(pad), draw(pad)), (draw(pad), draw(pad))),
        "dilation": (draw(small), draw(small)),
    }
    for i in (0, 1):
        reach = options["dilation"][i] * (taps[i] - 1) + 1
        assume(size[i] + sum(options["padding"][i]) >= reach)
    shapes = (draw(small), *size, draw(small)), (*taps, 0, draw(small))
    return shapes[0], (*taps, shapes[0][3], shapes[1][3]), options


@st.composite
def transposed_windows(draw):
    taps = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    # PyTorch: output padding below the stride, padding the same on both sides
    output = tuple(draw(st.integers(0, s - 1)) for s in stride)
    pads = [draw(st.integers(0, t - 1)) for t in taps]
    for i in (0, 1):
        assume((size[i] - 1) * stride[i] - 2 * pads[i] + taps[i] + output[i] > 0)
    small = st.integers(1, 3)
    x_shape = (draw(small), *size, draw(small))
    options = {"stride": stride, "padding": tuple((p, p) for p in pads), "output_padding": output}
    return x_shape, (*taps, x_shape[3], draw(small)), options


@st.composite
def tiled_windows(draw):
    """What Winograd's algorithm is for, but for the number of channels."""
    side, pad, few = st.integers(3, 9), st.integers(0, 3), st.integers(1, 3)
    padding = ((draw(pad), draw(pad)), (draw(pad), draw(pad)))
    x_shape = (draw(few), draw(side), draw(side), draw(few))
    return x_shape, (3, 3, x_shape[3], draw(few)), {"padding": padding}


@pytest.fixture
def limit(monkeypatch):
    """Set a limit of the algorithms. Shapes are traced once, with the limits of that time."""

    def set_to(module, name, value):
        monkeypatch.setattr(module, name, value)
        jax.clear_caches()

    yield set_to
    jax.clear_caches()


@pytest.fixture(params=[2**24, 1], ids=["all images at once", "one image at a time"])
def tiled(request, limit):
    limit(winograd, "CHUNK_BYTES", request.param)
    limit(conv, "MANY", 0)


@pytest.fixture(params=[2**21, 1], ids=["chunks of images", "chunks of rows"])
def patch_bytes(request, limit):
    limit(patches, "PATCH_BYTES", request.param)


# ---- values and gradients ------------------------------------------------------------------------


@pytest.mark.usefixtures("patch_bytes")
@pytest.mark.parametrize(
    ("size", "taps", "stride", "pad", "dilation"),
    [
        ((8, 10), 3, 1, 1, 1),
        ((9, 7), 3, 2, 1, 1),
        ((9, 9), 3, 1, 2, 2),
        ((9, 11), 3, 1, 4, 4),
        ((9, 9), 3, 2, 2, 2),
        ((15, 13), 7, 2, 3, 1),
        ((5, 6), 1, 1, 0, 1),
        ((5, 6), 1, 2, 0, 1),
        ((6, 7), 2, 2, 0, 1),
        ((6, 7), 4, 2, 1, 1),
    ],
)
def test_conv_is_xlas_on_the_networks_windows(size, taps, stride, pad, dilation):
    options = {
        "stride": (stride, stride),
        "padding": ((pad, pad), (pad, pad)),
        "dilation": (dilation, dilation),
    }
    with jax.enable_x64(True):
        x, kernel = arrays((4, *size, 5), (taps, taps, 5, 3))
        ours, stock = partial(conv.conv, **options), partial(xla_conv, **options)
        close(ours(x, kernel), stock(x, kernel), 1e-13)
        close(gradients(ours)(x, kernel), gradients(stock)(x, kernel), 1e-13)


@pytest.mark.parametrize("options", [{}, {"stride": (2, 2)}])
def test_conv_is_xlas_in_float32(options):
    x, kernel = arrays((4, 9, 8, 5), (3, 3, 5, 3), np.float32)
    ours, stock = partial(conv.conv, **options), partial(xla_conv, **options)
    close(ours(x, kernel), stock(x, kernel), 1e-6)
    close(gradients(ours)(x, kernel), gradients(stock)(x, kernel), 1e-6)


@quick
@given(windows())
@example(((1, 1, 1, 1), (1, 1, 1, 1), {"padding": ((0, 0), (0, 0))}))
def test_conv_is_xlas_on_any_window(case):
    x_shape, kernel_shape, options = case
    with jax.enable_x64(True):
        x, kernel = arrays(x_shape, kernel_shape)
        ours, stock = partial(conv.conv, **options), partial(xla_conv, **options)
        close(ours(x, kernel), stock(x, kernel), 1e-13)
        close(gradients(ours)(x, kernel), gradients(stock)(x, kernel), 1e-13)


@pytest.mark.usefixtures("tiled")
@with_fixture
@given(tiled_windows())
@example(((2, 4, 4, 2), (3, 3, 2, 3), {}))
@example(((2, 5, 3, 2), (3, 3, 2, 3), {"padding": ((0, 2), (3, 0))}))
def test_tiles_are_xlas(case):
    """The result too: where no derivative is taken it would be XLA's own."""
    x_shape, kernel_shape, options = case
    with jax.enable_x64(True):
        x, kernel = arrays(x_shape, kernel_shape)
        got, expected = (
            jax.jit(jax.value_and_grad(lambda x, k, f=f: (f(x, k, **options) ** 2).sum(), (0, 1)))
            for f in (conv.conv, xla_conv)
        )
        close(got(x, kernel), expected(x, kernel), 1e-13)


@pytest.mark.parametrize(
    ("size", "dilation", "many", "algorithm"),
    [
        ((8, 8), 2, True, dilated.by_phases),
        ((9, 7), 2, True, dilated.by_phases),  # phases of several sizes
        ((13, 14), 4, True, dilated.by_phases),
        ((13, 14), 4, False, conv.im2col.conv),
        ((9, 11), 6, True, dilated.by_taps),  # the outer taps see some rows
        ((9, 11), 6, False, dilated.by_taps),
        ((6, 7), 12, False, dilated.by_taps),  # the outer taps see nothing
    ],
)
def test_dilated_ones_are_xlas(size, dilation, many, algorithm, limit):
    limit(conv, "MANY", 0 if many else 10**6)
    limit(conv, "ENOUGH", 0 if many else 10**6)
    options: dict = {"padding": ((dilation,) * 2,) * 2, "dilation": (dilation,) * 2}
    with jax.enable_x64(True):
        x, kernel = arrays((2, *size, 3), (3, 3, 3, 4))
        chosen = conv._algorithms(x, kernel, conv.Window((1, 1), **options)).in_kernel
        assert getattr(chosen, "func", chosen) is algorithm

        def whole(function, x, kernel):
            with conv.fast_on_cpu(forward_only=True):
                return function(x, kernel, **options)

        ours, stock = partial(whole, conv.conv), partial(whole, xla_conv)
        close(jax.jit(ours)(x, kernel), stock(x, kernel), 1e-13)
        close(gradients(ours)(x, kernel), gradients(stock)(x, kernel), 1e-13)


def test_taps_outside_the_image_by_hand():
    """At a dilation of 3, of a 4x4 image's rows one is seen by the upper and lower taps each."""
    x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    window = conv.Window((1, 1), ((3, 3), (3, 3)), (3, 3))
    assert dilated.overlap((4, 4), (3, 3), window) == ((1 + 4 + 1) / 12) ** 2
    edge, middle = [4.0, 2.0, 2.0, 4.0], [2.0, 1.0, 1.0, 2.0]
    y = dilated.by_taps(conv.im2col.pointwise_product, x, kernel, window)
    np.testing.assert_array_equal(y[0, :, :, 0], [edge, middle, middle, edge])


@quick
@given(windows())
def test_sums_over_taps_are_xlas_on_any_window(case):
    x_shape, kernel_shape, options = case
    window = conv.Window(*(options[name] for name in conv.Window._fields))
    with jax.enable_x64(True):
        x, kernel = arrays(x_shape, kernel_shape)
        y = dilated.by_taps(conv.im2col.pointwise_product, x, kernel, window)
        close(y, xla_conv(x, kernel, **options), 1e-13)


@quick
@given(windows())
def test_conv_is_pytorchs(case):
    torch = pytest.importorskip("torch")
    x_shape, kernel_shape, options = case
    x, kernel = arrays(x_shape, kernel_shape)
    tx, tk = torch_leaf(torch, x, IMAGE), torch_leaf(torch, kernel, (3, 2, 0, 1))
    (top, bottom), (left, right) = options["padding"]
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    ty = torch.nn.functional.conv2d(
        padded, tk, stride=options["stride"], dilation=options["dilation"]
    )
    dx, dk = torch.autograd.grad(ty.sin().sum(), (tx, tk))
    expected = dx.permute(0, 2, 3, 1), dk.permute(2, 3, 1, 0)
    with jax.enable_x64(True):
        ours = partial(conv.conv, **options)
        close(ours(x, kernel), ty.detach().permute(0, 2, 3, 1), 1e-13)
        close(gradients(ours)(x, kernel), expected, 1e-13)


@quick
@given(transposed_windows())
@example(((2, 4, 5, 3), (3, 3, 3, 2), {}))
@example(((2, 4, 5, 3), (2, 2, 3, 2), {"padding": ((0, 0), (0, 0)), "output_padding": (0, 0)}))
def test_conv_transpose_is_pytorchs_and_xlas(case):
    torch = pytest.importorskip("torch")
    x_shape, kernel_shape, options = case
    x, kernel = arrays(x_shape, kernel_shape)
    tx, tk = torch_leaf(torch, x, IMAGE), torch_leaf(torch, kernel, (2, 3, 0, 1))
    ty = torch.nn.functional.conv_transpose2d(
        tx,
        tk,
        stride=options.get("stride", (2, 2)),
        padding=[p for p, _ in options.get("padding", ((1, 1), (1, 1)))],
        output_padding=options.get("output_padding", (1, 1)),
    )
    dx, dk = torch.autograd.grad(ty.sin().sum(), (tx, tk))
    expected = dx.permute(0, 2, 3, 1), dk.permute(2, 3, 0, 1)
    with jax.enable_x64(True):
        ours = partial(conv.conv_transpose, **options)
        stock = partial(xla_conv_transpose, **options)
        close(ours(x, kernel), ty.detach().permute(0, 2, 3, 1), 1e-13)
        close(gradients(ours)(x, kernel), expected, 1e-13)
        close(gradients(stock)(x, kernel), expected, 1e-13)


@quick
@given(transposed_windows())
@example(((2, 4, 5, 3), (3, 3, 3, 2), {}))
@example(((2, 4, 5, 3), (2, 2, 3, 2), {"padding": ((0, 0), (0, 0)), "output_padding": (0, 0)}))
def test_the_phases_of_a_transposed_one_are_the_plain_sum(case):
    x_shape, kernel_shape, options = case
    stride, padding = options.get("stride", (2, 2)), options.get("padding", ((1, 1), (1, 1)))
    assume(min(kernel_shape[:2]) >= max(stride))
    ((top, bottom), (left, right)), more = padding, options.get("output_padding", (1, 1))
    padding = ((top, bottom - more[0]), (left, right - more[1]))
    window = conv.Window(stride, padding, (1, 1))
    x, kernel = arrays(x_shape, kernel_shape)
    taps = partial(dilated.by_taps, patches.pointwise_product)
    want = plain_conv_transpose(x, kernel, window)
    with jax.enable_x64(True):
        for algorithm in (taps, conv._xla_conv):
            close(transposed.by_phases(algorithm, x, kernel, window), want, 1e-13)


def test_by_hand():
    x = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    # the window's middle is on each pixel in turn: 5*1 + 6*2 + 8*3 + 9*4, ...
    np.testing.assert_array_equal(conv.conv(x, kernel)[0, :, :, 0], [[77, 67], [47, 37]])
    # each pixel times the kernel, two apart, the first row and column cut off
    expected = np.zeros((6, 6))
    for i in (0, 1):
        for j in (0, 1):
            expected[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += float(x[0, i, j, 0]) * np.asarray(
                kernel[:, :, 0, 0]
            )
    np.testing.assert_array_equal(conv.conv_transpose(x, kernel)[0, :, :, 0], expected[1:5, 1:5])


# ---- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "transposed"),
    [
        ((4, 32, 32, 16), (3, 3, 16, 24), False),
        ((8, 96, 96, 8), (1, 1, 8, 8), False),  # a sum of 73728 terms
        ((2, 80, 80, 64), (3, 3, 64, 16), False),  # in rows
        ((4, 32, 32, 128), (3, 3, 128, 128), False),  # in tiles
        ((4, 24, 24, 16), (3, 3, 16, 8), True),
        ((4, 32, 32, 16), (2, 2, 16, 8), True),
    ],
)
def test_weight_gradients_are_close_to_those_of_float64(x_shape, kernel_shape, transposed):
    pad, extra = (kernel_shape[0] // 2, 1) if kernel_shape[0] % 2 else (0, 0)
    options: dict = {"padding": ((pad, pad), (pad, pad))}
    if transposed:
        options["output_padding"] = (extra, extra)
    function = partial(conv.conv_transpose if transposed else conv.conv, **options)

    @jax.jit
    def weight_gradient(x, dy):
        return jax.vjp(lambda k: function(x, k), jnp.zeros(kernel_shape, x.dtype))[1](dy)[0]

    x, kernel = arrays(x_shape, kernel_shape, np.float32)
    dy = np.random.default_rng(1).normal(size=function(x, kernel).shape).astype(np.float32)
    with jax.enable_x64(True):
        exact = np.asarray(weight_gradient(x.astype(np.float64), dy.astype(np.float64)))
    close(weight_gradient(x, dy), exact, 1.5e-6)  # 1.07e-6 with jax 0.12, below 1e-6 with 0.10


def test_tiles_are_within_1e_6_of_float64():
    x, kernel = arrays((2, 15, 16, 128), (3, 3, 128, 128), np.float32)
    dy = np.random.default_rng(1).normal(size=(2, 15, 16, 128)).astype(np.float32)

    @jax.jit
    def whole(x, kernel, dy):
        y, back = jax.vjp(conv.conv, x, kernel)
        return y, *back(dy)

    with jax.enable_x64(True):
        exact = jax.tree.map(np.asarray, whole(*(v.astype(np.float64) for v in (x, kernel, dy))))
    close(whole(x, kernel, dy), exact, 1e-6)


@pytest.mark.parametrize("many", [0, conv.MANY])
@pytest.mark.parametrize("function", [conv.conv, conv.conv_transpose])
def test_bfloat16_sums_in_float32(function, many, limit):
    limit(conv, "MANY", many)
    x, kernel = arrays((4, 24, 24, 8), (3, 3, 8, 8), np.float32)
    x, kernel = x + 1.0, kernel  # sums that grow: a bfloat16 sum would stop growing
    low = [jnp.asarray(v, jnp.bfloat16) for v in (x, kernel)]
    dy = jnp.ones(function(*low).shape, jnp.bfloat16)
    got = jax.jit(lambda x, k, dy: jax.vjp(function, x, k)[1](dy))(*low, dy)
    assert [g.dtype for g in got] == [jnp.bfloat16, jnp.bfloat16]
    wide = [v.astype(jnp.float32) for v in low]
    close(got, jax.vjp(function, *wide)[1](dy.astype(jnp.float32)), 2**-8)


# ---- modes of differentiation --------------------------------------------------------------------

PAIRS = {
    "conv": (partial(conv.conv, stride=(2, 1)), partial(xla_conv, stride=(2, 1)), (2, 6, 5, 2)),
    "conv_transpose": (conv.conv_transpose, xla_conv_transpose, (2, 3, 2, 2)),
    "tiles": (conv.conv, xla_conv, (2, 6, 5, 2)),
}


@pytest.fixture(params=PAIRS)
def pair(request, limit):
    if request.param == "tiles":
        limit(conv, "MANY", 0)
    ours, stock, x_shape = PAIRS[request.param]
    with jax.enable_x64(True):
        yield ours, stock, *arrays(x_shape, (3, 3, 2, 3))


def test_forward_mode(pair):
    ours, stock, x, kernel = pair
    dx, dk = arrays(x.shape, kernel.shape, seed=1)
    for primals, tangents, f, g in [
        ((x, kernel), (dx, dk), ours, stock),
        ((x,), (dx,), lambda x: ours(x, kernel), lambda x: stock(x, kernel)),
        ((kernel,), (dk,), lambda k: ours(x, k), lambda k: stock(x, k)),
    ]:
        close(jax.jvp(f, primals, tangents), jax.jvp(g, primals, tangents), 1e-13)


def test_gradient_of_one_argument(pair):
    ours, stock, x, kernel = pair
    for argument in (0, 1):
        f, g = (jax.grad(lambda x, k, f=f: (f(x, k) ** 2).sum(), argument) for f in (ours, stock))
        close(f(x, kernel), g(x, kernel), 1e-13)


def test_gradient_of_gradient(pair):
    ours, stock, x, kernel = pair

    def penalty(f):
        inner = jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1))
        return jax.jit(jax.grad(lambda x, k: sum((g**2).sum() for g in inner(x, k)), (0, 1)))

    close(penalty(ours)(x, kernel), penalty(stock)(x, kernel), 1e-12)


def test_hessian_vector_product(pair):
    ours, stock, x, kernel = pair
    dx, dk = arrays(x.shape, kernel.shape, seed=1)

    def product(f):
        grad = jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1))
        return jax.jvp(grad, (x, kernel), (dx, dk))[1]

    close(product(ours), product(stock), 1e-12)


def test_vmap(pair):
    ours, stock, x, kernel = pair
    xs, kernels = np.stack([x, 2 * x, -x]), np.stack([kernel, kernel - 1, 3 * kernel])
    for axes in ((0, 0), (None, 0), (0, None)):
        a = xs if axes[0] == 0 else x
        b = kernels if axes[1] == 0 else kernel
        f, g = (jax.vmap(gradients(h), axes) for h in (ours, stock))
        close(f(a, b), g(a, b), 1e-13)


def test_checkpoint_and_scan(pair):
    ours, stock, x, kernel = pair

    def loss(f, k):
        body = jax.checkpoint(lambda total, x: (total + jnp.sum(jnp.sin(f(x, k))), None))
        return lax.scan(body, 0.0, jnp.stack([x, 2 * x]))[0]

    f, g = (jax.grad(partial(loss, h)) for h in (ours, stock))
    close(f(kernel), g(kernel), 1e-13)


# ---- the program ---------------------------------------------------------------------------------


def both(x, kernel):
    return jnp.sum(conv.conv(x, kernel) ** 2) + jnp.sum(conv.conv_transpose(x, kernel) ** 2)


def test_one_trace_for_one_shape():
    traces = 0

    @jax.jit
    def step(x, kernel):
        nonlocal traces
        traces += 1
        return jax.grad(both, (0, 1))(x, kernel)

    for seed in range(3):
        step(*arrays((2, 6, 6, 2), (3, 3, 2, 2), np.float32, seed))
    assert traces == 1


@pytest.mark.parametrize("many", [0, conv.MANY])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_accelerators_program_has_only_xlas_convolutions(platform, many, limit):
    limit(conv, "MANY", many)
    x, kernel = arrays((2, 6, 6, 2), (3, 3, 2, 2), np.float32)
    traced = jax.jit(jax.grad(both, (0, 1))).trace(x, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 6  # forward, dx, dkernel, of each
    for operation in ("dot_general", "while", "concatenate", "dynamic_slice", "stablehlo.pad"):
        assert operation not in text
    assert "stablehlo.while" in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("function", [conv.conv, conv.conv_transpose])
def test_a_cpu_is_given_no_convolution_of_sides_below_the_taps(function, side):
    """XLA's CPU backend would run nested loops; the values are XLA's all the same."""
    x, kernel = arrays((2, side, side, 5), (3, 3, 5, 40))
    plain = {conv.conv: xla_conv, conv.conv_transpose: xla_conv_transpose}[function]

    def whole(apply, x, kernel):
        return jax.value_and_grad(lambda x, k: (apply(x, k) ** 2).sum(), (0, 1))(x, kernel)

    with jax.enable_x64(True):
        program = jax.jit(partial(whole, function)).lower(x, kernel).compile()
        assert " convolution(" not in str(program.as_text())
        close(program(x, kernel), whole(plain, x, kernel), 1e-12)
    large = jax.jit(partial(whole, function)).lower(np.ones((2, 3, 3, 5)), kernel).compile()
    assert " convolution(" in str(large.as_text())


@pytest.mark.parametrize(
    ("side", "channels", "tiled"),
    [(4, 31, False), (4, 32, True), (112, 64, False), (112, 127, False), (112, 128, True)],
)
def test_enough_channels_are_convolved_in_tiles(side, channels, tiled):
    """Fewer are enough where the tiles of an image stay in the cache."""
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32)
    whole = jax.value_and_grad(lambda x, k: (conv.conv(x, k) ** 2).sum(), (0, 1))
    assert (" convolution(" in str(jax.jit(whole).lower(x, kernel).compile().as_text())) != tiled


def test_results_alone_are_xlas_unless_asked_for():
    x, kernel = arrays((2, 6, 6, 128), (3, 3, 128, 128), np.float32)
    up, up_kernel = arrays((2, 3, 3, 8), (3, 3, 8, 4), np.float32)

    def both(x, kernel, up, up_kernel):
        return conv.conv(x, kernel), conv.conv_transpose(up, up_kernel)

    def asked(*arrays):
        with conv.fast_on_cpu():
            return both(*arrays)

    lowered = {f: jax.jit(f).lower(x, kernel, up, up_kernel).compile() for f in (both, asked)}
    assert str(lowered[both].as_text()).count(" convolution(") == 2
    assert str(lowered[asked].as_text()).count(" convolution(") == 0
    with jax.enable_x64(True):  # XLA's own float32 is off by up to 1.3e-6 without AVX-512
        exact = both(*(v.astype(np.float64) for v in (x, kernel, up, up_kernel)))
        exact = jax.tree.map(np.asarray, exact)
    close(lowered[asked](x, kernel, up, up_kernel), exact, 1e-6)
    text = jax.jit(asked).trace(x, kernel, up, up_kernel).lower(lowering_platforms=("cuda",))
    assert text.as_text().count("stablehlo.convolution") == 2


@pytest.mark.parametrize(
    ("shape", "kernel", "algorithm"),
    [
        ((1, 7, 7, 512), (3, 3, 512, 512), conv._xla_conv),  # 16 tiles: the kernel's are more work
        ((2, 7, 7, 512), (3, 3, 512, 512), conv.winograd.conv),  # 32
        ((1, 56, 56, 64), (3, 3, 64, 64), conv.winograd.conv),  # 25 MiB of tiles
        ((1, 224, 224, 64), (3, 3, 64, 64), conv._xla_conv),  # 98 MiB
        ((1, 112, 112, 128), (3, 3, 128, 128), conv.winograd.conv),  # 49 MiB
        ((1, 224, 224, 128), (3, 3, 128, 128), conv.winograd.conv),  # 196 MiB, many channels
        ((1, 112, 112, 32), (3, 3, 32, 31), conv._xla_conv),  # too few features
        ((1, 112, 112, 32), (3, 3, 32, 32), conv.winograd.conv),
        ((1, 224, 224, 3), (3, 3, 3, 64), conv._xla_conv),
        ((1, 2, 9, 64), (3, 3, 64, 64), conv.im2col.conv),  # XLA would run nested loops
        ((1, 1, 1, 64), (7, 7, 64, 64), conv.im2col.conv),
        ((1, 56, 56, 64), (1, 1, 64, 64), conv.im2col.pointwise_product),
    ],
)
def test_the_algorithm_of_a_result_alone_is_chosen_by_its_shape(shape, kernel, algorithm):
    x, k = map(jnp.asarray, arrays(shape, kernel, np.float32))
    reach = kernel[0] // 2
    window = conv.Window((1, 1), ((reach, reach), (reach, reach)), (1, 1))
    assert conv._forward_algorithm(x, k, window) is algorithm
    if kernel[0] == 3 and shape[1] > 2 and shape[3] > 3:
        assert conv._forward_algorithm(x, k, window._replace(stride=(2, 2))) is conv._xla_conv


def test_so_is_that_of_a_transposed_one():
    window, kernel = conv.Window((2, 2), ((0, 0), (0, 0)), (1, 1)), jnp.ones((3, 3, 4, 4))

    def chosen(*shape, kernel=kernel) -> Any:
        return conv._forward_algorithm_transpose(jnp.ones(shape), kernel, window)

    small, large = chosen(1, 14, 14, 4), chosen(1, 14, 15, 4)
    assert small.func is large.func is transposed.by_phases
    assert (small.args[0].func, large.args[0]) == (dilated.by_taps, conv._xla_conv)
    assert chosen(9, 2, 200, 8) is patches.conv_transpose  # XLA would run nested loops
    assert chosen(1, 9, 9, 4, kernel=kernel[:1]) is patches.conv_transpose  # a phase of zeros


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((1, 12, 13, 64), (3, 3, 64, 64)), ((2, 9, 8, 3), (3, 3, 3, 5)), ((1, 2, 2, 4), (3, 3, 4, 4))],
)
def test_results_alone_round_as_little(shape, kernel):
    x, k = map(jnp.asarray, arrays(shape, kernel, np.float32))

    def whole(function, k):
        with conv.fast_on_cpu(forward_only=True):
            return function(x, k)

    for function, plain in ((conv.conv, xla_conv), (conv.conv_transpose, xla_conv_transpose)):
        close(jax.jit(partial(whole, function))(k), plain(x, k), 2e-6)
        # Derivatives are a training step's, to the bit.
        got, want = (
            jax.jit(jax.grad(lambda k, f=f: (f(k) ** 2).sum()))(k)
            for f in (partial(whole, function), partial(function, x))
        )
        np.testing.assert_array_equal(got, want)


def test_equal_layers_are_traced_once(limit):
    calls, real = [], conv._algorithms
    limit(conv, "_algorithms", lambda *arguments: calls.append(arguments) or real(*arguments))

    def network(x, kernel):
        return conv.conv(conv.conv(x, kernel), kernel).sum()

    jax.jit(jax.grad(network, (0, 1))).lower(*arrays((2, 7, 7, 3), (3, 3, 3, 3), np.float32))
    assert len(calls) == 1


def test_patches_are_not_kept_for_the_backward_pass():
    """The residuals of conv are x and the kernel, nothing of nine times x's size."""
    x, kernel = map(jnp.asarray, arrays((4, 32, 32, 16), (3, 3, 16, 16), np.float32))
    program = jax.jit(jax.grad(lambda k: (conv.conv(x, k) ** 2).sum())).lower(kernel).compile()
    memory = program.memory_analysis()
    patches = 9 * x.nbytes
    assert memory
    assert memory.temp_size_in_bytes < patches + 4 * x.nbytes


def test_lists_will_do():
    x, kernel = map(jnp.asarray, arrays((1, 5, 5, 2), (3, 3, 2, 2), np.float32))
    got = conv.conv(x, kernel, stride=[1, 1], padding=[[1, 1], [1, 1]], dilation=[1, 1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(got, conv.conv(x, kernel))

"""Convolutions that train fast on every device: XLA's own, with other formulas on a CPU.

XLA's CPU backend runs a convolution forward at the speed of its matrix product, but the gradient
of the kernel, a convolution whose window is the whole image, at 1 to 30 % of it. Here the same sum
is written as a matrix product of patches, and a 3x3 convolution of many channels, with both its
gradients, as Winograd's. Elsewhere nothing changes: a program lowered for a GPU or a TPU holds
XLA's convolutions only, and so does every program that takes no derivative.

How: `jax.custom_jvp`, and a derivative *whose transpose is the fast formula*. The derivative of
y = conv(x, k) is conv(dx, k) + conv(x, dk); the second term is written as patches(x) . dk, so that
reverse mode, which transposes it, computes dk = patches(x)^T . dy. Nothing else is needed: forward
mode, `vmap`, `jit` and any order of differentiation work, since the rule is ordinary JAX.
`jax.checkpoint` around the term makes reverse mode keep x, not its patches.

Layouts: images [N, H, W, C], kernels [kh, kw, I, O]. Below M = N H' W' output positions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from fcn_jax import winograd

Pair = tuple[int, int]

PATCH_BYTES = 2 * 2**20
"""Patches made at a time: they are read again at once, so they should not leave the cache. Up to
four times as many where the kernel is larger than this, since each time adds to its whole gradient.
(8 MiB throughout was 10 to 30 % slower at 64 and 128 channels, 2 MiB throughout 10 % at 512.)"""

GROUP = 2048
"""Positions whose products with dy make one sum, at the least, for a kernel of one tap: enough for
the matrix product to run at its full rate, few enough for its rounding error."""

MANY = 64
"""Channels from which on Winograd's formula is the faster one: inputs times features over their
sum. (Processor time of a training step, 2 images, in ms, XLA's and patches against Winograd's:
256 -> 256 at 56x56 230 against 132, 1024 -> 1024 at 14x14 296 against 173, 128 -> 128 at 112x112
254 against 166; 64 -> 64 at 224x224 280 against 279, and more memory.)"""

FEW = 64
"""Features up to which a transposed convolution's own sum of patches is the faster one forward too
(64 at 8x56x56x64: 26 ms of processor time instead of 38; at 8x28x28x128 as fast either way)."""


class _Window(NamedTuple):
    """The static part of a convolution; hashable, so that one shape is traced once."""

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    fast: bool
    """Whether the result is computed by a CPU's formulas too, and not only derivatives."""


_fast = ContextVar("fast", default=False)


@contextmanager
def fast_on_cpu() -> Iterator[None]:
    """What is traced within this is computed by a CPU's formulas on a CPU.

    So are derivatives, always. The rest are XLA's own convolutions, unless asked for in this way:
    a network that is exported, or called op by op, should be the plain one.
    """
    token = _fast.set(True)
    try:
        yield
    finally:
        _fast.reset(token)


def conv(
    x: Array,
    kernel: Array,
    *,
    stride: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((1, 1), (1, 1)),
    dilation: Pair = (1, 1),
) -> Array:
    """Cross-correlation, as `torch.nn.functional.conv2d` without bias, in NHWC.

    y[n, i, j, o] = sum over a, b, c of x[n, s i + d a - p, s j + d b - p, c] kernel[a, b, c, o]

    Args:
        x: [N, H, W, I], any floating type.
        kernel: [kh, kw, I, O], of x's type.
        stride: s, vertical and horizontal.
        padding: zeros ((top, bottom), (left, right)).
        dilation: d, the distance between two taps of the kernel.

    Returns:
        [N, H', W', O] with H' = floor((H + top + bottom - d (kh - 1) - 1) / s) + 1.

    FLOPs: 2 M kh kw I O forward, and as many for each of the two gradients.
    """
    window = _Window(_pair(stride), _pairs(padding), _pair(dilation), _fast.get())
    return _conv_once(x, kernel, window)


def conv_transpose(
    x: Array,
    kernel: Array,
    *,
    stride: Pair = (2, 2),
    padding: tuple[Pair, Pair] = ((1, 1), (1, 1)),
    output_padding: Pair = (1, 1),
) -> Array:
    """Transposed convolution, as `torch.nn.functional.conv_transpose2d` without bias, in NHWC.

    y[n, s i + a - p, s j + b - p, o] += sum over c of x[n, i, j, c] kernel[a, b, c, o]

    Args:
        x: [N, H, W, I], any floating type.
        kernel: [kh, kw, I, O]; PyTorch's weight [I, O, kh, kw] is kernel.transpose(2, 3, 0, 1).
        stride: s, vertical and horizontal.
        padding: rows and columns ((top, bottom), (left, right)) cut from the full result.
        output_padding: rows and columns added below and to the right.

    Returns:
        [N, H', W', O] with H' = (H - 1) s - top - bottom + kh + output_padding.

    FLOPs: 2 N H W kh kw I O forward, and as many for each of the two gradients.
    """
    (top, bottom), (left, right) = _pairs(padding)
    padding = ((top, bottom - output_padding[0]), (left, right - output_padding[1]))
    return _conv_transpose_once(x, kernel, _Window(_pair(stride), padding, (1, 1), _fast.get()))


def _pair(values: Sequence[int]) -> Pair:
    vertical, horizontal = values  # a list will do too; the window must be hashable
    return int(vertical), int(horizontal)


def _pairs(padding: Sequence[Sequence[int]]) -> tuple[Pair, Pair]:
    vertical, horizontal = padding
    return _pair(vertical), _pair(horizontal)


# ---- XLA's own -----------------------------------------------------------------------------------


def _xla_conv(x: Array, kernel: Array, window: _Window) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=window.stride,
        padding=window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _xla_conv_transpose(x: Array, kernel: Array, window: _Window) -> Array:
    """x with s - 1 zeros between its pixels, correlated with the kernel turned by 180 degrees."""
    reach = [k - 1 for k in kernel.shape[:2]]
    padding = [(r - low, r - high) for r, (low, high) in zip(reach, window.padding, strict=True)]
    return lax.conv_general_dilated(
        x,
        lax.rev(kernel, (0, 1)),
        window_strides=(1, 1),
        padding=padding,
        lhs_dilation=window.stride,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


# ---- the convolution -----------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, window: _Window) -> Array:
    formula = _formulas(x.shape, kernel.shape, window).forward if window.fast else None
    return _on_cpu(formula or _xla_conv, _xla_conv, window)(x, kernel)


class _Formulas(NamedTuple):
    """How a CPU computes one convolution; the transposes of the last two are its gradients."""

    forward: Callable[..., Array]
    in_image: Callable[..., Array]
    in_kernel: Callable[..., Array]


def _formulas(image: Sequence[int], taps: Sequence[int], window: _Window) -> _Formulas:
    """The fastest ones for an image [N, H, W, I] and a kernel [kh, kw, I, O].

    Where a side, before or after, is below the taps, XLA's CPU backend has nothing but nested
    loops: 16x2x2x512, 3x3 taps, 512 features take 272 ms of processor time instead of 4 with
    patches, and the gradient of x as much.
    """
    kh, kw, channels, features = taps
    sides = [*image[1:3], *(_out_size(image[1 + i], taps[i], window, i) for i in (0, 1))]
    if min(sides) < max(kh, kw):
        return _Formulas(_patches_conv, _patches_conv, _patches_conv)
    if (kh, kw) == (1, 1) and window.padding == ((0, 0), (0, 0)):
        return _Formulas(_xla_conv, _xla_conv, _pointwise_conv)
    many = channels * features >= MANY * (channels + features)
    if many and (kh, kw) == (3, 3) and window.stride == window.dilation == (1, 1):
        return _Formulas(_tiles_conv, _tiles_conv_scattered, _tiles_conv)
    return _Formulas(_xla_conv, _xla_conv, _patches_conv)


def _conv_jvp(window: _Window, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    formulas = _formulas(primals[0].shape, primals[1].shape, window)
    return _jvp(formulas, _xla_conv, window, primals, tangents)


def _jvp(
    formulas: _Formulas, default: Callable, window: _Window, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    """The result and its derivative: by the formulas on a CPU, by `default` elsewhere."""
    (x, kernel), (dx, dkernel) = primals, tangents
    forward, in_image, in_kernel = (_on_cpu(f, default, window) for f in formulas)
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(in_image(dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(in_kernel(x, dkernel))
    y = forward(x, kernel)
    return y, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(y)


_conv.defjvp(_conv_jvp, symbolic_zeros=True)
_conv_once = jax.jit(_conv, static_argnums=2)  # equal layers of a network are traced once


def _on_cpu(cpu: Callable, default: Callable, window: _Window) -> Callable[..., Array]:
    """`cpu` in a program for a CPU, `default` in any other; decided when the program is lowered."""
    if cpu is default:
        return partial(default, window=window)

    def choose(*arrays):
        return lax.platform_dependent(
            *arrays,
            cpu=_keep_arguments(partial(cpu, window=window)),
            default=partial(default, window=window),
        )

    return choose


# Reverse mode keeps the arguments of such a function and makes the rest (padded copies, patches)
# when it is needed. Without `prevent_cse` no barrier enters the program.
_keep_arguments = partial(jax.checkpoint, prevent_cse=False)


def _tiles_conv(x: Array, kernel: Array, window: _Window) -> Array:
    return winograd.conv(x, kernel, window.padding)


def _tiles_conv_scattered(x: Array, kernel: Array, window: _Window) -> Array:
    return winograd.conv_scattered(x, kernel, window.padding)


def _patches_conv(x: Array, kernel: Array, window: _Window) -> Array:
    """The convolution as patches(x) [M, kh kw I] . kernel [kh kw I, O]; linear in the kernel.

    Its transpose is kernel' = sum over chunks of dy [m, O]^T . patches(x) [m, kh kw I]:
    2 M kh kw I O FLOPs and M kh kw I values written. A chunk is some images, or some rows of one;
    each contributes its own sum, which also keeps the rounding error of long sums small.
    """
    (kh, kw, channels, features), n = kernel.shape, x.shape[0]
    out_h, out_w = (_out_size(x.shape[1 + i], kernel.shape[i], window, i) for i in (0, 1))
    row_bytes = out_w * kh * kw * channels * x.dtype.itemsize
    images, rows = _chunk(n, out_h, row_bytes, kernel)
    bands = -(-out_h // rows)
    stride, dilation = window.stride[0], window.dilation[0]
    (top, _), sides = window.padding
    in_rows = (rows - 1) * stride + (kh - 1) * dilation + 1
    # Explicit padding, of enough rows for the last band; what is too much below is never read.
    low = bands * rows * stride - stride + (kh - 1) * dilation + 1 - x.shape[1] - top
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (top, low, 0), (*sides, 0), (0, 0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)  # the type of sums
    kernel = kernel.reshape(kh * kw * channels, features).T.astype(wide)

    @_keep_arguments
    def one(y, start):
        part = lax.dynamic_slice(x, _at(start, rows * stride), (images, in_rows, *x.shape[2:]))
        patches = _patches(part, (kh, kw), (rows, out_w), window).astype(wide)
        sums = lax.dot_general(patches, kernel, (((3,), (1,)), ((), ())))
        return _add_at(y, sums.astype(x.dtype), _at(start, rows)), None

    # Added to what is there, so that the transpose reads dy where it lies. (As rows of a stack it
    # would be computed for them anew, and what it is computed from be kept so long.)
    y = jnp.zeros((n, bands * rows, out_w, features), x.dtype)
    y, _ = lax.scan(one, y, _starts(n, images, bands))
    return y[:, :out_h]


def _pointwise_conv(x: Array, kernel: Array, window: _Window) -> Array:
    """`_patches_conv` for a kernel of one tap, where the patches are x itself: no copy, no loop.

    The kernel is repeated for groups of about `GROUP` positions. In the transpose each group gives
    its own product, and the sum of these is short.
    """
    (_, _, channels, features), (sh, sw) = kernel.shape, window.stride
    x = x[:, ::sh, ::sw]
    n, height, width, _ = x.shape
    groups = max(g for g in range(1, n * height + 1) if _fits(n * height, width, g))
    wide = jnp.promote_types(x.dtype, jnp.float32)  # the type of sums
    kernels = jnp.broadcast_to(kernel.reshape(1, channels, features), (groups, channels, features))
    y = lax.dot_general(
        x.reshape(groups, -1, channels).astype(wide),
        kernels.astype(wide),
        (((2,), (1,)), ((0,), (0,))),
    )
    return y.reshape(n, height, width, features).astype(x.dtype)


def _fits(rows: int, width: int, groups: int) -> bool:
    return groups == 1 or (rows % groups == 0 and rows // groups * width >= GROUP)


def _out_size(size: int, taps: int, window: _Window, axis: int) -> int:
    reach = window.dilation[axis] * (taps - 1) + 1
    return (size + sum(window.padding[axis]) - reach) // window.stride[axis] + 1


def _chunk(n: int, rows: int, row_bytes: int, kernel: Array) -> Pair:
    """(images, rows) that are taken at a time: whole images, or some rows of one image."""
    limit = min(max(kernel.nbytes, PATCH_BYTES), 4 * PATCH_BYTES)
    bands = math.ceil(rows * row_bytes / limit)
    if bands <= 1:
        return winograd.at_a_time(n, rows * row_bytes, limit), rows
    most = math.ceil(rows / min(bands, rows))
    even = winograd.at_a_time(rows, row_bytes, limit)  # bands of the same size, no padding
    return 1, even if 2 * even >= most else most


def _starts(n: int, images: int, bands: int) -> Array:
    """The first image, and the band, of every time: int32 [times, 2]."""
    starts = [(image, band) for image in range(0, n, images) for band in range(bands)]
    return jnp.array(starts, jnp.int32)


def _at(start: Array, rows: int) -> list[Array]:
    """Where (image, band) begins in an array [N, H, W, C] whose bands have so many rows."""
    image, band = start
    nothing = jnp.zeros_like(band)
    return [image, band * rows, nothing, nothing]


def _patches(x: Array, taps: Pair, out: Pair, window: _Window) -> Array:
    """[n, H, W, C], already padded -> [n, *out, taps C]: what each tap sees, side by side."""
    (sh, sw), (dh, dw), (height, width) = window.stride, window.dilation, out
    n, _, _, channels = x.shape
    views = [
        lax.slice(
            x,
            (0, a * dh, b * dw, 0),
            (n, a * dh + (height - 1) * sh + 1, b * dw + (width - 1) * sw + 1, channels),
            (1, sh, sw, 1),
        )
        for a in range(taps[0])
        for b in range(taps[1])
    ]
    return lax.concatenate(views, 3)


# ---- the transposed convolution ------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _conv_transpose(x: Array, kernel: Array, window: _Window) -> Array:
    formula = _formulas_transpose(x.shape, kernel.shape).forward if window.fast else None
    return _on_cpu(formula or _xla_conv_transpose, _xla_conv_transpose, window)(x, kernel)


def _formulas_transpose(image: Sequence[int], taps: Sequence[int]) -> _Formulas:
    """As `_formulas`; XLA's in the image, whose transpose, a convolution of dy, is a fast one."""
    patches, xla = _patches_conv_transpose, _xla_conv_transpose
    if min(image[1:3]) < max(taps[:2]):
        return _Formulas(patches, patches, patches)
    return _Formulas(patches if taps[3] <= FEW else xla, xla, patches)


def _conv_transpose_jvp(window: _Window, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    formulas = _formulas_transpose(primals[0].shape, primals[1].shape)
    return _jvp(formulas, _xla_conv_transpose, window, primals, tangents)


_conv_transpose.defjvp(_conv_transpose_jvp, symbolic_zeros=True)
_conv_transpose_once = jax.jit(_conv_transpose, static_argnums=2)


def _patches_conv_transpose(x: Array, kernel: Array, window: _Window) -> Array:
    """The transposed convolution, each pixel's kh kw O results added up; linear in the kernel.

    Its transpose is kernel' = sum over chunks of x^T [I, m] . patches(dy) [m, kh kw O]:
    2 N H W kh kw I O FLOPs and N H W kh kw O values written. A chunk is some images, or some rows
    of one, as in `_patches_conv`. (Sharing those patches with x's gradient saves nothing: XLA's
    convolution of dy is faster than their product.)
    """
    (kh, kw, channels, features), (n, height, width, _) = kernel.shape, x.shape
    out = _pair(
        [
            (x.shape[1 + i] - 1) * window.stride[i] + kernel.shape[i] - sum(window.padding[i])
            for i in (0, 1)
        ]
    )
    images, rows = _chunk(n, height, width * kh * kw * features * x.dtype.itemsize, kernel)
    bands, zero = -(-height // rows), jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (0, bands * rows - height, 0), (0, 0, 0), (0, 0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)  # the type of sums
    # Taps first: the transpose is then a product that XLA needs no copy of the patches for.
    kernel = kernel.transpose(0, 1, 3, 2).reshape(kh * kw * features, channels).astype(wide)

    @_keep_arguments
    def one(canvas, start):
        part = lax.dynamic_slice(x, _at(start, rows), (images, rows, width, channels))
        columns = lax.dot_general(part.astype(wide), kernel, (((3,), (1,)), ((), ())))
        sums = _add_patches(columns.astype(x.dtype), (kh, kw), window.stride)
        return _add_at(canvas, sums, _at(start, rows * window.stride[0])), None

    # Every tap of every pixel has its place on the canvas; what is padding is cut off at the end.
    tall, across = (
        (count - 1) * stride + taps
        for count, stride, taps in zip((bands * rows, width), window.stride, (kh, kw), strict=True)
    )
    canvas = jnp.zeros((n, tall, across, features), x.dtype)
    canvas, _ = lax.scan(one, canvas, _starts(n, images, bands))
    (top, _), (left, _) = window.padding
    cut = ((-top, out[0] + top - tall, 0), (-left, out[1] + left - across, 0))
    return lax.pad(canvas, zero, ((0, 0, 0), *cut, (0, 0, 0)))


def _add_at(canvas: Array, sums: Array, start: Sequence[Array]) -> Array:
    """Add [n, H, W, C] to the canvas from there on; its transpose is one slice."""
    everything = lax.ScatterDimensionNumbers((0, 1, 2, 3), (), (0, 1, 2, 3))
    inside = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return lax.scatter_add(canvas, jnp.stack(start), sums, everything, mode=inside)


def _add_patches(columns: Array, taps: Pair, stride: Pair) -> Array:
    """The transpose of `_patches`: [n, H, W, taps C] -> [n, (H - 1) s + kh, (W - 1) s + kw, C]."""
    channels, (sh, sw) = columns.shape[3] // (taps[0] * taps[1]), stride
    # split, because its transpose is one concatenation (a slice's would be a sum of padded parts)
    views = lax.split(columns, [channels] * (taps[0] * taps[1]), 3)
    zero, parts = jnp.zeros((), columns.dtype), []
    for index, view in enumerate(views):
        a, b = divmod(index, taps[1])
        rows, cols = (a, taps[0] - 1 - a, sh - 1), (b, taps[1] - 1 - b, sw - 1)
        parts.append(lax.pad(view, zero, ((0, 0, 0), rows, cols, (0, 0, 0))))
    return sum(parts[1:], parts[0])

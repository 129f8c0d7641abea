"""Convolutions that train fast on every device: XLA's own, with other algorithms on a CPU.

XLA's CPU backend runs a convolution forward at the speed of its matrix product, but the gradient
of the kernel, a convolution whose window is the whole image, at 1 to 30 % of it. Here the same sum
is written as a matrix product of patches (fcn_jax/ops/im2col.py), a 3x3 convolution of many
channels, with both its gradients, as Winograd's (fcn_jax/ops/winograd.py), and a dilated one as
several undilated ones, or without the taps that see only padding (fcn_jax/ops/dilated.py); the
result alone of a transposed one is that of several plain ones (fcn_jax/ops/transposed.py), and that
of a doubled image is a transposed one of the image itself (fcn_jax/ops/doubled.py). A depthwise
convolution is slow there in every direction, and is written as shifted products
(fcn_jax/ops/depthwise.py).
Elsewhere nothing changes: a program lowered for a GPU or a TPU holds XLA's convolutions only, and
so does a program without derivatives that does not ask for more.

How: `jax.custom_jvp`, and a derivative *whose transpose is the fast algorithm*. The derivative of
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

from fcn_jax.ops import depthwise, dilated, doubled, im2col, transposed, winograd
from fcn_jax.ops.im2col import Pair, Window

Arrays = tuple[Array, Array]

MANY = 64
"""Channels from which on Winograd's algorithm is always the faster one: inputs times features over
their sum. (Processor time of a training step, 2 images, in ms, XLA's and patches against
Winograd's: 256 -> 256 at 56x56 230 against 132, 1024 -> 1024 at 14x14 296 against 173, 128 -> 128
at 112x112 254 against 166; 64 -> 64 at 224x224 280 against 279, and more memory.)"""

FEW = 64
"""Features up to which a transposed convolution's own sum of patches is the faster one forward too
(64 at 8x56x56x64: 26 ms of processor time instead of 38; at 8x28x28x128 as fast either way)."""

TILES = 32
"""Winograd's tiles from which on a result alone is faster by it: with fewer, transforming the
kernel takes longer than the products save. (Processor time against XLA's: 512 -> 512 at 7x7, 16
tiles, 1.35; two such images 1.00, eight 0.77; 12x12, 36 tiles, 0.79.)"""

ENOUGH = 16
"""As `MANY`, where the tiles of an image stay in the cache. (A training step, 4 images: 64 -> 64 at
56x56 takes 0.67 of the processor time, 128 -> 64 at 28x28 0.59, 384 -> 64 at 56x56 0.69. A result
alone: 32 -> 32 at 112x112 0.72, 64 -> 64 at 56x56 0.67, 16 -> 16 at 224x224 1.5.)"""

CACHED_BYTES = 64 * 2**20
"""Tiles of one image up to which that holds for a result alone. (64 -> 64 at 224x224, 98 MiB: 1.1.)
"""

CACHED_BYTES_STEP = 24 * 2**20
"""The same for a training step. (384 -> 64 at 56x56, 21 MiB: 0.69; 64 -> 64 at 112x112, 25 MiB:
1.09; 128 -> 32 at 112x112, 31 MiB: 1.31.)"""

SMALL = 14 * 14
"""Pixels of an image up to which a transposed convolution's phases, for a result alone, are sums of
matrix products: XLA's convolution packs each kernel once more. (512 -> 512 at 7x7, two threads:
1.8 ms against 2.9; 14x14: as fast either way; 256 -> 128 at 28x28: 3.1 against 2.7.)"""

INSIDE = 0.6
"""Products with pixels inside the image, as a part of all, up to which taps are summed one by one
(DeepLab's 3x3 taps at 28x28 have 0.51, 0.18 and 0.11 at dilations 12, 24 and 36)."""


_mode: ContextVar[str] = ContextVar("mode", default="plain")


@contextmanager
def fast_on_cpu(forward_only: bool = False) -> Iterator[None]:
    """What is traced within this is computed by the CPU's own algorithms on a CPU.

    So are derivatives, always. The rest are XLA's own convolutions, unless asked for in this way:
    a network that is exported, or called op by op, should be the plain one.

    Args:
        forward_only: choose the algorithm of each shape for its result alone. Otherwise it is that
            of a training step, so that an evaluation rounds as training does.
    """
    token = _mode.set("forward" if forward_only else "step")
    try:
        yield
    finally:
        _mode.reset(token)


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
    window = Window(_pair(stride), _pairs(padding), _pair(dilation))
    return _conv_once(x, kernel, window, _mode.get())


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
    return _conv_transpose_once(x, kernel, Window(_pair(stride), padding, (1, 1)), _mode.get())


def depthwise_conv(
    x: Array,
    kernel: Array,
    *,
    stride: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((1, 1), (1, 1)),
    dilation: Pair = (1, 1),
) -> Array:
    """Cross-correlation of each channel with a kernel of its own: `conv2d` with groups=C, in NHWC.

    y[n, i, j, c] = sum over a, b of x[n, s i + d a - p, s j + d b - p, c] kernel[a, b, 0, c]

    Args:
        x: [N, H, W, C], any floating type.
        kernel: [kh, kw, 1, C], of x's type.
        stride: s, vertical and horizontal.
        padding: zeros ((top, bottom), (left, right)).
        dilation: d, the distance between two taps of the kernel.

    Returns:
        [N, H', W', C], with H' as for `conv`.

    FLOPs: 2 M kh kw C forward, and as many for each of the two gradients.
    """
    window = Window(_pair(stride), _pairs(padding), _pair(dilation))
    return _depthwise_once(x, kernel, window, _mode.get())


def conv_of_doubled(x: Array, beside: Array | None, kernel: Array, size: Pair) -> Array:
    """3x3 `conv` of x doubled by the nearest neighbour, with another image beside it.

    That is, of concatenate([double_nearest(x)[:, :H, :W], beside], -1); a U-Net's decoder has it.

    Args:
        x: [N, h, w, I], any floating type.
        beside: [N, H, W, S], of the same type, or None, where S is 0.
        kernel: [3, 3, I + S, O], likewise.
        size: (H, W), at most (2 h, 2 w).

    Returns:
        [N, H, W, O].

    FLOPs: 2 N H W (4 I + 9 S) O on a CPU, where fast and (H, W) = (2 h, 2 w); else
    2 N H W 9 (I + S) O. As many for each of the two gradients.
    """
    height, width = size  # not integers in an export to any size
    return _doubled_once((x, beside), kernel, (height, width), _mode.get())


def _pair(values: Sequence[int]) -> Pair:
    vertical, horizontal = values  # a list will do too; the window must be hashable
    return int(vertical), int(horizontal)


def _pairs(padding: Sequence[Sequence[int]]) -> tuple[Pair, Pair]:
    vertical, horizontal = padding
    return _pair(vertical), _pair(horizontal)


# ---- XLA's own -----------------------------------------------------------------------------------


def _xla_conv(
    x: Array, kernel: Array, window: Window, groups: int = 1, order: str = "HWIO"
) -> Array:
    return lax.conv_general_dilated(
        x,
        _ordered(kernel, order),
        window_strides=window.stride,
        padding=window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", order, "NHWC"),
        feature_group_count=groups,
    )


def _xla_conv_transpose(x: Array, kernel: Array, window: Window, order: str = "HWIO") -> Array:
    """x with s - 1 zeros between its pixels, correlated with the kernel turned by 180 degrees."""
    reach = [k - 1 for k in kernel.shape[:2]]
    padding = [(r - low, r - high) for r, (low, high) in zip(reach, window.padding, strict=True)]
    return lax.conv_general_dilated(
        x,
        _ordered(lax.rev(kernel, (0, 1)), order),
        window_strides=(1, 1),
        padding=padding,
        lhs_dilation=window.stride,
        dimension_numbers=("NHWC", order, "NHWC"),
    )


def _ordered(kernel: Array, order: str) -> Array:
    """The kernel in the order HWIO or HWOI, of which the transpose in x then has the other.

    XLA's CPU backend is fast with HWIO only. It brings kernels into that order by itself, but not
    inside a conditional such as `_on_cpu` makes.
    """
    return kernel if order == "HWIO" else kernel.swapaxes(2, 3)


def _xla_depthwise(x: Array, kernel: Array, window: Window) -> Array:
    return _xla_conv(x, kernel, window, groups=x.shape[3])


def _xla_doubled(images: doubled.Images, kernel: Array, window: Window, size: Pair) -> Array:
    joined = doubled.join(images, size)
    return _xla_conv(joined, kernel[:, :, : joined.shape[3]], window)  # a derivative may lack one


# ---- the choice ----------------------------------------------------------------------------------


class _Algorithms(NamedTuple):
    """How a CPU computes one convolution; the transposes of the last two are its gradients."""

    forward: Callable[..., Array]
    in_image: Callable[..., Array]
    in_kernel: Callable[..., Array]


def _algorithms(x: Array, kernel: Array, window: Window) -> _Algorithms:
    """The fastest ones for an image [N, H, W, I] and a kernel [kh, kw, I, O].

    Where a side, before or after, is below the taps, XLA's CPU backend has nothing but nested
    loops: 16x2x2x512, 3x3 taps, 512 features take 272 ms of processor time instead of 4 with
    patches, and the gradient of x as much.
    """
    kh, kw = kernel.shape[:2]
    after = (window.out_size(x.shape[1 + i], kernel.shape[i], i) for i in (0, 1))
    if min(*x.shape[1:3], *after) < max(kh, kw):
        return _Algorithms(im2col.conv, im2col.conv, im2col.conv)
    if (kh, kw) == (1, 1) and window.padding == ((0, 0), (0, 0)):
        return _Algorithms(_xla_conv, _xla_conv, im2col.pointwise_conv)
    if _mostly_padding(x, kernel, window):
        products = (im2col.pointwise_product, im2col.pointwise_product, im2col.pointwise_conv)
        return _Algorithms(*(partial(dilated.by_taps, product) for product in products))
    if (kh, kw) == (3, 3) and _many(x, kernel, window, CACHED_BYTES_STEP):
        algorithms = (winograd.conv, winograd.conv_scattered, winograd.conv)
        if window.stride == window.dilation == (1, 1):
            return _Algorithms(*algorithms)
        if dilated.has_phases(window):
            return _Algorithms(*(partial(dilated.by_phases, algorithm) for algorithm in algorithms))
    return _Algorithms(_xla_conv, _xla_conv, im2col.conv)


def _many(x: Array, kernel: Array, window: Window, cached_bytes: int) -> bool:
    """Whether a 3x3 kernel has enough channels for Winograd's algorithm."""
    channels, features = kernel.shape[2:]
    tile_bytes = 16 * _tiles(x, window) * (channels + features) * x.dtype.itemsize
    least = ENOUGH if tile_bytes <= cached_bytes else MANY
    return channels * features >= least * (channels + features)


def _tiles(x: Array, window: Window) -> int:
    """Winograd's tiles, of 2x2 results of a 3x3 kernel, in an image, or in a phase of it."""
    size = window.out_size(x.shape[1], 3, 0), window.out_size(x.shape[2], 3, 1)
    if dilated.has_phases(window):
        size = dilated.phase_size(size, window)
    return math.prod(-(-n // 2) for n in size)


def _mostly_padding(x: Array, kernel: Array, window: Window) -> bool:
    """Whether most products of the taps are with zeros, as they are at a wide dilation."""
    if window.dilation == (1, 1):
        return False
    return dilated.overlap(x.shape[1:3], kernel.shape[:2], window) <= INSIDE


def _algorithms_transpose(x: Array, kernel: Array, window: Window) -> _Algorithms:
    """As `_algorithms`; XLA's in the image, whose transpose, a convolution of dy, is a fast one."""
    ours, xla = im2col.conv_transpose, _xla_conv_transpose
    if min(x.shape[1:3]) < max(kernel.shape[:2]):
        return _Algorithms(ours, ours, ours)
    return _Algorithms(ours if kernel.shape[3] <= FEW else xla, xla, ours)


_PHASES = partial(transposed.by_phases, _xla_conv)


def _algorithms_doubled(images: doubled.Images, kernel: Array, size: Pair) -> _Algorithms:
    """As `_algorithms`, for two images, of which the first is doubled and cut to a size."""

    def one(x: Array, kernel: Array, window: Window) -> _Algorithms:
        found = _algorithms(x, kernel, window)
        if found.in_image is not _xla_conv:
            return found
        return found._replace(in_image=partial(_xla_conv, order="HWOI"))

    in_image = partial(_xla_conv_transpose, order="HWOI")
    fast = _Algorithms(_PHASES, in_image, im2col.conv_transpose)
    return _Algorithms(*_of_doubled(one, fast, images, kernel, size))


def _forward_algorithm_doubled(
    images: doubled.Images, kernel: Array, size: Pair
) -> Callable[..., Array]:
    """As `_forward_algorithm`, for two images."""

    def one(x: Array, kernel: Array, window: Window) -> list:
        return [_forward_algorithm(x, kernel, window)]

    return _of_doubled(one, [_PHASES], images, kernel, size)[0]


def _of_doubled(
    choose: Callable[..., Sequence],
    fast: Sequence[Callable],
    images: doubled.Images,
    kernel: Array,
    size: Pair,
) -> list[Callable[..., Array]]:
    """Algorithms for both images: from `fast`, which transpose, and as `choose` finds for each.

    A small image is doubled, as Winograd's algorithm has no more products. (A training step of 4
    images in ms of processor time, doubled and transposed: 2048 + 1024 -> 256 from 7x7 490 and
    759, 256 + 512 -> 128 from 14x14 149 and 147, 128 + 256 -> 64 from 28x28 215 and 188, 64 + 64
    -> 32 from 56x56 262 and 139, 32 -> 16 from 112x112 144 and 67.)
    """
    x, beside = images
    n, height, width, channels = x.shape
    if size == (2 * height, 2 * width) and height * width > SMALL:
        first = [partial(doubled.transposing, algorithm) for algorithm in fast]
    else:
        image = jax.ShapeDtypeStruct((n, *size, channels), x.dtype)
        found = choose(image, kernel[:, :, :channels], dilated.UNDILATED)
        first = [partial(doubled.doubling, algorithm, size) for algorithm in found]
    second: Sequence[Callable] = first  # not used without an image beside it
    if beside is not None:
        second = choose(beside, kernel[:, :, channels:], dilated.UNDILATED)
    return [partial(doubled.conv, *both) for both in zip(first, second, strict=True)]


_DEPTHWISE = _Algorithms(depthwise.conv, depthwise.conv_scattered, depthwise.conv_in_kernel)


def _forward_algorithm(x: Array, kernel: Array, window: Window) -> Callable[..., Array]:
    """The fastest one for the result alone; see the constants above for what was measured."""
    kh, kw = kernel.shape[:2]
    if (kh, kw) == (1, 1) and window.padding == ((0, 0), (0, 0)):
        return im2col.pointwise_product  # 512 -> 256 at 28x28: 0.85 of XLA's processor time
    if (kh, kw) != (3, 3):
        return _algorithms(x, kernel, window).forward
    height, width = (window.out_size(x.shape[1 + i], 3, i) for i in (0, 1))
    if min(*x.shape[1:3], height, width) < 3:
        return im2col.conv
    if _mostly_padding(x, kernel, window):
        return partial(dilated.by_taps, im2col.pointwise_product)
    phases = dilated.has_phases(window)
    if not phases and not window.stride == window.dilation == (1, 1):
        return _xla_conv
    tiles = x.shape[0] * math.prod(window.dilation) * _tiles(x, window)
    if tiles < TILES or not _many(x, kernel, window, CACHED_BYTES):
        return _xla_conv
    return partial(dilated.by_phases, winograd.conv) if phases else winograd.conv


def _forward_algorithm_transpose(x: Array, kernel: Array, window: Window) -> Callable[..., Array]:
    """As `_forward_algorithm`. (64 -> 21 at 112x112, two threads: 3.3 ms, XLA's 3.8.)"""
    taps, (height, width) = kernel.shape[:2], x.shape[1:3]
    if min(height, width) < max(taps) or min(taps) < max(window.stride):
        return im2col.conv_transpose
    one = partial(dilated.by_taps, im2col.pointwise_product)
    return partial(transposed.by_phases, one if height * width <= SMALL else _xla_conv)


def _on_cpu(cpu: Callable, default: Callable, window: Window) -> Callable[..., Array]:
    """`cpu` in a program for a CPU, `default` in any other; decided when the program is lowered."""
    if cpu is default:
        return partial(default, window=window)

    def choose(*arrays: Array) -> Array:
        return lax.platform_dependent(
            *arrays,
            cpu=im2col.keep_arguments(partial(cpu, window=window)),
            default=partial(default, window=window),
        )

    return choose


# ---- what is differentiated ----------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, window: Window, mode: str) -> Array:
    algorithm = _xla_conv
    if mode == "step":
        algorithm = _algorithms(x, kernel, window).forward
    elif mode == "forward":
        algorithm = _forward_algorithm(x, kernel, window)
    return _on_cpu(algorithm, _xla_conv, window)(x, kernel)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv_transpose(x: Array, kernel: Array, window: Window, mode: str) -> Array:
    algorithm = _xla_conv_transpose
    if mode == "step":
        algorithm = _algorithms_transpose(x, kernel, window).forward
    elif mode == "forward":
        algorithm = _forward_algorithm_transpose(x, kernel, window)
    return _on_cpu(algorithm, _xla_conv_transpose, window)(x, kernel)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, window: Window, mode: str) -> Array:
    algorithm = _xla_depthwise if mode == "plain" else _DEPTHWISE.forward
    return _on_cpu(algorithm, _xla_depthwise, window)(x, kernel)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _doubled(images: doubled.Images, kernel: Array, size: Pair, mode: str) -> Array:
    algorithm = default = partial(_xla_doubled, size=size)
    if mode == "step":
        algorithm = _algorithms_doubled(images, kernel, size).forward
    elif mode == "forward":
        algorithm = _forward_algorithm_doubled(images, kernel, size)
    return _on_cpu(algorithm, default, dilated.UNDILATED)(images, kernel)


def _conv_jvp(window: Window, _: str, primals: Arrays, tangents: tuple) -> Arrays:
    return _jvp(_algorithms(*primals, window), _xla_conv, window, primals, tangents)


def _conv_transpose_jvp(window: Window, _: str, primals: Arrays, tangents: tuple) -> Arrays:
    algorithms = _algorithms_transpose(*primals, window)
    return _jvp(algorithms, _xla_conv_transpose, window, primals, tangents)


def _depthwise_jvp(window: Window, _: str, primals: Arrays, tangents: tuple) -> Arrays:
    return _jvp(_DEPTHWISE, _xla_depthwise, window, primals, tangents)


def _doubled_jvp(size: Pair, _: str, primals: tuple, tangents: tuple) -> Arrays:
    """A constant image beside has no part in the derivative; a constant first one gets zeros."""
    (dx, dbeside), dkernel = tangents
    dbeside = None if isinstance(dbeside, SymbolicZero) else dbeside
    if isinstance(dx, SymbolicZero) and dbeside is not None:
        dx = jnp.zeros_like(primals[0][0])
    dimages = dx if isinstance(dx, SymbolicZero) else (dx, dbeside)
    algorithms = _algorithms_doubled(*primals, size=size)
    default = partial(_xla_doubled, size=size)
    return _jvp(algorithms, default, dilated.UNDILATED, primals, (dimages, dkernel))


def _jvp(
    algorithms: _Algorithms, default: Callable, window: Window, primals: tuple, tangents: tuple
) -> Arrays:
    """The result and its derivative: by the algorithms on a CPU, by `default` elsewhere."""
    (x, kernel), (dx, dkernel) = primals, tangents
    forward, in_image, in_kernel = (_on_cpu(f, default, window) for f in algorithms)
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(in_image(dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(in_kernel(x, dkernel))
    y = forward(x, kernel)
    return y, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(y)


_conv.defjvp(_conv_jvp, symbolic_zeros=True)
_conv_transpose.defjvp(_conv_transpose_jvp, symbolic_zeros=True)
_depthwise.defjvp(_depthwise_jvp, symbolic_zeros=True)
_doubled.defjvp(_doubled_jvp, symbolic_zeros=True)

# Equal layers of a network are traced once.
_conv_once = jax.jit(_conv, static_argnums=(2, 3))
_conv_transpose_once = jax.jit(_conv_transpose, static_argnums=(2, 3))
_depthwise_once = jax.jit(_depthwise, static_argnums=(2, 3))
_doubled_once = jax.jit(_doubled, static_argnums=(2, 3))

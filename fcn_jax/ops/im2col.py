"""Convolutions as matrix products of patches: what the kernel's taps see, side by side.

XLA's CPU backend computes the gradient of a kernel, a convolution whose window is the whole image,
at 1 to 30 % of the speed of its matrix product. The functions here are linear in the kernel, and in
reverse mode, which transposes them, its gradient is a product of patches. Below M = N H' W' output
positions; a window's padding may be negative, which cuts.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Pair = tuple[int, int]

PATCH_BYTES = 2 * 2**20
"""Patches made at a time: they are read again at once, so they should not leave the cache. Up to
four times as many where the kernel is larger than this, since each time adds to its whole gradient.
(8 MiB throughout was 10 to 30 % slower at 64 and 128 channels, 2 MiB throughout 10 % at 512.)"""

GROUP = 2048
"""Positions whose products with dy make one sum, at the least, for a kernel of one tap: enough for
the matrix product to run at its full rate, few enough for its rounding error."""


class Window(NamedTuple):
    """The static part of a convolution; hashable, so that one shape is traced once."""

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair

    def out_size(self, size: int, taps: int, axis: int) -> int:
        """Results along an axis (0: rows, 1: columns) of so many pixels, with so many taps."""
        reach = self.dilation[axis] * (taps - 1) + 1
        return (size + sum(self.padding[axis]) - reach) // self.stride[axis] + 1


# Reverse mode keeps the arguments of such a function and makes the rest (padded copies, patches)
# when it is needed. Without `prevent_cse` no barrier enters the program.
keep_arguments = partial(jax.checkpoint, prevent_cse=False)


def wide(x: Array) -> Array:
    """x in the type of sums: float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def conv(x: Array, kernel: Array, window: Window) -> Array:
    """The convolution as patches(x) [M, kh kw I] . kernel [kh kw I, O]; linear in the kernel.

    Its transpose is kernel' = sum over chunks of dy [m, O]^T . patches(x) [m, kh kw I]:
    2 M kh kw I O FLOPs and M kh kw I values written. A chunk is some images, or some rows of one;
    each contributes its own sum, which also keeps the rounding error of long sums small.
    """
    (kh, kw, channels, features), n = kernel.shape, x.shape[0]
    out_h, out_w = (window.out_size(x.shape[1 + i], kernel.shape[i], i) for i in (0, 1))
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
    kernel = wide(kernel.reshape(kh * kw * channels, features).T)

    @keep_arguments
    def one(y, start):
        part = lax.dynamic_slice(x, _at(start, rows * stride), (images, in_rows, *x.shape[2:]))
        patches = wide(_patches(part, (kh, kw), (rows, out_w), window))
        sums = lax.dot_general(patches, kernel, (((3,), (1,)), ((), ())))
        return _add_at(y, sums.astype(x.dtype), _at(start, rows)), None

    # Added to what is there, so that the transpose reads dy where it lies. (As rows of a stack it
    # would be computed for them again, and what it is computed from be kept so long.)
    y = jnp.zeros((n, bands * rows, out_w, features), x.dtype)
    y, _ = lax.scan(one, y, _starts(n, images, bands))
    return y[:, :out_h]


def pointwise_product(x: Array, kernel: Array, window: Window) -> Array:
    """`conv` for a kernel of one tap, as a single product."""
    (_, _, channels, features), (sh, sw) = kernel.shape, window.stride
    x = x[:, ::sh, ::sw]
    y = lax.dot(wide(x.reshape(-1, channels)), wide(kernel[0, 0]))
    return y.reshape(*x.shape[:3], features).astype(x.dtype)


def pointwise_conv(x: Array, kernel: Array, window: Window) -> Array:
    """`conv` for a kernel of one tap, where the patches are x itself: no copy, no loop.

    The kernel is repeated for groups of about `GROUP` positions. In the transpose each group gives
    its own product, and the sum of these is short.
    """
    (_, _, channels, features), (sh, sw) = kernel.shape, window.stride
    x = x[:, ::sh, ::sw]
    n, height, width, _ = x.shape
    groups = max(g for g in range(1, n * height + 1) if _fits(n * height, width, g))
    kernels = jnp.broadcast_to(kernel.reshape(1, channels, features), (groups, channels, features))
    y = lax.dot_general(
        wide(x.reshape(groups, -1, channels)), wide(kernels), (((2,), (1,)), ((0,), (0,)))
    )
    return y.reshape(n, height, width, features).astype(x.dtype)


def _fits(rows: int, width: int, groups: int) -> bool:
    return groups == 1 or (rows % groups == 0 and rows // groups * width >= GROUP)


def conv_transpose(x: Array, kernel: Array, window: Window) -> Array:
    """The transposed convolution, each pixel's kh kw O results added up; linear in the kernel.

    Its transpose is kernel' = sum over chunks of x^T [I, m] . patches(dy) [m, kh kw O]:
    2 N H W kh kw I O FLOPs and N H W kh kw O values written. A chunk is some images, or some rows
    of one, as in `conv`. (Sharing those patches with x's gradient saves nothing: XLA's
    convolution of dy is faster than their product.)
    """
    (kh, kw, channels, features), (n, height, width, _) = kernel.shape, x.shape
    images, rows = _chunk(n, height, width * kh * kw * features * x.dtype.itemsize, kernel)
    bands, zero = -(-height // rows), jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (0, bands * rows - height, 0), (0, 0, 0), (0, 0, 0)))
    # Taps first: the transpose is then a product that XLA needs no copy of the patches for.
    kernel = wide(kernel.transpose(0, 1, 3, 2).reshape(kh * kw * features, channels))

    @keep_arguments
    def one(whole, start):
        part = lax.dynamic_slice(x, _at(start, rows), (images, rows, width, channels))
        columns = lax.dot_general(wide(part), kernel, (((3,), (1,)), ((), ())))
        sums = _add_patches(columns.astype(x.dtype), (kh, kw), window.stride)
        return _add_at(whole, sums, _at(start, rows * window.stride[0])), None

    # Every tap of every pixel has its place in the sum; what is padding is cut off at the end.
    tall, across = (
        (count - 1) * stride + taps
        for count, stride, taps in zip((bands * rows, width), window.stride, (kh, kw), strict=True)
    )
    whole = jnp.zeros((n, tall, across, features), x.dtype)
    whole, _ = lax.scan(one, whole, _starts(n, images, bands))
    (top, bottom), (left, right) = window.padding
    below = bottom + (bands * rows - height) * window.stride[0]
    cut = ((-top, -below, 0), (-left, -right, 0))
    return lax.pad(whole, zero, ((0, 0, 0), *cut, (0, 0, 0)))


def _chunk(n: int, rows: int, row_bytes: int, kernel: Array) -> Pair:
    """(images, rows) that are taken at a time: whole images, or some rows of one image."""
    limit = min(max(kernel.nbytes, PATCH_BYTES), 4 * PATCH_BYTES)
    bands = math.ceil(rows * row_bytes / limit)
    if bands <= 1:
        return at_a_time(n, rows * row_bytes, limit), rows
    most = math.ceil(rows / min(bands, rows))
    even = at_a_time(rows, row_bytes, limit)  # bands of the same size, no padding
    return 1, even if 2 * even >= most else most


def at_a_time(n: int, each: int, limit: int) -> int:
    """How many of n, each of so many bytes, fit the limit: a divisor of n, so that none is over."""
    most = max(1, limit // max(1, each))
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)


def _starts(n: int, images: int, bands: int) -> Array:
    """The first image, and the band, of every time: int32 [times, 2]."""
    starts = [(image, band) for image in range(0, n, images) for band in range(bands)]
    return jnp.array(starts, jnp.int32)


def _at(start: Array, rows: int) -> list[Array]:
    """Where (image, band) begins in an array [N, H, W, C] whose bands have so many rows."""
    image, band = start
    nothing = jnp.zeros_like(band)
    return [image, band * rows, nothing, nothing]


def _patches(x: Array, taps: Pair, out: Pair, window: Window) -> Array:
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


def _add_at(whole: Array, sums: Array, start: Sequence[Array]) -> Array:
    """Add [n, H, W, C] to `whole` from there on; its transpose is one slice."""
    everything = lax.ScatterDimensionNumbers((0, 1, 2, 3), (), (0, 1, 2, 3))
    inside = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return lax.scatter_add(whole, jnp.stack(start), sums, everything, mode=inside)


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

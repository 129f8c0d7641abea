"""Dilated convolutions: without the taps that see only padding, or as several undilated ones.

All functions are linear in the image and in the kernel, and their transposes are as fast.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import jax.numpy as jnp
from jax import Array, lax

from fcn_jax.ops.im2col import Pair, Window, wide

Algorithm = Callable[[Array, Array, Window], Array]

ONE_TAP = Window((1, 1), ((0, 0), (0, 0)), (1, 1))
UNDILATED = Window((1, 1), ((1, 1), (1, 1)), (1, 1))


def overlap(size: Sequence[int], taps: Sequence[int], window: Window) -> float:
    """The fraction of the multiplications of `conv` whose pixel is inside the image."""
    fractions = []
    for axis in (0, 1):
        out = window.out_size(size[axis], taps[axis], axis)
        inside = sum(_seen(size[axis], tap, out, window, axis)[1] for tap in range(taps[axis]))
        fractions.append(inside / max(1, taps[axis] * out))
    return math.prod(fractions)


def by_taps(product: Algorithm, x: Array, kernel: Array, window: Window) -> Array:
    """The sum over the taps, each of the results whose pixel is inside the image.

    At a dilation of 24 a 3x3 kernel's outer taps see a seventh of the rows of a 28x28 image; at 28
    or more only the middle tap sees anything.

    Args:
        product: computes a kernel of one tap.
        x: [N, H, W, I].
        kernel: [kh, kw, I, O].
        window: any.
    """
    taps, (n, *size, _) = kernel.shape[:2], x.shape
    out = [window.out_size(size[axis], taps[axis], axis) for axis in (0, 1)]
    dtype, x, kernel = x.dtype, wide(x), wide(kernel)
    zero, sums = jnp.zeros((), x.dtype), []
    for a in range(taps[0]):
        top, height, first_row = _seen(size[0], a, out[0], window, 0)
        parts = []
        for b in range(taps[1]):
            left, width, first_column = _seen(size[1], b, out[1], window, 1)
            if not height or not width:
                continue
            (sh, sw), start = window.stride, (0, first_row, first_column, 0)
            end = (n, first_row + (height - 1) * sh + 1, first_column + (width - 1) * sw + 1)
            part = lax.slice(x, start, (*end, x.shape[3]), (1, sh, sw, 1))
            part = product(part, kernel[a : a + 1, b : b + 1], ONE_TAP)
            columns = (left, out[1] - left - width, 0)
            parts.append(lax.pad(part, zero, ((0, 0, 0), (0, 0, 0), columns, (0, 0, 0))))
        if parts:
            rows = (top, out[0] - top - height, 0)
            row = reduce(lax.add, parts)
            sums.append(lax.pad(row, zero, ((0, 0, 0), rows, (0, 0, 0), (0, 0, 0))))
    return reduce(lax.add, sums, jnp.zeros((n, *out, kernel.shape[3]), x.dtype)).astype(dtype)


def _seen(size: int, tap: int, out: int, window: Window, axis: int) -> tuple[int, int, int]:
    """Of a tap along an axis: its first result inside the image, how many, and the first pixel."""
    stride, offset = window.stride[axis], tap * window.dilation[axis] - window.padding[axis][0]
    first = max(0, math.ceil(-offset / stride))
    end = min(out, (size - 1 - offset) // stride + 1)
    return first, max(0, end - first), first * stride + offset


def has_phases(window: Window) -> bool:
    """Whether `by_phases` can compute it, for 3x3 taps: the size stays, and it is dilated."""
    (dh, dw), padding = window.dilation, window.padding
    same = padding == ((dh, dh), (dw, dw)) and window.stride == (1, 1)
    return same and window.dilation != (1, 1)


def phase_size(size: Sequence[int], window: Window) -> Pair:
    """Height and width of a phase."""
    return -(-size[0] // window.dilation[0]), -(-size[1] // window.dilation[1])


def by_phases(algorithm: Algorithm, x: Array, kernel: Array, window: Window) -> Array:
    """As d x d undilated convolutions: pixels whose distance is no multiple of d never meet.

    Every d-th row and column make an image of their own, a phase.

    Args:
        algorithm: computes an undilated convolution.
        x: [N, H, W, I].
        kernel: [3, 3, I, O].
        window: one that `has_phases`.
    """
    (dh, dw), (n, height, width, _) = window.dilation, x.shape
    rows, columns = phase_size((height, width), window)
    edges = ((0, 0, 0), (0, rows * dh - height, 0), (0, columns * dw - width, 0), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    x = x.reshape(n, rows, dh, columns, dw, -1).transpose(0, 2, 4, 1, 3, 5)
    y = algorithm(x.reshape(n * dh * dw, rows, columns, -1), kernel, UNDILATED)
    y = y.reshape(n, dh, dw, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(n, rows * dh, columns * dw, -1)[:, :height, :width]

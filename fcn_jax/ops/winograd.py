"""3x3 convolutions at stride 1 with 4/9 of the multiplications.

Winograd's F(2x2, 3x3) (Lavin and Gray 2016, arXiv:1509.09308). A tile Y of 2x2 results depends on
the 4x4 inputs d around it; tile and kernel g are transformed to 4x4 numbers each, whose products
(*), summed over the channels, transform back:

    Y = A^T [(G g G^T) * (B^T d B)] A

In exact arithmetic this is the same sum, and as the factors are 1, -1 and 1/2 only, rounding errors
stay of the size of the direct sum's. Over all tiles it is 16 matrix products [M / 4, I] . [I, O],
8 M I O FLOPs at M results instead of 18 M I O, and about 30 M (I + O) for the transforms.

Both functions are linear in the image and in the kernel, and written so that reverse mode, which
transposes them, meets fast algorithms too: `conv` in the kernel, `conv_scattered` in the image.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fcn_jax.ops.im2col import Pair, Window, at_a_time, keep_arguments, wide

Tiles = Sequence[Sequence[Array]]
"""[i][j]: of every tile the number at (i, j), [n, rows of tiles, columns of tiles, C]."""

A = np.array([[1, 0], [1, 1], [1, -1], [0, 1]])
B = np.array([[1, 0, 0, 0], [0, 1, -1, -1], [-1, 1, 1, 0], [0, 0, 0, 1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

CHUNK_BYTES = 16 * 2**20
"""Transformed tiles, before and after the products, of the images that are taken at a time: few, so
that they stay in the cache. (A batch at once took a tenth longer, and a third more memory.)"""


def conv(x: Array, kernel: Array, window: Window) -> Array:
    """Cross-correlation: [N, H, W, I], [3, 3, I, O] -> [N, H + top + bottom - 2, W + ..., O].

    Its transpose in the kernel sums 16 products [I, M / 4] . [M / 4, O].

    Args:
        x: any floating type; sums are float32 at least.
        kernel: of x's type.
        window: of stride and dilation 1.
    """
    size = window.out_size(x.shape[1], 3, 0), window.out_size(x.shape[2], 3, 1)
    kernels = _transformed(G, _taps(kernel))
    edges = [(low, _even(s) + 2 - low - n) for s, n, (low, _) in _axes(size, x, window)]

    def some(images: Array) -> Array:
        images = _padded(wide(images), edges)
        tiles = [[_every_other(images, i, j) for j in range(4)] for i in range(4)]
        y = _interleaved(_transformed(A.T, _products(_transformed(B.T, tiles), kernels)))
        return y[:, : size[0], : size[1]].astype(x.dtype)

    return _by_images(some, x, kernel)


def conv_scattered(x: Array, kernel: Array, window: Window) -> Array:
    """The same: what each 2x2 inputs add to the 4x4 results around them, summed.

    It is the transpose of `conv` with the kernel turned by 180 degrees. Its own in x is thus that
    `conv`, applied to dy.
    """
    size = window.out_size(x.shape[1], 3, 0), window.out_size(x.shape[2], 3, 1)
    # The same numbers as from G, but made in another way: XLA would else keep half of the tiles of
    # the kernel from the result to the gradient (U-Net: 100 MiB), as turned they are the same.
    kernels = _transformed(2 * G, _taps(lax.rev(kernel, (0, 1)) / 4))
    edges = [(0, _even(n) - n) for n in x.shape[1:3]]
    cut = [(low - 2, s - low - _even(n)) for s, n, (low, _) in _axes(size, x, window)]

    def some(images: Array) -> Array:
        tiles = _split(_padded(wide(images), edges))
        tiles = _transformed(B, _products(_transformed(A, tiles), kernels))
        spread = [_at_every_other(tiles[i][j], i, j) for i in range(4) for j in range(4)]
        return _padded(reduce(lax.add, spread), cut).astype(x.dtype)

    return _by_images(some, x, kernel)


def _axes(size: Pair, x: Array, window: Window):
    """(results, inputs, padding) of the rows, and of the columns."""
    return zip(size, x.shape[1:3], window.padding, strict=True)


def _even(n: int) -> int:
    return n + n % 2


def _padded(x: Array, edges: Sequence[Pair]) -> Array:
    """Zeros (or, where negative, cuts) around the rows and the columns."""
    whole = (0, 0, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), (whole, *((*edge, 0) for edge in edges), whole))


def _by_images(function: Callable[[Array], Array], x: Array, kernel: Array) -> Array:
    """function(x), some images at a time; reverse mode keeps x, and makes the tiles again."""
    n, height, width, _ = x.shape
    image_bytes = 4 * height * width * sum(kernel.shape[2:]) * x.dtype.itemsize
    images = at_a_time(n, image_bytes, CHUNK_BYTES)
    if images == n:
        return function(x)
    again = keep_arguments(function)
    if images == 1:  # an axis of one more would have XLA copy what goes in and what comes out
        return lax.map(lambda image: again(image[None])[0], x)
    y = lax.map(again, x.reshape(n // images, images, *x.shape[1:]))
    return y.reshape(n, *y.shape[2:])


def _taps(kernel: Array) -> Tiles:
    kernel = wide(kernel)
    return [[kernel[i, j] for j in range(3)] for i in range(3)]


def _products(tiles: Tiles, kernels: Tiles) -> Tiles:
    """At each position of every tile, the sum over the channels."""

    def product(tile: Array, kernel: Array) -> Array:
        # As a matrix: a product of more dimensions is transposed at half the speed.
        return lax.dot(tile.reshape(-1, tile.shape[3]), kernel).reshape(*tile.shape[:3], -1)

    return [list(map(product, *rows)) for rows in zip(tiles, kernels, strict=True)]


def _transformed(matrix: np.ndarray, tiles: Tiles) -> Tiles:
    """matrix . tiles . matrix^T."""
    half = [[_combined(row, column) for column in zip(*tiles, strict=True)] for row in matrix]
    return [[_combined(row, line) for row in matrix] for line in half]


def _combined(factors: np.ndarray, arrays: Sequence[Array]) -> Array:
    """The sum of factor times array; the factors of a row differ in their signs only."""
    signed = list(zip(factors.tolist(), arrays, strict=True))
    total = reduce(lax.add, [a for f, a in signed if f > 0])  # in all matrices each row has one
    total = reduce(lax.sub, [a for f, a in signed if f < 0], total)
    scale = max(factors.tolist())
    return total if scale == 1 else lax.mul(total, lax.full_like(total, scale))


def _every_other(x: Array, top: int, left: int) -> Array:
    """Of the 4x4 tiles of x, which overlap by two, the number at (top, left)."""
    n, height, width, channels = x.shape
    end = (n, height - 3 + top, width - 3 + left, channels)
    return lax.slice(x, (0, top, left, 0), end, (1, 2, 2, 1))


def _at_every_other(values: Array, top: int, left: int) -> Array:
    """The transpose of `_every_other`."""
    edges = ((0, 0, 0), (top, 3 - top, 1), (left, 3 - left, 1), (0, 0, 0))
    return lax.pad(values, jnp.zeros((), values.dtype), edges)


def _interleaved(tiles: Tiles) -> Array:
    """2x2 tiles side by side: [n, 2 rows, 2 columns, C]."""
    n, height, width, channels = tiles[0][0].shape
    rows = [lax.concatenate(row, 3).reshape(n, height, 1, 2 * width, channels) for row in tiles]
    return lax.concatenate(rows, 2).reshape(n, 2 * height, 2 * width, channels)


def _split(x: Array) -> Tiles:
    """The inverse of `_interleaved`, and its transpose."""
    n, height, width, c = x.shape
    rows = lax.split(x.reshape(n, height // 2, 2, width, c), (1, 1), 2)
    return [lax.split(row.reshape(n, height // 2, width // 2, 2 * c), (c, c), 3) for row in rows]

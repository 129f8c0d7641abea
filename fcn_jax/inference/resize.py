"""Logits at an image's own size, on the host: each image has a size of its own, and a program
would be compiled for every one.

Bilinear with half-pixel centres, antialiased where it shrinks, as PIL and PyTorch do it. Along an
axis that is one product with a matrix that is zero but for a band; it is taken in blocks of rows of
that matrix, each times the few pixels it needs. (224x224 -> 375x500, 21 classes: 5 ms; PIL, a plane
at a time, 37.)
"""

from collections.abc import Iterator

import numpy as np

BAND_BYTES = 2**28
"""Logits held at a time; a band of rows of the image, more only where one row of tiles needs it."""

BLOCK = 32
"""Results of an axis computed by one product."""


def resized_bands(logits: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """float32 [h, w, K] -> [H, W, K], from the top, a band of rows at a time.

    The bands hold `BAND_BYTES` at most (one row at least); beside them [h, W, K] is held.
    """
    (height, width), (h, w, k) = size, logits.shape
    across = np.empty((h, width, k), np.float32)
    for results, pixels, weights in _blocks(w, width):
        across[:, results] = weights @ logits[:, pixels]
    across = across.reshape(h, width * k)
    rows = max(1, BAND_BYTES // (4 * width * k))
    for top in range(0, height, rows):
        band = np.empty((min(rows, height - top), width * k), np.float32)
        for results, pixels, weights in _blocks(h, height, top, top + len(band)):
            np.matmul(weights, across[pixels], out=band[results])
        yield band.reshape(-1, width, k)


def _blocks(
    n: int, out: int, first: int = 0, last: int | None = None
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """The map of n pixels to `out`, for the results [first, last), in blocks.

    Yields (results, counted from `first`; the pixels they need; float32 weights of these).
    """
    reach = max(n / out, 1.0)  # of the triangle, in pixels
    last = out if last is None else last
    for start in range(first, last, BLOCK):
        centres = (np.arange(start, min(start + BLOCK, last)) + 0.5) * n / out
        low = max(0, int(np.floor(centres[0] - reach - 0.5)))
        high = min(n, int(np.ceil(centres[-1] + reach + 0.5)))
        distance = np.abs(np.arange(low, high) + 0.5 - centres[:, None])
        weights = np.maximum(0.0, 1.0 - distance / reach)
        weights /= weights.sum(1, keepdims=True)
        results = slice(start - first, start - first + len(centres))
        yield results, slice(low, high), weights.astype(np.float32)

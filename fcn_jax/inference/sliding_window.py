"""Sliding windows: an image of any size through a network in windows of a few sizes.

Each axis is padded at its end, by mirroring, to a multiple of 32 (every network's total stride, so
that all windows lie on the same grid of strides). An axis of up to `tile` pixels is padded on to
the next of the `SIDES`, so that few shapes exist and few programs are compiled; a longer one is cut
into overlapping windows of `tile` pixels. Where windows overlap, their logits are averaged with
weights that rise linearly from a window's edge. Rows are yielded as soon as no later window
reaches them, so that memory grows with the width of an image, not with its area.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fcn_jax.types import InputError

GRID = 32
SIDES = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""Multiples of `GRID`, about sqrt(2) apart: padding adds 41 % to a side at worst."""

TILE = 768
OVERLAP = 128

Forward = Callable[[np.ndarray], np.ndarray]
"""uint8 [1, h, w, 3] -> float [1, h, w, K]."""


class Axis(NamedTuple):
    """How one axis of an image is covered."""

    length: int
    padded: int
    window: int
    starts: tuple[int, ...]
    """Where windows begin: multiples of `GRID`, the first 0, the last padded - window."""
    weights: np.ndarray
    """float32 [len(starts), window]; at every pixel the weights of its windows sum to 1."""


def axis(length: int, tile: int = TILE, overlap: int = OVERLAP) -> Axis:
    """Cover `length` pixels.

    Args:
      length: of the image along the axis.
      tile: longest window, one of `SIDES`.
      overlap: least number of pixels that neighbouring windows share, below `tile`.
    """
    if tile not in SIDES or not 0 <= overlap <= tile - GRID:
        raise InputError(
            f"tile {tile} with overlap {overlap}: a tile is one of {', '.join(map(str, SIDES))}, "
            f"and an overlap lies between 0 and {GRID} less than it"
        )
    if length <= tile:
        window = next(side for side in SIDES if side >= length)
        return Axis(length, window, window, (0,), np.ones((1, window), np.float32))
    padded = -(-length // GRID) * GRID
    last = (padded - tile) // GRID
    count = -(-last * GRID // ((tile - overlap) // GRID * GRID))
    starts = tuple(GRID * (last * i // count) for i in range(count + 1))
    return Axis(length, padded, tile, starts, _weights(padded, tile, starts))


def _weights(padded: int, window: int, starts: tuple[int, ...]) -> np.ndarray:
    """A tent on each window, flat where nothing overlaps, divided by the sum of all tents."""
    rise = np.arange(1, window + 1, dtype=np.float64)
    tent = np.minimum(rise, rise[::-1])
    total = np.zeros(padded)
    for start in starts:
        total[start : start + window] += tent
    return np.stack([tent / total[s : s + window] for s in starts]).astype(np.float32)


def bands(
    forward: Forward, image: np.ndarray, tile: int = TILE, overlap: int = OVERLAP
) -> Iterator[np.ndarray]:
    """Logits of an image at its own size, from the top, a band of rows at a time.

    Args:
      forward: the network, on windows.
      image: uint8 [H, W, 3], both sides at least 1.
      tile: longest side of a window.
      overlap: of neighbouring windows.

    Yields float32 [rows, W, K]; the rows add up to H.
    """
    rows, columns = (axis(n, tile, overlap) for n in image.shape[:2])
    held, done = None, 0
    for i, top in enumerate(rows.starts):
        strip = _strip(forward, image, rows, columns, top)
        strip *= rows.weights[i][:, None, None]
        if held is not None:  # what the windows above have left for the rows they share
            strip[: len(held)] += held
        following = rows.starts[i + 1] if i + 1 < len(rows.starts) else rows.length
        ready = min(following, rows.length) - done
        held = strip[ready:].copy()
        yield strip[:ready]
        done += ready


def _strip(forward: Forward, image: np.ndarray, rows: Axis, columns: Axis, top: int) -> np.ndarray:
    """Logits of one row of windows, blended from left to right: float32 [window, W, K]."""
    strip = None
    for left, weight in zip(columns.starts, columns.weights, strict=True):
        part = image[top : top + rows.window, left : left + columns.window]
        below, right = rows.window - part.shape[0], columns.window - part.shape[1]
        if below or right:
            part = np.pad(part, ((0, below), (0, right), (0, 0)), "symmetric")
        logits = np.asarray(forward(part[None])[0], np.float32)
        width = min(columns.window, columns.length - left)
        if strip is None:
            strip = np.zeros((rows.window, columns.length, logits.shape[-1]), np.float32)
        strip[:, left : left + width] += logits[:, :width] * weight[None, :width, None]
    assert strip is not None
    return strip

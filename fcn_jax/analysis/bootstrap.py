"""A paired bootstrap over the images of a split: is network A better than network B?"""

from typing import NamedTuple

import numpy as np

from fcn_jax.types import InputError


class Difference(NamedTuple):
    """How much higher A's mIoU is than B's, and how sure that is."""

    difference: float
    """mIoU of A minus mIoU of B, over the whole split."""
    low: float
    """The 2.5th percentile of the difference over the resampled splits."""
    high: float
    """The 97.5th percentile."""
    p: float
    """Two-sided: how often a resampled difference falls on the other side of zero, twice."""


def _parts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [N, K+1, K] -> (intersection, union), both float64 [N, K]; void's row left out."""
    square = counts[:, :-1].astype(np.float64)
    inside = np.diagonal(square, axis1=1, axis2=2)
    return inside, square.sum(axis=1) + square.sum(axis=2) - inside


def _miou(inside: np.ndarray, union: np.ndarray) -> np.ndarray:
    """[..., K] -> [...]: the mean over the classes in truth or prediction; 0 if there is none."""
    present = union > 0
    iou = np.divide(inside, union, out=np.zeros_like(inside), where=present)
    return iou.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def _check(a: np.ndarray, b: np.ndarray, samples: int) -> None:
    if a.shape != b.shape or a.ndim != 3 or a.shape[1] != a.shape[2] + 1 or not len(a):
        raise InputError(
            f"counts of shapes {a.shape} and {b.shape}: give two of one shape [N, K+1, K], N > 0, "
            "from evaluations of the same split"
        )
    differ = np.flatnonzero(_other_truth(a.sum(axis=2), b.sum(axis=2)))
    if differ.size:
        raise InputError(
            f"the true masks behind the two counts differ, first in row {differ[0]}: evaluate both "
            "networks on the same split"
        )
    if samples < 1:
        raise InputError(f"samples is {samples}: resample at least once, 10000 is usual")


def _other_truth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels of each class [N, K+1], twice -> bool [N]: whether they are of different masks."""
    pixels_a, pixels_b = a.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)
    if np.array_equal(pixels_a, pixels_b):
        return (a != b).any(axis=1)
    # Resized to different sizes, a mask has nearly the same fractions of the classes.
    fractions = a / np.maximum(pixels_a, 1), b / np.maximum(pixels_b, 1)
    return (np.abs(fractions[0] - fractions[1]) > 0.1).any(axis=1)


def paired_bootstrap(
    counts_a: np.ndarray, counts_b: np.ndarray, samples: int = 10_000, seed: int = 0
) -> Difference:
    """Compare two networks on the same images by the difference of their mIoU.

    Counts are integers [N, K+1, K]: for every image pixels by truth (the last row is void, which
    is not counted) and prediction, rows in the same order. Each sample draws N images with
    replacement, the SAME ones for both networks, sums their counts and takes both mIoUs. So what is
    hard about an image cancels out (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
    The two may have been evaluated at different sizes; each mIoU is then that at its own size.

    p = min(1, 2 * (1 + min(#{d <= 0}, #{d >= 0})) / (1 + samples)). It speaks of the choice of the
    images only, not of the training seed. Raises InputError if the counts do not belong together.
    """
    a, b = np.asarray(counts_a), np.asarray(counts_b)
    _check(a, b, samples)
    parts_a, parts_b = _parts(a), _parts(b)

    def difference(weights: np.ndarray) -> np.ndarray:
        return _miou(*(weights @ part for part in parts_a)) - _miou(
            *(weights @ part for part in parts_b)
        )

    images = len(a)
    generator = np.random.default_rng(seed)
    fractions = np.full(images, 1 / images)
    drawn = np.concatenate(
        [  # in blocks: all the weights of a large split at once would not fit
            difference(generator.multinomial(images, fractions, size=min(1000, samples - start)))
            for start in range(0, samples, 1000)
        ]
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + samples))
    whole = float(difference(np.ones(images)))
    return Difference(whole, float(low), float(high), p)

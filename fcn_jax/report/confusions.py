"""What a confusion matrix says: fractions of each class, and the largest confusions."""

from collections.abc import Sequence

import numpy as np


def row_normalised(matrix: np.ndarray) -> np.ndarray:
    """Counts [K or K+1, K] -> fractions [K, K]; NaN for an empty row, void left out."""
    square = np.asarray(matrix, np.float64)[: matrix.shape[1]]
    total = square.sum(axis=1, keepdims=True)
    return np.divide(square, total, out=np.full_like(square, np.nan), where=total > 0)


def largest(
    matrix: np.ndarray, class_names: Sequence[str], most: int = 8
) -> list[tuple[str, str, float]]:
    """The largest off-diagonal entries: (truth, predicted as, fraction of the truth's pixels)."""
    fractions = np.nan_to_num(row_normalised(matrix))
    np.fill_diagonal(fractions, 0)
    order = np.argsort(-fractions, axis=None, kind="stable")[:most]
    pairs = [(*divmod(int(i), len(fractions)), float(fractions.flat[i])) for i in order]
    return [(class_names[t], class_names[p], value) for t, p, value in pairs if value]

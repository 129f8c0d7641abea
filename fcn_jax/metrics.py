"""Metrics: confusion counts on the device, and every score from them on the host.

The raw result of an evaluation is `counts`, int64 [N, K+1, K]: for each of N images, how many
pixels of true class r (row K: void) were predicted as class c. The standard metrics, the paper's
variants and the rows of a trivial and of a perfect predictor are all sums of it.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.types import VOID, InputError


def confusion_counts(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Count (truth, prediction) pairs of each image on the device.

    Args:
      labels: [N, H, W] integers, 0..K-1 or `VOID`.
      predictions: [N, H, W] integers, 0..K-1.
      num_classes: K.

    Returns:
      int32 [N, K+1, K]; the last row counts the predictions on void pixels. Exact for images
      below 2^24 pixels, the largest count a float32 accumulator holds.
    """
    pixels = labels[0].size
    if pixels >= 2**24:
        raise ValueError(f"{pixels} pixels an image: float32 counts are exact below 2^24")
    one_by_one = partial(counted_one_by_one, num_classes=num_classes)
    product = partial(counted_by_a_product, num_classes=num_classes)
    return jax.lax.platform_dependent(labels, predictions, cpu=one_by_one, default=product)


def counted_one_by_one(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """`confusion_counts` as a CPU is fast at it: 8 times 224x224, 21 classes 0.8 ms, not 18."""
    n, (rows, columns) = len(labels), (num_classes + 1, num_classes)
    label, column = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    row = jnp.where(label == VOID, num_classes, jnp.where(label < num_classes, label, -1))
    image = jnp.arange(n, dtype=jnp.int32)[:, None, None]
    known = (row >= 0) & (column >= 0) & (column < columns)  # what is no class counts nothing
    cells = jnp.where(known, (image * rows + row) * columns + column, n * rows * columns)
    counts = jnp.zeros(n * rows * columns, jnp.int32).at[cells.ravel()].add(1, mode="drop")
    return counts.reshape(n, rows, columns)


def counted_by_a_product(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """`confusion_counts` as one product of two one-hots, where a scatter-add is slow."""
    n = len(labels)
    rows = jnp.append(jnp.arange(num_classes, dtype=jnp.int32), VOID)
    columns = jnp.arange(num_classes, dtype=jnp.int32)
    truth = labels.reshape(n, 1, -1).astype(jnp.int32) == rows[None, :, None]
    predicted = predictions.reshape(n, -1, 1).astype(jnp.int32) == columns[None, None, :]
    counts = jnp.einsum(
        "nrp,npc->nrc",
        truth.astype(jnp.bfloat16),  # 0 and 1 are exact
        predicted.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    return counts.astype(jnp.int32)


def image_counts(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """`confusion_counts` of one image on the host: int64 [K+1, K], for an image of any size.

    Raises:
      InputError: if shapes differ, values are no integers, or one is neither a class nor (in
        labels) void.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and values.dtype.kind not in "iub":
            raise InputError(f"{name} are {values.dtype}: give integers")
    if labels.shape != predictions.shape:
        raise InputError(f"labels are {labels.shape}, predictions {predictions.shape}")
    for name, values in (("labels", labels[labels != VOID]), ("predictions", predictions)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            bad = values[(values < 0) | (values >= num_classes)][0]
            raise InputError(f"{name} hold {bad}, which is none of the {num_classes} classes")
    row = np.where(labels == VOID, num_classes, labels).astype(np.int64)
    column = predictions.astype(np.int64)
    flat = np.bincount(
        (row * num_classes + column).ravel(), minlength=(num_classes + 1) * num_classes
    )
    return flat.reshape(num_classes + 1, num_classes)


def confusion_matrix(labels, predictions, num_classes: int) -> np.ndarray:
    """Confusion matrix, int64 [K, K]: rows are the truth, columns the prediction, void left out.

    Args:
      labels: integers of any shape, 0..K-1 or `VOID`.
      predictions: integers of the same shape, 0..K-1.
      num_classes: K.

    Raises:
      InputError: if shapes differ, or a value is neither a class nor (in labels) void.

    Examples:
      >>> confusion_matrix([0, 0, 1, 255], [0, 1, 1, 0], num_classes=2)
      array([[1, 1],
             [0, 1]])
    """
    return image_counts(labels, predictions, num_classes)[:num_classes]


def summarize(matrix: np.ndarray) -> dict:
    """Every standard metric of one confusion matrix.

    IoU of a class is TP / (TP + FP + FN) (paper, equation 5), NaN where the class is in neither the
    truth nor the prediction; `miou` is the mean over the others. `mean_class_accuracy` is the mean
    recall over the classes in the truth; `frequency_weighted_iou` weights each class's IoU by its
    pixels in the truth.

    Args:
      matrix: [K, K] integer counts, rows = truth.

    Returns:
      {"miou", "iou": float64 [K], "pixel_accuracy", "mean_class_accuracy",
      "frequency_weighted_iou"}; NaN where there is nothing to divide by.

    Examples:
      >>> scores = summarize([[3, 1], [0, 4]])
      >>> scores["iou"].tolist(), scores["miou"], scores["pixel_accuracy"]
      ([0.75, 0.8], 0.775, 0.875)
    """
    matrix = np.asarray(matrix).astype(np.int64)
    hit = np.diag(matrix)
    truth, predicted = matrix.sum(1), matrix.sum(0)
    union = truth + predicted - hit
    iou = np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)
    recall = np.divide(hit, truth, out=np.full(len(hit), np.nan), where=truth > 0)
    total = int(matrix.sum())
    return {
        "miou": _mean(iou),
        "iou": iou,
        "pixel_accuracy": int(hit.sum()) / total if total else float("nan"),
        "mean_class_accuracy": _mean(recall),
        "frequency_weighted_iou": (
            float(np.nansum(truth * np.nan_to_num(iou)) / total) if total else float("nan")
        ),
    }


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def fold_void(counts: np.ndarray, background: int = 0) -> np.ndarray:
    """The paper's reading of void: its pixels are background. [..., K+1, K] -> [..., K, K]."""
    counts = np.asarray(counts).astype(np.int64)
    folded = counts[..., :-1, :].copy()
    folded[..., background, :] += counts[..., -1, :]
    return folded


def paper_iou_of_counts(counts: np.ndarray, group: int = 1, background: int = 0) -> float:
    """The paper's IoU: per group of images and class, intersection / max(union, 1).

    A class absent from a group counts 0, void is background; mean over the groups, then over the
    classes. So even a perfect prediction stays far below 1 (paper-variant ceilings are reported
    beside every result).

    Args:
      counts: [N, K+1, K], in the order of the split's ids.
      group: images that are counted together; 1 is per image, 16 the paper's batches.
      background: the class that void counts as.
    """
    folded = fold_void(counts, background)
    starts = np.arange(0, len(folded), group)
    grouped = np.add.reduceat(folded, starts, axis=0)
    hit = np.diagonal(grouped, axis1=1, axis2=2)
    union = grouped.sum(1) + grouped.sum(2) - hit
    return float((hit / np.maximum(union, 1)).mean(0).mean())


def paper_iou(labels, predictions, num_classes: int) -> float:
    """`paper_iou_of_counts` of masks: labels, predictions [N, H, W], or lists of [H, W].

    Examples:
      >>> truth = [np.array([[0, 1]])]
      >>> paper_iou(truth, truth, num_classes=4)  # perfect, but two classes are absent
      0.5
    """
    pairs = zip(labels, predictions, strict=True)
    return paper_iou_of_counts(np.stack([image_counts(y, p, num_classes) for y, p in pairs]))


def constant(counts: np.ndarray, label: int = 0) -> np.ndarray:
    """The counts [..., K+1, K] of a predictor of class `label` everywhere, on the same images."""
    trivial = np.zeros_like(counts)
    trivial[..., label] = counts.sum(-1)
    return trivial


def perfect(counts: np.ndarray, background: int = 0) -> np.ndarray:
    """The counts [..., K+1, K] of a predictor that is always right, on the same images.

    On void it predicts `background`, as the paper reads void.
    """
    ideal = np.zeros_like(counts)
    truth = counts.sum(-1)
    k = np.arange(counts.shape[-1])
    ideal[..., k, k] = truth[..., :-1]
    ideal[..., -1, background] = truth[..., -1]
    return ideal


def summary(
    counts: np.ndarray,
    class_names: Sequence[str],
    loss: float | None = None,
    background: int | None = 0,
) -> dict:
    """All metrics of an evaluation as plain JSON values; what result.json holds.

    Args:
      counts: [N, K+1, K] of all images of the split.
      class_names: K names.
      loss: mean loss on the split, if there is one.
      background: the class that the paper's scores count void as; None leaves them out.

    Returns:
      `summarize`'s values (None for NaN, IoU as {class: value}), with `paper_iou`,
      `paper_iou_batch16`, `paper_pixel_accuracy`, `loss`, and `pixels`, the labelled ones.
    """
    counts = np.asarray(counts).astype(np.int64)
    matrix = counts[:, :-1].sum(0)
    standard = summarize(matrix)
    values = {
        **{k: v for k, v in standard.items() if k != "iou"},
        **({} if background is None else _paper_scores(counts, background)),
        "loss": loss,
        "pixels": int(matrix.sum()),
    }
    iou = zip(class_names, standard["iou"], strict=True)
    return {**{k: _plain(v) for k, v in values.items()}, "iou": {c: _plain(v) for c, v in iou}}


def _paper_scores(counts: np.ndarray, background: int) -> dict[str, float]:
    folded = fold_void(counts, background).sum(0)
    return {
        "paper_iou": paper_iou_of_counts(counts, 1, background),
        "paper_iou_batch16": paper_iou_of_counts(counts, 16, background),
        "paper_pixel_accuracy": summarize(folded)["pixel_accuracy"],
    }


def _plain(value):
    return (
        None
        if value is None or value != value
        else value
        if isinstance(value, int)
        else float(value)
    )

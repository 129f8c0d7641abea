"""The training losses, void masked, and the class weights that go with them.

A loss of single pixels is returned as (sum, weight), never as a mean: sums add up over images,
devices and batches, and the ratio is taken once (`ratio`). Losses of a batch as a whole (Dice,
Tversky, Lovasz) are scalars; they take a function that brings the devices' parts together.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.types import AnyArray, InputError, WeightScheme

WEIGHT_SCHEMES: tuple[str, ...] = get_args(WeightScheme)

Across = Callable[[Any], Any]
"""A tree of one device's sums -> those of all devices."""

Gather = Callable[[Any], Any]
"""A tree of one device's arrays -> those of all devices, one after another along axis 0."""


def one_hot(labels: AnyArray, num_classes: int) -> jax.Array:
    """Boolean [..., K]; all False where the label is no class, so void masks itself."""
    classes = jnp.arange(num_classes, dtype=jnp.int32)
    classes = classes.reshape((1,) * labels.ndim + (-1,))
    return jnp.equal(labels[..., None].astype(jnp.int32), classes)


def softmax_cross_entropy(
    logits: AnyArray,
    labels: AnyArray,
    weights: AnyArray | None = None,
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    axis: tuple[int, ...] | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Cross-entropy of every labelled pixel, summed, and the weight it is to be divided by.

    With w the class weights, y the label, p the softmax and s the label smoothing::

        sum    = \sum_pixels -[(1 - s) w_y log p_y + s/K \sum_c w_c log p_c]
        weight = \sum_pixels w_y

    so that sum / weight is PyTorch's weighted `CrossEntropyLoss(ignore_index=255)`. The gradient
    compares labels with the class numbers instead of indexing by them: it then has no scatter,
    which CPUs and TPUs are slow at.

    Args:
      logits: [..., K], any float dtype; computed in float32.
      labels: [...], integers; whatever is outside 0..K-1 (void, 255) counts nothing.
      weights: [K] float32, or None for ones.
      label_smoothing: fraction of the target that is spread over all classes, 0..1.
      focal_gamma: exponent of the focal factor (1 - p_y)^gamma on the label's term
        (Lin et al. 2017); 0 switches it off.
      axis: the label axes to sum over; None for all of them.

    Returns:
      (sum, weight), float32 scalars, or arrays over the axes that were kept.

    Raises:
      InputError: if the shapes do not fit each other.

    Examples:
      >>> logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]]))  # softmax (1/4, 3/4), (1/2, 1/2)
      >>> total, weight = softmax_cross_entropy(logits, jnp.array([1, 255]))  # the second is void
      >>> float(total), float(weight)  # doctest: +ELLIPSIS
      (0.2876..., 1.0)
    """
    num_classes = logits.shape[-1]
    _check_shapes(logits, labels, weights)
    z = logits.astype(jnp.float32)
    if weights is None:
        weight = _is_class(labels, num_classes).astype(jnp.float32)
        weights = jnp.ones((num_classes,), jnp.float32)
    else:
        weight = pixel_weights(labels, weights)
    nll = _negative_log_likelihood(z, labels)
    loss = weight * nll
    if focal_gamma:
        loss = loss * jnp.clip(1.0 - jnp.exp(-nll), 1e-6, 1.0) ** focal_gamma
    if label_smoothing:
        w = weights.reshape((1,) * labels.ndim + (-1,))
        spread = -(w * jax.nn.log_softmax(z)).sum(-1) / num_classes
        spread = jnp.where(_is_class(labels, num_classes), spread, 0.0)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * spread
    return loss.sum(axis), weight.sum(axis)


def _check_shapes(logits: AnyArray, labels: AnyArray, weights: AnyArray | None = None) -> None:
    """Refuse what would be broadcast, and give another value than was meant."""
    if jnp.shape(labels) != jnp.shape(logits)[:-1]:
        raise InputError(
            f"labels are {list(jnp.shape(labels))}, logits {list(jnp.shape(logits))}: give a label "
            "for each pixel of the logits"
        )
    if weights is not None and jnp.shape(weights) != jnp.shape(logits)[-1:]:
        raise InputError(
            f"class weights are {list(jnp.shape(weights))}, logits {list(jnp.shape(logits))}: give "
            "a weight for each class"
        )


def _is_class(labels: AnyArray, num_classes: int) -> AnyArray:
    return (labels >= 0) & (labels < num_classes)


def pixel_weights(labels: AnyArray, weights: AnyArray) -> jax.Array:
    """float32 [...]: the weight of each label's class, 0 where it is none.

    A comparison for each class makes one loop over the pixels, without the K-fold array between.
    """
    parts = [jnp.where(labels == c, weights[c], 0.0) for c in range(len(weights))]
    return sum(parts[1:], parts[0])


@jax.custom_jvp
def _negative_log_likelihood(z: jax.Array, labels: AnyArray) -> jax.Array:
    """log sum exp(z) - z_y, float32 [...]; the first part alone where the label is no class.

    The derivative is written out, (softmax(z) - one_hot(y)) . dz: the derived one goes over arrays
    of z's size several times more often.
    """
    return _likelihood(z, labels)[0]


def _likelihood(z: jax.Array, labels: AnyArray) -> tuple[jax.Array, jax.Array]:
    """(log sum exp(z) - z_y, log sum exp(z))."""
    largest = z.max(-1)
    log_sum = largest + jnp.log(jnp.exp(z - largest[..., None]).sum(-1))
    return log_sum - _at_label(z, labels), log_sum


def _at_label(z: jax.Array, labels: AnyArray) -> jax.Array:
    """z_y, float32 [...]; 0 where the label is no class.

    A CPU reads the one value (8x224x224x21: the whole loss 5.5 ms instead of 18); elsewhere all are
    compared, which is one pass over z that the sums before it make anyway.
    """
    return jax.lax.platform_dependent(z, labels, cpu=read_at_label, default=compared_at_label)


def read_at_label(z: jax.Array, labels: AnyArray) -> jax.Array:
    """`_at_label` by indexing."""
    num_classes = z.shape[-1]
    index = jnp.clip(labels.astype(jnp.int32), 0, num_classes - 1)[..., None]
    value = jnp.take_along_axis(z, index, -1, mode="promise_in_bounds")[..., 0]
    return jnp.where(_is_class(labels, num_classes), value, 0.0)


def compared_at_label(z: jax.Array, labels: AnyArray) -> jax.Array:
    """`_at_label` by comparing with every class."""
    return jnp.where(one_hot(labels, z.shape[-1]), z, 0.0).sum(-1)


@_negative_log_likelihood.defjvp
def _negative_log_likelihood_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (z, labels), (dz, _) = primals, tangents
    y, log_sum = _likelihood(z, labels)

    @partial(jax.checkpoint, prevent_cse=False)  # keep z, not the softmax
    def derivative(z, log_sum, dz):
        return ((jnp.exp(z - log_sum[..., None]) - one_hot(labels, z.shape[-1])) * dz).sum(-1)

    return y, derivative(z, log_sum, dz)


def soft_dice(logits: AnyArray, labels: AnyArray, across: Across = lambda x: x) -> jax.Array:
    """Soft Dice loss: 1 - 2 |p y| / (|p| + |y|) per class, averaged over the classes present.

    Taken over the whole batch, void left out (Milletari et al. 2016, with the batch as one image).

    Args:
      logits: [..., K], any float dtype; computed in float32.
      labels: [...], integers; whatever is outside 0..K-1 counts nothing.
      across: adds up what the devices hold of the batch.

    Returns:
      float32 scalar in [0, 1]; 0 for a batch without a labelled pixel.
    """
    overlap, predicted, truth = _soft_counts(logits, labels, across)
    dice = 1.0 - 2.0 * overlap / jnp.maximum(predicted + truth, 1.0)
    return _mean_of_present(dice, truth)


def tversky(
    logits: AnyArray,
    labels: AnyArray,
    alpha: float = 0.5,
    beta: float = 0.5,
    across: Across = lambda x: x,
) -> jax.Array:
    r"""Tversky loss: 1 - TP / (TP + alpha FP + beta FN), averaged over the classes present.

    The counts are soft: with p the softmax and y the one-hot label, TP = \sum p y,
    FP = \sum p (1 - y), FN = \sum (1 - p) y, over the whole batch, void left out (Salehi et al.
    2017, arXiv:1706.05721). alpha = beta = 0.5 is the Dice loss, alpha = beta = 1 the soft Jaccard
    loss; a larger beta favours recall.

    Args:
      logits: [..., K], any float dtype; computed in float32.
      labels: [...], integers; whatever is outside 0..K-1 counts nothing.
      alpha: weight of the false positives.
      beta: weight of the false negatives.
      across: adds up what the devices hold of the batch.
    """
    overlap, predicted, truth = _soft_counts(logits, labels, across)
    false = alpha * (predicted - overlap) + beta * (truth - overlap)
    return _mean_of_present(1.0 - ratio(overlap, overlap + false), truth)


def _soft_counts(logits: AnyArray, labels: AnyArray, across: Across) -> tuple:
    """(sum of p y, sum of p, sum of y) of each class, float32 [K], over the labelled pixels."""
    _check_shapes(logits, labels)
    hot = one_hot(labels, logits.shape[-1])
    labelled = _is_class(labels, logits.shape[-1])[..., None]
    p = jnp.where(labelled, jax.nn.softmax(logits.astype(jnp.float32)), 0.0)
    axes = tuple(range(labels.ndim))
    overlap, predicted = across((jnp.where(hot, p, 0.0).sum(axes), p.sum(axes)))
    truth = across(hot.sum(axes).astype(jnp.float32))
    return overlap, predicted, truth


def _mean_of_present(values: jax.Array, truth: jax.Array) -> jax.Array:
    """The mean of values [K] over the classes that some pixel has; 0 where there are none."""
    present = truth > 0
    return ratio(jnp.where(present, values, 0.0).sum(), present.sum().astype(jnp.float32))


def lovasz_softmax(logits: AnyArray, labels: AnyArray, gather: Gather = lambda x: x) -> jax.Array:
    """Lovasz-softmax loss over the classes present: a surrogate of 1 - IoU, per batch.

    For class c the errors e = |y - p_c| of all labelled pixels are sorted, largest first, and
    weighted by what each adds to the Jaccard loss of the set of pixels before it (Berman et al.
    2018, arXiv:1705.08790, with `per_image=False, classes="present"`). With I and U the class's
    intersection and union after the pixel, that is 1 / U for one of the class and
    I / (U (U - 1)) for one of another.

    The weights are constant between the kinks, so that the gradient goes through the errors alone;
    they are brought back to the pixels' order by a second sort, because a scatter is slow.

    Args:
      logits: [..., K], any float dtype; computed in float32.
      labels: [...], integers; whatever is outside 0..K-1 (void, 255) counts nothing.
      gather: brings together what the devices hold of the batch, along axis 0.

    Returns:
      float32 scalar in [0, 1]; 0 for a batch without a labelled pixel.
    """
    num_classes = logits.shape[-1]
    _check_shapes(logits, labels)
    p = jax.nn.softmax(logits.astype(jnp.float32)).reshape(-1, num_classes)
    p, labels = gather((p, labels.reshape(-1)))
    valid, hot = _is_class(labels, num_classes), one_hot(labels, num_classes).T  # [P], [K, P]
    errors = jnp.where(valid[None], jnp.abs(hot.astype(jnp.float32) - p.T), 0.0)
    weights = jax.lax.stop_gradient(_lovasz_weights(errors, hot, valid))
    return _mean_of_present((errors * weights).sum(1), hot.sum(1).astype(jnp.float32))


def _lovasz_weights(errors: jax.Array, hot: jax.Array, valid: AnyArray) -> jax.Array:
    """What each pixel adds to a class's Jaccard loss, float32 [K, P]; see `lovasz_softmax`."""
    index = jnp.broadcast_to(jnp.arange(errors.shape[1], dtype=jnp.int32)[None], errors.shape)
    # Void comes last, so that it changes nothing before it; its own errors are 0.
    key = jnp.where(valid[None], -errors, 1.0)
    _, index, hot = jax.lax.sort((key, index, hot), dimension=1, num_keys=1)
    seen = jnp.cumsum(hot.astype(jnp.int32), 1)  # of the class, up to and with the pixel
    total = seen[:, -1:]
    rank = jnp.arange(1, hot.shape[1] + 1, dtype=jnp.int32)[None]
    intersection = (total - seen).astype(jnp.float32)
    union = jnp.maximum(total + rank - seen, 1).astype(jnp.float32)
    weights = jnp.where(hot, 1.0, intersection / jnp.maximum(union - 1.0, 1.0)) / union
    return jax.lax.sort((index, weights), dimension=1, num_keys=1)[1]


def ohem_cross_entropy(
    logits: AnyArray,
    labels: AnyArray,
    weights: AnyArray | None = None,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the hard pixels only: online hard example mining.

    A labelled pixel is kept where the softmax of its label is below `threshold`, or is among the
    `min_kept` smallest ones (with all that are equal to the last of them). Which are kept is not
    differentiated (Shrivastava et al. 2016, arXiv:1604.03540; as mmsegmentation's sampler).

    Args:
      logits: [..., K], any float dtype; computed in float32.
      labels: [...], integers; whatever is outside 0..K-1 (void, 255) counts nothing.
      weights: [K] float32, or None for ones.
      threshold: probability from which on a pixel is easy.
      min_kept: labelled pixels of `labels` that are kept at least; on several devices, of each
        device's part of a batch.

    Returns:
      (sum, weight), float32 scalars: see `softmax_cross_entropy`.
    """
    num_classes = logits.shape[-1]
    _check_shapes(logits, labels, weights)
    z = jax.lax.stop_gradient(logits.astype(jnp.float32))
    probability = jnp.exp(-_negative_log_likelihood(z, labels))
    probability = jnp.where(_is_class(labels, num_classes), probability, jnp.inf).reshape(-1)
    last = min(min_kept, probability.size) - 1
    hardest = jnp.sort(probability)[last] if last >= 0 else -jnp.inf
    kept = (probability < threshold) | (probability <= hardest)
    kept = kept.reshape(labels.shape) & _is_class(labels, num_classes)
    labels = jnp.where(kept, labels.astype(jnp.int32), num_classes)
    return softmax_cross_entropy(logits, labels, weights)


def ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """Return total / weight, and 0 (with a zero gradient) where nothing was weighed."""
    some = weight > 0
    return jnp.where(some, total / jnp.where(some, weight, 1.0), 0.0)


def class_weights(
    counts: np.ndarray, scheme: str = "inverse", cap: float | None = None
) -> np.ndarray:
    """Class weights from the number of pixels of each class, normalised to sum 1.

    `inverse` is the paper's: total / count. The others temper it: `inverse_sqrt` is its square
    root; `median_frequency` is median count / count (Eigen & Fergus 2015, with counts of the whole
    split); `effective_number` is (1 - b) / (1 - b^count) with b = 1 - 1/total (Cui et al. 2019).
    A class that never occurs has the weight of the rarest that does: it would weigh more than all
    others together in whatever is summed over the classes, such as label smoothing.

    Args:
      counts: [K] pixels of each class in the train split.
      scheme: one of `WEIGHT_SCHEMES`.
      cap: largest allowed ratio of a weight to the smallest weight.

    Returns:
      float64 [K]. Their common scale does not matter: the loss divides by the weights' sum.

    Raises:
      InputError: for an unknown scheme.

    Examples:
      >>> class_weights(np.array([80, 20]))
      array([0.2, 0.8])
      >>> class_weights(np.array([90, 10]), "inverse_sqrt")
      array([0.25, 0.75])
    """
    count = np.asarray(counts, np.float64)
    rarest = count[count > 0].min() if count.any() else 1.0
    count = np.where(count > 0, count, rarest)
    if scheme == "none":
        weight = np.ones_like(count)
    elif scheme == "inverse":
        weight = count.sum() / count
    elif scheme == "inverse_sqrt":
        weight = np.sqrt(count.sum() / count)
    elif scheme == "median_frequency":
        weight = np.median(count) / count
    elif scheme == "effective_number":
        log_b = np.log1p(-1.0 / count.sum())
        weight = 1.0 / -np.expm1(count * log_b)
    else:
        raise InputError(f"class weights {scheme!r}: choose one of {', '.join(WEIGHT_SCHEMES)}")
    if cap is not None:
        weight = np.minimum(weight, cap * weight.min())
    return weight / weight.sum()

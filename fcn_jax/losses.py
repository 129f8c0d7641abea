"""Weighted, void-masked softmax cross-entropy, and the class weights that go with it.

A loss is returned as (sum, weight), never as a mean: sums add up over images, devices and batches,
and the ratio is taken once (`ratio`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.config import WeightScheme

WEIGHT_SCHEMES: tuple[str, ...] = get_args(WeightScheme)

Across = Callable[[Any], Any]
"""A tree of one device's sums -> those of all devices."""


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Boolean [..., K]; all False where the label is no class, so void masks itself."""
    classes = jnp.arange(num_classes, dtype=jnp.int32)
    return labels[..., None].astype(jnp.int32) == classes.reshape((1,) * labels.ndim + (-1,))


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None = None,
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
      label_smoothing: share of the target spread over all classes, 0..1.
      focal_gamma: exponent of the focal factor (1 - p_y)^gamma on the label's term
        (Lin et al. 2017); 0 switches it off.
      axis: the label axes to sum over; None for all of them.

    Returns:
      (sum, weight), float32 scalars, or arrays over the axes that were kept.
    """
    num_classes = logits.shape[-1]
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


def _is_class(labels: jax.Array, num_classes: int) -> jax.Array:
    return (labels >= 0) & (labels < num_classes)


def pixel_weights(labels: jax.Array, weights: jax.Array) -> jax.Array:
    """float32 [...]: the weight of each label's class, 0 where it is none.

    A comparison for each class makes one loop over the pixels, without the K-fold array between.
    """
    parts = [jnp.where(labels == c, weights[c], 0.0) for c in range(len(weights))]
    return sum(parts[1:], parts[0])


@jax.custom_jvp
def _negative_log_likelihood(z: jax.Array, labels: jax.Array) -> jax.Array:
    """log sum exp(z) - z_y, float32 [...]; the first part alone where the label is no class.

    The derivative is written out, (softmax(z) - one_hot(y)) . dz: the derived one goes over arrays
    of z's size several times more often.
    """
    return _likelihood(z, labels)[0]


def _likelihood(z: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(log sum exp(z) - z_y, log sum exp(z))."""
    largest = z.max(-1)
    log_sum = largest + jnp.log(jnp.exp(z - largest[..., None]).sum(-1))
    return log_sum - _at_label(z, labels), log_sum


def _at_label(z: jax.Array, labels: jax.Array) -> jax.Array:
    """z_y, float32 [...]; 0 where the label is no class.

    A CPU reads the one value (8x224x224x21: the whole loss 5.5 ms instead of 18); elsewhere all are
    compared, which is one pass over z that the sums before it make anyway.
    """
    return jax.lax.platform_dependent(z, labels, cpu=read_at_label, default=compared_at_label)


def read_at_label(z: jax.Array, labels: jax.Array) -> jax.Array:
    """`_at_label` by indexing."""
    num_classes = z.shape[-1]
    index = jnp.clip(labels.astype(jnp.int32), 0, num_classes - 1)[..., None]
    value = jnp.take_along_axis(z, index, -1, mode="promise_in_bounds")[..., 0]
    return jnp.where(_is_class(labels, num_classes), value, 0.0)


def compared_at_label(z: jax.Array, labels: jax.Array) -> jax.Array:
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


def soft_dice(logits: jax.Array, labels: jax.Array, across: Across = lambda x: x) -> jax.Array:
    """Soft Dice loss: 1 - 2 |p y| / (|p| + |y|) per class, averaged over the classes present.

    Taken over the whole batch, void left out (Milletari et al. 2016, with the batch as one image).
    A batch without a labelled pixel gives 0. `across` adds up what the devices hold of the batch.
    """
    hot = one_hot(labels, logits.shape[-1])
    labelled = _is_class(labels, logits.shape[-1])[..., None]
    p = jnp.where(labelled, jax.nn.softmax(logits.astype(jnp.float32)), 0.0)
    axes = tuple(range(labels.ndim))
    overlap, predicted = across((jnp.where(hot, p, 0.0).sum(axes), p.sum(axes)))
    truth = across(hot.sum(axes).astype(jnp.float32))
    dice = 1.0 - 2.0 * overlap / jnp.maximum(predicted + truth, 1.0)
    present = truth > 0
    return ratio(jnp.where(present, dice, 0.0).sum(), present.sum().astype(jnp.float32))


def ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """Return total / weight, and 0 (with a zero gradient) where nothing was weighed."""
    some = weight > 0
    return jnp.where(some, total / jnp.where(some, weight, 1.0), 0.0)


def class_weights(
    counts: np.ndarray, scheme: str = "inverse", cap: float | None = None
) -> np.ndarray:
    """Class weights from the number of pixels of each class, normalised to sum 1.

    `inverse` is the paper's: total / count, a class that never occurs counted as one pixel. The
    others temper it: `inverse_sqrt` is its square root; `median_frequency` is median count / count
    (Eigen & Fergus 2015, with counts of the whole split); `effective_number` is
    (1 - b) / (1 - b^count) with b = 1 - 1/total (Cui et al. 2019).

    Args:
      counts: [K] pixels of each class in the train split.
      scheme: one of `WEIGHT_SCHEMES`.
      cap: largest allowed ratio of a weight to the smallest weight.

    Returns:
      float64 [K]. Their common scale does not matter: the loss divides by the weights' sum.
    """
    count = np.maximum(np.asarray(counts, np.float64), 1.0)
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
        raise ValueError(f"class weights {scheme!r}: choose one of {', '.join(WEIGHT_SCHEMES)}")
    if cap is not None:
        weight = np.minimum(weight, cap * weight.min())
    return weight / weight.sum()

"""Metrics worked out by hand, the paper's variants, and exact counting."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax import metrics
from fcn_jax.types import VOID

LABELS = np.array([[[0, 0, 1], [1, 1, VOID]]], np.uint8)
PREDICTIONS = np.array([[[0, 1, 1], [1, 0, 1]]], np.uint8)


def test_confusion_matrix_by_hand():
    matrix = metrics.confusion_matrix(LABELS, PREDICTIONS, 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [1, 2, 0], [0, 0, 0]])
    assert matrix.dtype == np.int64


def test_summary_by_hand():
    values = metrics.summarize(metrics.confusion_matrix(LABELS, PREDICTIONS, 3))
    np.testing.assert_allclose(values["iou"], [1 / 3, 2 / 4, np.nan])
    assert values["miou"] == pytest.approx((1 / 3 + 1 / 2) / 2)  # the absent class is left out
    assert values["pixel_accuracy"] == pytest.approx(3 / 5)
    assert values["mean_class_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert values["frequency_weighted_iou"] == pytest.approx(2 / 5 * 1 / 3 + 3 / 5 * 1 / 2)


def test_a_class_only_predicted_counts_as_zero():
    values = metrics.summarize(np.array([[3, 1], [0, 0]]))
    np.testing.assert_allclose(values["iou"], [0.75, 0.0])
    assert values["mean_class_accuracy"] == 0.75


def test_paper_iou_by_hand():
    # Image 1: void is background, truth (0, 0, 1 / 1, 1, 0): class 0 hits 1 of 4, class 1 2 of 5.
    # Image 2: background everywhere and so predicted: 1 and 0. Class 2 is absent from both: 0.
    labels = np.concatenate([LABELS, np.zeros_like(LABELS)])
    predictions = np.concatenate([PREDICTIONS, np.zeros_like(LABELS)])
    expected = ((1 / 4 + 1) / 2 + (2 / 5 + 0) / 2 + 0) / 3
    assert metrics.paper_iou(labels, predictions, 3) == pytest.approx(expected)


def test_paper_iou_of_groups_counts_images_together():
    counts = np.stack(
        [metrics.image_counts(y, p, 3) for y, p in zip(LABELS, PREDICTIONS, strict=True)] * 3
    )
    together = metrics.paper_iou_of_counts(counts, 2)  # groups of 2 and 1, equal to one image's
    assert together == pytest.approx(metrics.paper_iou_of_counts(counts[:1]))


def _pair(shape=(3, 17, 19), classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes + 1, shape).astype(np.uint8)
    labels[labels == classes] = VOID
    return labels, rng.integers(0, classes, shape).astype(np.uint8)


@pytest.mark.parametrize(
    "count",
    [metrics.confusion_counts, metrics.counted_one_by_one, metrics.counted_by_a_product],
    ids=["the platform's", "one by one", "a product"],
)
def test_device_counts_equal_host_counts(count):
    labels, predictions = _pair()
    counts = jax.jit(count, static_argnums=2)(labels, predictions, 5)
    chex.assert_shape(counts, (3, 6, 5))
    expected = [metrics.image_counts(y, p, 5) for y, p in zip(labels, predictions, strict=True)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == labels.size


@pytest.mark.parametrize("count", [metrics.counted_one_by_one, metrics.counted_by_a_product])
def test_what_is_no_class_counts_nothing(count):
    # 2, the number of classes, is the index of void's row.
    labels = jnp.array([[[0, 2, 250]], [[1, 1, VOID]]], jnp.uint8)
    counts = count(labels, jnp.zeros_like(labels), 2)
    np.testing.assert_array_equal(counts[:, :, 0], [[1, 0, 0], [0, 2, 1]])
    assert counts.sum() == 4


@pytest.mark.parametrize("count", [metrics.counted_one_by_one, metrics.counted_by_a_product])
def test_a_value_outside_never_counts_for_another_class_or_image(count):
    labels = jnp.array([[[0, -1]], [[1, 1]]], jnp.int32)
    predictions = jnp.array([[[0, 0]], [[-1, 2]]], jnp.int32)
    counts = count(labels, predictions, 2)
    np.testing.assert_array_equal(counts, [[[1, 0], [0, 0], [0, 0]], np.zeros((3, 2))])


@pytest.mark.parametrize("bad", [2, 7, 254])
@pytest.mark.parametrize("where", ["labels", "predictions"])
def test_on_the_host_what_is_no_class_is_an_error(bad, where):
    arrays = {name: np.array([[0, 1]], np.uint8) for name in ("labels", "predictions")}
    arrays[where][0, 1] = bad
    for function in (metrics.image_counts, metrics.confusion_matrix, metrics.paper_iou):
        with pytest.raises(ValueError, match=f"{where} hold {bad}, which is none of the 2"):
            function(**arrays, num_classes=2)


def test_matrix_sums_to_the_labelled_pixels():
    labels, predictions = _pair()
    assert metrics.confusion_matrix(labels, predictions, 5).sum() == (labels != VOID).sum()


def test_paper_scores_count_void_as_the_class_of_the_background():
    # One image, two classes, background is class 1: 4 pixels of class 0 right, 3 of void read as 1.
    counts = np.array([[[4, 0], [0, 0], [0, 3]]])
    values = metrics.summary(counts, ["a", "background"], background=1)
    assert (values["paper_iou"], values["paper_pixel_accuracy"]) == (1.0, 1.0)
    assert metrics.summary(counts, ["a", "b"])["paper_pixel_accuracy"] == pytest.approx(4 / 7)
    assert "paper_iou" not in metrics.summary(counts, ["a", "b"], background=None)
    np.testing.assert_array_equal(metrics.perfect(counts, 1)[0, -1], [0, 3])
    np.testing.assert_array_equal(metrics.constant(counts, 1)[0], [[0, 4], [0, 0], [0, 3]])


def test_limits_of_perfect_and_trivial():
    labels, predictions = _pair()
    counts = np.stack(
        [metrics.image_counts(y, p, 5) for y, p in zip(labels, predictions, strict=True)]
    )
    names = list("abcde")
    best = metrics.summary(metrics.perfect(counts), names)
    assert best["miou"] == best["pixel_accuracy"] == best["paper_pixel_accuracy"] == 1.0
    trivial = metrics.summary(metrics.constant(counts), names)
    fraction = (labels == 0).sum() / (labels != VOID).sum()
    assert trivial["pixel_accuracy"] == pytest.approx(fraction)
    assert trivial["iou"]["b"] == 0.0
    direct = np.stack([metrics.image_counts(y, np.zeros_like(y), 5) for y in labels])
    np.testing.assert_array_equal(metrics.constant(counts), direct)


def test_nothing_labelled_is_none_not_nan():
    labels = np.full((1, 2, 2), VOID, np.uint8)
    counts = np.stack([metrics.image_counts(y, np.zeros_like(y), 2) for y in labels])
    values = metrics.summary(counts, ["a", "b"])
    assert values["miou"] is None
    assert values["pixel_accuracy"] is None
    assert values["pixels"] == 0


@pytest.mark.parametrize(
    ("labels", "predictions", "words"),
    [
        ([7], [0], "labels hold 7"),
        ([0.5], [0], "labels are float64: give integers"),
        ([0], [3], "predictions hold 3"),
        ([0, 0], [0], "shapes|labels"),
    ],
)
def test_values_that_are_no_class_are_refused(labels, predictions, words):
    with pytest.raises(ValueError, match=words):
        metrics.confusion_matrix(np.array(labels), np.array(predictions), 3)


def test_images_too_large_for_exact_counts_are_refused():
    label = jax.ShapeDtypeStruct((1, 4096, 4096), np.uint8)
    with pytest.raises(ValueError, match="2\\^24"):
        jax.eval_shape(lambda y, p: metrics.confusion_counts(y, p, 2), label, label)

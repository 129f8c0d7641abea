"""Losses against values worked out by hand, against PyTorch, and at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax import losses
from fcn_jax.types import VOID, InputError


def _random(shape=(2, 3, 5), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*shape, classes)).astype(np.float32) * 3
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[0, 0] = VOID
    return logits, labels


def test_cross_entropy_by_hand():
    # softmax of (0, ln 3) is (1/4, 3/4); the void pixel counts nothing.
    logits = jnp.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)], [9.0, -9.0]])
    labels = jnp.array([0, 1, VOID], jnp.uint8)
    total, weight = losses.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(total, np.log(4.0) + np.log(4.0 / 3.0), rtol=1e-6)
    assert weight == 2.0


@pytest.mark.parametrize("at_label", [losses.read_at_label, losses.compared_at_label])
def test_the_logit_of_the_label_by_hand(at_label):
    z = jnp.array([[3.0, 5.0], [-1.0, 2.0], [7.0, 9.0], [4.0, 6.0]])
    labels = jnp.array([1, 0, VOID, 2], jnp.uint8)
    np.testing.assert_array_equal(at_label(z, labels), [5.0, -1.0, 0.0, 0.0])


def test_weights_divide_by_their_sum():
    logits = jnp.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)]])
    labels = jnp.array([0, 1], jnp.uint8)
    total, weight = losses.softmax_cross_entropy(logits, labels, jnp.array([2.0, 0.5]))
    np.testing.assert_allclose(total, 2.0 * np.log(4.0) + 0.5 * np.log(4.0 / 3.0), rtol=1e-6)
    assert weight == 2.5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_gradient_are_pytorchs(smoothing, weighted):
    torch = pytest.importorskip("torch")
    logits, labels = _random()
    weights = np.array([0.1, 2.0, 0.7, 1.3], np.float32) if weighted else None
    x = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
    criterion = torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=VOID,
        label_smoothing=smoothing,
    )
    expected = criterion(x, torch.tensor(labels.astype(np.int64)))
    expected.backward()

    def loss(value):
        return losses.ratio(
            *losses.softmax_cross_entropy(value, labels, weights, label_smoothing=smoothing)
        )

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-8)


def test_only_void_pixels_give_zero_and_a_zero_gradient():
    logits, labels = _random()
    labels[:] = VOID

    def loss(value):
        ratio = losses.ratio(*losses.softmax_cross_entropy(value, labels, focal_gamma=2.0))
        others = losses.tversky(value, labels) + losses.lovasz_softmax(value, labels)
        hard = losses.ratio(*losses.ohem_cross_entropy(value, labels))
        return ratio + losses.soft_dice(value, labels) + others + hard

    value, gradient = jax.value_and_grad(loss)(logits)
    assert value == 0.0
    assert not np.any(gradient)


def test_gradient_has_no_gather_and_no_scatter():
    logits, labels = _random()
    program = jax.jit(jax.grad(lambda x: losses.softmax_cross_entropy(x, labels)[0]))
    text = program.lower(logits).as_text()
    assert "gather" not in text
    assert "scatter" not in text


def test_per_image_sums_add_up_to_the_total():
    logits, labels = _random((4, 3, 5))
    total, weight = losses.softmax_cross_entropy(logits, labels)
    each, weights = losses.softmax_cross_entropy(logits, labels, axis=(1, 2))
    assert each.shape == weights.shape == (4,)
    np.testing.assert_allclose(each.sum(), total, rtol=1e-6)
    assert weights.sum() == weight


def test_focal_factor_by_hand():
    # p of the label is 3/4, so the factor is (1/4)^2.
    total, _ = losses.softmax_cross_entropy(
        jnp.array([[0.0, np.log(3.0)]]), jnp.array([1], jnp.uint8), focal_gamma=2.0
    )
    np.testing.assert_allclose(total, np.log(4.0 / 3.0) / 16.0, rtol=1e-6)


def test_dice_limits():
    labels = jnp.array([[0, 1, 1, VOID]], jnp.uint8)
    right = 50.0 * losses.one_hot(labels, 2).astype(jnp.float32)
    assert losses.soft_dice(right, labels) == pytest.approx(0.0, abs=1e-6)
    assert losses.soft_dice(-right, labels) == pytest.approx(1.0, abs=1e-6)


def test_lovasz_by_hand():
    # Two classes, so that both have the same errors: 0.6, 0.4, 0.3 of pixels 0, 1, 2, and a void.
    p_of_label = np.array([0.4, 0.6, 0.7, 0.9])
    labels = jnp.array([1, 0, 1, VOID], jnp.uint8)
    other = np.log((1 - p_of_label) / p_of_label)
    logits = np.zeros((4, 2), np.float32)
    logits[np.arange(4), [0, 1, 0, 0]] = other  # the logit that is not the label's
    # Class 1 (pixels 0 and 2): Jaccard losses of the first 1, 2, 3 errors: 1/2, 2/3, 1.
    one = 0.6 * 1 / 2 + 0.4 * (2 / 3 - 1 / 2) + 0.3 * (1 - 2 / 3)
    # Class 0 (pixel 1): 1/2, 1, 1.
    zero = 0.6 * 1 / 2 + 0.4 * (1 - 1 / 2) + 0.3 * 0
    value = losses.lovasz_softmax(jnp.asarray(logits), labels)
    np.testing.assert_allclose(value, (one + zero) / 2, rtol=1e-6)


def torch_lovasz(torch, logits, labels):
    """The formula of Berman et al. as they wrote it down, in float64."""
    p = torch.softmax(logits.double(), -1).reshape(-1, logits.shape[-1])
    labels = labels.reshape(-1)
    p, labels = p[labels != VOID], labels[labels != VOID]
    per_class = []
    for c in labels.unique():
        truth = (labels == c).double()
        errors, order = torch.sort((truth - p[:, c]).abs(), descending=True)
        truth = truth[order]
        intersection = truth.sum() - truth.cumsum(0)
        union = truth.sum() + (1 - truth).cumsum(0)
        jaccard = 1 - intersection / union
        jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
        per_class.append((errors * jaccard).sum())
    return torch.stack(per_class).mean()


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 40, 50)])
def test_lovasz_and_its_gradient_are_pytorchs(shape):
    torch = pytest.importorskip("torch")
    logits, labels = _random(shape, classes=5)
    labels[labels == 3] = 0  # a class that is not there
    x = torch.tensor(logits, requires_grad=True)
    expected = torch_lovasz(torch, x, torch.tensor(labels.astype(np.int64)))
    expected.backward()
    value, gradient = jax.jit(jax.value_and_grad(losses.lovasz_softmax))(logits, labels)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_lovasz_limits():
    labels = jnp.array([[0, 1, 1, VOID]], jnp.uint8)
    right = 50.0 * losses.one_hot(labels, 2).astype(jnp.float32)
    assert losses.lovasz_softmax(right, labels) == pytest.approx(0.0, abs=1e-6)
    assert losses.lovasz_softmax(-right, labels) == pytest.approx(1.0, abs=1e-6)


def test_lovasz_of_hard_predictions_is_one_minus_the_iou():
    labels = jnp.array([0, 0, 0, 1, 1, 2, VOID], jnp.uint8)
    predicted = jnp.array([0, 0, 1, 1, 1, 0, 2])
    logits = 60.0 * jax.nn.one_hot(predicted, 3)
    # IoU of the classes: 2 of {0, 1, 2, 5}, 2 of {2, 3, 4}, none of {5}.
    expected = 1 - (2 / 4 + 2 / 3 + 0) / 3
    np.testing.assert_allclose(losses.lovasz_softmax(logits, labels), expected, rtol=1e-5)


def test_tversky_by_hand():
    # p of class 1 is 3/4 in both pixels; only the first has the label 1.
    logits = jnp.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)], [5.0, 0.0]])
    labels = jnp.array([1, 0, VOID], jnp.uint8)
    # class 1: TP 3/4, FP 3/4, FN 1/4; class 0: TP 1/4, FP 1/4, FN 3/4.
    one = 1 - 0.75 / (0.75 + 0.3 * 0.75 + 0.7 * 0.25)
    zero = 1 - 0.25 / (0.25 + 0.3 * 0.25 + 0.7 * 0.75)
    value = losses.tversky(logits, labels, alpha=0.3, beta=0.7)
    np.testing.assert_allclose(value, (one + zero) / 2, rtol=1e-6)


def test_tversky_with_equal_weights_of_a_half_is_dice():
    logits, labels = _random()
    found = losses.tversky(logits, labels), losses.soft_dice(logits, labels)
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_tversky_gradient_is_pytorchs():
    torch = pytest.importorskip("torch")
    logits, labels = _random()
    x = torch.tensor(logits, requires_grad=True)
    known = torch.tensor(labels != VOID)
    p = torch.softmax(x, -1)[known]
    y = torch.nn.functional.one_hot(torch.tensor(labels.astype(np.int64))[known], 4)
    tp, fp, fn = (p * y).sum(0), (p * (1 - y)).sum(0), ((1 - p) * y).sum(0)
    (1 - tp / (tp + 0.3 * fp + 0.7 * fn)).mean().backward()
    gradient = jax.grad(losses.tversky)(logits, labels, 0.3, 0.7)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_hard_examples_by_hand():
    # p of the label: 1/4, 3/4, 9/10 and a void pixel.
    logits = jnp.array([[np.log(3.0), 0.0], [np.log(3.0), 0.0], [0.0, np.log(9.0)], [0.0, 9.0]])
    labels = jnp.array([1, 0, 1, VOID], jnp.uint8)
    nll = -np.log([1 / 4, 3 / 4, 9 / 10])
    for threshold, min_kept, kept in ((0.7, 0, 1), (0.8, 0, 2), (0.7, 2, 2), (0.7, 100, 3)):
        total, weight = losses.ohem_cross_entropy(
            logits, labels, threshold=threshold, min_kept=min_kept
        )
        assert weight == kept
        np.testing.assert_allclose(total, nll[:kept].sum(), rtol=1e-5)


def test_hard_examples_have_pytorchs_gradient():
    torch = pytest.importorskip("torch")
    logits, labels = _random((2, 9, 8))
    weights = np.array([0.1, 2.0, 0.7, 1.3], np.float32)
    x = torch.tensor(logits, requires_grad=True)
    known = torch.tensor(labels.astype(np.int64))
    p = torch.softmax(x.detach(), -1).gather(-1, known.clamp(max=3)[..., None])[..., 0]
    kept = (known != VOID) & (p < 0.3)
    criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))
    expected = criterion(x[kept], known[kept])
    expected.backward()

    def loss(value):
        return losses.ratio(
            *losses.ohem_cross_entropy(value, labels, weights, threshold=0.3, min_kept=1)
        )

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_inverse_weights_by_hand():
    # total 100, a class that never occurs weighs as the rarest that does: 100/80, 100/20, 100/20.
    weights = losses.class_weights(np.array([80, 20, 0]))
    expected = np.array([1 / 80, 1 / 20, 1 / 20])
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("scheme", losses.WEIGHT_SCHEMES)
def test_weights_sum_to_one_and_never_favour_the_commoner_class(scheme):
    weights = losses.class_weights(np.array([7000, 2000, 10]), scheme)
    np.testing.assert_allclose(weights.sum(), 1.0)
    assert np.all(np.diff(weights) >= 0)
    capped = losses.class_weights(np.array([7000, 2000, 10]), scheme, cap=2.0)
    assert capped.max() <= 2.0 * capped.min() * (1 + 1e-12)


def test_median_frequency_and_square_root_by_hand():
    counts = np.array([400, 100, 25])
    median = losses.class_weights(counts, "median_frequency")
    np.testing.assert_allclose(median / median[1], [0.25, 1.0, 4.0])
    root = losses.class_weights(counts, "inverse_sqrt")
    np.testing.assert_allclose(root / root[0], [1.0, 2.0, 4.0])


CRITERIA = [
    losses.softmax_cross_entropy,
    losses.soft_dice,
    losses.tversky,
    losses.lovasz_softmax,
    losses.ohem_cross_entropy,
]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 1), (4, 8), (4, 8, 8, 1)])
def test_labels_that_would_be_broadcast_are_refused(criterion, shape):
    with pytest.raises(InputError, match="give a label for each pixel of the logits"):
        criterion(np.zeros((4, 8, 8, 3), np.float32), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("criterion", [losses.softmax_cross_entropy, losses.ohem_cross_entropy])
def test_class_weights_of_another_number_are_refused(criterion):
    with pytest.raises(InputError, match="give a weight for each class"):
        criterion(np.zeros((1, 3), np.float32), np.zeros(1, np.uint8), np.ones(2, np.float32))


@pytest.mark.parametrize("scheme", losses.WEIGHT_SCHEMES)
def test_a_class_that_never_occurs_weighs_no_more_than_the_rarest_that_does(scheme):
    """Label smoothing sums over all classes: of equal logits the loss is log 3, weighted or not."""
    weights = losses.class_weights(np.array([500_000, 300_000, 0]), scheme)
    np.testing.assert_allclose(weights[2], weights[1])
    labels = np.repeat(np.array([0, 1], np.uint8), [5, 3])
    value = losses.softmax_cross_entropy(
        np.zeros((8, 3), np.float32), labels, weights.astype(np.float32), label_smoothing=0.1
    )
    np.testing.assert_allclose(losses.ratio(*value), np.log(3), rtol=0.1)


def test_class_weights_without_a_pixel_are_equal():
    np.testing.assert_array_equal(losses.class_weights(np.zeros(4)), np.full(4, 0.25))

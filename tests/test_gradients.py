"""The hand-written derivatives against numerical ones and against `jax.grad` of plain formulas.

Nothing here needs PyTorch. Each formula is written again as its textbook has it, in float64, and
differentiated by JAX; central differences check the same function without any derivative rule.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fcn_jax import losses
from fcn_jax.models import layers
from fcn_jax.ops import conv
from fcn_jax.ops.max_pool import max_pool
from fcn_jax.types import VOID

WEIGHTS = np.array([0.1, 2.0, 0.7, 1.3])


@pytest.fixture(autouse=True)
def x64():
    """Central differences need float64."""
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def pixels():
    """Logits float64 [2, 3, 5, 4] and labels uint8 [2, 3, 5], a fifth of them void."""
    labels = np.random.default_rng(1).integers(0, 4, (2, 3, 5)).astype(np.uint8)
    labels[0, 0] = VOID
    labels[1, 2, 4] = VOID
    return 2.0 * normal(2, 3, 5, 4), labels


# ---- cross-entropy -------------------------------------------------------------------------------


def plain_cross_entropy(logits, labels, weights, smoothing=0.0, gamma=0.0):
    """The weighted mean over the labelled pixels, one pixel after another."""
    total, weight = 0.0, 0.0
    for index in np.ndindex(labels.shape):
        label = int(labels[index])
        if label == VOID:
            continue
        log_p = logits[index] - jnp.log(jnp.exp(logits[index]).sum())
        focal = (1.0 - jnp.exp(log_p[label])) ** gamma
        hit = -weights[label] * log_p[label] * focal
        spread = -(weights * log_p).sum() / len(weights)
        total += (1.0 - smoothing) * hit + smoothing * spread
        weight += weights[label]
    return total / weight


@pytest.mark.parametrize("focal_gamma", [0.0, 2.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_gradient_of_cross_entropy_is_the_plain_formulas(label_smoothing, focal_gamma):
    logits, labels = pixels()

    def ours(z):
        options = {"label_smoothing": label_smoothing, "focal_gamma": focal_gamma}
        weights = jnp.asarray(WEIGHTS, jnp.float32)
        return losses.ratio(*losses.softmax_cross_entropy(z, labels, weights, **options))

    def plain(z):
        return plain_cross_entropy(z, labels, WEIGHTS, label_smoothing, focal_gamma)

    value, gradient = jax.jit(jax.value_and_grad(ours))(logits)
    expected, expected_gradient = jax.jit(jax.value_and_grad(plain))(logits)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    assert not gradient[0, 0].any()  # void


def test_the_derivatives_of_the_likelihood_are_the_numerical_ones():
    logits, labels = pixels()
    chex.assert_numerical_grads(
        jax.jit(lambda z: losses._negative_log_likelihood(z, labels)), (logits,), 2, atol=1e-6
    )


# ---- Dice ----------------------------------------------------------------------------------------


def plain_dice(logits, labels):
    """1 - 2 |p y| / (|p| + |y|) for each class present, in float64."""
    p = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
    valid = labels != VOID
    terms = []
    for c in range(logits.shape[-1]):
        y = labels == c
        if y.any():
            overlap = (p[..., c] * y).sum()
            terms.append(1.0 - 2.0 * overlap / ((p[..., c] * valid).sum() + y.sum()))
    return sum(terms) / len(terms)


def test_the_gradient_of_dice_is_the_plain_formulas():
    logits, labels = pixels()
    labels[labels == 3] = 1  # a class that is absent counts nothing
    dice = jax.jit(losses.soft_dice)
    value, gradient = jax.value_and_grad(dice)(logits, labels)
    expected, expected_gradient = jax.value_and_grad(plain_dice)(logits, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    # Its sums are float32: wide steps, and a tolerance to match.
    check_grads(lambda z: dice(z, labels), (logits,), 1, atol=2e-4, eps=1e-2)


# ---- batch normalisation -------------------------------------------------------------------------


def plain_batch_norm(x, scale, bias, epsilon):
    mean = x.mean((0, 1, 2), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    shape = (1, 1, 1, -1)
    return (x - mean) / jnp.sqrt(var + epsilon) * scale.reshape(shape) + bias.reshape(shape)


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_the_gradient_of_batch_norm_is_the_plain_formulas(epsilon):
    arguments = 2.0 * normal(2, 3, 4, 5) + 1.0, normal(5, seed=1), normal(5, seed=2)
    dy = normal(2, 3, 4, 5, seed=3)

    def ours(x, scale, bias):
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)},
        }
        module = layers.BatchNorm(epsilon=epsilon)
        return module.apply(variables, x, True, mutable=["batch_stats"])[0]

    y, pull = jax.vjp(ours, *arguments)
    expected, expected_pull = jax.vjp(partial(plain_batch_norm, epsilon=epsilon), *arguments)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for ours_, theirs in zip(pull(dy), expected_pull(dy), strict=True):
        np.testing.assert_allclose(ours_, theirs, rtol=1e-4, atol=2e-6)
    # Float32 inside, and a rule for reverse mode only.
    check_grads(ours, arguments, 1, modes=("rev",), atol=2e-3, rtol=2e-3, eps=1e-2)


# ---- convolutions and pooling --------------------------------------------------------------------

CONVOLUTIONS = {
    "patches": (partial(conv.conv, stride=(2, 1)), (2, 5, 6, 2), (3, 3, 2, 3), 64),
    "one tap": (partial(conv.conv, padding=((0, 0), (0, 0))), (2, 4, 3, 2), (1, 1, 2, 3), 64),
    "winograd": (conv.conv, (2, 5, 6, 2), (3, 3, 2, 3), 0),
    "small image": (conv.conv, (2, 2, 2, 3), (3, 3, 3, 2), 64),
    "dilated": (partial(conv.conv, dilation=(2, 2)), (1, 6, 5, 2), (3, 3, 2, 2), 64),
    "transposed": (conv.conv_transpose, (2, 3, 4, 2), (3, 3, 2, 3), 64),
    "transposed, size 2": (
        partial(conv.conv_transpose, padding=((0, 0), (0, 0)), output_padding=(0, 0)),
        (2, 3, 4, 2),
        (2, 2, 2, 3),
        64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_derivatives_of_a_convolution_are_the_numerical_ones(name, monkeypatch):
    function, x_shape, kernel_shape, many = CONVOLUTIONS[name]
    monkeypatch.setattr(conv, "MANY", many)
    jax.clear_caches()  # the algorithm is chosen while tracing
    arguments = normal(*x_shape), normal(*kernel_shape, seed=1)
    chex.assert_numerical_grads(
        jax.jit(lambda x, k: jnp.sin(function(x, k))), arguments, order=1, atol=1e-6, rtol=1e-6
    )
    jax.clear_caches()


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_the_derivatives_of_max_pool_are_the_numerical_ones(size, stride, padding):
    # All values at least 0.1 apart, so that a small step changes no winner. (Not chex's function:
    # it replaces `stop_gradient`, behind which the winner is found.)
    x = 0.1 * np.random.default_rng(0).permutation(2 * 5 * 6 * 2).reshape(2, 5, 6, 2)
    pool = partial(max_pool, size=size, stride=stride, padding=padding)
    check_grads(jax.jit(lambda x: jnp.sin(pool(x))), (x,), order=1, atol=1e-6, rtol=1e-6)


def test_max_pools_gradient_goes_to_the_first_of_equal_values():
    x = jnp.array([[1.0, 2.0, 2.0, 0.0], [2.0, 2.0, 2.0, 2.0]]).reshape(1, 2, 4, 1)
    gradient = jax.grad(lambda x: (max_pool(x) * jnp.array([3.0, 5.0]).reshape(1, 1, 2, 1)).sum())(
        x
    )
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 3, 5, 0], [0, 0, 0, 0]])

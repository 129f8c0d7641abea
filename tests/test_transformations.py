"""The public array functions under JAX's transformations: with and without jit, shapes, dtypes.

Each is called as its docstring says; results must be finite, of the promised shape and type, the
same with and without `jit`, and traced once for one shape.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from fcn_jax import losses, metrics, models, optim
from fcn_jax.config import AugmentConfig, OptimConfig
from fcn_jax.data import augment, batches
from fcn_jax.models import layers
from fcn_jax.ops import conv
from fcn_jax.ops.max_pool import max_pool
from fcn_jax.types import VOID, Batch

KEY = jax.random.key(0)

variants: Any = chex.variants
"""Its own type says only that it is an object."""


def pixels(shape=(2, 6, 5), classes=4):
    """Logits float32 [..., K] and labels uint8 [...], some void."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[0, 0] = VOID
    return rng.normal(size=(*shape, classes)).astype(np.float32), labels


class LossesTest(chex.TestCase):
    """Values by hand or by definition, jitted and op by op."""

    @variants(with_jit=True, without_jit=True)
    def test_cross_entropy_by_hand(self):
        function = self.variant(losses.softmax_cross_entropy)
        logits = jnp.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)], [9.0, -9.0]])
        total, weight = function(logits, jnp.array([0, 1, VOID], jnp.uint8))
        chex.assert_shape((total, weight), ())
        chex.assert_type((total, weight), jnp.float32)
        np.testing.assert_allclose(total, np.log(4.0) + np.log(4.0 / 3.0), rtol=1e-6)
        assert weight == 2.0

    @variants(with_jit=True, without_jit=True)
    @parameterized.parameters("float32", "bfloat16", "float16")
    def test_losses_of_any_float_are_float32_and_finite(self, dtype):
        logits, labels = pixels()
        large = jnp.asarray(1e4 * logits, dtype)  # exp of it overflows every type

        def both(z, y):
            return losses.ratio(*losses.softmax_cross_entropy(z, y)), losses.soft_dice(z, y)

        values = self.variant(both)(large, labels)
        gradients = self.variant(jax.grad(lambda z, y: sum(both(z, y))))(large, labels)
        chex.assert_type(values, jnp.float32)
        chex.assert_type(gradients, jnp.dtype(dtype))
        chex.assert_tree_all_finite((values, gradients))

    @variants(with_jit=True, without_jit=True)
    def test_mapped_over_images_it_is_the_sum_over_their_axes(self):
        logits, labels = pixels()
        each = self.variant(jax.vmap(losses.softmax_cross_entropy))(logits, labels)
        whole = losses.softmax_cross_entropy(logits, labels, axis=(1, 2))
        chex.assert_trees_all_close(each, whole, rtol=1e-6)
        chex.assert_shape(each, (2,))


class MetricsTest(chex.TestCase):
    """The confusion counts of a device."""

    @variants(with_jit=True, without_jit=True)
    def test_counts_by_hand(self):
        labels = jnp.array([[[0, 1, 1, VOID]]], jnp.uint8)
        predictions = jnp.array([[[0, 1, 0, 1]]], jnp.uint8)
        counts = self.variant(lambda y, p: metrics.confusion_counts(y, p, 2))(labels, predictions)
        chex.assert_type(counts, jnp.int32)
        np.testing.assert_array_equal(counts, [[[1, 0], [1, 1], [0, 1]]])


class LayersTest(chex.TestCase):
    """Layers and operations."""

    @variants(with_jit=True, without_jit=True)
    @parameterized.parameters("float32", "bfloat16")
    def test_shapes_and_types(self, dtype):
        x = jnp.ones((2, 7, 5, 3), dtype)
        kernel = jnp.ones((3, 3, 3, 4), dtype)
        down = self.variant(lambda x, k: conv.conv(x, k, stride=(2, 2)))(x, kernel)
        chex.assert_shape(down, (2, 4, 3, 4))
        up = self.variant(conv.conv_transpose)(x, kernel)
        chex.assert_shape(up, (2, 14, 10, 4))
        pooled = self.variant(max_pool)(x)
        chex.assert_shape(pooled, (2, 4, 3, 3))
        chex.assert_type((down, up, pooled), jnp.dtype(dtype))
        resized = self.variant(lambda x: layers.resize_bilinear(x, (9, 10)))(x)
        chex.assert_shape(resized, (2, 9, 10, 3))
        chex.assert_type(resized, jnp.float32)
        chex.assert_tree_all_finite((down, up, pooled, resized))

    @variants(with_jit=True, without_jit=True)
    def test_batch_norm_of_equal_values_is_finite(self):
        module = layers.BatchNorm()
        x = jnp.full((2, 3, 4, 5), 7.0)
        variables = module.init(KEY, x, False)

        def loss(params, x):
            out = module.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return (out[0] ** 2).sum(), out

        function = self.variant(jax.value_and_grad(loss, has_aux=True))
        (_, (y, updated)), gradients = function(variables["params"], x)
        np.testing.assert_allclose(y, np.zeros(x.shape), atol=1e-6)
        chex.assert_trees_all_equal_structs(updated["batch_stats"], variables["batch_stats"])
        chex.assert_tree_all_finite((updated, gradients))


class AugmentTest(chex.TestCase):
    """Augmentation of a padded batch."""

    @variants(with_jit=True, without_jit=True)
    def test_shapes_types_and_labels(self):
        rng = np.random.default_rng(0)
        batch = Batch(
            rng.integers(0, 256, (2, 20, 24, 3), np.uint8),
            rng.integers(0, 3, (2, 20, 24)).astype(np.uint8),
            np.array([[20, 24], [12, 16]], np.int32),
        )
        config = AugmentConfig(flip=0.5, crop_scale=(0.3, 1.0))
        function = self.variant(lambda key, batch: augment.augment(key, batch, (8, 10), config))
        image, mask = function(KEY, batch)
        chex.assert_shape(image, (2, 8, 10, 3))
        chex.assert_shape(mask, (2, 8, 10))
        chex.assert_tree_all_finite(image)
        assert set(np.unique(mask)) <= {0, 1, 2, VOID}


class OptimTest(chex.TestCase):
    """Schedules take a traced step."""

    @variants(with_jit=True, without_jit=True)
    @parameterized.parameters(("constant", 1.0), ("cosine_annealing", 0.55), ("cosine", 0.55))
    def test_a_rate_half_way_by_hand(self, schedule, expected):
        config = OptimConfig(lr=1.0, eta_min=0.1, schedule=schedule, t_max=10)
        rate = self.variant(optim.make_schedule(config, 20))
        step = 5 if schedule == "cosine_annealing" else 10
        np.testing.assert_allclose(rate(jnp.int32(step)), expected, rtol=1e-6)


@pytest.mark.parametrize("arch", ["fcn", "simplified_unet"])
def test_a_network_is_traced_once_for_one_shape(arch):
    chex.clear_trace_counter()
    model = models.create_model(arch, 3)
    images = jnp.ones((1, 32, 48, 3))
    variables = model.init(KEY, images)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def apply(variables, images):
        return model.apply(variables, images, train=False)

    for scale in (1.0, 2.0):
        logits = apply(variables, scale * images)
        chex.assert_shape(logits, (1, 32, 48, 3))
        chex.assert_type(logits, jnp.float32)
        chex.assert_tree_all_finite(logits)


def test_normalised_images_by_hand():
    image = np.array([[[0, 255, 51]]], np.uint8)
    got = jax.jit(batches.normalize)(image)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(got, [[expected]], rtol=1e-5)

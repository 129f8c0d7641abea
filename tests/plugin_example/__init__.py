"""A package of somebody else: a network, a loss, an optimizer and an augmentation of their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class Net(nn.Module):
    """One convolution, normalised, then a classifier."""

    num_classes: int = 2
    features: int = 8

    @nn.compact
    def __call__(self, images, train: bool = False):
        """Logits of the input's size."""
        x = nn.Conv(self.features, (3, 3))(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Conv(self.num_classes, (1, 1))(x)


def squared_error(logits, labels, class_weights):
    """Brier score: the squared distance of the probabilities from the label."""
    del class_weights
    counted = labels < logits.shape[-1]
    target = jax.nn.one_hot(labels, logits.shape[-1])
    error = jnp.sum((jax.nn.softmax(logits) - target) ** 2, -1)
    return jnp.sum(jnp.where(counted, error, 0.0)), jnp.sum(counted.astype(jnp.float32))


def slow_sgd(learning_rate, weight_decay):
    """Plain SGD at half the rate."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(lambda step: 0.5 * learning_rate(step)))


def darken(key, image, labels):
    """A random brightness for the whole batch."""
    return image * jax.random.uniform(key, minval=0.5), labels


class Half(nn.Module):
    """Wrong: its logits have half the size."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, images, train: bool = False):
        """Logits that are too small."""
        del train
        return nn.Conv(self.num_classes, (1, 1), strides=2)(images)


class Untrainable(nn.Module):
    """Wrong: it cannot be told to train."""

    @nn.compact
    def __call__(self, images):
        """Logits."""
        return nn.Conv(3, (1, 1))(images)


def number(num_classes):
    """Wrong: no module."""
    return num_classes


a_constant = 3

"""Doubling of images by the nearest neighbour."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.jit
def double_nearest(x: Array) -> Array:
    """[N, H, W, C] -> [N, 2 H, 2 W, C], each value four times; PyTorch's `nearest` at factor 2.

    It is a function of its own in a trace, so that an export can call it by its name.
    """
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)

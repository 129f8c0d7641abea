"""A 3x3 convolution of an image doubled by the nearest neighbour, and of another one beside it.

Four copies of a pixel meet nine taps each, but all that comes of them lies in 4x4 results: doubling
and convolving is a transposed convolution at stride 2, whose 4x4 taps are sums of the kernel's. It
has 16 products where the other has 36, and the doubled image is never written. Nor are the two
images written side by side, since each is convolved with its part of the kernel.

All functions are linear in the images and in the kernel, and their transposes are as fast.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from fcn_jax.ops.dilated import Algorithm
from fcn_jax.ops.im2col import Pair, Window, wide
from fcn_jax.ops.upsample import double_nearest

Images = tuple[Array, Array | None]
"""(the one to double, [N, h, w, I]; the one beside it, [N, H, W, S], or None)."""

STRIDE_2 = Window((2, 2), ((1, 1), (1, 1)), (1, 1))

SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
"""[4, 3]: which taps a tap of the transposed convolution sums, along one axis."""


def join(images: Images, size: Pair) -> Array:
    """The first image doubled and cut to a size, and the second one beside it: [N, H, W, I + S]."""
    x, beside = images
    x = double_nearest(x)[:, : size[0], : size[1]]
    return x if beside is None else jnp.concatenate([x, beside], -1)


def conv(
    of_doubled: Algorithm, of_beside: Algorithm, images: Images, kernel: Array, window: Window
) -> Array:
    """The convolution as the sum of both images' own.

    Args:
        of_doubled: computes the first one's: `doubling` or `transposing` an algorithm.
        of_beside: computes the second one's, a plain convolution.
        images: the two.
        kernel: [3, 3, I + S, O].
        window: of 3x3 taps at stride 1.
    """
    (x, beside), channels = images, images[0].shape[3]
    dtype, kernel = x.dtype, wide(kernel)
    y = of_doubled(wide(x), kernel[:, :, :channels], window)
    if beside is not None:
        y += of_beside(wide(beside), kernel[:, :, channels:], window)
    return y.astype(dtype)


def doubling(algorithm: Algorithm, size: Pair, x: Array, kernel: Array, window: Window) -> Array:
    """Doubles, cuts to a size, and convolves by the algorithm."""
    return algorithm(join((x, None), size), kernel, window)


def transposing(algorithm: Algorithm, x: Array, kernel: Array, window: Window) -> Array:
    """The same by an algorithm for transposed convolutions, without a cut."""
    del window
    return algorithm(x, jnp.einsum("as,bt,stio->abio", SUMS, SUMS, kernel), STRIDE_2)

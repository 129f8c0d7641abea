"""Transposed convolutions as several plain ones of the image, one for each phase of the result.

At stride s the rows of the result fall into s phases, and so do its columns. The pixels of a phase
see the same taps, so that a phase is a plain convolution of the image with few taps (of 3x3 taps at
stride 2: 1x1, 1x2, 2x1 and 2x2), and no zero between the pixels of the image is multiplied.
"""

import jax.numpy as jnp
from jax import Array

from fcn_jax.ops.dilated import Algorithm
from fcn_jax.ops.im2col import Pair, Window

Phase = tuple[int, Pair]
"""(index of its first tap, from which on it uses every stride-th one; padding of the image)."""


def by_phases(algorithm: Algorithm, x: Array, kernel: Array, window: Window) -> Array:
    """The transposed convolution; linear in the image and in the kernel.

    Args:
        algorithm: computes a plain convolution.
        x: [N, H, W, I].
        kernel: [kh, kw, I, O], with at least as many taps as the stride.
        window: undilated.
    """
    (sh, sw), (n, *size, _), (*taps, _, features) = window.stride, x.shape, kernel.shape
    out = [(size[i] - 1) * window.stride[i] + taps[i] - sum(window.padding[i]) for i in (0, 1)]
    above, beside = (_phases(size[i], taps[i], out[i], window, i) for i in (0, 1))

    def phase(vertical: Phase, horizontal: Phase) -> Array:
        (a, rows), (b, columns) = vertical, horizontal
        turned = kernel[a::sh, b::sw][::-1, ::-1]
        return algorithm(x, turned, Window((1, 1), (rows, columns), (1, 1)))

    # [N, rows, sh, columns, sw, O]
    y = jnp.stack([jnp.stack([phase(v, h) for h in beside], 3) for v in above], 2)
    return y.reshape(n, y.shape[1] * sh, y.shape[3] * sw, features)[:, : out[0], : out[1]]


def _phases(size: int, taps: int, out: int, window: Window, axis: int) -> list[Phase]:
    """The phases along one axis; all get as many results as the first needs."""
    stride, found = window.stride[axis], []
    count = -(-out // stride)
    for phase in range(stride):
        shift, first = divmod(phase + window.padding[axis][0], stride)
        others = len(range(first, taps, stride)) - 1
        found.append((first, (others - shift, count + shift - size)))
    return found

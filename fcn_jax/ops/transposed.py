"""Transposed convolutions as several plain ones of the image, one for each phase of the result.

At stride s the rows of the result fall into s phases, and so do its columns. The pixels of a phase
see the same taps, so that a phase is a plain convolution of the image with few taps (of 3x3 taps at
stride 2: 1x1, 1x2, 2x1 and 2x2), and no zero between the pixels of the image is multiplied.
"""

import jax.numpy as jnp
from jax import Array

from fcn_jax.ops.dilated import Formula
from fcn_jax.ops.im2col import Window


def by_phases(formula: Formula, x: Array, kernel: Array, window: Window) -> Array:
    """The transposed convolution; linear in the image and in the kernel.

    Args:
        formula: computes a plain convolution.
        x: [N, H, W, I].
        kernel: [kh, kw, I, O], with at least as many taps as the stride.
        window: undilated.
    """
    (sh, sw), (n, *size, _), features = window.stride, x.shape, kernel.shape[3]
    out = [
        (size[i] - 1) * window.stride[i] + kernel.shape[i] - sum(window.padding[i]) for i in (0, 1)
    ]
    counts = [-(-out[i] // window.stride[i]) for i in (0, 1)]
    rows = []
    for vertical in range(sh):
        a, above = _taps(x, kernel, window, 0, vertical, counts[0])
        columns = []
        for horizontal in range(sw):
            b, beside = _taps(x, kernel, window, 1, horizontal, counts[1])
            taps = kernel[a::sh, b::sw][::-1, ::-1]
            columns.append(formula(x, taps, Window((1, 1), (above, beside), (1, 1))))
        rows.append(jnp.stack(columns, 3))
    y = jnp.stack(rows, 2)  # [N, rows, sh, columns, sw, O]
    return y.reshape(n, counts[0] * sh, counts[1] * sw, features)[:, : out[0], : out[1]]


def _taps(
    x: Array, kernel: Array, window: Window, axis: int, phase: int, count: int
) -> tuple[int, tuple[int, int]]:
    """The first tap that a phase of an axis sees, and the padding that gives `count` results."""
    shift, first = divmod(phase + window.padding[axis][0], window.stride[axis])
    others = len(range(first, kernel.shape[axis], window.stride[axis])) - 1
    return first, (others - shift, count + shift - x.shape[1 + axis])

"""Depthwise convolutions as sums of shifted products, one term a tap.

XLA's CPU backend has nested loops for a convolution of one channel a group. Here each tap is an
elementwise product, and XLA fuses their sum into one vectorised loop. One image is taken at a time,
so that it stays in the cache, split into its sh x sw phases: the rows and columns that are the same
modulo the stride, which every tap reads without gaps. (Processor time of the result and of the two
gradients, in ms, XLA's against these, on a machine that was busy otherwise: 8x56x56x72 with 3x3
taps 96, 94, 22 against 3.3, 4.1, 4.2; with 5x5 taps at 8x28x28x120 66, 67, 31 against 2.0, 2.1,
2.3.)

Kernels are [kh, kw, 1, C]; (sh, sw) is the stride, (dh, dw) the dilation.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from fcn_jax.ops.im2col import Pair, Window, keep_arguments, wide

Phases = Sequence[Array]
"""[rows, columns, C] of one padded image: phase (u, v) is number u sw + v."""

ROWS = 8
"""Rows whose products with dy are added up in one loop of a kernel's gradient: enough for the sums
to be written seldom, few enough for one loop to hold them."""


def conv(x: Array, kernel: Array, window: Window) -> Array:
    """The depthwise convolution, each result the sum of kh kw products."""
    split = _Split(x, kernel, window)
    (height, width), taps = split.size, wide(kernel)[:, :, None]

    def one(phases: Phases) -> Array:
        total = jnp.zeros((), taps.dtype)
        for a, b, phase, (i, j) in split.taps(phases):
            total += phase[i : i + height, j : j + width] * taps[a, b]
        return total.astype(x.dtype)

    return split.each_image(one, x)


def conv_scattered(x: Array, kernel: Array, window: Window) -> Array:
    """The same, linear in x: each pixel's kh kw products are added where they belong.

    In its transpose a pixel collects products with dy, slices of one padded array. (The transpose
    of `conv` would add up as many arrays, each padded in its own way.)
    """
    split = _Split(x, kernel, window)
    (height, width), (down, across) = split.size, split.reach

    def one(phases: Phases, taps: Array) -> Array:
        total = zero = jnp.zeros((), taps.dtype)
        for a, b, phase, (i, j) in split.taps(phases):
            edges = ((down - i, i, 0), (across - j, j, 0), (0, 0, 0))
            total += lax.pad(phase * taps[a, b], zero, edges)
        return total[down : down + height, across : across + width].astype(x.dtype)

    return split.each_image(one, x, wide(kernel)[:, :, None])


def conv_in_kernel(x: Array, kernel: Array, window: Window) -> Array:
    """The same, linear in the kernel.

    Each tap is repeated for some rows, as a product with ones. In the transpose the products of
    `ROWS` rows with dy are added up in one loop, one for each tap, and what is left is a product
    with ones again. (A sum over all rows and columns at once would not be vectorised. One loop for
    all taps, which reads the image at another offset each time, would compile in a third of the
    time and run three times as long.)
    """
    kh, kw, _, channels = kernel.shape
    bands = -(-window.out_size(x.shape[1], kh, 0) // ROWS)
    split = _Split(x, kernel, window, bands)
    (height, width), rows = split.size, split.rows

    def one(phases: Phases, taps: Array) -> Array:
        ones = jnp.ones(bands * width, taps.dtype)
        repeated = [
            lax.dot_general(ones, tap, (((), ()), ((), ()))).reshape(bands, width, channels)
            for tap in lax.split(taps, [channels] * (kh * kw))
        ]
        results = []
        for row in range(rows):
            total = jnp.zeros((), taps.dtype)
            for a, b, phase, (i, j) in split.taps(phases):
                ends = row + i + (bands - 1) * rows + 1, j + width, channels
                part = lax.slice(phase, (row + i, j, 0), ends, (rows, 1, 1))
                total += part * repeated[a * kw + b]
            results.append(total)
        y = jnp.stack(results, 1).reshape(bands * rows, width, channels)
        return y[:height].astype(x.dtype)

    return split.each_image(one, x, wide(kernel).reshape(-1))


class _Split:
    """How the padded images of one convolution are split into phases."""

    def __init__(self, x: Array, kernel: Array, window: Window, bands: int = 1):
        """For results in so many bands of equal height, the last one filled up."""
        self.window, self.kernel = window, kernel.shape[:2]
        height, width = (window.out_size(x.shape[1 + i], self.kernel[i], i) for i in (0, 1))
        self.size: Pair = height, width
        self.rows = -(-height // bands)
        dilation, stride = window.dilation, window.stride
        down, across = (dilation[i] * (self.kernel[i] - 1) // stride[i] for i in (0, 1))
        self.reach: Pair = down, across
        self.sides = bands * self.rows + down, width + across

    def taps(self, phases: Phases) -> Iterator[tuple[int, int, Array, Pair]]:
        """(a, b, its phase, the row and column there that the first result sees) of every tap."""
        (sh, sw), (dh, dw) = self.window.stride, self.window.dilation
        for a, b in itertools.product(*map(range, self.kernel)):
            phase = phases[a * dh % sh * sw + b * dw % sw]
            yield a, b, phase, (a * dh // sh, b * dw // sw)

    def phases(self, image: Array) -> Phases:
        """Of an image [H, W, C], padded."""
        (sh, sw), (rows, columns), channels = self.window.stride, self.sides, image.shape[2]
        edges = [
            (before, side * stride - before - have, 0)
            for (before, _), side, stride, have in zip(
                self.window.padding, self.sides, self.window.stride, image.shape[:2], strict=True
            )
        ]
        image = wide(image)
        image = lax.pad(image, jnp.zeros((), image.dtype), (*edges, (0, 0, 0)))
        image = image.reshape(rows, sh, columns, sw, channels)
        return [
            phase.reshape(rows, columns, channels)
            for part in lax.split(image, [1] * sh, 1)
            for phase in lax.split(part, [1] * sw, 3)
        ]

    def each_image(self, function: Callable[..., Array], x: Array, *others: Array) -> Array:
        """[N, H, W, C] -> what the function makes of each image's phases, stacked.

        The phases are arguments of a branch that is always taken. A CPU's compiler would otherwise
        read them through the loop's counter in every product, which it does not vectorise. Reverse
        mode keeps the branch's arguments; else each slice of them would be stored, a loop of its
        own to compile and to run.
        """
        branch = keep_arguments(function)

        @keep_arguments
        def one(number: Array, image: Array, *others: Array) -> Array:
            phases = self.phases(image)
            like = jax.eval_shape(function, phases, *others)
            zeros = jnp.zeros(like.shape, like.dtype)
            return lax.cond(number >= 0, branch, lambda *_: zeros, phases, *others)

        numbers = jnp.arange(len(x), dtype=jnp.int32)
        return lax.map(lambda pair: one(*pair, *others), (numbers, x))

"""Random geometry and colour on the device: (key, full-resolution batch) -> (image, mask).

Everything is pure and has static shapes, so it is compiled into the training step and traced once.
What `AugmentConfig` switches off is left out of the program.

Geometry. Flip, crop, scaling and padding are one separable map: along each axis the output pixel o
shows the source coordinate start + (o + offset + 1/2) * length / resized (see `Axis`). The image is
read through it with PIL's antialiased bilinear filter, the mask with the nearest pixel, so both see
the same parameters. The filter is written as a few weighted gathers of rows, then of columns,
rather than as dense matrices: for 500x500 -> 224x224 that is 6 MFLOP an image instead of 500, and
as no matrix unit takes part, no TF32 or bf16 rounding either. Rotation then turns the output grid
about its centre: a second bilinear step for the image, none for the mask, which is read straight
from the source.

Which pixel is read is decided in integers. A compiler is free to compute a float twice and to round
it differently each time; where its floor picks a pixel in one place and the pixel's weight in
another, the two would disagree now and then by a whole pixel.

Randomness. The batch's key is split into one key per example, in the order of the batch; each
purpose then folds its own constant number into the example's key. So the result is a function of
(key, position) only: resuming with the same key repeats it bit for bit, and switching one
transformation on or off leaves the draws of the others as they were.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.config import AugmentConfig, plugins
from fcn_jax.data import batches
from fcn_jax.types import VOID, Batch, InputError

FILL_COLOUR = tuple(255 * mean for mean in batches.MEAN)
"""What the image shows outside the real image: ImageNet's mean colour, 0 once normalised."""

CROP_TRIES = 10
"""How often torchvision's RandomResizedCrop draws a box before it falls back."""

# One number per purpose, folded into an example's key. Never renumber: runs would not repeat.
_FLIP, _CROP, _SCALE, _ROTATION, _COLOUR = range(5)

# Output coordinates after a turn are fixed-point, in units of 2^-15 pixel; cosines of 2^-14.
_BITS = 15
_HALF = 1 << (_BITS - 1)

# ITU-R 601 luma, as PIL's and torchvision's greyscale.
_LUMA = (0.299, 0.587, 0.114)


class Axis(NamedTuple):
    """The map from the output to the source along one axis of one example.

    The source interval [start, start + length) is stretched to `resized` pixels; the output's pixel
    0 is pixel `offset` of those. Only source pixels in [low, high) are ever read. int32 scalars.
    """

    start: jax.Array
    length: jax.Array
    resized: jax.Array
    offset: jax.Array
    low: jax.Array
    high: jax.Array
    reflected: jax.Array
    """bool scalar: the output is read from its far end."""


def make(
    config: AugmentConfig, out_size: tuple[int, int]
) -> Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]:
    """Build `(key, batch) -> (images, labels)`: `augment`, then the function that `config` names.

    Raises:
      InputError: if its module was not allowed, see `config.plugins`.
    """
    function = plugins.find(config.function) if config.function else None

    def augmented(key: jax.Array, batch: Batch):
        images, labels = augment(key, batch, out_size, config)
        if function is not None:
            images, labels = function(jax.random.fold_in(key, 0), images, labels)
        return images, labels

    return augmented


def augment(
    key: jax.Array, batch: Batch, out_size: tuple[int, int], config: AugmentConfig
) -> tuple[jax.Array, jax.Array]:
    """Transform a batch at random, each example in its own way, image and mask alike.

    Args:
      key: a PRNG key; the same key repeats the same result.
      batch: a padded batch at full resolution, image uint8 [B, H, W, 3], mask uint8 [B, H, W],
        size [B, 2].
      out_size: (h, w), static.
      config: static.

    Returns:
      Image float32 [B, h, w, 3] in 0..255, not rounded, and mask uint8 [B, h, w] with `VOID`
      wherever the real image does not reach. Without a crop and without a scale jitter the whole
      image is stretched to `out_size`.

    Raises:
      InputError: where `out_size` is not positive.
    """
    if min(out_size) < 1:
        raise InputError(f"the augmented size is {out_size}: both sides must be at least 1 pixel")
    keys = jax.random.split(key, batch.image.shape[0])

    def one(key, image, mask, size):
        return _augment_one(key, image, mask, size, out_size, config)

    return jax.vmap(one)(keys, batch.image, batch.mask, batch.size)


def _augment_one(key, image, mask, size, out_size, config):
    """`augment` of one example: image [H, W, 3], mask [H, W], size [2]."""
    axes = _geometry(key, size, out_size, config)
    taps = _tap_counts(mask.shape, out_size, config)
    margins = _margins(out_size, config.rotation)
    ends = [(-margin, n + margin) for n, margin in zip(out_size, margins, strict=True)]
    image, rows = resample(image, 0, axes[0], ends[0], out_size[0], taps[0])
    image, columns = resample(image, 1, axes[1], ends[1], out_size[1], taps[1])
    inside = rows[:, None] & columns[None, :]
    if config.colour_jitter:
        fold = jax.random.fold_in(key, _COLOUR)
        image = jitter_colour(image, inside, *_random_colours(fold, config.colour_jitter))
    image = jnp.where(inside[..., None], image, jnp.asarray(FILL_COLOUR, jnp.float32)[None, None])

    y, x = jnp.arange(out_size[0])[:, None], jnp.arange(out_size[1])[None, :]
    if config.rotation:
        fold = jax.random.fold_in(key, _ROTATION)
        y, x = turned(y, x, out_size, *_random_angle(fold, config.rotation))
        image = _bilinear(image, y + (margins[0] << _BITS), x + (margins[1] << _BITS))
    else:
        y, x = y << _BITS, x << _BITS
    return image, _nearest(mask, axes, y, x, out_size)


# --- the random geometry ---------------------------------------------------------------------


def _geometry(key, size, out_size, config) -> tuple[Axis, Axis]:
    """Draw one example's maps: (rows, columns)."""
    size = jnp.maximum(size.astype(jnp.int32), 1)  # a filler example may have none
    zero = jnp.zeros(2, jnp.int32)
    start, length, resized, offset = zero, size, jnp.asarray(out_size, jnp.int32), zero
    if config.crop_scale is not None:
        fold = jax.random.fold_in(key, _CROP)
        start, length = random_crop(fold, size, config.crop_scale, config.crop_ratio)
    elif config.scale_jitter is not None:
        fold = jax.random.fold_in(key, _SCALE)
        resized, offset = _random_scale(fold, size, out_size, config.scale_jitter)
    low, high = start, start + length
    if config.rotation:  # the corners that turn into view show the image around the crop
        low, high = zero, size
    flipped = jnp.zeros(2, bool)
    if config.flip:
        fold = jax.random.fold_in(key, _FLIP)
        flipped = flipped.at[1].set(jax.random.bernoulli(fold, config.flip))
    fields = (start, length, resized, offset, low, high, flipped)
    return Axis(*(f[0] for f in fields)), Axis(*(f[1] for f in fields))


def random_crop(
    key: jax.Array,
    size: jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """Draw a crop by the definition of torchvision's `RandomResizedCrop.get_params`.

    Up to ten times: a fraction of the area uniform in `scale`, a ratio width / height log-uniform
    in `ratio`, sides rounded to pixels; the first box that fits is placed uniformly. If none fits,
    the largest centred box whose ratio is within the limits. All ten are drawn at once, as the
    program has no data-dependent loop.

    size: int32 [2], (height, width). Returns (top, left) and (height, width), int32 [2] each.
    """
    draws = jax.random.uniform(key, (2 * CROP_TRIES + 2,))
    fraction = scale[0] + draws[:CROP_TRIES] * (scale[1] - scale[0])
    log_ratio = math.log(ratio[0]) + draws[CROP_TRIES:-2] * math.log(ratio[1] / ratio[0])
    height, width = size[0].astype(jnp.float32), size[1].astype(jnp.float32)
    area, aspect = height * width * fraction, jnp.exp(log_ratio)
    tries = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], axis=1)
    tries = jnp.round(tries).astype(jnp.int32)  # half to even, as Python rounds
    fits = jnp.all((tries > 0) & (tries <= size[None]), axis=1)

    # The fallback is the image itself, cut down to the nearest allowed ratio.
    fallback_h = jnp.minimum(size[0], jnp.round(width / ratio[0]).astype(jnp.int32))
    fallback_w = jnp.minimum(size[1], jnp.round(height * ratio[1]).astype(jnp.int32))
    fallback = jnp.maximum(jnp.stack([fallback_h, fallback_w]), 1)

    found = jnp.any(fits)
    length = jnp.where(found, tries[jnp.argmax(fits)], fallback)
    spare = size - length
    start = _below(draws[-2:], spare + 1)
    return jnp.where(found, start, spare // 2), length


def _below(draw: jax.Array, count) -> jax.Array:
    """Uniform draws from [0, 1) as uniform integers below `count`, which is far below 2^23.

    One draw of all that an example needs compiles in a fraction of the time of several `randint`s.
    """
    return jnp.minimum((draw * count).astype(jnp.int32), count - 1)


def _random_scale(key, size, out_size, limits):
    """Draw an isotropic scale and a window: (resized [2], offset [2]), int32.

    The scale is relative to the one that fits the image into the output. A resized image larger
    than the output is cropped at a random position, a smaller one is placed at a random position.
    """
    draws = jax.random.uniform(key, (3,))
    out = jnp.asarray(out_size, jnp.int32)
    factor = jnp.min(out / size) * (limits[0] + draws[0] * (limits[1] - limits[0]))
    # Rounded up, so that no axis shrinks by more than `_tap_counts` allows for; but a whole number
    # that rounding has made a little larger stays that number.
    resized = jnp.maximum(jnp.ceil(size * factor - 1e-3).astype(jnp.int32), 1)
    spare = resized - out
    return resized, jnp.minimum(spare, 0) + _below(draws[1:], jnp.abs(spare) + 1)


# --- reading the source ----------------------------------------------------------------------


def _tap_counts(padded, out_size, config) -> tuple[int, int]:
    """How many source pixels the filter can reach on either axis, for any image and any draw."""
    shrink = [n / out for n, out in zip(padded, out_size, strict=True)]
    if config.scale_jitter is not None:
        shrink = [max(shrink) / config.scale_jitter[0]] * 2
    return math.ceil(2 * max(shrink[0], 1.0)), math.ceil(2 * max(shrink[1], 1.0))


def resample(
    x: jax.Array, dimension: int, axis: Axis, ends: tuple[int, int], out: int, taps: int
) -> tuple[jax.Array, jax.Array]:
    """Resize along one dimension with a triangle filter, antialiased as PIL and torchvision do it.

    The weight of source pixel i for the centre c is max(0, 1 - |i + 1/2 - c| / s), with
    s = max(1, length / resized), over the pixels in [low, high) only, normalised to sum 1: the edge
    of a crop behaves as if the crop had been cut out first. All of it is computed in units of
    1 / (2 resized) from `start`, where every quantity is an integer.

    x: uint8 or float [.., n, ..]; ends: the output positions [first, last) to compute, which may
    reach beyond 0 and `out`; taps: at least 2 s. Returns float32 [.., last - first, ..], and
    whether each position lies on a pixel that may be read, bool [last - first].
    """
    position = _reflected(axis, jnp.arange(*ends), out - 1)
    centre = (2 * (position + axis.offset) + 1) * axis.length
    reach = 2 * jnp.maximum(axis.length, axis.resized)
    first = (centre - reach - axis.resized) // (2 * axis.resized) + 1
    index = first[:, None] + jnp.arange(taps)[None, :]
    away = jnp.abs((2 * index + 1) * axis.resized - centre[:, None])
    index = index + axis.start
    readable = (index >= axis.low) & (index < axis.high)
    weight = jnp.where(readable, jnp.maximum(reach - away, 0), 0).astype(jnp.float32)
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    shape = [1] * x.ndim
    shape[dimension] = len(position)

    def tap(k):
        pixels = jnp.take(x, index[:, k], axis=dimension, mode="clip").astype(jnp.float32)
        return pixels * weight[:, k].reshape(shape)

    pixel = axis.start + centre // (2 * axis.resized)
    inside = (pixel >= axis.low) & (pixel < axis.high)
    return sum((tap(k) for k in range(1, taps)), start=tap(0)), inside


def _reflected(axis: Axis, position, last: int):
    """The position counted from the other end where the axis is reflected."""
    return jnp.where(axis.reflected, last - position, position)


def _nearest(mask, axes, y, x, out_size):
    """The mask at the fixed-point output coordinates y, x (they broadcast): classes or VOID."""

    def pixel(axis, position, out):
        # Sixteenths of a pixel are fine enough here, and coarse enough for int32.
        position = _reflected(axis, position >> (_BITS - 4), (out - 1) << 4)
        doubled = 2 * (position + (axis.offset << 4)) + (1 << 4)
        index = axis.start + doubled * axis.length // (axis.resized << 5)
        return index, (index >= axis.low) & (index < axis.high)

    row, row_inside = pixel(axes[0], y, out_size[0])
    column, column_inside = pixel(axes[1], x, out_size[1])
    labels = mask.at[row, column].get(mode="clip")
    return jnp.where(row_inside & column_inside, labels, jnp.uint8(VOID))


# --- rotation --------------------------------------------------------------------------------


def _margins(out_size, degrees: float) -> tuple[int, int]:
    """How many pixels beyond the output's edges a rotation by up to `degrees` can look, (y, x)."""
    if not degrees:
        return 0, 0
    half = [(n - 1) / 2 for n in out_size]

    def margin(along: float, across: float) -> int:
        worst = min(math.radians(degrees), math.atan2(across, along))
        reach = along * math.cos(worst) + across * math.sin(worst)
        return math.ceil(reach - along) + 1  # and the bilinear neighbour

    return margin(half[0], half[1]), margin(half[1], half[0])


def _random_angle(key, degrees: float):
    """(cos, sin) of a uniform angle in [-degrees, degrees], fixed-point: one of 4097 steps."""
    angles = np.radians(np.linspace(-degrees, degrees, 4097))
    table = np.round(np.stack([np.cos(angles), np.sin(angles)]) * _HALF).astype(np.int32)
    cos, sin = jnp.asarray(table)[:, _below(jax.random.uniform(key), len(angles))]
    return cos, sin


def turned(y, x, out_size: tuple[int, int], cos, sin):
    """The coordinates that show at the pixels (y, x) after a turn about the output's centre.

    y, x: ints that broadcast against each other; cos, sin: ints in units of 2^-14. Returns y and x,
    int [h, w] each, in units of 2^-15 (the centre has half coordinates where a side is even).
    """
    dy, dx = 2 * y - (out_size[0] - 1), 2 * x - (out_size[1] - 1)
    source_y = (out_size[0] - 1) * _HALF + cos * dy - sin * dx
    source_x = (out_size[1] - 1) * _HALF + sin * dy + cos * dx
    return source_y, source_x


def _bilinear(image, y, x):
    """`image` [H, W, 3] at fixed-point coordinates y, x [h, w], which lie within it: [h, w, 3]."""
    row, column = y >> _BITS, x >> _BITS
    down = ((y - (row << _BITS)).astype(jnp.float32) / (1 << _BITS))[..., None]
    right = ((x - (column << _BITS)).astype(jnp.float32) / (1 << _BITS))[..., None]

    def pixel(i, j):
        return image.at[row + i, column + j].get(mode="clip")

    upper = pixel(0, 0) * (1 - right) + pixel(0, 1) * right
    lower = pixel(1, 0) * (1 - right) + pixel(1, 1) * right
    return upper * (1 - down) + lower * down


# --- colour ----------------------------------------------------------------------------------


def _random_colours(key, strength: float):
    """Draw the arguments `factors` and `order` of `jitter_colour`."""
    draws = jax.random.uniform(key, (4,))
    low, high = max(0.0, 1 - strength), 1 + strength
    orders = jnp.asarray(list(itertools.permutations(range(3))), jnp.int32)
    return low + draws[:3] * (high - low), orders[_below(draws[3], len(orders))]


def jitter_colour(
    image: jax.Array, inside: jax.Array, factors: jax.Array, order: jax.Array
) -> jax.Array:
    """Change brightness (0), contrast (1) and saturation (2), as torchvision's ColorJitter.

    Each is a blend f * image + (1 - f) * reference, cut to 0..255. The reference is black, the
    image's mean grey, and every pixel's own grey. The mean is taken over `inside`, so padding
    does not count.

    image: float32 [h, w, 3] in 0..255; inside: bool [h, w]; factors: float32 [3], in the order
    above; order: int32 [3], in which they are applied. Returns float32 [h, w, 3].
    """
    luma = jnp.asarray(_LUMA, jnp.float32)[None, None]
    count = jnp.maximum(jnp.sum(inside, dtype=jnp.float32), 1.0)
    for step in range(3):
        kind = order[step]
        grey = jnp.sum(image * luma, axis=-1)
        mean = jnp.sum(jnp.where(inside, grey, 0.0)) / count
        reference = jnp.where(kind == 2, grey, jnp.where(kind == 1, mean, 0.0))[..., None]
        factor = factors[kind]
        image = jnp.clip(factor * image + (1 - factor) * reference, 0.0, 255.0)
    return image

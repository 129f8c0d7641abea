"""Padded batches: examples as arrays of one static shape, and the indices that make each batch.

A padded batch may hold all images of a split. Which of them a step takes is a pure function of
(key, epoch), so a resumed run sees the same images in the same order, wherever they are stored.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fcn_jax.types import VOID, AnyArray, Batch, Example

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics, in units of 0..1 RGB: the paper's normalisation, and torchvision's."""


def normalize(image: AnyArray) -> jax.Array:
    """RGB in 0..255, [..., 3] -> float32 with ImageNet's mean 0 and deviation 1.

    Examples:
        >>> white = normalize(jnp.full((1, 1, 3), 255, jnp.uint8))
        >>> white.dtype, [round(float(x), 2) for x in white.ravel()]
        (dtype('float32'), [2.25, 2.43, 2.64])
    """
    shape = (1,) * (image.ndim - 1) + (3,)
    mean, std = (jnp.asarray(v, jnp.float32).reshape(shape) for v in (MEAN, STD))
    return (jnp.asarray(image, jnp.float32) / 255.0 - mean) / std


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3], antialiased bicubic: PIL's, hence torchvision's, default.

    PIL itself does it, because validation has to be exact to the paper's pipeline.
    """
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] -> uint8 [h, w], nearest, by PIL (its rounding differs from a plain formula)."""
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def full_resolution(examples: Sequence[Example], shape: tuple[int, int] | None = None) -> Batch:
    """A padded batch of the largest height and width, each example at its top left, void around it.

    `shape`, (height, width), makes it larger than these examples need.
    """
    shape = shape or tuple(np.max([e.mask.shape for e in examples], axis=0).tolist())
    batch = uninitialized(len(examples), shape)
    for i, example in enumerate(examples):
        put(batch, i, example)
    return batch


def uninitialized(count: int, shape: tuple[int, int]) -> Batch:
    """A padded batch to `put` examples into; the system gives memory when it is written."""
    image, mask = np.empty((count, *shape, 3), np.uint8), np.empty((count, *shape), np.uint8)
    return Batch(image, mask, np.empty((count, 2), np.int32))


def put(batch: Batch, index: int, example: Example) -> None:
    """Write an example at the top left of the padded image `index`, black and void around it."""
    rows, columns = example.mask.shape
    for whole, part, around in ((batch.image, example.image, 0), (batch.mask, example.mask, VOID)):
        whole[index, :rows, :columns] = part
        whole[index, rows:] = whole[index, :rows, columns:] = around
    batch.size[index] = rows, columns


def epoch_indices(key: jax.Array, epoch: int, count: int, batch_size: int) -> np.ndarray:
    """The indices of every batch of one training epoch, int32 [count // batch_size, batch_size].

    A new permutation for every epoch; the remainder is left out, another one each time, so that
    batch statistics always come from full batches.
    """
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count))
    steps = count // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def eval_indices(count: int, batch_size: int) -> np.ndarray:
    """Every index once, in order, int32 [ceil(count / batch_size), batch_size].

    The last batch is filled up with `count`, an index that does not exist: `take` makes it void.
    """
    steps = -(-count // batch_size)
    indices = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
    return np.minimum(indices, count)


def take(padded: Batch, indices: AnyArray) -> Batch:
    """The batch of these indices; one that does not exist is black, void, of size 0."""

    def pick(values, fill):
        return jnp.take(values, indices, axis=0, mode="fill", fill_value=fill)

    return Batch(pick(padded.image, 0), pick(padded.mask, VOID), pick(padded.size, 0))

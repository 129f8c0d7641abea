"""Small stand-ins for slow things: a data set in memory, and a network that trains in seconds."""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.config import Config, replace
from fcn_jax.data import batches
from fcn_jax.data.classes import voc_palette
from fcn_jax.data.prepare import Dataset
from fcn_jax.inference import predict
from fcn_jax.models import Network, layers
from fcn_jax.types import VOID, Batch, Example

CLASSES = ("background", "left", "right")


class TinyNet(nn.Module):
    """Two convolutions with a batch norm between them; any size."""

    num_classes: int = 3
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool = False):
        """Logits of the input's size."""
        x = layers.Conv(8, dtype=self.dtype, kernel_init=self.kernel_init, name="conv1")(images)
        x = layers.BatchNorm(name="bn1")(nn.relu(x), train)
        return layers.Conv(self.num_classes, size=1, name="classifier")(x).astype(jnp.float32)


TINY = Network(TinyNet)
"""Its entry of the registry."""


def example(number: int, height: int = 40, width: int = 48, seed: int = 0) -> Example:
    """A grey image with a red rectangle of class 1 and a blue one of class 2, void between them."""
    rng = np.random.default_rng((seed, number))
    image = rng.integers(90, 130, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    middle, top = width // 2, int(rng.integers(4, height // 2))
    for label, channel, columns in ((1, 0, slice(2, middle)), (2, 2, slice(middle + 1, width - 2))):
        image[top : top + 16, columns, channel] = 230
        mask[top : top + 16, columns] = label
    mask[top : top + 16, middle] = VOID
    return Example(f"{number:06d}", image, mask)


def class_counts(examples: Iterable[Example], num_classes: int) -> np.ndarray:
    """Pixels of each class and, last, of void, counted one value after the other: int64 [K+1]."""
    values = (*range(num_classes), VOID)
    return np.array([sum(int((e.mask == v).sum()) for e in examples) for v in values])


def dataset(train: int = 8, val: int = 5) -> Dataset:
    """A data set of three classes with images of several sizes."""
    made = [example(i, 40 + 4 * (i % 3), 48 - 4 * (i % 2)) for i in range(train + val)]
    splits = {"train": made[:train], "val": made[train:]}
    return Dataset("fake", CLASSES, voc_palette(3), splits)


def config(**changes) -> Config:
    """A run of the tiny network on the fake data set; needs the fixture `tiny`."""
    small = {
        "experiment": "test",
        "model.arch": "tiny",
        "data.dataset": "fake",
        "data.image_size": (32, 32),
        "data.batch_size": 3,
        "optim.lr": 0.03,
        "epochs": 3,
        "patience": 0,
    }
    return replace(Config(), **{**small, **changes})


def checkpoint(image_size: tuple[int, int] = (32, 32), seed: int = 0):
    """The tiny network with random weights, ready to predict; no file is needed."""
    net = TinyNet()
    variables = net.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))
    return predict.Checkpoint(net, dict(variables), CLASSES, voc_palette(3), image_size, {})


def resized(examples: Iterable[Example], size: tuple[int, int]) -> Batch:
    """All examples resized to `size` (height, width), as the paper does."""
    pairs = [
        (batches.resize_image(e.image, size), batches.resize_mask(e.mask, size)) for e in examples
    ]
    images, masks = zip(*pairs, strict=True)
    sizes = np.tile(np.asarray(size, np.int32), (len(pairs), 1))
    return Batch(np.stack(images), np.stack(masks), sizes)

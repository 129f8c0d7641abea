"""From a checkpoint and any image to a mask of the image's own size."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fcn_jax import checkpoint as checkpoints
from fcn_jax.data import batches
from fcn_jax.models import create_model
from fcn_jax.types import InputError

DTYPES = {"f32": jnp.float32, "tf32": jnp.float32, "bf16": jnp.bfloat16}


class Checkpoint(NamedTuple):
    """A trained network with all that is needed to use it; made by `load_checkpoint`."""

    model: nn.Module
    variables: dict[str, Any]
    """{"params", "batch_stats"}."""
    class_names: tuple[str, ...]
    palette: np.ndarray
    """uint8 [K, 3] RGB."""
    image_size: tuple[int, int]
    """Height and width it was trained at."""
    meta: dict[str, Any]
    """All else that was saved: config, progress, class weights."""


def load_checkpoint(path: Path | str, which: str = "best") -> Checkpoint:
    """Load a run's network for use; no training flag and no optimizer is needed.

    Args:
      path: the folder of a run, or its `checkpoints` folder.
      which: `best` (by validation miou) or `latest`.

    Raises:
      InputError: if there is no sound checkpoint.
    """
    path = Path(path)
    inner = path / "checkpoints"
    variables, meta = checkpoints.load(inner if inner.is_dir() else path, which)
    spec = dict(meta["model"])
    dtype = DTYPES[spec.pop("precision")]
    model = create_model(spec.pop("name"), spec.pop("num_classes"), dtype=dtype, **spec)
    return Checkpoint(
        model,
        jax.tree.map(jnp.asarray, variables),
        tuple(meta["class_names"]),
        np.asarray(meta["palette"], np.uint8),
        tuple(meta["image_size"]),
        meta,
    )


@lru_cache(maxsize=8)
def _forward(model: nn.Module):
    """One jitted program a network, shared by all calls."""
    return jax.jit(
        lambda variables, image: model.apply(variables, batches.normalize(image), train=False)
    )


def predict_logits(checkpoint: Checkpoint, image: np.ndarray) -> np.ndarray:
    """Logits of one image, float32 [h, w, K] at the size the network was trained at.

    The image is squeezed to that size first, exactly as validation does, so the objects have the
    scale the network knows.

    Args:
      checkpoint: from `load_checkpoint`.
      image: uint8 [H, W, 3], RGB.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"image is {image.dtype} {list(image.shape)}: give uint8 [height, width, 3], RGB"
        )
    small = batches.resize_image(image, checkpoint.image_size)
    logits = _forward(checkpoint.model)(checkpoint.variables, small[None])
    return np.asarray(logits[0])


def predict(checkpoint: Checkpoint, image: np.ndarray) -> np.ndarray:
    """The most likely class of every pixel.

    Args:
      checkpoint: from `load_checkpoint`.
      image: uint8 [H, W, 3], RGB, of any size.

    Returns:
      uint8 [H, W].
    """
    logits = predict_logits(checkpoint, image)
    return resize_logits(logits, image.shape[:2]).argmax(-1).astype(np.uint8)


def resize_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres: float32 [h, w, K] -> [H, W, K].

    On the host, because every image has a size of its own and each would be compiled for.
    """
    channels = [
        np.asarray(Image.fromarray(c).resize(size[::-1], Image.Resampling.BILINEAR))
        for c in np.moveaxis(logits, -1, 0)
    ]
    return np.stack(channels, -1)

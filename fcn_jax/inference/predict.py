"""Prediction: masks at the size of the image, from a checkpoint and images of any size."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.data import batches
from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.inference import resize, sliding_window
from fcn_jax.models import convention, create_model
from fcn_jax.runtime import distributed, xla_options
from fcn_jax.types import MATMUL_PRECISION, SCALES, InputError
from fcn_jax.weights import initialize, torch_weights

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
    """All else that was saved: config, progress, class weights; not of an exported network."""

    def __repr__(self) -> str:
        """Short: not the arrays."""
        parameters = sum(np.size(x) for x in jax.tree.leaves(self.variables.get("params", {})))
        name = self.meta.get("model", {}).get("name", type(self.model).__name__)
        size = "x".join(map(str, self.image_size))
        parts = [name, f"{parameters:,} parameters", f"{len(self.class_names)} classes", size]
        progress = self.meta.get("progress")
        if progress:
            score = progress["best_miou"]
            parts.append(f"epoch {progress['epoch']}")
            parts += [] if score is None else [f"mIoU {score:.4f}"]
        return f"Checkpoint({', '.join(parts)})"


def model_of(spec: Mapping[str, Any]) -> nn.Module:
    """The network that a checkpoint's `model` describes: `create_model`'s arguments as JSON."""
    options = dict(spec)
    dtype = DTYPES[options.pop("precision")]
    return create_model(options.pop("name"), options.pop("num_classes"), dtype=dtype, **options)


def load_checkpoint(path: Path | str, which: str = "best") -> Checkpoint:
    """Load a run's network for use; no training flag and no optimizer is needed.

    Args:
      path: the folder of a run, its `checkpoints` folder, or a folder of model.safetensors and
        config.json (`weights.model_folder`).
      which: `best` (by validation miou) or `latest`.

    Raises:
      InputError: if there is no valid checkpoint, or no device to use it on.
    """
    distributed.require_backend()
    variables, meta = initialize.read_folder(Path(path), which)
    return Checkpoint(
        model_of(meta["model"]),
        jax.device_put(variables),  # jnp.asarray would compile a program for each shape
        tuple(meta["class_names"]),
        np.asarray(meta["palette"], np.uint8),
        tuple(meta["image_size"]),
        meta,
    )


def load_published(name: str, weights: Path | str | None = None) -> Checkpoint:
    """torchvision's published network of VOC's classes, trained on images about 520 pixels high.

    They were not resized to a square, so `predict` it with `scale="native"`.

    Args:
      name: of the network.
      weights: its file; None downloads it.

    Raises:
      InputError: if the network has no published weights, or the file does not fit it.

    Examples::

      network = load_published("deeplabv3_resnet50")
      mask = predict(network, image, scale="native")
    """
    distributed.require_backend()
    path = weights or initialize.published(name)
    variables = torch_weights.load_torch_weights(name, path)
    model = create_model(name, len(VOC_CLASSES))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    try:
        jax.eval_shape(model.apply, variables, image)
    except flax.errors.ScopeParamShapeError as error:
        reason = str(error).partition(" (http")[0].rstrip(".")
        raise InputError(f"{path}: of another number of classes than VOC's: {reason}") from None
    palette = voc_palette(len(VOC_CLASSES))
    variables = jax.device_put(variables)
    return Checkpoint(model, variables, VOC_CLASSES, palette, (520, 520), {})


class TTA(NamedTuple):
    """Test-time augmentation: the probabilities of several views of an image are averaged."""

    flip: bool = False
    """Also the mirror image of each view."""
    factors: tuple[float, ...] = (1.0,)
    """Sizes of the views, relative to `scale`'s; with `fit` rounded to multiples of 32."""


def predict(
    checkpoint: Checkpoint, image: np.ndarray, scale: str = "fit", tta: TTA | None = None
) -> np.ndarray:
    """The most likely class of every pixel.

    Args:
      checkpoint: from `load_checkpoint`.
      image: uint8 [H, W, 3], RGB, of any size.
      scale: one of `SCALES`.
      tta: views to average; None for the image alone. Averaging needs memory for the probabilities
        of all classes.

    Returns:
      uint8 [H, W].

    Examples:
      >>> from fcn_jax import create_model
      >>> model, palette = create_model("fcn", num_classes=2), np.zeros((2, 3), np.uint8)
      >>> variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
      >>> checkpoint = Checkpoint(model, variables, ("sky", "land"), palette, (32, 32), {})
      >>> mask = predict(checkpoint, np.zeros((50, 70, 3), np.uint8))
      >>> mask.shape, mask.dtype
      ((50, 70), dtype('uint8'))
    """
    if tta is not None and tta != TTA():
        return probabilities(checkpoint, image, scale, tta).argmax(-1).astype(np.uint8)
    return mask_of(logit_bands(checkpoint, image, scale), np.shape(image)[:2])


def mask_of(
    bands: Iterator[np.ndarray],
    size: tuple[int, ...],
    write: Callable[[np.ndarray], object] | None = None,
) -> np.ndarray:
    """The mask of bands of logits, uint8 [H, W]; `write` gets the probabilities of each band."""
    mask, row = np.empty(size, np.uint8), 0
    for band in bands:
        end = row + len(band)
        mask[row:end] = band.argmax(-1)
        if write is not None:
            write(softmax(band))
        row = end
    return mask


def logit_bands(
    checkpoint: Checkpoint,
    image: np.ndarray,
    scale: str = "fit",
    tick: Callable[[], object] = lambda: None,
) -> Iterator[np.ndarray]:
    """Logits at the image's own size, from the top, a band of rows at a time.

    So an image of any size is predicted in bounded memory. `tick` is called after each tile.

    Yields float32 [rows, W, K]; the rows add up to H.
    """
    image = _checked(image)
    if scale == "fit":
        yield from resize.resized_bands(predict_logits(checkpoint, image), image.shape[:2])
    elif scale == "native":
        run = _forward(checkpoint.model)[0]
        tile = _tile(image.shape[1], len(checkpoint.class_names))
        overlap = min(sliding_window.OVERLAP, tile // 4)

        def forward(part: np.ndarray) -> np.ndarray:
            with _precision(checkpoint):
                logits = np.asarray(run(checkpoint.variables, part))
            tick()
            return logits

        yield from sliding_window.bands(forward, image, tile, overlap)
    else:
        raise InputError(f"scale {scale!r}: choose one of {', '.join(SCALES)}")


def _tile(width: int, classes: int) -> int:
    """The largest usual tile whose row of logits stays within the budget, for very many classes."""
    sides = [side for side in sliding_window.SIDES if 256 <= side <= sliding_window.TILE]
    fitting = [side for side in sides if side * width * classes * 4 <= 2 * resize.BAND_BYTES]
    return max(fitting, default=sides[0])


def probabilities(
    checkpoint: Checkpoint, image: np.ndarray, scale: str = "fit", tta: TTA | None = None
) -> np.ndarray:
    """Softmax over the classes at the image's own size, averaged over the views: [H, W, K].

    float32: 4 H W K bytes, and as much again while it is computed.

    Raises:
      InputError: if a factor does not change the size, rounded as in `TTA`.
    """
    tta, image = tta or TTA(), _checked(image)
    views = [(factor, flip) for factor in tta.factors for flip in (False, True)[: 1 + tta.flip]]
    total = np.zeros((*image.shape[:2], len(checkpoint.class_names)), np.float32)
    for factor, flip in views:
        row = 0
        for band in _view(checkpoint, image[:, ::-1] if flip else image, scale, factor):
            values = softmax(band)
            total[row : row + len(band)] += values[:, ::-1] if flip else values
            row += len(band)
    return total / np.float32(len(views))


def _view(
    checkpoint: Checkpoint, image: np.ndarray, scale: str, factor: float
) -> Iterator[np.ndarray]:
    """Bands of logits, at the size of `image`, of a view `factor` times as large."""
    if factor == 1.0:
        return logit_bands(checkpoint, np.ascontiguousarray(image), scale)
    if scale == "fit":
        height, width = (max(32, 32 * round(n * factor / 32)) for n in checkpoint.image_size)
        if (height, width) == checkpoint.image_size:
            raise InputError(
                f"a view of {factor:g} times {height}x{width}, in steps of 32 pixels, is no other "
                "view: leave it out"
            )
        checkpoint = checkpoint._replace(image_size=(height, width))
        return logit_bands(checkpoint, np.ascontiguousarray(image), scale)
    height, width = (max(1, round(n * factor)) for n in image.shape[:2])
    sized = batches.resize_image(np.ascontiguousarray(image), (height, width))
    logits = np.concatenate(list(logit_bands(checkpoint, sized, scale)))
    return resize.resized_bands(logits, image.shape[:2])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, of the same type."""
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def predict_logits(checkpoint: Checkpoint, image: np.ndarray) -> np.ndarray:
    """Logits of one image at the size the network was trained at: float32 [h, w, K].

    The image is resized to that size first, exactly as validation does.

    Args:
      checkpoint: from `load_checkpoint`.
      image: uint8 [H, W, 3], RGB.
    """
    small = batches.resize_image(_checked(image), checkpoint.image_size)
    with _precision(checkpoint):
        return np.asarray(_forward(checkpoint.model)[0](checkpoint.variables, small[None])[0])


def _precision(checkpoint: Checkpoint):
    """Matrix products as precise as in training; float32 if the checkpoint does not say."""
    spec = checkpoint.meta.get("model", {})
    return jax.default_matmul_precision(MATMUL_PRECISION[spec.get("precision", "f32")])


def programs(checkpoint: Checkpoint) -> int:
    """How many programs prediction has compiled for this network: one per shape."""
    return len(_forward(checkpoint.model)[1])


@lru_cache(maxsize=8)
def _forward(model: nn.Module):
    """A network's jitted program, shared by all calls, and the shapes it was traced for."""
    shapes: set[tuple[int, ...]] = set()

    @partial(jax.jit, compiler_options=xla_options.options())
    def run(variables, image):
        shapes.add(image.shape)  # runs while tracing only
        return convention.infer(model, variables, batches.normalize(image))

    return run, shapes


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(
            f"image is {image.dtype} {list(image.shape)}: give uint8 [height, width, 3], RGB"
        )
    return image

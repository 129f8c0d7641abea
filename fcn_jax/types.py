"""Types and constants that every module shares. Imports nothing heavy, not even numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import jax
    import numpy as np

    AnyArray = jax.Array | np.ndarray
else:
    AnyArray = Any
"""An array on a device or on the host."""

VOID = 255
"""The mask value that is never counted: VOC's borders, padding, filler rows of a batch."""

VOID_COLOUR = (224, 224, 192)
"""VOC's own colour of void, RGB: understood in masks in colours, and used to show void."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""Of image files that are read, in lower case; where stems are equal the first one counts."""

MATMUL_PRECISION = {"f32": "highest", "tf32": "tensorfloat32", "bf16": "default"}
"""Precision of float32 products by `Config.precision`; explicit, because GPUs default to TF32."""

SCALES = ("fit", "native")
"""What a network sees of an image it predicts. `fit`: the image resized to the size the network was
trained at, which is what validation does, so objects have the scale the network knows. `native`:
every pixel."""

WeightScheme = Literal["none", "inverse", "inverse_sqrt", "median_frequency", "effective_number"]
"""How class weights follow from the numbers of pixels, see `losses.class_weights`."""

BACKGROUND_NAMES = ("background", "bg")


def background_class(class_names: Sequence[str]) -> int | None:
    """The id of the class that is named background, wherever it stands; None if there is none.

    >>> background_class(("cat", "Background"))
    1
    """
    for index, name in enumerate(class_names):
        if name.strip(" _-").lower() in BACKGROUND_NAMES:
            return index
    return None


class InputError(ValueError):
    """Bad input from outside: a file, a setting, a value.

    The message is one line that says what is wrong and what to do about it. It names no
    command-line flag: where a setting is at fault, `field` is its dotted name in `Config` (or the
    name of the argument), and the commands in `experiments` print the flag instead. They exit
    with code 2 and print no traceback.

    >>> str(InputError("must be at least 1", field="data.batch_size", value=0))
    'data.batch_size=0: must be at least 1'

    Attributes:
        message: what is wrong and what to do, without the field.
        field: the setting at fault, such as `data.batch_size`; None for a file.
        value: what it was set to.
    """

    def __init__(self, message: str, *, field: str | None = None, value: Any = None) -> None:
        super().__init__(message if field is None else f"{field}={value}: {message}")
        self.message, self.field, self.value = message, field, value


def first_best(scores: Sequence[float | None]) -> int | None:
    """The index of the highest score, the first of equals; None where there is none.

    The one rule for what is best: training, checkpoints and curves all use it. None and NaN are
    no scores.

    >>> first_best([None, 0.5, 0.7, 0.7])
    2
    """
    best, highest = None, float("-inf")
    for i, score in enumerate(scores):
        if score is not None and score == score and (best is None or score > highest):
            best, highest = i, score
    return best


class Example(NamedTuple):
    """One decoded image with its mask."""

    id: str
    image: np.ndarray
    """uint8 [H, W, 3], RGB."""
    mask: np.ndarray
    """uint8 [H, W]: class ids, and `VOID`."""


class Batch(NamedTuple):
    """Images of one static shape, as stored: a pytree of arrays, on the host or on a device."""

    image: Any
    """uint8 [N, H, W, 3]; zero outside the real image."""
    mask: Any
    """uint8 [N, H, W]; `VOID` outside the real image."""
    size: Any
    """int32 [N, 2]: the real height and width, at the top left."""


class TrainState(NamedTuple):
    """All that training carries from one step to the next: arrays only, so it is a pytree."""

    step: Any
    """int32 scalar: updates made so far."""
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    """Exponential moving average of (params, batch_stats), or None when not asked for."""

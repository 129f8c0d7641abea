"""The few types every module shares. Nothing here imports anything of the package."""

from typing import Any, NamedTuple

import numpy as np

VOID = 255
"""The mask value that is never counted: VOC's borders, canvas padding, filler rows of a batch."""

MATMUL_PRECISION = {"f32": "highest", "tf32": "tensorfloat32", "bf16": "default"}
"""What `--precision` means for float32 products: said outright, because GPUs default to TF32."""


class InputError(ValueError):
    """Bad input from outside: a file, a flag, a value.

    The message is one line that says what was found, where, and what to do about it. The doors in
    `experiments` print it without a traceback and exit with code 2.
    """


class Example(NamedTuple):
    """One decoded picture with its mask."""

    id: str
    image: np.ndarray
    """uint8 [H, W, 3], RGB."""
    mask: np.ndarray
    """uint8 [H, W]: class ids, and `VOID`."""


class Batch(NamedTuple):
    """Pictures of one static shape, as stored: a pytree of arrays, on the host or on a device."""

    image: Any
    """uint8 [N, H, W, 3]; zero outside the real picture."""
    mask: Any
    """uint8 [N, H, W]; `VOID` outside the real picture."""
    size: Any
    """int32 [N, 2]: the real height and width, at the canvas's top left."""


class TrainState(NamedTuple):
    """All that training carries from one step to the next: arrays only, so it is a pytree."""

    step: Any
    """int32 scalar: updates made so far."""
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    """Exponential moving average of (params, batch_stats), or None when not asked for."""

"""Masks in colours: whole, over the image, as an error map, and as an index PNG."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from fcn_jax.types import VOID, VOID_COLOUR, InputError, background_class

ERROR_COLOURS = {
    "missed object": (0, 114, 230),
    "false alarm": (255, 140, 0),
    "wrong class": (214, 0, 147),
    "void": VOID_COLOUR,
}
"""The kinds of error in an error map. Three hues that colour-blind readers can tell apart."""


class Panel(NamedTuple):
    """One image, what is in it, and what a network sees in it."""

    title: str
    """The image's id, or a whole line such as `panel_title` makes."""
    image: np.ndarray
    """uint8 [H, W, 3]."""
    truth: np.ndarray
    """uint8 [H, W]: class ids, and `VOID`."""
    prediction: np.ndarray
    """uint8 [H, W]: class ids."""


def full_palette(palette: np.ndarray) -> np.ndarray:
    """Palette uint8 [K, 3] -> uint8 [256, 3]; index `VOID` is off-white, unused ones are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette[:256]
    table[VOID] = VOID_COLOUR
    return table


def _checked(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise InputError(
            f"a mask of shape {mask.shape} and type {mask.dtype}: give uint8 class ids [H, W]"
        )
    wrong = mask[(mask >= len(palette)) & (mask != VOID)]
    if wrong.size:
        raise InputError(
            f"mask holds class {wrong[0]}, the palette has colours for 0..{len(palette) - 1}: "
            "pass the palette of the data set that the mask belongs to"
        )
    return mask


def colourise(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Mask uint8 [H, W], palette uint8 [K, 3] -> RGB uint8 [H, W, 3]; void is off-white.

    Raises InputError if a class has no colour.
    """
    return full_palette(palette)[_checked(mask, palette)]


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, alpha: float = 0.6
) -> np.ndarray:
    """The image, tinted by the mask: (1 - alpha) * image + alpha * colour, rounded.

    Image uint8 [H, W, 3], mask uint8 [H, W] -> uint8 [H, W, 3]. Void, and classes whose colour is
    black (VOC's background), leave the image as it is: black would only hide it.
    Raises InputError if the sizes differ or a class has no colour.
    """
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"an image of {image.shape[0]}x{image.shape[1]} under a mask of "
            f"{mask.shape[0]}x{mask.shape[1]}: resize one of them first"
        )
    colour = colourise(mask, palette)
    mixed = np.rint((1 - alpha) * image + alpha * colour).astype(np.uint8)
    tinted = (mask != VOID) & (colour.any(axis=-1))
    return np.where(tinted[..., None], mixed, image)


def error_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, background: int | None = 0
) -> np.ndarray:
    """Where and how a prediction is wrong: uint8 [H, W, 3], the colours of `ERROR_COLOURS`.

    Right pixels show the image in pale grey. Without a background class every error is one of the
    kind "wrong class".
    """
    grey = 150 + image.astype(np.float32).mean(axis=-1) * (90 / 255)
    out = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)
    wrong = (truth != prediction) & (truth != VOID)
    out[wrong] = ERROR_COLOURS["wrong class"]
    if background is not None:
        out[wrong & (prediction == background)] = ERROR_COLOURS["missed object"]
        out[wrong & (truth == background)] = ERROR_COLOURS["false alarm"]
    out[truth == VOID] = ERROR_COLOURS["void"]
    return out


def error_kinds(class_names: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, colour) of the kinds of error that a map of these classes can show."""
    background = background_class(class_names)
    never = {"void"}
    if background is None:
        never |= {"missed object", "false alarm"}
    elif len(class_names) < 3:
        never |= {"wrong class"}
    return [(name, colour) for name, colour in ERROR_COLOURS.items() if name not in never]


def png(image: Image.Image) -> bytes:
    """The image as a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def index_png(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """Mask uint8 [H, W] -> a PNG of mode P: the index is the class, as in VOC's own masks."""
    image = Image.fromarray(np.ascontiguousarray(_checked(mask, palette)))
    image.putpalette(full_palette(palette).tobytes())  # turns mode L into mode P
    return png(image)


def legend_entries(
    masks: Iterable[np.ndarray], class_names: Sequence[str], palette: np.ndarray
) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, colour) of just the classes that occur in the masks, in class order; void last."""
    seen = np.zeros(256, bool)
    for mask in masks:
        seen[np.unique(_checked(mask, palette))] = True
    colours = full_palette(palette)
    names = {**dict(enumerate(class_names)), VOID: "void"}
    return [
        (names.get(int(index), f"class {index}"), (int(r), int(g), int(b)))
        for index in np.flatnonzero(seen)
        for r, g, b in [colours[index]]
    ]


def choose_examples(scores: Sequence[float | None], each: int = 2) -> list[tuple[str, int]]:
    """(label, index) of the best, the median and the worst images, best first, none twice.

    Scores are one per image; images without a score (None or NaN) are never chosen. With few
    images the worst and the best come first, the middle last.
    """
    values = np.array([np.nan if s is None else s for s in scores], float)
    order = [int(i) for i in np.argsort(-values, kind="stable") if np.isfinite(values[i])]
    each = min(each, max(1, len(order) // 3)) if order else 0
    best = order[:each]
    worst = [i for i in order[-each:] if i not in best] if each else []
    rest = [i for i in order if i not in best and i not in worst]
    start = max(0, (len(rest) - each) // 2)
    middle = rest[start : start + each]
    parts = (("best", best), ("median", middle), ("worst", worst))
    return [(label, index) for label, indices in parts for index in indices]


def panel_title(label: str, image_id: str, score: float | None) -> str:
    """The line above an image: `best: 000042, mIoU 0.512`."""
    return f"{label}: {image_id}" + ("" if score is None else f", mIoU {score:.3f}")

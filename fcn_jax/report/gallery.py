"""gallery.png: images beside their truth, prediction and errors, pixel for pixel, with a legend.

Drawn with PIL rather than a plotting library, so that the colours of the masks stay exact.
"""

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fcn_jax.report.masks import (
    Panel,
    colourise,
    error_kinds,
    error_map,
    legend_entries,
    overlay,
)
from fcn_jax.runtime.text import plain
from fcn_jax.types import background_class

CELL = 240
GAP = 12
TITLE = 30
SWATCH = 16
INK = (29, 35, 48)
NARROW = 160
COLUMNS = ("image", "truth", "prediction", "errors", "overlay")

Entry = tuple[str, tuple[int, int, int]]
"""A name and its colour."""


@lru_cache
def font(size: int, bold: bool = False) -> Any:
    """The font that matplotlib brings; without matplotlib PIL's own, which has no bold."""
    try:
        import matplotlib
    except ImportError:
        return ImageFont.load_default(size)
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def fitted(image: np.ndarray, cell: int = CELL, exact: bool = False) -> Image.Image:
    """RGB uint8 [H, W, 3] scaled to fit a square; `exact` invents no colours (nearest pixel)."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, method)


def legend_image(entries: Sequence[Entry], width: int, size: int = 14) -> Image.Image:
    """A white strip `width` pixels wide with swatches and names, as many lines as they need.

    `size` is that of the letters, in pixels; all else grows with it.
    """
    text, unit = font(size), size / 14
    swatch, gap, line = round(SWATCH * unit), round(GAP * unit), round((SWATCH + 10) * unit)
    placed, x, y = [], gap, gap
    for name, colour in entries:
        label = plain(name, 28)
        step = swatch + round(text.getlength(label) + 24 * unit)
        if x > gap and x + step > width:
            x, y = gap, y + line
        placed.append((label, colour, x, y))
        x += step
    strip = Image.new("RGB", (width, y + line + gap if placed else gap), "white")
    draw = ImageDraw.Draw(strip)
    for label, colour, x, y in placed:
        draw.rectangle((x, y, x + swatch, y + swatch), colour, outline=(128, 128, 128))
        draw.text((x + swatch + round(6 * unit), y - 1), label, INK, text)
    return strip


def with_legend(
    image: np.ndarray, masks: Sequence[np.ndarray], class_names: Sequence[str], palette: np.ndarray
) -> Image.Image:
    """An overlay with the classes of its masks named in a strip below; its pixels stay as they are.

    An image narrower than `NARROW` pixels has no room for names, and gets no strip.
    """
    whole, width = Image.fromarray(np.ascontiguousarray(image)), image.shape[1]
    if width < NARROW:
        return whole
    entries = legend_entries(masks, class_names, palette)
    return stacked([whole, legend_image(entries, width, min(max(14, width // 60), 96))])


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Images below each other, on white."""
    sheet = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def grid_row(title: str, cells: Sequence[Image.Image], cell: int = CELL) -> Image.Image:
    """A line of text above images side by side, each in a column `cell` wide."""
    width = GAP + len(cells) * (cell + GAP)
    row = Image.new("RGB", (width, TITLE + max(c.height for c in cells) + GAP), "white")
    ImageDraw.Draw(row).text((GAP, 8), plain(title, 110), INK, font(14))
    for column, image in enumerate(cells):
        row.paste(image, (GAP + column * (cell + GAP), TITLE))
    return row


def gallery(
    panels: Sequence[Panel], class_names: Sequence[str], palette: np.ndarray
) -> Image.Image:
    """Image, truth, prediction, errors and overlay of each panel, and a legend.

    Masks are drawn in the palette uint8 [K, 3], void off-white; the legend below names just the
    classes that occur, and the kinds of errors.

    Raises:
      InputError: if a mask holds a class that has no colour.
    """
    background = background_class(class_names)
    width = GAP + len(COLUMNS) * (CELL + GAP)
    head = Image.new("RGB", (width, TITLE), "white")
    for column, name in enumerate(COLUMNS):
        at = (GAP + column * (CELL + GAP), 9)
        ImageDraw.Draw(head).text(at, name, INK, font(14, bold=True))
    rows = [
        grid_row(
            panel.title,
            [
                fitted(panel.image),
                fitted(colourise(panel.truth, palette), exact=True),
                fitted(colourise(panel.prediction, palette), exact=True),
                fitted(error_map(*panel[1:], background), exact=True),
                fitted(overlay(panel.image, panel.prediction, palette)),
            ],
        )
        for panel in panels
    ]
    masks = [mask for panel in panels for mask in (panel.truth, panel.prediction)]
    legend = legend_image(legend_entries(masks, class_names, palette), width)
    errors = legend_image(error_kinds(class_names), width)
    return stacked([head, *rows, legend, errors] if panels else [head])


def shrunk(image: np.ndarray, method: Image.Resampling, side: int) -> Image.Image:
    """An array as an image whose longer side is at most `side` pixels."""
    whole = Image.fromarray(np.ascontiguousarray(image))
    scale = side / max(whole.size)
    if scale >= 1:
        return whole
    return whole.resize([max(1, round(n * scale)) for n in whole.size], method)


def thumbnail(image: np.ndarray, side: int = 200) -> bytes:
    """RGB uint8 [H, W, 3] as a JPEG of at most `side` pixels."""
    buffer = BytesIO()
    shrunk(image, Image.Resampling.BICUBIC, side).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


class Prediction(NamedTuple):
    """One image of a page of predictions."""

    name: str
    overlay: str
    """Path of the overlay, relative to the page."""
    thumbnail: bytes
    """A JPEG, see `thumbnail`."""
    fractions: Sequence[float]
    """Fraction of the image's pixels for each class."""

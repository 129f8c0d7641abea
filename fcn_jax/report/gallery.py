"""The gallery: images beside their truth and prediction, pixel for pixel, with a legend.

Drawn with PIL rather than a plotting library, so that the colours of the masks stay exact.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fcn_jax.report.masks import Panel, colourise, legend_entries, overlay
from fcn_jax.report.text import plain
from fcn_jax.runtime import files

CELL = 240
GAP = 12
TITLE = 30
SWATCH = 16
INK = (29, 35, 48)
COLUMNS = ("image", "truth", "prediction", "overlay")


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def fitted(image: np.ndarray, cell: int = CELL, exact: bool = False) -> Image.Image:
    """RGB uint8 [H, W, 3] scaled to fit a square; `exact` invents no colours (nearest pixel)."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, method)


def _cells(panel: Panel, palette: np.ndarray) -> list[Image.Image]:
    return [
        fitted(panel.image),
        fitted(colourise(panel.truth, palette), exact=True),
        fitted(colourise(panel.prediction, palette), exact=True),
        fitted(overlay(panel.image, panel.prediction, palette)),
    ]


def _legend_rows(
    entries: Sequence[tuple[str, tuple[int, int, int]]], font: ImageFont.FreeTypeFont, width: int
) -> list[list[tuple[str, tuple[int, int, int], int]]]:
    """Lines of (name, colour, x), broken where the page ends."""
    lines, x = [[]], 0
    for name, colour in entries:
        label = plain(name, 28)
        step = SWATCH + 6 + round(font.getlength(label)) + 18
        if lines[-1] and x + step > width:
            lines.append([])
            x = 0
        lines[-1].append((label, colour, x))
        x += step
    return lines


def write_gallery(
    panels: Sequence[Panel], class_names: Sequence[str], palette: np.ndarray, path: str | Path
) -> None:
    """Write gallery.png: a row of image, truth, prediction and overlay for each panel.

    Masks are drawn in the palette uint8 [K, 3], void off-white; the legend below names just the
    classes that occur. Raises InputError if a mask holds a class that has no colour.
    """
    text, bold = _font(14), _font(14, bold=True)
    rows = [_cells(panel, palette) for panel in panels]
    width = GAP + len(COLUMNS) * (CELL + GAP)
    masks = [mask for panel in panels for mask in (panel.truth, panel.prediction)]
    legend = _legend_rows(legend_entries(masks, class_names, palette), text, width - 2 * GAP)
    heights = [TITLE + max(cell.height for cell in cells) + GAP for cells in rows]
    height = TITLE + sum(heights) + GAP + len(legend) * (SWATCH + 10) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS):
        draw.text((GAP + column * (CELL + GAP), 9), name, INK, bold)
    top = TITLE
    for panel, cells, step in zip(panels, rows, heights, strict=True):
        draw.text((GAP, top + 8), plain(panel.title, 110), INK, text)
        for column, cell in enumerate(cells):
            sheet.paste(cell, (GAP + column * (CELL + GAP), top + TITLE))
        top += step
    for line in legend:
        top += SWATCH + 10 if line is not legend[0] else GAP
        for label, colour, x in line:
            box = (GAP + x, top, GAP + x + SWATCH, top + SWATCH)
            draw.rectangle(box, colour, outline=(128, 128, 128))
            draw.text((box[2] + 6, top - 1), label, INK, text)
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    files.write_bytes(path, buffer.getvalue())

"""The contact sheet: many images under their masks, to see at a glance what is off."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fcn_jax.report.gallery import GAP, INK, SWATCH, _font, _legend_rows, fitted
from fcn_jax.report.masks import legend_entries, overlay
from fcn_jax.report.text import plain
from fcn_jax.runtime import files
from fcn_jax.types import Example

CELL = 180
LINE = 20
COLUMNS = 6


def write_contact_sheet(
    groups: Sequence[tuple[str, Sequence[Example]]],
    class_names: Sequence[str],
    palette: np.ndarray,
    path: str | Path,
) -> None:
    """Write one PNG: for each (title, examples) a heading and a grid of images under their masks.

    Args:
      groups: such as one for each split; an empty one is only named.
      class_names: K names, for the legend.
      palette: uint8 [K, 3].
      path: of the PNG.
    """
    text, bold = _font(12), _font(14, bold=True)
    width = GAP + COLUMNS * (CELL + GAP)
    masks = [example.mask for _, examples in groups for example in examples]
    legend = _legend_rows(legend_entries(masks, class_names, palette), text, width - 2 * GAP)
    row = CELL + LINE + GAP
    lines = [-(-len(examples) // COLUMNS) for _, examples in groups]
    height = sum(2 * LINE + n * row for n in lines) + len(legend) * (SWATCH + 10) + 2 * GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(sheet), GAP
    for (title, examples), count in zip(groups, lines, strict=True):
        draw.text((GAP, top), plain(title, 110), INK, bold)
        top += 2 * LINE
        for i, example in enumerate(examples):
            x, y = GAP + i % COLUMNS * (CELL + GAP), top + i // COLUMNS * row
            sheet.paste(fitted(overlay(example.image, example.mask, palette), CELL), (x, y + LINE))
            draw.text((x, y), plain(example.id, 26), INK, text)
        top += count * row
    for line in legend:
        for label, colour, x in line:
            box = (GAP + x, top, GAP + x + SWATCH, top + SWATCH)
            draw.rectangle(box, colour, outline=(128, 128, 128))
            draw.text((box[2] + 6, top), label, INK, text)
        top += SWATCH + 10
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    files.write_bytes(path, buffer.getvalue())

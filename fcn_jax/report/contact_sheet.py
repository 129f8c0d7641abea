"""The contact sheet: many images under their masks, to spot mistakes at a glance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fcn_jax.report.gallery import GAP, INK, TITLE, fitted, font, legend_image, stacked
from fcn_jax.report.masks import legend_entries, overlay, png
from fcn_jax.runtime import files
from fcn_jax.runtime.text import plain
from fcn_jax.types import Example

CELL = 180
LINE = 20
COLUMNS = 6
WIDTH = GAP + COLUMNS * (CELL + GAP)


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
    masks = [example.mask for _, examples in groups for example in examples]
    parts = [_group(title, examples, palette) for title, examples in groups]
    legend = legend_image(legend_entries(masks, class_names, palette), WIDTH)
    files.write_bytes(path, png(stacked([*parts, legend])))


def _group(title: str, examples: Sequence[Example], palette: np.ndarray) -> Image.Image:
    """A heading, and the examples in lines of `COLUMNS`."""
    step = LINE + CELL + GAP
    sheet = Image.new("RGB", (WIDTH, TITLE + -(-len(examples) // COLUMNS) * step), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), plain(title, 110), INK, font(14, bold=True))
    for i, example in enumerate(examples):
        x, y = GAP + i % COLUMNS * (CELL + GAP), TITLE + i // COLUMNS * step
        draw.text((x, y), plain(example.id, 26), INK, font(12))
        sheet.paste(fitted(overlay(example.image, example.mask, palette), CELL), (x, y + LINE))
    return sheet

import numpy as np
from PIL import Image

from fcn_jax.report import gallery as drawing
from fcn_jax.report.masks import Panel

PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
NAMES = ("background", "cat", "dog")


def drawn(tmp_path, panels, names=NAMES, palette=PALETTE):
    drawing.write_gallery(panels, names, palette, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as png:
        return np.asarray(png.convert("RGB"))


def cell(sheet, column, height):
    top, left = 2 * drawing.TITLE, drawing.GAP + column * (drawing.CELL + drawing.GAP)
    return sheet[top : top + height, left : left + drawing.CELL]


def test_masks_are_drawn_in_the_exact_palette(tmp_path, panel):
    sheet = drawn(tmp_path, [panel])
    # 20 x 30 becomes 160 x 240: each mask pixel is a block of 8 x 8.
    blocks = np.kron(panel.truth, np.ones((8, 8), np.uint8))
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 255: (224, 224, 192)}
    for index, colour in colours.items():
        assert (cell(sheet, 1, 160)[blocks == index] == colour).all()
    blocks = np.kron(panel.prediction, np.ones((8, 8), np.uint8))
    assert (cell(sheet, 2, 160)[blocks == 1] == (128, 0, 0)).all()


def test_picture_and_overlay_stand_in_their_columns(tmp_path, panel):
    sheet = drawn(tmp_path, [panel])
    assert tuple(cell(sheet, 0, 160)[80, 200]) == (90, 120, 200)
    assert tuple(cell(sheet, 3, 160)[80, 80]) == (113, 48, 80)  # 0.4 * image + 0.6 * (128, 0, 0)


def test_legend_shows_just_the_classes_that_occur(tmp_path, panel):
    sheet = drawn(tmp_path, [panel])
    below = sheet[2 * drawing.TITLE + 160 :].reshape(-1, 3)
    inner = (drawing.SWATCH - 1) ** 2  # without the outline
    for colour, occurs in (((128, 0, 0), 1), ((224, 224, 192), 1), ((0, 128, 0), 0)):
        assert (below == colour).all(axis=1).sum() == inner * occurs


def test_long_legends_break_into_lines_inside_the_page():
    font = drawing._font(14)
    entries = [(f"a rather long class name {i}", (i, 0, 0)) for i in range(30)]
    lines = drawing._legend_rows(entries, font, 700)
    assert sum(map(len, lines)) == 30
    assert len(lines) > 1
    for line in lines:
        for label, _, x in line:
            assert x + drawing.SWATCH + 6 + font.getlength(label) <= 700


def test_pictures_of_any_shape_and_names_of_any_kind(tmp_path):
    tall = Panel("b\udce9d\n$x^$", *(np.zeros(s, np.uint8) for s in ((50, 9, 3), (50, 9), (50, 9))))
    sheet = drawn(tmp_path, [tall, tall], names=("_$\\frac$", "猫", "c" * 300))
    assert sheet.shape[1] == drawing.GAP + 4 * (drawing.CELL + drawing.GAP)


def test_no_panels_still_make_a_file(tmp_path):
    assert drawn(tmp_path, []).shape[0] > 0

import numpy as np
import pytest

from fcn_jax.report import gallery as drawing
from fcn_jax.report.masks import ERROR_COLOURS, Panel

PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
NAMES = ("background", "cat", "dog")


def drawn(panels, names=NAMES, palette=PALETTE):
    return np.asarray(drawing.gallery(panels, names, palette))


def cell(sheet, column, height):
    top, left = 2 * drawing.TITLE, drawing.GAP + column * (drawing.CELL + drawing.GAP)
    return sheet[top : top + height, left : left + drawing.CELL]


def test_masks_are_drawn_in_the_exact_palette(panel):
    sheet = drawn([panel])
    # 20 x 30 becomes 160 x 240: each mask pixel is a block of 8 x 8.
    blocks = np.kron(panel.truth, np.ones((8, 8), np.uint8))
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 255: (224, 224, 192)}
    for index, colour in colours.items():
        assert (cell(sheet, 1, 160)[blocks == index] == colour).all()
    blocks = np.kron(panel.prediction, np.ones((8, 8), np.uint8))
    assert (cell(sheet, 2, 160)[blocks == 1] == (128, 0, 0)).all()


def test_image_and_overlay_stand_in_their_columns(panel):
    sheet = drawn([panel])
    assert tuple(cell(sheet, 0, 160)[80, 200]) == (90, 120, 200)
    assert tuple(cell(sheet, 4, 160)[80, 80]) == (113, 48, 80)  # 0.4 * image + 0.6 * (128, 0, 0)


def test_errors_stand_beside_the_prediction(panel):
    errors = cell(drawn([panel]), 3, 160)
    assert tuple(errors[80, 20]) == ERROR_COLOURS["missed object"]  # cat at the left, not seen
    assert tuple(errors[80, 100]) == ERROR_COLOURS["false alarm"]


def test_legend_shows_just_the_classes_that_occur(panel):
    sheet = drawn([panel])
    below = sheet[2 * drawing.TITLE + 160 + drawing.GAP :].reshape(-1, 3)
    inner = (drawing.SWATCH - 1) ** 2  # without the outline
    occurring = [(128, 0, 0), (224, 224, 192), ERROR_COLOURS["missed object"]]
    for colour in [*occurring, (0, 128, 0)]:
        count = (below == colour).all(axis=1).sum()
        assert count == (inner if colour in occurring else 0), colour


def test_long_legends_break_into_lines_inside_the_image():
    entries = [(f"a rather long class name {i}", (200, i, 0)) for i in range(30)]
    strip = np.asarray(drawing.legend_image(entries, 700))
    assert strip.shape[1] == 700
    assert (strip[:, -3:] == 255).all()  # nothing reaches over the edge
    for _, colour in entries:
        assert (strip == colour).all(axis=-1).sum() >= (drawing.SWATCH - 1) ** 2


@pytest.mark.parametrize("width", [200, 1800])
def test_an_overlay_keeps_its_pixels_above_its_legend(width):
    image = np.full((20, width, 3), (90, 120, 200), np.uint8)
    mask = np.ones((20, width), np.uint8)
    whole = np.asarray(drawing.with_legend(image, [mask], NAMES, PALETTE))
    assert whole.shape[1] == width
    np.testing.assert_array_equal(whole[:20], image)
    swatch = (whole[20:] == (128, 0, 0)).all(axis=-1).sum()
    size = drawing.SWATCH * max(1, width / 60 / 14)  # grows with the image
    assert swatch == pytest.approx(size**2, rel=0.2)


def test_a_narrow_overlay_has_no_room_for_a_legend(panel):
    assert drawing.with_legend(panel.image, [panel.truth], NAMES, PALETTE).size == (30, 20)


def test_images_of_any_shape_and_names_of_any_kind():
    tall = Panel("b\udce9d\n$x^$", *(np.zeros(s, np.uint8) for s in ((50, 9, 3), (50, 9), (50, 9))))
    sheet = drawn([tall, tall], names=("_$\\frac$", "猫", "c" * 300))
    assert sheet.shape[1] == drawing.GAP + 5 * (drawing.CELL + drawing.GAP)


def test_no_panels_still_make_an_image():
    assert drawn([]).shape[0] > 0

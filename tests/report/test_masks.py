from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fcn_jax.report import masks
from fcn_jax.types import InputError

PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
NAMES = ("background", "cat", "dog")


def test_colourise_gives_each_class_its_colour_and_void_off_white():
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    expected = [[[0, 0, 0], [128, 0, 0]], [[0, 128, 0], [224, 224, 192]]]
    np.testing.assert_array_equal(masks.colourise(mask, PALETTE), expected)


def test_void_is_off_white_even_where_the_palette_has_all_256_colours():
    palette = np.zeros((256, 3), np.uint8)
    assert tuple(masks.colourise(np.array([[255]], np.uint8), palette)[0, 0]) == (224, 224, 192)


def test_class_without_colour_is_refused_and_named():
    with pytest.raises(InputError, match=r"class 7.*0\.\.2"):
        masks.colourise(np.array([[0, 7]], np.uint8), PALETTE)


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int32)])
def test_colour_masks_and_wide_integers_are_refused(mask):
    with pytest.raises(InputError, match="uint8 class ids"):
        masks.colourise(mask, PALETTE)


def test_overlay_mixes_by_alpha_and_leaves_background_and_void():
    image = np.full((1, 3, 3), (100, 50, 10), np.uint8)
    mask = np.array([[0, 1, 255]], np.uint8)
    out = masks.overlay(image, mask, PALETTE, alpha=0.5)
    np.testing.assert_array_equal(out, [[[100, 50, 10], [114, 25, 5], [100, 50, 10]]])


def test_overlay_of_other_size_is_refused():
    with pytest.raises(InputError, match="2x3 under a mask of 2x4"):
        masks.overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 4), np.uint8), PALETTE)


def test_index_png_keeps_indices_and_carries_the_palette():
    mask = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    with Image.open(BytesIO(masks.index_png(mask, PALETTE))) as png:
        assert png.mode == "P"
        np.testing.assert_array_equal(np.asarray(png), mask)
        np.testing.assert_array_equal(
            np.asarray(png.convert("RGB")), masks.colourise(mask, PALETTE)
        )


def test_legend_has_exactly_the_occurring_classes_void_last():
    occurring = [np.array([[2, 255]], np.uint8), np.array([[0, 2]], np.uint8)]
    assert masks.legend_entries(occurring, NAMES, PALETTE) == [
        ("background", (0, 0, 0)),
        ("dog", (0, 128, 0)),
        ("void", (224, 224, 192)),
    ]


def test_error_map_tells_the_kinds_of_error_apart():
    truth = np.array([[1, 0, 1, 255, 1]], np.uint8)
    prediction = np.array([[0, 1, 2, 1, 1]], np.uint8)
    out = masks.error_map(np.zeros((1, 5, 3), np.uint8), truth, prediction)
    kinds = ["missed object", "false alarm", "wrong class", "void"]
    for column, kind in enumerate(kinds):
        assert tuple(out[0, column]) == masks.ERROR_COLOURS[kind]
    assert tuple(out[0, 4]) == (150, 150, 150)  # right: pale grey of a black image


def test_without_a_background_every_error_is_a_wrong_class():
    truth, prediction = np.array([[1, 0]], np.uint8), np.array([[0, 1]], np.uint8)
    out = masks.error_map(np.zeros((1, 2, 3), np.uint8), truth, prediction, background=None)
    assert (out == masks.ERROR_COLOURS["wrong class"]).all()


def test_the_background_may_be_any_class():
    truth, prediction = np.array([[2, 1]], np.uint8), np.array([[1, 2]], np.uint8)
    out = masks.error_map(np.zeros((1, 2, 3), np.uint8), truth, prediction, background=2)
    assert tuple(out[0, 0]) == masks.ERROR_COLOURS["false alarm"]
    assert tuple(out[0, 1]) == masks.ERROR_COLOURS["missed object"]


def test_choose_examples_takes_best_median_worst():
    scores = [0.5, 0.9, None, 0.1, 0.6, float("nan"), 0.4, 0.3, 0.8]
    assert masks.choose_examples(scores, each=1) == [("best", 1), ("median", 0), ("worst", 3)]
    chosen = masks.choose_examples(scores, each=2)
    assert [row for _, row in chosen] == [1, 8, 4, 0, 7, 3]
    assert [label for label, _ in chosen] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([None], []),
        ([0.5], [("best", 0)]),
        ([0.1, 0.5], [("best", 1), ("worst", 0)]),
        ([0.1, 0.5, 0.3], [("best", 1), ("median", 2), ("worst", 0)]),
    ],
)
def test_choose_examples_never_shows_an_image_twice(scores, expected):
    assert masks.choose_examples(scores, each=2) == expected


def test_panel_title():
    assert masks.panel_title("best", "000042", 0.5) == "best: 000042, mIoU 0.500"
    assert masks.panel_title("worst", "000042", None) == "worst: 000042"


@pytest.mark.parametrize(
    ("classes", "kinds"),
    [
        (("background", "cat", "dog"), ["missed object", "false alarm", "wrong class"]),
        (("background", "cat"), ["missed object", "false alarm"]),
        (("road", "sky"), ["wrong class"]),
    ],
)
def test_the_legend_of_errors_names_those_that_can_occur(classes, kinds):
    assert [name for name, _ in masks.error_kinds(classes)] == kinds

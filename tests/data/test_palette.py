import itertools

import numpy as np
import pytest

from fcn_jax.data.classes import VOC_CLASSES, default_palette, voc_palette
from fcn_jax.types import VOID_COLOUR


def names(count):
    return ["road", "background", *(f"class {i}" for i in range(count - 2))]


def test_voc_keeps_its_colours():
    np.testing.assert_array_equal(default_palette(VOC_CLASSES), voc_palette(21))


def test_the_background_is_black_wherever_it_stands_and_nothing_else_is():
    palette = default_palette(names(30))
    assert [i for i, colour in enumerate(palette) if not colour.any()] == [1]
    assert default_palette(["sky", "road"]).any(axis=1).all()


def test_colours_are_bright():
    palette = default_palette(names(60))
    assert np.delete(palette, 1, axis=0).max(axis=1).min() >= 190  # VOC's begin with 128


@pytest.mark.parametrize(("count", "distance"), [(8, 90), (25, 30)])
def test_colours_lie_far_apart_and_from_void(count, distance):
    colours = [*default_palette(names(count)).astype(int), np.array(VOID_COLOUR)]
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(one - other) >= distance, (one, other)


def test_no_colour_comes_twice():
    assert len(np.unique(default_palette(names(255)), axis=0)) == 255

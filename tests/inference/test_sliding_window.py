"""Windows over images of any size: what they cover, how they blend, how few shapes they have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_jax.inference import sliding_window
from fcn_jax.types import InputError

SIZES = st.integers(1, 1200)
TILES = st.sampled_from([32, 64, 128, 256])


def pointwise(part):
    """A network without context: tiling must not change what it says."""
    x = part.astype(np.float32)
    return np.concatenate([x[..., :1] - x[..., 1:2], 3 * x[..., 2:]], -1)


@given(length=SIZES, tile=TILES, part=st.sampled_from([0, 4, 2]))
def test_axes_cover_every_pixel_with_weights_that_sum_to_one(length, tile, part):
    overlap = tile // part if part and tile > 32 else 0
    axis = sliding_window.axis(length, tile, overlap)
    total = np.zeros(axis.padded)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert start % 32 == 0
        total[start : start + axis.window] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert axis.padded >= length
    assert axis.window in sliding_window.SIDES
    assert axis.window <= tile
    shared = [a + axis.window - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert min(shared, default=overlap) >= overlap


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), seed=st.integers(0, 9))
def test_a_network_without_context_does_not_notice(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    bands = list(sliding_window.bands(pointwise, image, tile=64, overlap=32))
    np.testing.assert_allclose(
        np.concatenate(bands), pointwise(image[None])[0], rtol=1e-5, atol=1e-3
    )


def test_few_shapes_and_narrow_bands():
    shapes = set()

    def forward(part):
        shapes.add(part.shape[1:3])
        return part[..., :1].astype(np.float32)

    for height, width in ((375, 500), (333, 500), (281, 500), (370, 490), (384, 512), (288, 480)):
        list(sliding_window.bands(forward, np.zeros((height, width, 3), np.uint8)))
    assert shapes == {(384, 512)}
    bands = list(sliding_window.bands(forward, np.zeros((3000, 900, 3), np.uint8)))
    assert shapes == {(384, 512), (768, 768)}
    assert max(len(band) for band in bands) <= 768
    assert sum(len(band) for band in bands) == 3000


def test_padding_mirrors_the_picture():
    seen = []

    def forward(part):
        seen.append(part)
        return part.astype(np.float32)

    image = np.arange(30 * 33 * 3, dtype=np.uint8).reshape(30, 33, 3)
    [band] = sliding_window.bands(forward, image)
    np.testing.assert_array_equal(band, image)
    np.testing.assert_array_equal(seen[0][0, 30:], seen[0][0, 28:30][::-1])
    np.testing.assert_array_equal(seen[0][0, :30, 33:64], image[:, 32:1:-1])


def test_neighbours_share_a_pixel_by_their_distance_from_its_edge():
    axis = sliding_window.axis(96, 64, 32)
    assert axis.starts == (0, 32)
    # Pixel 40 is the 41st of the first window, 24 from its end, and the 9th of the second.
    np.testing.assert_allclose(axis.weights[0, 40], 24 / (24 + 9))
    np.testing.assert_allclose(axis.weights[1, 8], 9 / (24 + 9))
    assert axis.weights[0, 0] == 1


@pytest.mark.parametrize(("tile", "overlap"), [(100, 0), (64, 64), (64, -1), (32, 1)])
def test_tiles_that_make_no_sense(tile, overlap):
    with pytest.raises(InputError, match=f"tile {tile} with overlap {overlap}"):
        sliding_window.axis(500, tile, overlap)

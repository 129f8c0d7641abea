"""Logits at another size: against PIL, which does it a plane at a time, and without seams."""

import numpy as np
import pytest
from PIL import Image

from fcn_jax.inference import resize


def logits_of(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def resized(logits, size):
    return np.concatenate(list(resize.resized_bands(logits, size)))


@pytest.mark.parametrize(
    "size", [(14, 17), (28, 34), (200, 90), (15, 1), (1, 1), (5, 9), (3, 300), (67, 16)]
)
def test_as_pil(size):
    logits = logits_of(14, 17, 3)
    planes = [Image.fromarray(np.ascontiguousarray(logits[..., k])) for k in range(3)]
    planes = [np.asarray(p.resize(size[::-1], Image.Resampling.BILINEAR)) for p in planes]
    np.testing.assert_allclose(resized(logits, size), np.stack(planes, -1), atol=2e-6)


def test_the_same_size_changes_nothing():
    logits = logits_of(70, 45, 2)
    np.testing.assert_array_equal(resized(logits, (70, 45)), logits)


def test_by_hand():
    logits = np.array([[[0.0], [8.0]]], np.float32)
    np.testing.assert_array_equal(resized(logits, (1, 4))[0, :, 0], [0.0, 2.0, 6.0, 8.0])
    np.testing.assert_array_equal(resized(logits, (1, 1))[0, :, 0], [4.0])


def test_bands_join_without_a_seam(monkeypatch):
    logits = logits_of(14, 17, 3)
    whole = resized(logits, (200, 90))
    monkeypatch.setattr(resize, "BAND_BYTES", 4 * 90 * 3 * 7)
    bands = list(resize.resized_bands(logits, (200, 90)))
    assert {len(b) for b in bands} == {7, 4}
    np.testing.assert_allclose(np.concatenate(bands), whole, atol=1e-6)

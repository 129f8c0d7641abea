"""Padded batches, indices and normalisation."""

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import batches
from fcn_jax.types import VOID
from tests import fakes


def test_normalize_is_imagenets():
    image = np.array([[[255, 0, 51]]], np.uint8)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(batches.normalize(image)[0, 0], expected, rtol=1e-6)


def test_resizing_is_pils_and_masks_keep_their_values():
    example = fakes.example(3, 61, 43)
    padded = fakes.resized([example], (32, 40))
    chex.assert_shape(padded.image, (1, 32, 40, 3))
    expected = Image.fromarray(example.image).resize((40, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(padded.image[0], expected)
    assert set(np.unique(padded.mask)) <= set(np.unique(example.mask))


def test_resizing_is_torchvisions_default():
    torch = pytest.importorskip("torch")
    image = fakes.example(1, 75, 50).image
    # PyTorch's antialiased bicubic on floats, rounded; PIL's fixed point may differ by one level.
    x = torch.tensor(image.transpose(2, 0, 1)[None].astype(np.float32))
    theirs = torch.nn.functional.interpolate(x, (32, 24), mode="bicubic", antialias=True)
    theirs = theirs[0].clamp(0, 255).round().numpy().transpose(1, 2, 0)
    ours = batches.resize_image(image, (32, 24)).astype(np.float32)
    assert np.abs(ours - theirs).max() <= 1


def test_full_resolution_pads_with_void():
    examples = [fakes.example(0, 40, 48), fakes.example(1, 44, 36)]
    padded = batches.full_resolution(examples)
    chex.assert_shape(padded.mask, (2, 44, 48))
    np.testing.assert_array_equal(padded.size, [[40, 48], [44, 36]])
    for i, example in enumerate(examples):
        h, w = example.mask.shape
        np.testing.assert_array_equal(padded.image[i, :h, :w], example.image)
        np.testing.assert_array_equal(padded.mask[i, :h, :w], example.mask)
        assert (padded.mask[i, h:] == VOID).all()
        assert (padded.mask[i, :, w:] == VOID).all()


def test_every_epoch_is_another_permutation_and_repeats_by_key():
    key = jax.random.key(7)
    first = batches.epoch_indices(key, 0, 11, 3)
    assert first.shape == (3, 3)
    assert len(set(first.ravel())) == 9
    np.testing.assert_array_equal(first, batches.epoch_indices(key, 0, 11, 3))
    assert not np.array_equal(first, batches.epoch_indices(key, 1, 11, 3))
    assert not np.array_equal(first, batches.epoch_indices(jax.random.key(8), 0, 11, 3))
    seen = {r for e in range(20) for r in batches.epoch_indices(key, e, 11, 3).ravel()}
    assert seen == set(range(11))  # what an epoch leaves out, others take


def test_evaluation_indices_take_each_image_once_and_fill_with_void():
    padded = fakes.resized([fakes.example(i) for i in range(5)], (32, 32))
    indices = batches.eval_indices(5, 3)
    np.testing.assert_array_equal(indices, [[0, 1, 2], [3, 4, 5]])
    batch = jax.jit(batches.take)(padded, indices[1])
    np.testing.assert_array_equal(batch.image[1], padded.image[4])
    assert (np.asarray(batch.mask[2]) == VOID).all()
    assert not np.asarray(batch.size[2]).any()

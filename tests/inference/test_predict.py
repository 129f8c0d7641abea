"""From any image to a mask of its own size: both scales, bands, views, programs."""

import re
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from fcn_jax.data import batches
from fcn_jax.inference import predict
from fcn_jax.models import convention, create_model
from fcn_jax.types import SCALES, InputError
from fcn_jax.weights.torch_weights import to_torch
from tests import fakes
from tests.models.variables import random_variables


def photo(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return batches.resize_image(small, (height, width))


@pytest.fixture(scope="module")
def checkpoint():
    return fakes.checkpoint()


def straight(checkpoint, image):
    """The network on the image as it is."""
    normal = batches.normalize(image[None])
    return np.asarray(checkpoint.model.apply(checkpoint.variables, normal)[0])


def test_fit_is_what_validation_sees(checkpoint):
    image = photo(40, 70)
    small = straight(checkpoint, batches.resize_image(image, (32, 32)))
    planes = [Image.fromarray(small[..., k]) for k in range(3)]
    planes = [np.asarray(p.resize((70, 40), Image.Resampling.BILINEAR)) for p in planes]
    mask = predict.predict(checkpoint, image)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.stack(planes, -1).argmax(-1))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("unet", "resnet50_fcn")]


@pytest.mark.parametrize("name", ["fcn", "simplified_unet", "unet_resnet18", *SLOW])
def test_logits_are_those_of_the_plain_network_but_for_rounding(name):
    model, images = create_model(name, num_classes=5), photo(96, 64)[None]
    variables = random_variables(model)
    pixels = batches.normalize(images)
    logits = jax.jit(partial(convention.infer, model)).lower(variables, pixels).compile()
    plain = jax.jit(model.apply).lower(variables, pixels).compile()
    # 3x3 convolutions and transposed ones, for which there are other algorithms.
    kinds = re.compile(r" convolution\(.*(size=3x3|lhs_dilate)")
    ours, theirs = (len(kinds.findall(str(p.as_text()))) for p in (logits, plain))
    assert ours < theirs
    want = np.asarray(plain(variables, pixels))
    np.testing.assert_allclose(logits(variables, pixels), want, rtol=0, atol=1e-5 * abs(want).max())


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (33, 50), (130, 32)])
def test_native_sees_every_pixel(checkpoint, size):
    image = photo(*size)
    [logits] = predict.logit_bands(checkpoint, image, "native")
    assert logits.shape == (*size, 3)
    if size == (64, 96):  # of a bucket's size: nothing is padded
        np.testing.assert_allclose(logits, straight(checkpoint, image), rtol=1e-4, atol=1e-4)
    inner = (slice(0, size[0] - 1), slice(0, size[1] - 1))  # the rest sees what lies beyond
    np.testing.assert_allclose(
        logits[inner], straight(checkpoint, image)[inner], rtol=1e-4, atol=1e-4
    )


def test_tiles_agree_with_the_whole_but_at_their_edges(checkpoint, monkeypatch):
    monkeypatch.setattr(predict.sliding_window, "TILE", 256)
    image = photo(300, 290)
    logits = np.concatenate(list(predict.logit_bands(checkpoint, image, "native")))
    whole = straight(checkpoint, image)
    # An edge pixel of a window weighs little, so that no seam shows.
    assert np.abs(logits - whole)[:-1, :-1].max() < 0.02 * np.abs(whole).max()


def test_few_programs_for_many_sizes():
    checkpoint = fakes.checkpoint()
    predict._forward.cache_clear()
    for i, size in enumerate([(40, 60), (64, 50), (33, 64), (57, 41), (64, 64)]):
        predict.predict(checkpoint, photo(*size, seed=i), "native")
    assert predict.programs(checkpoint) == 1
    predict.predict(checkpoint, photo(70, 90))
    predict.predict(checkpoint, photo(90, 70))
    assert predict.programs(checkpoint) == 2


@pytest.mark.parametrize("scale", SCALES)
def test_probabilities_average_the_views(checkpoint, scale):
    image = photo(32, 64)
    plain = predict.probabilities(checkpoint, image, scale)
    np.testing.assert_allclose(plain.sum(-1), 1, rtol=1e-5)
    mirrored = predict.probabilities(checkpoint, image[:, ::-1].copy(), scale)[:, ::-1]
    both = predict.probabilities(checkpoint, image, scale, predict.TTA(flip=True))
    np.testing.assert_allclose(both, (plain + mirrored) / 2, atol=1e-6)
    several = predict.TTA(factors=(1.0, 2.0, 3.0))
    three = predict.probabilities(checkpoint, image, scale, several)
    assert three.shape == (32, 64, 3)
    assert np.abs(three - plain).max() > 1e-4
    mask = predict.predict(checkpoint, image, scale, predict.TTA(flip=True))
    np.testing.assert_array_equal(mask, both.argmax(-1))


def test_a_view_of_the_same_size_is_refused(checkpoint):
    """At 32x32 three quarters of it are 32x32 again, in steps of 32."""
    with pytest.raises(InputError, match="is no other view: leave it out"):
        predict.predict(checkpoint, photo(32, 32), "fit", predict.TTA(factors=(0.75, 1.0)))


def test_a_row_of_tiles_stays_within_the_budget():
    assert predict._tile(6000, 21) == 768
    assert predict._tile(8000, 150) == 256
    assert predict._tile(4000, 60) == 512


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_image(checkpoint, image):
    with pytest.raises(InputError, match="give uint8"):
        predict.predict(checkpoint, image)


def test_an_unknown_scale(checkpoint):
    with pytest.raises(InputError, match="scale 'big': choose one of fit, native"):
        predict.predict(checkpoint, photo(8, 8), "big")


def test_the_checkpoint_is_not_traced_again_for_equal_networks(checkpoint):
    first: Any = fakes.TinyNet()
    second: Any = fakes.TinyNet()
    assert predict._forward(first) is predict._forward(second)
    assert jax.tree.leaves(checkpoint.variables)


def test_a_checkpoint_is_shown_in_one_line():
    restored = fakes.checkpoint()
    text = repr(restored)  # 3x3x3x8 kernels and 8 biases, batch norm's 8 + 8, 1x1x8x3 + 3
    assert text == "Checkpoint(TinyNet, 267 parameters, 3 classes, 32x32)"
    meta = {"model": {"name": "tiny"}, "progress": {"epoch": 4, "best_miou": 0.25}}
    assert repr(restored._replace(meta=meta)).endswith("32x32, epoch 4, mIoU 0.2500)")


def test_published_weights_that_cannot_be_had(monkeypatch):
    def offline(name):
        raise InputError("no network: put the file there")

    monkeypatch.setattr(predict.initialize, "published", offline)
    with pytest.raises(InputError, match="put the file there"):
        predict.load_published("fcn_resnet50")


@pytest.mark.parametrize("classes", [2, 21])
def test_published_weights_are_of_vocs_classes(classes, tmp_path):
    state = to_torch("simplified_unet", random_variables(create_model("simplified_unet", classes)))
    save_file(state, tmp_path / "w.safetensors")
    if classes == 21:
        restored = predict.load_published("simplified_unet", tmp_path / "w.safetensors")
        assert restored.class_names[15] == "person"
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(restored.variables))
        return
    with pytest.raises(InputError) as error:
        predict.load_published("simplified_unet", tmp_path / "w.safetensors")
    line = str(error.value)
    start = f"{tmp_path}/w.safetensors: of another number of classes than VOC's: "
    assert line.startswith(start)
    assert "64, 21)" in line
    assert "64, 2)" in line
    assert "\n" not in line

"""Augmentation against PIL, torchvision's definitions, and what geometry alone demands."""

import collections
import functools
import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fcn_jax.config import AugmentConfig
from fcn_jax.data import augment as aug
from fcn_jax.data import batches
from fcn_jax.types import VOID, Batch, InputError

EVERYTHING = AugmentConfig(flip=0.5, scale_jitter=(0.8, 2.0), colour_jitter=0.4, rotation=20.0)
CONFIGS = {
    "whole": AugmentConfig(flip=0.5),
    "crop": AugmentConfig(flip=0.5, crop_scale=(0.08, 1.0)),
    "jitter": AugmentConfig(flip=0.5, scale_jitter=(0.5, 2.0)),
    "turned crop": AugmentConfig(flip=0.5, crop_scale=(0.3, 1.0), rotation=30.0),
    "turned jitter": AugmentConfig(scale_jitter=(0.8, 1.5), rotation=180.0),
}


def padded_batch(images, masks, shape):
    """Padded batches as stored, but with garbage outside the real image: none may be seen."""
    rng = np.random.default_rng(99)
    n = len(images)
    image = rng.integers(0, 256, (n, *shape, 3), dtype=np.uint8)
    mask = np.full((n, *shape), 77, np.uint8)
    for i, (photo, labels) in enumerate(zip(images, masks, strict=True)):
        h, w = labels.shape
        image[i, :h, :w], mask[i, :h, :w] = photo, labels
    return Batch(image, mask, np.asarray([m.shape for m in masks], np.int32))


def noise_batch(sizes, shape, classes=21, seed=0):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in sizes]
    masks = [rng.integers(0, classes, s, dtype=np.uint8) for s in sizes]
    return padded_batch(images, masks, shape)


def same_photo(photo, labels, copies):
    return padded_batch([photo] * copies, [labels] * copies, labels.shape)


PADDED, OUT, COPIES = (90, 110), (48, 64), 16
TRACES = collections.Counter()


@functools.cache
def program(out_size, config):
    """Compiled once for all tests that share the shapes."""

    def fn(key, batch):
        TRACES[out_size, config, batch.mask.shape] += 1
        return aug.augment(key, batch, out_size, config)

    return jax.jit(fn)


def run(batch, out_size, config, seed=0):
    image, mask = program(out_size, config)(jax.random.key(seed), Batch(*map(jnp.asarray, batch)))
    assert image.dtype == jnp.float32
    assert mask.dtype == jnp.uint8
    assert image.shape == (*mask.shape, 3) == (len(batch.mask), *out_size, 3)
    return np.asarray(image), np.asarray(mask)


def by_pil(photo, box, out_size):
    """PIL's crop, then its antialiased bilinear resize."""
    top, left, h, w = box
    cut = Image.fromarray(photo).crop((left, top, left + w, top + h))
    return np.asarray(cut.resize(out_size[::-1], Image.Resampling.BILINEAR), np.float32)


def nearest(labels, box, out_size):
    """The pixel under the centre of each output pixel, in exact integers."""
    top, left, h, w = box
    rows = top + (2 * np.arange(out_size[0]) + 1) * h // (2 * out_size[0])
    cols = left + (2 * np.arange(out_size[1]) + 1) * w // (2 * out_size[1])
    return labels[np.ix_(rows, cols)]


# --- resampling ------------------------------------------------------------------------------

SIZES = [(97, 130), (1, 1), (40, 60), (130, 31), (75, 130), (33, 5), (130, 130), (64, 128)]


def test_whole_picture_is_resized_as_by_pil():
    batch = noise_batch(SIZES, (130, 130))
    image, mask = run(batch, (40, 56), AugmentConfig())
    for i, (h, w) in enumerate(SIZES):
        expected = by_pil(batch.image[i, :h, :w], (0, 0, h, w), (40, 56))
        np.testing.assert_allclose(image[i], expected, atol=1.01, err_msg=str((h, w)))
        assert abs(np.mean(image[i] - expected)) < 0.1
        np.testing.assert_array_equal(
            mask[i], nearest(batch.mask[i, :h, :w], (0, 0, h, w), (40, 56))
        )


def test_whole_picture_is_resized_as_by_torch_in_float():
    torch = pytest.importorskip("torch")
    batch = noise_batch(SIZES, (130, 130))
    image, _ = run(batch, (40, 56), AugmentConfig())
    for i, (h, w) in enumerate(SIZES):
        x = torch.tensor(batch.image[i, :h, :w]).permute(2, 0, 1)[None].float()
        y = torch.nn.functional.interpolate(
            x, (40, 56), mode="bilinear", antialias=True, align_corners=False
        )
        np.testing.assert_allclose(image[i], y[0].permute(1, 2, 0).numpy(), atol=0.01)


def test_crop_is_cut_out_first_then_resized_as_by_pil():
    size, key = (80, 110), jax.random.key(5)
    batch = noise_batch([size] * COPIES, PADDED)
    image, mask = run(batch, OUT, AugmentConfig(crop_scale=(0.08, 1.0)), seed=5)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, aug._CROP))(jax.random.split(key, COPIES))
    boxes = crops(size, (0.08, 1.0), (3 / 4, 4 / 3), keys)
    for i, box in enumerate(boxes.tolist()):
        expected = by_pil(batch.image[i], box, OUT)
        np.testing.assert_allclose(image[i], expected, atol=1.01)
        np.testing.assert_array_equal(mask[i], nearest(batch.mask[i], box, OUT))
    assert len({tuple(box) for box in boxes.tolist()}) == COPIES


def test_a_picture_of_the_outputs_size_comes_back_unchanged_and_flips_exactly():
    batch = noise_batch([(37, 53)], (50, 60))
    photo, labels = batch.image[0, :37, :53], batch.mask[0, :37, :53]
    image, mask = run(batch, (37, 53), AugmentConfig())
    np.testing.assert_array_equal(image[0], photo)
    np.testing.assert_array_equal(mask[0], labels)
    image, mask = run(batch, (37, 53), AugmentConfig(flip=1.0))
    np.testing.assert_array_equal(image[0], photo[:, ::-1])
    np.testing.assert_array_equal(mask[0], labels[:, ::-1])
    twice = padded_batch([image[0].astype(np.uint8)], [mask[0]], (50, 60))
    image, mask = run(twice, (37, 53), AugmentConfig(flip=1.0))
    np.testing.assert_array_equal(image[0], photo)
    np.testing.assert_array_equal(mask[0], labels)


def test_jitter_at_scale_one_keeps_every_pixel():
    batch = noise_batch([(24, 40)], (30, 40))
    image, mask = run(batch, (40, 40), AugmentConfig(scale_jitter=(1.0, 1.0)))
    top = int(np.argmax(np.any(mask[0] != VOID, axis=1)))
    np.testing.assert_array_equal(image[0, top : top + 24], batch.image[0, :24])
    np.testing.assert_array_equal(mask[0, top : top + 24], batch.mask[0, :24])
    assert np.all(np.delete(mask[0], np.s_[top : top + 24], axis=0) == VOID)


# --- image and mask belong together -----------------------------------------------------------


def grown(region, beyond=False):
    """The region and every pixel that touches it; `beyond`: so does all that is out of view."""
    padded = np.pad(region, 1, constant_values=beyond)
    h, w = region.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_image_and_mask_stay_aligned(config):
    photo, labels = np.zeros((*PADDED, 3), np.uint8), np.zeros(PADDED, np.uint8)
    photo[30:70, 15:60], labels[30:70, 15:60] = (255, 0, 0), 3
    image, mask = run(same_photo(photo, labels, COPIES), OUT, config)
    seen = 0
    for i in range(COPIES):
        # Padding shows a colour of its own: beside it the image cannot tell.
        valid = ~grown(mask[i] == VOID, beyond=True)
        red, three = image[i, ..., 0] > 127.5, mask[i] == 3
        assert not np.any(valid & red & ~grown(three))
        assert not np.any(valid & three & ~grown(red))
        seen += np.any(three & valid) and np.any(~three & valid)
    assert seen >= COPIES // 2


@pytest.mark.parametrize("config", [*CONFIGS.values(), EVERYTHING], ids=[*CONFIGS, "everything"])
def test_no_class_appears_and_void_stays_void(config):
    photo = np.full((70, 50, 3), 200, np.uint8)
    labels = np.full((70, 50), 4, np.uint8)
    labels[:, 25:] = 9
    labels[20:50, 10:40] = VOID
    photo[labels == VOID] = (0, 255, 0)
    batch = padded_batch([photo] * COPIES, [labels] * COPIES, PADDED)  # class 77 lies outside
    image, mask = run(batch, OUT, config)
    assert set(np.unique(mask).tolist()) == {4, 9, VOID}
    if not config.colour_jitter:
        green = (image[..., 1] > 240) & (image[..., 0] < 20)
        assert np.any(green)
        assert np.all(mask[green] == VOID)


@pytest.mark.parametrize("name", ["jitter", "turned crop", "turned jitter"])
def test_beyond_the_picture_the_mask_is_void_and_the_image_normalises_to_zero(name):
    black = np.zeros((60, 80, 3), np.uint8)
    batch = padded_batch([black] * COPIES, [black[..., 0]] * COPIES, PADDED)
    image, mask = run(batch, OUT, CONFIGS[name])
    outside = mask == VOID
    within = ~np.stack([grown(o, beyond=True) for o in outside])
    beyond = ~np.stack([grown(~o, beyond=True) for o in outside])
    assert np.any(within)
    assert np.any(beyond)
    assert np.all(image[within] == 0.0)
    np.testing.assert_allclose(batches.normalize(jnp.asarray(image[beyond])), 0.0, atol=1e-5)


def test_a_filler_row_stays_void():
    shape = (COPIES, *PADDED)
    filler = Batch(
        np.zeros((*shape, 3), np.uint8), np.full(shape, VOID, np.uint8), np.zeros((COPIES, 2), "i4")
    )
    for config in (*CONFIGS.values(), EVERYTHING):
        image, mask = run(filler, OUT, config)
        assert np.all(mask == VOID)
        assert np.all(np.isfinite(image))


# --- the draws --------------------------------------------------------------------------------


def distance(a, b):
    """Kolmogorov and Smirnov's: the largest gap between two samples' distribution functions."""
    at = np.concatenate([a, b])
    fractions = [np.searchsorted(np.sort(s), at, side="right") / len(s) for s in (a, b)]
    return np.max(np.abs(fractions[0] - fractions[1]))


def bound(n, m):
    """What `distance` exceeds once in a thousand times if both samples have one distribution."""
    return 1.95 * math.sqrt((n + m) / (n * m))


@functools.partial(jax.jit, static_argnums=(1, 2))
def drawn(size, scale, ratio, keys):
    return jax.vmap(lambda k: aug.random_crop(k, size, scale, ratio))(keys)


def crops(size, scale, ratio, keys):
    """(top, left, height, width) for each of the keys, [n, 4]."""
    if isinstance(keys, int):
        keys = jax.random.split(jax.random.key(0), keys)
    return np.concatenate(drawn(jnp.asarray(size, jnp.int32), scale, ratio, keys), axis=1)


@pytest.fixture
def transforms():
    """torchvision.transforms, also where torchvision's compiled operators do not fit this torch."""
    torch = pytest.importorskip("torch")
    for name in ("nms", "qnms"):
        if "torchvision" not in sys.modules and not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor x) -> Tensor")
    return pytest.importorskip("torchvision.transforms")


def test_crops_are_distributed_as_torchvisions(transforms):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    photo, draw = torch.zeros(3, 281, 500), transforms.RandomResizedCrop.get_params
    theirs = np.asarray([draw(photo, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(1500)])
    ours = crops((281, 500), (0.08, 1.0), (3 / 4, 4 / 3), 6000)
    for name, of in {
        "area": lambda c: c[:, 2] * c[:, 3],
        "ratio": lambda c: np.log(c[:, 3] / c[:, 2]),
        "top": lambda c: c[:, 0],
        "left": lambda c: c[:, 1],
        "height": lambda c: c[:, 2],
        "width": lambda c: c[:, 3],
    }.items():
        assert distance(of(ours), of(theirs)) < bound(len(ours), len(theirs)), name


def test_crops_follow_the_definition():
    # A fraction below 0.3 of a square, whatever its ratio, always fits: nothing is rejected.
    top, left, h, w = crops((400, 400), (0.1, 0.3), (3 / 4, 4 / 3), 4000).T
    fraction = h * w / 400**2
    assert abs(fraction.mean() - 0.2) < 0.004
    assert distance(fraction, np.linspace(0.1, 0.3, 4000)) < bound(4000, 4000)
    log_ratio = np.log(w / h)
    limit = math.log(4 / 3)
    assert distance(log_ratio, np.linspace(-limit, limit, 4000)) < bound(4000, 4000)
    for start, length in ((top, h), (left, w)):
        assert start.min() >= 0
        assert np.all(start + length <= 400)
        place = start / (400 - length)
        assert distance(place, np.linspace(0, 1, 4000)) < bound(4000, 4000)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((100, 500), (0, 183, 100, 133)),  # too wide: round(100 * 4/3), centred
        ((500, 101), (182, 0, 135, 101)),  # too tall: 101 / (3/4) = 134.67
        ((1, 300), (0, 149, 1, 1)),
    ],
)
def test_where_no_crop_fits_the_centre_is_taken(size, box):
    found = crops(size, (1.0, 1.0), (3 / 4, 4 / 3), 20)
    np.testing.assert_array_equal(found, np.tile(box, (20, 1)))


def test_the_whole_picture_is_the_crop_when_asked_for():
    np.testing.assert_array_equal(crops((60, 60), (1.0, 1.0), (1.0, 1.0), 5), [[0, 0, 60, 60]] * 5)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_flip_rate(rate):
    n = 2000
    image = np.zeros((n, 1, 2, 3), np.uint8)
    image[:, :, 1] = 9
    batch = Batch(image, image[..., 0], np.tile(np.array([[1, 2]], np.int32), (n, 1)))
    flipped = run(batch, (1, 2), AugmentConfig(flip=rate))[1][:, 0, 0] == 9
    assert abs(flipped.mean() - rate) <= 3.3 * math.sqrt(rate * (1 - rate) / n)


def test_scale_jitter_is_isotropic_uniform_and_placed_anywhere():
    labels = np.zeros((40, 80), np.uint8)
    batch = same_photo(np.zeros((40, 80, 3), np.uint8), labels, 600)
    _, mask = run(batch, (64, 64), AugmentConfig(scale_jitter=(0.5, 1.0)))
    real = mask != VOID
    h, w = real.any(2).sum(1), real.any(1).sum(1)
    # Scale 1 fits 40x80 into 64x64 as 32x64; sides are rounded up.
    assert np.all(np.abs(2 * h - w) <= 2)
    assert distance(w / 64, np.linspace(0.5 + 1 / 128, 1 + 1 / 128, 600)) < bound(600, 600)
    top = real.any(2).argmax(1)
    assert np.all(real.sum((1, 2)) == h * w)
    place = (top + 0.5) / (64 - h + 1)
    assert distance(place, np.linspace(0, 1, 600)) < bound(600, 600)


def test_scale_jitter_above_one_shows_a_window_anywhere_in_the_picture():
    x = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    batch = same_photo(np.stack([x, x.T, x], -1), x, 200)
    image, mask = run(batch, (50, 50), AugmentConfig(scale_jitter=(2.0, 2.0)))
    assert not np.any(mask == VOID)
    np.testing.assert_array_equal(image[..., 0], mask)  # scale 2 of 100 -> 50 is the identity
    assert np.all(np.diff(image[:, 0, :, 0], axis=1) == 1)
    assert np.all(np.diff(image[:, :, 0, 1], axis=1) == 1)
    left = mask[:, 0, 0]
    assert left.min() < 4
    assert left.max() > 46


def test_rotation_turns_about_the_centre_by_a_uniform_angle():
    y, x = np.mgrid[:101, :101]
    photo = np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8)
    batch = same_photo(photo, np.zeros((101, 101), np.uint8), 500)
    image, _ = run(batch, (101, 101), AugmentConfig(rotation=30.0))
    np.testing.assert_allclose(image[:, 50, 50, :2], 100.0, atol=1e-3)  # the centre stays
    # Along 20 output pixels to the right of the centre the source moves by 20 (cos, sin).
    dx, dy = np.moveaxis((image[:, 50, 70, :2] - image[:, 50, 50, :2]) / 40, -1, 0)
    np.testing.assert_allclose(np.hypot(dx, dy), 1.0, atol=1e-3)
    angle = np.degrees(np.arctan2(dy, dx))
    assert distance(angle, np.linspace(-30, 30, 500)) < bound(500, 500)
    down = (image[:, 70, 50, :2] - image[:, 50, 50, :2]) / 40
    np.testing.assert_allclose(down, np.stack([-dy, dx], -1), atol=2e-3)  # no shear


def test_a_quarter_turn_is_exact():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3)), jnp.float32)
    y, x = jnp.arange(9)[:, None], jnp.arange(9)[None, :]
    y, x = (a + (1 << aug._BITS) for a in aug.turned(y, x, (9, 9), 0, aug._HALF))
    quarter = jax.jit(aug._bilinear)(jnp.pad(image, ((1, 1), (1, 1), (0, 0))), y, x)
    np.testing.assert_array_equal(quarter, np.rot90(image, k=-1))


@pytest.mark.parametrize("degrees", [3.0, 45.0, 180.0])
@pytest.mark.parametrize("out_size", [(20, 20), (11, 40), (1, 7)])
def test_no_rotation_looks_beyond_the_margins(degrees, out_size):
    margins = aug._margins(out_size, degrees)
    y, x = np.arange(out_size[0])[:, None], np.arange(out_size[1])[None, :]
    for angle in np.radians(np.linspace(-degrees, degrees, 41)):
        cos, sin = round(math.cos(angle) * aug._HALF), round(math.sin(angle) * aug._HALF)
        at = aug.turned(y, x, out_size, cos, sin)
        for place, n, margin in zip(at, out_size, margins, strict=True):
            pixel = place >> aug._BITS
            assert pixel.min() >= -margin
            assert pixel.max() + 1 <= n - 1 + margin


# --- colour -----------------------------------------------------------------------------------


def test_colour_jitter_of_a_grey_picture_is_a_uniform_brightness():
    """Contrast and saturation leave a uniformly grey photo alone, whatever their factors."""
    batch = same_photo(np.full((6, 6, 3), 100, np.uint8), np.zeros((6, 6), np.uint8), 1000)
    image, mask = run(batch, (4, 4), AugmentConfig(colour_jitter=0.4))
    assert not mask.any()
    assert np.all(np.ptp(image, axis=(1, 2, 3)) < 1e-3)
    factor = image[:, 0, 0, 0] / 100
    assert distance(factor, np.linspace(0.6, 1.4, 1000)) < bound(1000, 1000)


jitter = jax.jit(aug.jitter_colour)


def test_colour_jitter_blends_as_torchvision_does(transforms):
    torch = pytest.importorskip("torch")
    functional = transforms.functional
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    )
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (7, 9, 3)).astype(np.float32)
    for order in itertools.permutations(range(3)):
        factors = rng.uniform(0.2, 1.8, 3).astype(np.float32)
        x = torch.tensor(image).permute(2, 0, 1) / 255
        for kind in order:
            x = adjust[kind](x, float(factors[kind]))
        ours = jitter(image, np.ones((7, 9), bool), factors, np.asarray(order))
        # torchvision's weight of red is 0.2989, PIL's and ours 0.299.
        np.testing.assert_allclose(ours, 255 * x.permute(1, 2, 0).numpy(), atol=0.1)


def test_colour_jitter_by_hand():
    image = np.asarray([[[100, 100, 100], [200, 0, 0]]], np.float32)  # greys 100 and 59.8
    for inside, mean in ((True, 79.9), (False, 100.0)):
        contrast = jitter(
            image, np.asarray([[True, inside]]), np.array([1, 0.5, 1], np.float32), np.arange(3)
        )
        half = mean / 2
        np.testing.assert_allclose(contrast[0, 0], 50 + half, rtol=1e-5)
        np.testing.assert_allclose(contrast[0, 1], [100 + half, half, half], rtol=1e-5)
    both = jitter(
        image, np.ones((1, 2), bool), np.array([2, 1, 0], np.float32), np.asarray([0, 2, 1])
    )
    np.testing.assert_allclose(both[0, 0], 200, rtol=1e-5)
    np.testing.assert_allclose(both[0, 1], 0.299 * 255, rtol=1e-5)  # cut at 255, then grey


def test_all_orders_of_colour_jitter_are_drawn_alike():
    keys = jax.random.split(jax.random.key(0), 3000)
    factors, order = jax.jit(jax.vmap(lambda k: aug._random_colours(k, 1.5)))(keys)
    assert np.all(np.sort(order, axis=1) == np.arange(3))
    fractions = np.unique(np.asarray(order), axis=0, return_counts=True)[1] / 3000
    np.testing.assert_allclose(fractions, 1 / 6, atol=0.025)
    for kind in range(3):
        assert distance(factors[:, kind], np.linspace(0, 2.5, 3000)) < bound(3000, 3000)


# --- purity -----------------------------------------------------------------------------------


def test_a_key_repeats_bit_for_bit_another_does_not_and_examples_differ():
    one = noise_batch([(70, 110)], PADDED)
    batch = Batch(*(np.tile(a, (COPIES, *[1] * (a.ndim - 1))) for a in one))
    first, again, other = (run(batch, OUT, EVERYTHING, seed=s) for s in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
        assert len({row.tobytes() for row in a}) == COPIES


def test_one_example_alone_gets_what_it_gets_in_the_batch():
    config = CONFIGS["turned crop"]
    batch = noise_batch([(40 + i, 110 - 4 * i) for i in range(COPIES)], PADDED)
    image, mask = run(batch, OUT, config)

    @jax.jit
    def one(key, image, mask, size):
        return aug._augment_one(key, image, mask, size, OUT, config)

    for i, key in enumerate(jax.random.split(jax.random.key(0), COPIES)):
        alone, alone_mask = one(key, *(jnp.asarray(a[i]) for a in batch))
        np.testing.assert_allclose(alone, image[i], atol=1e-3)
        np.testing.assert_array_equal(alone_mask, mask[i])


def test_switching_one_transformation_on_leaves_the_draws_of_the_others():
    batch = noise_batch([(80, 110)] * COPIES, PADDED)
    _, flipped = run(batch, OUT, AugmentConfig(flip=0.5))
    _, coloured = run(batch, OUT, AugmentConfig(flip=0.5, colour_jitter=0.3))
    np.testing.assert_array_equal(flipped, coloured)
    _, cropped = run(batch, OUT, AugmentConfig(crop_scale=(0.08, 1.0)))
    _, both = run(batch, OUT, CONFIGS["crop"])
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(cropped, both, strict=True)]
    straight = [np.array_equal(a, b) for a, b in zip(cropped, both, strict=True)]
    assert 0 < sum(mirrored) < COPIES
    assert sum(mirrored) + sum(straight) == COPIES


def test_one_trace_serves_every_key_and_every_picture_size():
    for seed in range(3):
        sizes = [(20 + 3 * seed + i, 110 - i) for i in range(COPIES)]
        run(noise_batch(sizes, PADDED), OUT, EVERYTHING, seed=seed)
    assert TRACES[OUT, EVERYTHING, (COPIES, *PADDED)] == 1


def test_what_is_off_is_not_in_the_program():
    batch = Batch(*map(jnp.asarray, noise_batch([(9, 9)], (9, 9))))

    def draws(config):
        program = jax.make_jaxpr(lambda k: aug.augment(k, batch, (6, 6), config))(jax.random.key(0))
        return str(program).count("random_bits")

    assert draws(AugmentConfig()) == 0
    assert draws(AugmentConfig(flip=0.5)) == 1
    assert draws(AugmentConfig(rotation=5.0)) == 1


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"flip": 1.5}, "augment.flip=1.5"),
        ({"flip": float("nan")}, "augment.flip=nan"),
        ({"crop_scale": (0.0, 1.0)}, "augment.crop_scale"),
        ({"crop_scale": (0.5, 0.2)}, "augment.crop_scale"),
        ({"crop_scale": (0.5, 1.2)}, "augment.crop_scale"),
        ({"crop_scale": (0.5,)}, "augment.crop_scale"),
        ({"crop_ratio": (-1.0, 1.0)}, "augment.crop_ratio"),
        ({"scale_jitter": (2.0, 1.0)}, "augment.scale_jitter"),
        ({"colour_jitter": -0.1}, "augment.colour_jitter"),
        ({"rotation": 181.0}, "augment.rotation"),
        ({"crop_scale": (0.1, 1.0), "scale_jitter": (0.5, 2.0)}, "choose one"),
    ],
)
def test_a_value_out_of_range_is_named(values, named):
    with pytest.raises(InputError, match=named) as caught:
        AugmentConfig(**values)
    assert "\n" not in str(caught.value)


def test_lists_from_json_make_the_same_hashable_config():
    config = AugmentConfig(crop_scale=[0.08, 1])  # pyright: ignore[reportArgumentType]
    assert config == AugmentConfig(crop_scale=(0.08, 1.0))
    assert hash(config) == hash(AugmentConfig(crop_scale=(0.08, 1.0)))


def test_an_empty_output_is_refused():
    batch = Batch(*map(jnp.asarray, noise_batch([(9, 9)], (9, 9))))
    with pytest.raises(InputError, match="at least 1 pixel"):
        aug.augment(jax.random.key(0), batch, (0, 5), AugmentConfig())

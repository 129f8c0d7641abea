"""One rule for images: 8 bits a channel, the first of several, upright; else a clear error."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import images
from fcn_jax.types import IMAGE_SUFFIXES, InputError
from tests.data.test_masks import png

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
BROKEN_EXIF = b"Exif\0\0garbage!garbage!garbage!"


def tiff(values, extra=None):
    """An uncompressed little-endian TIFF with any number of bands."""
    height, width, bands = values.shape
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    bits = struct.pack(f"<{bands}H", *([8 * values.itemsize] * bands))
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, 8 + len(data)), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, height),
        (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    if extra is not None:
        entries.append((338, 3, 1, extra))
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = struct.pack("<I", 8 + len(data) + len(bits))
    return b"II*\0" + start + data + bits + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"


def read(data, tmp_path, name="a.png"):
    (tmp_path / name).write_bytes(data)
    return images.read_image(tmp_path / name)


def save(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(PIXELS.astype(np.uint16) * 16, 16, 2), "16 bits a channel"),
        (png(PIXELS[..., 0].astype(np.uint16), 16, 0), "16 bits a channel"),
        (tiff(PIXELS.astype(np.uint16)), "16 bits a channel"),
        (save(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"), "mode F with 32 bits"),
        (save(Image.fromarray(PIXELS[..., 0].astype(np.int32)), "TIFF"), "mode I with 32 bits"),
        (tiff(np.dstack([PIXELS, PIXELS[..., :1]]), 0), "has 4 bands: save it as RGB"),
        (tiff(np.dstack([PIXELS, PIXELS[..., :1]])), "has 4 bands: save it as RGB"),
        (
            tiff(PIXELS[..., :2]),
            r"is no readable image \(a TIFF that is damaged or of a kind that is not read\)",
        ),
        (b"", r"is no readable image \(it is empty\)"),
        (
            b"\0\0\0\x18ftypheic" + bytes(40),
            r"is no readable image \(heic inside\): save it as JPEG or PNG",
        ),
    ],
)
def test_other_files_than_of_8_bits_and_3_bands_are_refused_with_the_reason(data, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read(data, tmp_path)


def test_a_damaged_tiff_directory_is_one_clear_error(tmp_path):
    image = Image.fromarray(PIXELS)
    data = save(image, "TIFF", save_all=True, append_images=[image])
    width = struct.pack("<HHI", 256, 4, 1)
    for count in (1, 2):  # the width is now an unknown tag, in one directory or in both
        damaged = data[::-1].replace(width[::-1], struct.pack("<HHI", 65_000, 4, 1)[::-1], count)
        assert damaged[::-1] != data
        with pytest.raises(InputError, match=r"a\.png (cannot be decoded|is no readable image)"):
            read(damaged[::-1], tmp_path)


def test_transparency_is_dropped(tmp_path):
    rgba = np.dstack([PIXELS, PIXELS[..., :1]])
    np.testing.assert_array_equal(read(tiff(rgba, 2), tmp_path), PIXELS)
    np.testing.assert_array_equal(read(save(Image.fromarray(rgba), "PNG"), tmp_path), PIXELS)


def test_the_first_of_several_images_is_read(tmp_path, caplog):
    caplog.set_level("INFO", "fcn_jax")
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    both = save(first, "TIFF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read(both, tmp_path), PIXELS)
    assert "a.png holds 2 images, of which the first is used" in caplog.text
    both = save(first, "MPO", save_all=True, append_images=[second], quality=95)
    alone = read(save(first, "JPEG", quality=95), tmp_path)
    np.testing.assert_array_equal(read(both, tmp_path), alone)
    moving = save(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    with pytest.raises(InputError, match="has 2 frames"):
        read(moving, tmp_path)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_broken_exif_costs_the_orientation_only(form, tmp_path):
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if form != "TIFF":
        options["exif"] = BROKEN_EXIF
    image = Image.fromarray(PIXELS)
    expected = image if form != "JPEG" else Image.open(io.BytesIO(save(image, "JPEG")))
    found = read(save(image, form, **options), tmp_path)
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("orientation", [0, 9, 6])
def test_orientation(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(save(Image.fromarray(PIXELS), "PNG", exif=exif), tmp_path)
    expected = np.rot90(PIXELS, -1) if orientation == 6 else PIXELS
    np.testing.assert_array_equal(found, expected)


def test_every_suffix_is_read(tmp_path):
    forms = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG",
             ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}  # fmt: skip
    assert set(forms) == set(IMAGE_SUFFIXES)
    for suffix, form in forms.items():
        assert read(save(Image.fromarray(PIXELS), form), tmp_path, f"a{suffix}").shape == (6, 8, 3)

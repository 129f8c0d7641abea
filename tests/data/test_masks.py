"""Masks in every form give the same class ids, or an error with the file and the colour."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import class_lists, classes, masks
from fcn_jax.types import VOID, InputError

IDS = np.array([[0, 1, 2, 1], [2, 2, 0, 1]], np.uint8)
COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
COLOURED = class_lists.parse_classes(
    "background 0 0 0\nbuilding 128 0 0\nroad 0 128 0\n", "classes.txt"
)
PLAIN = classes.plain_classes(("background", "building", "road"))


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(values, depth, kind):
    """A PNG of any depth, by hand: kind 0 grey, 2 RGB, 6 RGBA; values are not scaled."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    height, width = values.shape[:2]
    flat = values.reshape(height, -1)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def palette_png(order, form="PNG", **options):
    """`IDS` in the classes' colours, with the palette in some order."""
    position = np.argsort(order).astype(np.uint8)
    image = Image.fromarray(position[IDS], "L")
    image.putpalette(COLOURS[list(order)].tobytes())
    return encode(image, form, **options)


def decode(data, table=COLOURED):
    return masks.decode_mask(data, table, "mask a.png", "or remove it")


RGB = COLOURS[IDS]
RGBA = np.dstack([RGB, np.full(IDS.shape, 255, np.uint8)])
FORMS = {
    "rgb": encode(Image.fromarray(RGB)),
    "rgba": encode(Image.fromarray(RGBA)),
    "rgb tiff": encode(Image.fromarray(RGB), "TIFF"),
    "rgb bmp": encode(Image.fromarray(RGB), "BMP"),
    "rgb 16 bits": png(RGB.astype(np.uint16), 16, 2),
    "rgb 16 bits, stretched": png(RGB.astype(np.uint16) * 257, 16, 2),
    "rgba 16 bits": png(RGBA.astype(np.uint16), 16, 6),
    **{f"palette {order}": palette_png(order) for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))},
    "palette tiff": palette_png((2, 0, 1), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_are_read_by_colour_in_every_form(form):
    np.testing.assert_array_equal(decode(FORMS[form]).ids, IDS)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_class_colours(depth):
    table = class_lists.parse_classes(
        "a 255 255 255\nb 0 0 0\nc 7 7 7\nvoid 9 9 9\n", "classes.txt"
    )
    greys = np.array([[255, 0, 7, 9]], np.uint8)
    found = decode(png(greys, depth, 0), table)
    assert (found.ids.tolist(), found.read_by) == ([[0, 1, 2, VOID]], "colour")
    if depth == 16:
        stretched = png(greys.astype(np.uint16) * 257, 16, 0)
        assert decode(stretched, table).ids.tolist() == [[0, 1, 2, VOID]]


def test_one_bit_is_black_and_white_where_there_are_colours_else_0_and_1():
    table = class_lists.parse_classes("white 255 255 255\nblack 0 0 0\n", "classes.txt")
    data = png(np.array([[0, 1, 1]]), 1, 0)
    assert decode(data, table).ids.tolist() == [[1, 0, 0]]
    assert decode(data, PLAIN).ids.tolist() == [[0, 1, 1]]


def test_the_orientation_of_a_mask_itself_turns_it():
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = IDS[::-1, ::-1]
    for form in ("PNG", "TIFF"):
        image = Image.fromarray(np.ascontiguousarray(turned))
        np.testing.assert_array_equal(decode(encode(image, form, exif=exif), PLAIN).ids, IDS)
    rgb16 = png(COLOURS[turned].astype(np.uint16), 16, 2)
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    start = rgb16.index(b"IDAT") - 4
    np.testing.assert_array_equal(decode(rgb16[:start] + chunk + rgb16[start:]).ids, IDS)


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_grey_class_ids_are_not_scaled(depth):
    np.testing.assert_array_equal(decode(png(IDS, depth, 0), PLAIN).ids, IDS)


def test_palette_indices_are_class_ids_without_colours():
    found = decode(palette_png((0, 1, 2)), PLAIN)
    np.testing.assert_array_equal(found.ids, IDS)
    assert found.palette == {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0)}


def test_values_of_void_and_of_other_numbers_are_translated():
    table = class_lists.parse_classes("7 road\n0 unlabeled\n3 sky\n", "classes.txt")
    data = encode(Image.fromarray(np.array([[0, 3, 7, 255]], np.uint8)))
    assert table.names == ("sky", "road")
    assert decode(data, table).ids.tolist() == [[VOID, 0, 1, VOID]]
    wrong = encode(Image.fromarray(np.array([[4]], np.uint8)))
    with pytest.raises(InputError, match="holds the class id 4, not one of those in the list"):
        decode(wrong, table)


UNKNOWN = RGB.copy()
UNKNOWN[1, 3] = (1, 2, 3)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (encode(Image.fromarray(UNKNOWN)), "(1, 2, 3)"),
        (png(UNKNOWN.astype(np.uint16), 16, 2), "(1, 2, 3)"),
        (encode(Image.fromarray(UNKNOWN).quantize(8)), "(1, 2, 3)"),
        (encode(Image.fromarray(np.array([[0, 77]], np.uint8))), "(77, 77, 77)"),
        (png(RGB.astype(np.uint16) * 30, 16, 2), "(3840, 0, 0)"),
    ],
)
def test_an_unknown_colour_is_an_error_with_the_file_and_the_colour(data, colour):
    with pytest.raises(InputError) as info:
        decode(data)
    assert "mask a.png holds the colour " + colour in str(info.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(Image.fromarray(IDS), "JPEG"), "is JPEG inside.*compression changes class ids"),
        (encode(Image.fromarray(RGB), "WEBP", lossless=True), "is WEBP inside"),
        (encode(Image.fromarray(RGB), "TIFF", compression="jpeg"), "compression changes class ids"),
        (encode(Image.fromarray(IDS), "GIF"), "is GIF inside, not PNG: save it as PNG"),
        (encode(Image.fromarray(RGB)), "is in colours"),
        (encode(Image.fromarray(IDS.astype(np.float32)), "TIFF"), "has the mode F"),
    ],
)
def test_refused_masks(data, words):
    with pytest.raises(InputError, match=words):
        decode(data, PLAIN)


def test_class_ids_and_colours_must_not_be_mixed():
    readings = masks.Readings()
    by_colour = decode(palette_png((2, 1, 0)))
    by_id = decode(encode(Image.fromarray(IDS)))  # grey 1 and 2 are no colours of the classes
    assert (by_colour.read_by, by_id.read_by) == ("colour", "id")
    np.testing.assert_array_equal(by_id.ids, IDS)
    readings.add(by_colour, COLOURED, "mask a")
    readings.add(decode(FORMS["rgb"]), COLOURED, "mask b")
    readings.add(decode(palette_png((0, 1, 2))), COLOURED, "mask c")  # both mean the same
    with pytest.raises(InputError, match="mask a holds colours of the classes, mask d none"):
        readings.add(by_id, COLOURED, "mask d")


def test_palettes_in_different_orders_are_an_error_where_nothing_gives_the_colours():
    readings = masks.Readings()
    readings.add(decode(palette_png((0, 1, 2)), PLAIN), PLAIN, "mask a")
    readings.add(decode(palette_png((0, 1, 2)), PLAIN), PLAIN, "mask b")
    with pytest.raises(InputError, match=r"mask c has the colour \(0, 128, 0\) as number 0"):
        readings.add(decode(palette_png((2, 1, 0)), PLAIN), PLAIN, "mask c")

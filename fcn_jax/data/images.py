"""Decoded images: which files are read, what is refused, and how each becomes RGB.

Training, `check` and prediction all read images here, so that one rule holds everywhere: images of
8 bits a channel are read, and are grey, RGB, CMYK or have a palette; transparency is dropped. More
bits, floats and more bands are refused, because how they map to 8 bits is not ours to guess. Of
several images in one JPEG or TIFF file the first is read.
"""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fcn_jax.types import InputError

_logger = logging.getLogger(__name__)

MAX_PIXELS = 89_478_485
"""Pillow's own limit for one image: above it a small file can fill the memory."""

_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
    Warning,
    TypeError,  # these of damaged TIFF directories
    LookupError,
    ArithmeticError,
    AttributeError,
)
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""


def read_image(path: Path) -> np.ndarray:
    """Read an image as training reads it, upright as viewers show it.

    Args:
        path: of a file of one of `types.IMAGE_SUFFIXES`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: if it cannot be read or decoded, is too large, or is not of 8 bits.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"image {path} cannot be read ({error.strerror}): check it") from None
    image = open_image(data, f"image {path}", "or leave it out")
    if frames(image) > 1:
        _logger.info("image %s holds %d images, of which the first is used", path, frames(image))
    return np.asarray(to_rgb(upright(image)))


def open_image(data: bytes, what: str, remedy: str) -> Image.Image:
    """Decode the first image of a file completely; see this module for what is refused.

    Args:
        data: the file's content.
        what: how errors call it.
        remedy: how they end: what to do if it cannot be replaced.

    Raises:
        InputError: instead of Pillow's many ways to fail.
    """
    return decode(data, what, remedy, _refusal)


def frames(image: Image.Image) -> int:
    """Images in the file that `image` is the first of."""
    return getattr(image, "n_frames", 1)


def raw_mode(image: Image.Image) -> str:
    """How the pixels of a file that is not decoded yet are stored, such as `L;4` or `RGB;16B`."""
    tiles = getattr(image, "tile", None)  # files have it, plain images do not
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def decode(
    data: bytes, what: str, remedy: str, refusal: Callable[[Image.Image], str | None]
) -> Image.Image:
    """Decode, after `refusal(image) -> str | None` has looked at the file's header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            count, pixels = frames(image), image.width * image.height
            image.seek(0)
            reason = refusal(image)
            if reason is None and pixels <= MAX_PIXELS:
                image.load()
    except UnidentifiedImageError:
        raise InputError(f"{what} {_unidentified(data)} {remedy}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{what} has over {MAX_PIXELS} pixels: reduce it {remedy}") from None
    except _UNREADABLE as error:
        line = " ".join(str(error).split())
        raise InputError(f"{what} cannot be decoded ({line}): replace it {remedy}") from None
    if count != 1 and image.format not in ("JPEG", "MPO", "TIFF"):
        raise InputError(f"{what} has {count} frames: save the one that counts {remedy}")
    if pixels > MAX_PIXELS:
        raise InputError(f"{what} has {pixels} pixels: reduce it below {MAX_PIXELS} {remedy}")
    if reason is not None:
        raise InputError(f"{what} {reason} {remedy}")
    return image


def _unidentified(data: bytes) -> str:
    """What is known of a file that Pillow does not take for an image."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        kind = "a TIFF that is damaged or of a kind that is not read"
        return f"is no readable image ({kind}): save it as RGB with 8 bits"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace").strip()
        return f"is no readable image ({brand} inside): save it as JPEG or PNG"
    return f"is no readable image{'' if data else ' (it is empty)'}: replace it"


def _refusal(image: Image.Image) -> str | None:
    raw = raw_mode(image)
    bits = 32 if image.mode in ("I", "F") and ";16" not in raw else 16
    if image.mode[0] in "IF" or ";16" in raw or ";32" in raw:
        return f"has the mode {image.mode} with {bits} bits a channel: scale it to 8 bits"
    bands = _extra_bands(image)
    return f"has {bands} bands: save it as RGB" if bands else None


def _extra_bands(image: Image.Image) -> int | None:
    """The number of bands of a TIFF that has others than its colours and transparency."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    samples = int(tags.get(277, 1))
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(int(tags.get(262, 1)), 1)
    extra = tuple(tags.get(338, ()))
    alpha = samples == colours + 1 and extra[:1] in ((1,), (2,))
    return None if samples <= colours or alpha else samples


def to_rgb(image: Image.Image) -> Image.Image:
    """Greyscale, palette, alpha and CMYK images as plain RGB (transparency is dropped)."""
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about transparency
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """The image as viewers show it, by its EXIF orientation; the same where that is unreadable."""
    turn = _TRANSPOSED.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block raises almost anything, and costs only the orientation
        return 1


def opens_silently(data: bytes) -> bool:
    """Whether a file that can be opened gives no warning, as some with broken metadata do."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data))
    return not caught


def encode_png(image: Image.Image) -> bytes:
    """The image as a lightly compressed PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()

"""Decoded masks: class ids from what a file's numbers or colours mean.

Where the classes have colours a mask is read by colour, in whatever form it comes: RGB, a palette
in any order, grey, 1 bit or 16 bits. A palette or grey mask that holds no colour of the classes
holds class ids; one data set must not mix the two, see `Readings`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from fcn_jax.data import images
from fcn_jax.data.classes import Classes, Colour
from fcn_jax.types import VOID, InputError

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Of masks that are read."""

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
"""Of masks that are refused: compression changes class ids."""


class Mask(NamedTuple):
    """One decoded mask."""

    ids: np.ndarray
    """uint8 [H, W]: class ids and `VOID`."""
    read_by: Literal["colour", "id", "either"]
    """What its values were taken for; `either` where both mean the same, and for RGB masks."""
    palette: Mapping[int, Colour]
    """The palette's entries that occur."""


def decode_mask(data: bytes, classes: Classes, what: str, remedy: str) -> Mask:
    """Decode a mask, upright by its own EXIF orientation, as viewers show it.

    Args:
        data: the file's content.
        classes: of the data set.
        what: how errors call the mask.
        remedy: how they end.

    Raises:
        InputError: for a lossy file, one that cannot be decoded, or a value or a colour that is
            none of the classes.
    """
    stored = ""

    def refusal(image: Image.Image) -> str | None:
        nonlocal stored
        stored = images.raw_mode(image)
        compression = str(image.info.get("compression", ""))
        if image.format in ("JPEG", "MPO", "WEBP") or re.search("jpeg|webp", compression):
            return (
                f"is {'JPEG' if image.format == 'MPO' else image.format} inside, not PNG: "
                "compression changes class ids: save it as PNG from its source"
            )
        if image.format not in ("PNG", "TIFF", "BMP"):
            return f"is {image.format} inside, not PNG: save it as PNG"
        if images.frames(image) != 1:
            return f"has {images.frames(image)} frames: save the one that counts"
        if image.format != "PNG" and re.match("(RGB|LA).*;16", stored):
            return f"has the mode {image.mode} with 16 bits a channel: save it with 8 bits"
        return None

    image = images.upright(images.decode(data, what, remedy, refusal))
    end = f"fix the mask or classes.txt, {remedy}"
    if image.mode in ("RGB", "RGBA", "RGBX"):
        if classes.colours is None:
            raise InputError(
                f"{what} is in colours (mode {image.mode}), not class indices: save it as an index "
                "PNG, or give every class its colour in classes.txt (name r g b)"
            )
        rgb = _rgb16(data, stored) if ";16" in stored else np.asarray(image)[..., :3]
        ids, unknown = _by_colour(rgb, classes.colours)
        if unknown is not None:
            raise _unknown_colour(what, unknown, remedy)
        return Mask(ids, "either", {})
    if image.mode == "P":
        return _palette_mask(image, classes, what, remedy, end)
    return _grey_mask(image, stored, classes, what, remedy, end)


def _palette_mask(image: Image.Image, classes: Classes, what: str, remedy: str, end: str) -> Mask:
    numbers = np.asarray(image)
    used = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)).tolist()
    entries = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3).tolist()
    palette = {i: tuple(entries[i]) for i in used if i < len(entries)}
    if classes.colours is None:
        return Mask(_by_id(numbers, classes, what, end), "id", palette)
    known = [i for i in used if classes.colours.get(palette.get(i, ()), VOID) != VOID]
    lacking = [i for i in used if palette.get(i) not in classes.colours and i != VOID]
    if not known and lacking:
        return Mask(_by_id(numbers, classes, what, end), "id", palette)
    if lacking:
        raise _unknown_colour(what, palette.get(lacking[0], (0, 0, 0)), remedy)
    table = np.full(256, VOID, np.uint8)
    for i in used:
        table[i] = classes.colours.get(palette.get(i, ()), VOID)
    same = all(classes.values.get(i) == table[i] for i in used)
    return Mask(table[numbers], "either" if same else "colour", palette)


def _grey_mask(
    image: Image.Image, stored: str, classes: Classes, what: str, remedy: str, end: str
) -> Mask:
    """Grey of 1 to 16 bits: a value is a class id, or a grey that is the colour of a class."""
    if image.mode == "1":
        numbers = np.asarray(image).astype(np.uint8)
        greys = numbers * np.uint8(255)
    elif image.mode in ("L", "LA") and ";16" not in stored:
        greys = np.asarray(image) if image.mode == "L" else np.asarray(image)[..., 0]
        bits = re.match(r"L;([24])", stored)
        # Pillow stretches 2 and 4 bits to 0..255, which a class id must not be.
        numbers = greys // np.uint8(255 // (2 ** int(bits[1]) - 1)) if bits else greys
    elif image.mode[0] == "I":
        numbers = np.asarray(image)
        greys = numbers // 257 if not (numbers % 257).any() and numbers.max() > 255 else numbers
    else:
        raise InputError(f"{what} has the mode {image.mode}: save it as an index PNG {remedy}")
    if classes.colours is None:
        return Mask(_by_id(numbers, classes, what, end), "id", {})
    table = {c[0]: i for c, i in classes.colours.items() if len(set(c)) == 1}
    used = np.unique(greys).tolist()
    if not all(g in table for g in used):
        if any(n not in classes.values for n in np.unique(numbers).tolist()):
            grey = next(g for g in used if g not in table)
            raise _unknown_colour(what, (grey,) * 3, remedy)
        return Mask(_by_id(numbers, classes, what, end), "id", {})
    ids = np.zeros(greys.shape, np.uint8)
    for grey in used:
        ids[greys == grey] = table[grey]
    numbered = all(n in classes.values for n in np.unique(numbers).tolist())
    same = numbered and np.array_equal(_by_id(numbers, classes, what, end), ids)
    return Mask(ids, "either" if same else "colour", {})


def _by_id(numbers: np.ndarray, classes: Classes, what: str, end: str) -> np.ndarray:
    used = np.unique(numbers).tolist()
    wrong = [n for n in used if n not in classes.values]
    if wrong:
        classes_end = len(classes.names)
        plain = all(classes.values.get(i) == i for i in range(classes_end))
        allowed = f"0..{classes_end - 1}" if plain else "one of those in the list of classes"
        raise InputError(
            f"{what} holds the class id {wrong[0]}, not {allowed} or {VOID} (void): {end}"
        )
    if all(classes.values[n] == n for n in used):
        return numbers.astype(np.uint8)
    table = np.zeros(max(used) + 1, np.uint8)
    for n in used:
        table[n] = classes.values[n]
    return table[numbers]


def _by_colour(rgb: np.ndarray, colours: Mapping[Colour, int]) -> tuple[np.ndarray, Colour | None]:
    """(class ids [H, W], the first colour that is unknown or None)."""
    packed = (rgb.astype(np.uint64) << np.array([32, 16, 0], np.uint64)).sum(-1, dtype=np.uint64)
    ids = np.full(packed.shape, VOID, np.uint8)
    known = np.zeros(packed.shape, bool)
    for (r, g, b), index in colours.items():
        here = packed == (r << 32 | g << 16 | b)
        ids[here], known = index, known | here
    return ids, None if known.all() else tuple(int(v) for v in rgb[~known][0])


def _rgb16(data: bytes, stored: str) -> np.ndarray:
    """A 16-bit RGB or RGBA PNG as [H, W, 3] colours: 0..255 as they are, or 257 times as much.

    Pillow keeps the high byte of each number; read as little-endian, the file gives the low one.
    """
    high, low = (
        images.upright(images.decode(data, "mask", "", partial(_read_as, mode=mode)))
        for mode in (stored, stored.replace(";16B", ";16L"))
    )
    values = np.asarray(high).astype(np.uint16) * 256 + np.asarray(low)
    values = values[..., :3]
    return values // 257 if values.max() > 255 and not (values % 257).any() else values


def _read_as(image: Image.Image, mode: str) -> None:
    tile = getattr(image, "tile")[0]  # noqa: B009 (files have it, plain images do not)
    setattr(image, "tile", [tile._replace(args=mode)])  # noqa: B010


def _unknown_colour(what: str, colour: Colour, remedy: str) -> InputError:
    return InputError(
        f"{what} holds the colour {colour}, which classes.txt does not give: add it there, "
        f"fix the mask {remedy}"
    )


@dataclass
class Readings:
    """What the masks of a data set were read by so far, to find those that contradict."""

    by: dict[str, str] = field(default_factory=dict)
    """`colour` or `id` -> the first mask read so, where the classes have colours."""
    palette: dict[Colour, tuple[int, str]] = field(default_factory=dict)
    """Colour -> its index and the first mask with it, where the classes have no colours."""

    def add(self, mask: Mask, classes: Classes, what: str) -> None:
        """Take note of a mask.

        Raises:
            InputError: if it contradicts an earlier one.
        """
        if classes.colours is not None:
            if mask.read_by != "either":
                self.by.setdefault(mask.read_by, what)
            if len(self.by) == 2:
                raise InputError(
                    f"{self.by['colour']} holds colours of the classes, {self.by['id']} none, "
                    "so that its values are class ids: save both alike"
                )
            return
        for index, colour in mask.palette.items():
            once = list(mask.palette.values()).count(colour) == 1
            other, first = self.palette.setdefault(colour, (index, what)) if once else (index, "")
            if other != index:
                raise InputError(
                    f"the palette of {what} has the colour {colour} as number {index}, that of "
                    f"{first} as number {other}: give every class its colour in classes.txt "
                    "(name r g b)"
                )

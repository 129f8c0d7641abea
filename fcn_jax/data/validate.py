"""One pair of image and mask checked, and everything that is wrong with a data set.

Preparing and `check` use the same functions, so that both refuse the same in the same words.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from fcn_jax.data import images, masks
from fcn_jax.data.layouts import SPLIT_NAMES
from fcn_jax.data.source import Source
from fcn_jax.data.splits import LISTS, some
from fcn_jax.types import VOID, InputError


class Stored(NamedTuple):
    """One checked pair, as it is stored."""

    id: str
    image: bytes
    """JPEG as it came where it is RGB and opens without a warning, else PNG."""
    mask: bytes
    """PNG of mode L whose values are class ids and VOID."""
    shape: tuple[int, int]
    """Height and width."""
    pixels: np.ndarray
    """int64 [256]: pixels of each value of the mask."""
    frames: int
    """Images in the image's file; the first is stored."""


class Problem(NamedTuple):
    """Something for which training refuses a data set."""

    message: str
    """One line."""
    example_id: str = ""
    """Of the pair at fault; "" for what is no pair's."""


class Checker:
    """Reads the pairs of a source, and remembers what only all of them together show."""

    def __init__(self, source: Source) -> None:
        """Start with no pair seen."""
        self._source, self._readings = source, masks.Readings()
        self._values: set[int] = set()
        self._several: list[str] = []

    def read(self, split: str, example_id: str) -> Stored:
        """Check one pair and return it as it is stored.

        Raises:
            InputError: one line that names the file, what is wrong with it, and the remedy.
        """
        stored, mask = read_example(self._source, split, example_id)
        name = _short(self._source.masks[example_id])
        self._readings.add(mask, self._source.classes, f"mask {name}")
        self._values |= set(np.flatnonzero(stored.pixels).tolist())
        if stored.frames > 1:
            self._several.append(_short(self._source.images[example_id]))
        return stored

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the class ids of all masks together: none but 0 and void."""
        if self._values and self._values <= {0, VOID}:
            void = f" and void {VOID}" if VOID in self._values else ""
            yield Problem(
                f"no mask has any class but 0{void}: where 255 was meant as the object, "
                "save it as the class id 1, or number it in classes.txt (`0 background`, "
                "`255 object`)"
            )

    def notes(self) -> list[str]:
        """What is worth knowing about all of them together."""
        if not self._several:
            return []
        count = len(self._several)
        what = "1 file holds" if count == 1 else f"{count} files hold"
        return [f"{what} several images, of which the first is used: {some(self._several)}"]


def problems(
    source: Source,
    tick: Callable[[], object] = lambda: None,
    see: Callable[[str, Stored], object] = lambda split, stored: None,
    checker: Checker | None = None,
) -> Iterator[Problem]:
    """Everything that would make training on `source` fail.

    Args:
        source: the data set.
        tick: called once a pair.
        see: called with the split and each pair that is valid.
        checker: to read with; its notes can then be asked for.
    """
    yield from list_problems(source)
    checker = checker or Checker(source)
    for split, ids in source.splits.items():
        for example_id in dict.fromkeys(ids):
            try:
                see(split, checker.read(split, example_id))
            except InputError as error:
                yield Problem(str(error), example_id)
            tick()
    yield from checker.problems()


def list_problems(source: Source) -> Iterator[Problem]:
    """What is wrong with the lists themselves: a split missing or empty, an id given twice."""
    where = source.files.title
    for split in ("train", "val"):
        if split not in source.splits:
            yield Problem(f"{where} has no {LISTS}/{split}.txt: add it, with one id per line")
    for split, ids in source.splits.items():
        if not ids:
            yield Problem(
                f"{where}: {LISTS}/{split}.txt is empty: list at least one id, or delete it"
            )
        for example_id, count in Counter(ids).items():
            times = "twice" if count == 2 else f"{count} times"
            if count > 1:
                message = f"{split}.txt lists {example_id} {times}: remove all lines but one"
                yield Problem(message, example_id)


def read_example(source: Source, split: str, example_id: str) -> tuple[Stored, masks.Mask]:
    """Check one pair by itself.

    Raises:
        InputError: one line that names the file, what is wrong with it, and the remedy.
    """
    remove = f"or remove the id from {source.list_name(split)}"
    _check_name(example_id, source)
    where = f"(listed in {source.list_name(split)})" if source.has_lists else ""
    for kind, paths in (("image", source.images), ("mask", source.masks)):
        if example_id not in paths:
            message = f"{kind} of {example_id} {where}".rstrip()
            other = similar(example_id, kind, source)
            raise InputError(
                f"{message} is missing in {source.files.title}{other}: add it {remove}"
            )
    image_path, mask_path = source.images[example_id], source.masks[example_id]
    data = source.files.read(image_path)
    image = images.open_image(data, f"image {_short(image_path)}", remove)
    what = f"mask {_short(mask_path)}"
    mask = masks.decode_mask(source.files.read(mask_path), source.classes, what, remove)
    height, width = mask.ids.shape
    shown = _as_masked(image, (height, width)) if source.honour_exif else image
    if shown.size != (width, height):
        sizes = f"{shown.height}x{shown.width}, its mask {height}x{width} (height x width)"
        raise InputError(f"image {_short(image_path)} is {sizes}: fix the mask {remove}")
    keep = image.format in ("JPEG", "MPO") and shown is image and image.mode == "RGB"
    if not (keep and images.opens_silently(data)):
        data = images.encode_png(images.to_rgb(shown))
    pixels = np.bincount(mask.ids.ravel(), minlength=256)
    png = images.encode_png(Image.fromarray(mask.ids))
    shape = (height, width)
    return Stored(example_id, data, png, shape, pixels, images.frames(image)), mask


def _as_masked(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """The image as viewers show it, or as stored where only that fits its mask.

    Masks are drawn on what an annotation tool shows, which is nearly always the upright image.
    """
    turned = images.upright(image)
    stored_fits = (image.height, image.width) == shape
    return image if stored_fits and (turned.height, turned.width) != shape else turned


def _check_name(example_id: str, source: Source) -> None:
    try:
        example_id.encode()
    except UnicodeEncodeError:
        shown = example_id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise InputError(
            f"the file name {shown} in {source.files.title} is no UTF-8: rename it"
        ) from None


def similar(example_id: str, kind: str, source: Source) -> str:
    """Names the file that may have been meant, of a format that is not read."""
    stem = PurePosixPath(example_id).name
    used = {*source.images.values(), *source.masks.values()}
    folders = {PurePosixPath(p).parts[0] for p in getattr(source, f"{kind}s").values()}
    for name in source.files.names():
        path = PurePosixPath(name)
        if path.stem == stem and path.parts[0] in folders and name not in used:
            return f" ({path.name} is there, which is not read)"
    return ""


def _short(path: str) -> str:
    """The path below the folder of the images or of the masks."""
    top, _, rest = path.partition("/")
    return path if top.lower() in SPLIT_NAMES or not rest else rest


def raise_first(found: Iterable[Problem]) -> None:
    """Raise InputError for the first of several problems, if there is one."""
    for problem in found:
        raise InputError(problem.message)

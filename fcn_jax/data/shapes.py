"""Generates `shapes`: a data set in VOC's layout that needs no download, only a seed.

Its 21 classes have VOC's names, but differ in form: ten patterns of
different coarseness and proportions, each mostly light inside round outlines and mostly dark inside
angular ones. Colours are random for every object and every background, so a classifier that sees
single pixels learns next to nothing. Mirrored, every class is still itself.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.runtime import files
from fcn_jax.runtime.terminal import progress as show_progress
from fcn_jax.types import VOID

SIZES = {"train": 600, "val": 100, "test": 100}
JPEG_QUALITY = 92
_BYTES = 20_000_000
"""About what the images take."""
_ROOM = "make room or choose another directory for prepared data"
BORDER = 5
"""Width in pixels of the void line around every object, about VOC's."""


def ensure(folder: Path, progress: bool = True) -> Path:
    """Draw the data set below `folder` unless it is there already, and return its root.

    Raises InputError when `folder` cannot be written to.
    """
    # Named after this very file, so that a change to the drawing is never answered with old data.
    digest = hashlib.sha256(Path(__file__).read_bytes() + repr(SIZES).encode()).hexdigest()
    target = folder / f"shapes_{digest[:12]}"
    if target.is_dir():
        return target
    files.make_folder(folder, "choose another directory for prepared data")
    with files.alone(folder / ".lock", f"drawing shapes in {folder}"):
        if not target.is_dir():
            scratch = folder / "incomplete"
            shutil.rmtree(scratch, ignore_errors=True)
            files.require(folder, _BYTES, "drawing shapes", _ROOM)
            try:
                draw(scratch, progress=progress)
                os.replace(scratch, target)
            except OSError as error:
                shutil.rmtree(scratch, ignore_errors=True)  # what room there is, is for others
                raise files.refused(folder, error, _BYTES, _ROOM) from None
    return target


def draw(
    root: Path, seed: int = 0, sizes: Mapping[str, int] | None = None, progress: bool = False
) -> None:
    """Write JPEGs, palette masks and split lists below `root`, in the layout of VOC.

    Every image is a function of (seed, split, number) alone: the same bytes each time, and a
    larger split only adds images.
    """
    sizes = sizes or SIZES
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)
    palette = voc_palette().tobytes()
    with show_progress("drawing shapes", sum(sizes.values()), progress) as tick:
        for split_number, (split, count) in enumerate(sizes.items()):
            ids = [f"{split}_{number:04d}" for number in range(count)]
            for number, name in enumerate(ids):
                rng = np.random.default_rng((seed, split_number, number))
                image, mask = draw_scene(rng, first_class=number % 20 + 1)
                image.save(root / "JPEGImages" / f"{name}.jpg", quality=JPEG_QUALITY)
                mask.putpalette(palette)
                mask.save(root / "SegmentationClass" / f"{name}.png", compress_level=3)
                tick()
            text = "".join(f"{name}\n" for name in ids)
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(text, encoding="utf-8")


def draw_scene(rng: np.random.Generator, first_class: int) -> tuple[Image.Image, Image.Image]:
    """One image (RGB) and its mask (mode L: class ids and VOID).

    The first object is of `first_class`, so that every class occurs in every split; one or two
    more are of random classes.
    """
    width, height = _size(rng)
    pixels = _background(rng, width, height)
    mask = Image.new("L", (width, height), 0)
    drawing = ImageDraw.Draw(mask)
    count = int(rng.choice((1, 2, 3), p=(0.45, 0.45, 0.1)))
    classes = [first_class, *rng.integers(1, len(VOC_CLASSES), count - 1).tolist()]
    for class_id, position in zip(classes, _positions(rng, count), strict=True):
        _draw_object(rng, pixels, drawing, class_id, position)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


# ----------------------------------------------------------------------------------- layout


class Position(NamedTuple):
    """Where an object lies, in fractions of the image's width and height.

    Fractions, and not pixels: networks see the images resized to a square, and there every
    object of a class has the same proportions.
    """

    x: float
    y: float
    radius: float


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Landscape, portrait or square; the longer side up to 500, as in VOC."""
    long = int(rng.integers(200, 501))
    short = int(long * rng.uniform(0.66, 1.0))
    return (long, short) if rng.random() < 0.7 else (short, long)


def _positions(rng: np.random.Generator, count: int) -> Iterator[Position]:
    """Positions that overlap little: one in the middle, two side by side, three in the corners."""
    low, high = {1: (0.25, 0.34), 2: (0.2, 0.24), 3: (0.17, 0.2)}[count]
    order, lying = rng.permutation(4), rng.random() < 0.5
    for i in range(count):
        if count == 1:
            x, y = rng.uniform(0.38, 0.62, 2)
        elif count == 2:
            along, across = 0.27 + 0.46 * (order[0] % 2 != i), rng.uniform(0.3, 0.7)
            x, y = (along, across) if lying else (across, along)
        else:
            x, y = 0.27 + 0.46 * (order[i] % 2), 0.27 + 0.46 * (order[i] // 2)
        dx, dy = rng.uniform(-0.03, 0.03, 2)
        yield Position(float(x + dx), float(y + dy), rng.uniform(low, high))


# ------------------------------------------------------------------------------- background


def _smooth(
    rng: np.random.Generator, width: int, height: int, cells: tuple[int, int]
) -> np.ndarray:
    """Smooth noise in 0..1, float32 [height, width], with about `cells` bumps across and down."""
    grid = Image.fromarray(rng.integers(0, 256, cells[::-1], dtype=np.uint8))
    field = grid.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(field, np.float32) / 255.0


def _colour(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A random RGB colour, float32 [3], whose luminance lies between `low` and `high`."""
    colour = rng.uniform(0, 255, 3)
    luma = colour @ (0.299, 0.587, 0.114)
    return (colour + rng.uniform(low, high) - luma).clip(0, 255).astype(np.float32)


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Clouds, grain or brushed strokes between two colours, float32 [height, width, 3]."""
    middle = rng.uniform(70, 180)
    first, second = _colour(rng, middle - 40, middle), _colour(rng, middle, middle + 40)
    weight = _smooth(rng, width, height, (4, 4))
    kind = rng.integers(3)
    if kind == 0:
        weight = 0.7 * weight + 0.3 * _smooth(rng, width, height, (14, 12))
    elif kind == 1:
        weight = 0.65 * weight + 0.35 * _smooth(rng, width, height, (width // 4, height // 4))
    else:
        cells = (6, height // 5) if rng.random() < 0.5 else (width // 5, 6)
        weight = 0.65 * weight + 0.35 * _smooth(rng, width, height, cells)
    return first + weight[..., None] * (second - first)


# ---------------------------------------------------------------------------------- objects


def _turns(x: np.ndarray) -> np.ndarray:
    """A wave of period 1 and height 1."""
    return np.cos(2 * np.pi * x)


Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Height, about -1..1, over coordinates counted in periods from the object's centre."""


class Look(NamedTuple):
    """What two classes have in common: one in light paint and round, one dark and angular."""

    field: Field
    period: float
    """As a fraction of the image's sides; at 96x96 the finest has 10 pixels."""
    stretch: float
    """Width by height of the outline."""


LOOKS = (
    Look(lambda u, v: _turns(v) + 0 * u, 0.19, 1.6),  # lying stripes
    Look(lambda u, v: _turns(u) + 0 * v, 0.11, 0.6),  # standing stripes
    Look(lambda u, v: _turns(0.7 * (u + v)), 0.14, 1.0),  # slanting stripes, mirrored at random
    Look(lambda u, v: 4.0 * _turns(u / 2) * _turns(v / 2), 0.11, 1.0),  # checks
    Look(lambda u, v: 1.2 * (_turns(u) + _turns(v)) - 0.9, 0.11, 1.6),  # dots
    Look(lambda u, v: _turns(np.hypot(u, v)), 0.19, 1.0),  # rings
    Look(lambda u, v: np.cos(6 * np.arctan2(v, u)), 0.19, 0.6),  # spokes
    Look(lambda u, v: np.maximum(_turns(u), _turns(v)) - 0.5, 0.17, 0.6),  # lattice
    Look(lambda u, v: -0.6 * v + 0 * u, 0.19, 1.6),  # light from above, no edges
    Look(lambda u, v: np.exp(-0.6 * (u * u + v * v)) - 0.5, 0.19, 1.0),  # light in the middle
)
"""Of the classes 1 and 2, 3 and 4, ..."""


def _outline(rng: np.random.Generator, angular: bool) -> np.ndarray:
    """A closed outline around 0 of radius about 1, float [n, 2]."""
    if angular:
        corners = int(rng.choice((3, 4, 6)))
        turn = {3: -np.pi / 2, 4: np.pi / 4, 6: 0.0}[corners] + rng.uniform(-0.2, 0.2)
        angles = turn + 2 * np.pi * np.arange(corners) / corners
        reach = {3: 1.35, 4: 1.25, 6: 1.1}[corners]
        return reach * np.stack([np.cos(angles), np.sin(angles)], -1)
    angles = 2 * np.pi * np.arange(72) / 72
    lobes, depth = int(rng.integers(2, 6)), rng.uniform(0, 0.14)
    radius = 1 + depth * np.cos(lobes * angles + rng.uniform(0, 2 * np.pi))
    return radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)


def _draw_object(
    rng: np.random.Generator,
    pixels: np.ndarray,
    drawing: ImageDraw.ImageDraw,
    class_id: int,
    position: Position,
) -> None:
    """Paint one object into `pixels`, its id and void border into the mask behind `drawing`."""
    look, angular = LOOKS[(class_id - 1) // 2], class_id % 2 == 0
    sides = np.array(pixels.shape[1::-1])
    centre = sides * (position.x, position.y)
    wide = np.sqrt(look.stretch)
    radii = sides * (position.radius * wide, position.radius / wide)
    points = _outline(rng, angular) * radii + centre
    corners = [(float(x), float(y)) for x, y in points]
    drawing.polygon(corners, fill=class_id)
    drawing.line([*corners, *corners[:2]], fill=VOID, width=BORDER, joint="curve")

    x0, y0 = np.floor(points.min(0)).astype(int).clip(0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, sides)
    inside = Image.new("L", (int(x1 - x0), int(y1 - y0)))
    ImageDraw.Draw(inside).polygon([(x - x0, y - y0) for x, y in corners], fill=255)
    region = pixels[y0:y1, x0:x1]
    x = (np.arange(x0, x1, dtype=np.float32) - np.float32(centre[0]))[None]
    y = (np.arange(y0, y1, dtype=np.float32) - np.float32(centre[1]))[:, None]
    painted = _paint(rng, look, angular, x / np.float32(sides[0]), y / np.float32(sides[1]))
    np.copyto(region, painted, where=np.asarray(inside)[..., None] > 0)


def _paint(
    rng: np.random.Generator, look: Look, dark: bool, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """The pattern in two tones of a random colour, float32 [h, w, 3], at x [1, w] and y [h, 1]."""
    period = look.period * rng.uniform(0.9, 1.1)
    turn = rng.uniform(-0.12, 0.12)
    cos, sin = np.float32(np.cos(turn) / period), np.float32(np.sin(turn) / period)
    x = x * np.float32(rng.choice((-1.0, 1.0)))  # mirrored, or not
    relief = look.field(cos * x - sin * y, sin * x + cos * y)
    lightness = (0.5 + 1.5 * relief + (-0.6 if dark else 0.6)).clip(0, 1)[..., None]  # soft edges
    light = _colour(rng, 170, 230)
    shadow = light * rng.uniform(0.12, 0.3) + rng.uniform(0, 40, 3).astype(np.float32)
    shade = np.float32(1) - y[..., None] * np.float32(0.3)
    return (shadow + lightness * (light - shadow)) * shade

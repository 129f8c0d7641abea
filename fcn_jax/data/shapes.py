"""Draws `shapes`: a VOC-shaped data set that needs no network, only a seed.

Its 21 classes bear VOC's names, but what tells them apart is pattern and outline: ten patterns,
each once coarse inside round outlines and once fine inside angular ones. Colours are random for
every object and every background, so a classifier that sees single pixels learns nothing.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.types import VOID, InputError

SIZES = {"train": 600, "val": 100, "test": 100}
JPEG_QUALITY = 92
BORDER = 5
"""Width in pixels of the void line around every object, about VOC's."""


def ensure(folder: Path, progress: bool = True) -> Path:
    """Draw the data set below `folder` unless it is there already, and return its root.

    Raises InputError when `folder` cannot be written to.
    """
    # Named after this very file, so that a change to the drawing is never answered with old data.
    digest = hashlib.sha256(Path(__file__).read_bytes() + repr(SIZES).encode()).hexdigest()
    target = folder / f"shapes_{digest[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not target.is_dir():
                scratch = folder / "incomplete"
                shutil.rmtree(scratch, ignore_errors=True)
                draw(scratch, progress=progress)
                os.replace(scratch, target)
    except OSError as error:
        raise InputError(
            f"drawing shapes in {folder} failed ({error.strerror}): choose another directory "
            "with --data-dir"
        ) from None
    return target


def draw(
    root: Path, seed: int = 0, sizes: Mapping[str, int] | None = None, progress: bool = False
) -> None:
    """Write JPEGs, palette masks and split lists below `root`, in the layout of VOC.

    Every picture is a function of (seed, split, number) alone: the same bytes each time, and a
    larger split only adds pictures.
    """
    sizes = sizes or SIZES
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)
    palette = voc_palette().tobytes()
    with tqdm(
        desc="drawing shapes",
        total=sum(sizes.values()),
        unit="img",
        disable=not progress,
        leave=False,
    ) as bar:
        for split_number, (split, count) in enumerate(sizes.items()):
            ids = [f"{split}_{number:04d}" for number in range(count)]
            for number, name in enumerate(ids):
                rng = np.random.default_rng((seed, split_number, number))
                image, mask = draw_scene(rng, first_class=number % 20 + 1)
                image.save(root / "JPEGImages" / f"{name}.jpg", quality=JPEG_QUALITY)
                mask.putpalette(palette)
                mask.save(root / "SegmentationClass" / f"{name}.png", compress_level=3)
                bar.update()
            text = "".join(f"{name}\n" for name in ids)
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(text, encoding="utf-8")


def draw_scene(rng: np.random.Generator, first_class: int) -> tuple[Image.Image, Image.Image]:
    """One picture (RGB) and its mask (mode L: class ids and VOID).

    The first object is of `first_class`, so that every class occurs in every split; one or two
    more are of random classes.
    """
    width, height = _size(rng)
    pixels = _background(rng, width, height)
    mask = Image.new("L", (width, height), 0)
    canvas = ImageDraw.Draw(mask)
    count = int(rng.choice((1, 2, 3), p=(0.45, 0.45, 0.1)))
    classes = [first_class, *rng.integers(1, len(VOC_CLASSES), count - 1).tolist()]
    for class_id, place in zip(classes, _places(rng, width, height, count), strict=True):
        _draw_object(rng, pixels, canvas, class_id, place)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


# ----------------------------------------------------------------------------------- layout


class Place(NamedTuple):
    """Where an object lies: centre and half extents in pixels."""

    x: float
    y: float
    rx: float
    ry: float
    unit: float
    """The picture's scale, the geometric mean of its sides: periods are fractions of it."""


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Landscape, portrait or square; the longer side up to 500, as in VOC."""
    long = int(rng.integers(200, 501))
    short = int(long * rng.uniform(0.66, 1.0))
    return (long, short) if rng.random() < 0.7 else (short, long)


def _places(rng: np.random.Generator, width: int, height: int, count: int) -> Iterator[Place]:
    """Places that overlap little: the picture is halved along its longer side for two or more."""
    unit = float(np.sqrt(width * height))
    radius = {1: (0.25, 0.34), 2: (0.2, 0.25), 3: (0.16, 0.2)}[count]
    corners = rng.permutation(4)[:count] if count > 2 else rng.permutation(2)
    for i in range(count):
        rx, ry = unit * rng.uniform(*radius, size=2)
        if count == 1:
            fx, fy = rng.uniform(0.35, 0.65, 2)
        elif count == 2:
            along, across = (
                0.27 + 0.46 * corners[i] + rng.uniform(-0.04, 0.04),
                rng.uniform(0.3, 0.7),
            )
            fx, fy = (along, across) if width >= height else (across, along)
        else:
            fx, fy = 0.28 + 0.44 * (corners[i] % 2), 0.28 + 0.44 * (corners[i] // 2)
            fx, fy = np.array((fx, fy)) + rng.uniform(-0.04, 0.04, 2)
        yield Place(fx * width, fy * height, rx, ry, unit)


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


def _blotches(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Waves that never repeat together, of no common direction: the spots of a cow."""
    waves = ((0.53, 0.31), (-0.37, 0.67), (0.11, -0.59), (0.71, -0.23))
    return np.sum([_turns(a * u + b * v + a) for a, b in waves], axis=0) - np.float32(0.2)


PATTERNS: tuple[Callable[[np.ndarray, np.ndarray, bool], np.ndarray], ...] = (
    lambda u, v, fine: _turns(v),  # lying stripes
    lambda u, v, fine: _turns(u),  # standing stripes
    lambda u, v, fine: _turns(0.7 * (u + v)),  # slanting stripes, mirrored at random
    lambda u, v, fine: 4.0 * _turns(u / 2) * _turns(v / 2),  # checks
    lambda u, v, fine: 1.2 * (_turns(u) + _turns(v)) - 0.9,  # dots
    lambda u, v, fine: _turns(0.8 * np.hypot(u, v)),  # rings
    lambda u, v, fine: np.cos(np.arctan2(v, u) * (8 if fine else 4)),  # spokes
    lambda u, v, fine: _blotches(1.2 * u, 1.2 * v),
    lambda u, v, fine: np.maximum(_turns(u), _turns(v)) - 0.5,  # lattice
    lambda u, v, fine: 0.6 * np.exp(-0.15 * (u * u + v * v)) - 0.3,  # a glow without any edges
)
"""Height, about -1..1, over coordinates counted in periods from the object's centre."""


def _soft_threshold(height: np.ndarray, fine: bool) -> np.ndarray:
    """How light each pixel is, 0..1: coarse patterns mostly light, fine ones mostly dark."""
    return (0.5 + 1.5 * height + (-0.6 if fine else 0.6)).clip(0, 1)


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
    canvas: ImageDraw.ImageDraw,
    class_id: int,
    place: Place,
) -> None:
    """Paint one object into `pixels`, its id and void border into the mask behind `canvas`."""
    pattern, angular = PATTERNS[(class_id - 1) // 2], class_id % 2 == 0
    points = _outline(rng, angular) * (place.rx, place.ry) + (place.x, place.y)
    corners = [(float(x), float(y)) for x, y in points]
    canvas.polygon(corners, fill=class_id)
    canvas.line([*corners, *corners[:2]], fill=VOID, width=BORDER, joint="curve")

    height, width = pixels.shape[:2]
    x0, y0 = np.floor(points.min(0)).astype(int).clip(0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (width, height))
    inside = Image.new("L", (int(x1 - x0), int(y1 - y0)))
    ImageDraw.Draw(inside).polygon([(x - x0, y - y0) for x, y in corners], fill=255)

    period = place.unit * (0.1 if angular else 0.19) * rng.uniform(0.9, 1.1)
    mirror = rng.choice((-1.0, 1.0))
    turn = rng.uniform(-0.15, 0.15)
    cos, sin = np.float32(np.cos(turn) / period), np.float32(np.sin(turn) / period)
    x = (np.arange(x0, x1, dtype=np.float32) - np.float32(place.x))[None] * np.float32(mirror)
    y = (np.arange(y0, y1, dtype=np.float32) - np.float32(place.y))[:, None]
    height = pattern(cos * x - sin * y, sin * x + cos * y, angular)
    weight = _soft_threshold(height, angular)[..., None]
    light = _colour(rng, 170, 230)
    dark = light * rng.uniform(0.12, 0.3) + rng.uniform(0, 40, 3).astype(np.float32)
    shade = 1.08 - 0.16 * (y / np.float32(2 * place.ry) + 0.5)[..., None]
    painted = (dark + weight * (light - dark)) * shade
    region = pixels[y0:y1, x0:x1]
    np.copyto(region, painted, where=np.asarray(inside)[..., None] > 0)

"""The work of `experiments.predict`: images in, masks, overlays, probabilities and areas out."""

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.cli.image_files import Job, suffixed
from fcn_jax.data import images
from fcn_jax.inference import predict
from fcn_jax.report import gallery, masks
from fcn_jax.runtime import files, machine
from fcn_jax.types import InputError

WORKERS = 4
"""Images in work at a time, at most: each holds its photograph and a band of logits."""


JPEG_LIMIT = 65_500
"""Longest side of a JPEG; larger overlays are made smaller."""


class Options(NamedTuple):
    """What is written, and where."""

    out: Path
    scale: str = "fit"
    """See `predict.SCALES`."""
    probabilities: bool = False


class Area(NamedTuple):
    """One class in one image: a row of the table."""

    file: str
    class_id: int
    name: str
    pixels: int
    fraction: float
    """Of the image."""


class Segmented(NamedTuple):
    """What was made of one image."""

    areas: list[Area]
    prediction: gallery.Prediction
    """Its entry on the page of all images."""


def segment_all(
    restored: predict.Checkpoint, jobs: Sequence[Job], options: Options, bar: tqdm
) -> Iterator[Segmented | InputError]:
    """What was made of each image, in order, or what is wrong with it.

    While the network is busy with one image, others are read, resized and written. The first goes
    alone: it compiles what the others use.
    """

    def work(job: Job) -> Segmented | InputError:
        windows = itertools.count(1)
        try:
            return segment(restored, job, options, lambda: bar.set_postfix(tiles=next(windows)))
        except InputError as error:
            return error

    yield work(jobs[0])
    with threads() as pool:
        yield from pool.map(work, jobs[1:])


def threads() -> ThreadPoolExecutor:
    """The threads that predict the images of a folder, each one image at a time."""
    return ThreadPoolExecutor(min(machine.cores(), WORKERS))


def segment(
    restored: predict.Checkpoint,
    job: Job,
    options: Options,
    tick: Callable[[], object] = lambda: None,
) -> Segmented:
    """Write the results of one image. `tick` is called after each tile."""
    image = images.read_image(job.path)
    target = options.out / job.name
    files.make_folder(target.parent)
    bands = predict.logit_bands(restored, image, options.scale, tick)
    if options.probabilities:
        shape = (*image.shape[:2], len(restored.class_names))
        with files.replacing(suffixed(target, ".npy")) as part, part.open("wb") as file:
            # Band by band: it may be larger than the memory. A map would end the process where the
            # disk is full.
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            write = lambda band: file.write(band.astype("<f2").tobytes())
            mask = predict.mask_of(bands, image.shape[:2], write)
    else:
        mask = predict.mask_of(bands, image.shape[:2])
    files.write_bytes(suffixed(target, ".png"), masks.index_png(mask, restored.palette))
    tinted = blend(image, mask, restored.palette)
    with files.replacing(suffixed(target, "-overlay.jpg")) as part:
        legend = gallery.with_legend(tinted, [mask], restored.class_names, restored.palette)
        legend.thumbnail((JPEG_LIMIT, JPEG_LIMIT))
        legend.save(part, "JPEG", quality=92)
    found = areas(str(job.path), mask, restored.class_names)
    overlay = suffixed(job.name, "-overlay.jpg").as_posix()
    fractions = [area.fraction for area in found]
    thumbnail = gallery.thumbnail(tinted)
    return Segmented(found, gallery.Prediction(str(job.path), overlay, thumbnail, fractions))


def blend(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The overlay, made some rows at a time: it is computed in floats."""
    rows = max(1, 2**21 // image.shape[1])
    starts = range(0, len(image), rows)
    parts = [masks.overlay(image[s : s + rows], mask[s : s + rows], palette) for s in starts]
    return np.concatenate(parts)


def areas(file: str, mask: np.ndarray, class_names: Sequence[str]) -> list[Area]:
    """The area of every class."""
    counts = np.bincount(mask.ravel(), minlength=len(class_names)).tolist()
    return [
        Area(file, i, name, counts[i], counts[i] / mask.size) for i, name in enumerate(class_names)
    ]


def write_areas(rows: Sequence[Area], path: Path) -> None:
    """Write the table as CSV, in one piece; a file name that is no UTF-8 is escaped."""
    files.make_folder(path.parent)
    with (
        files.replacing(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("file", "class_id", "class", "pixels", "fraction"))
        writer.writerows((*row[:-1], f"{row.fraction:.6f}") for row in rows)

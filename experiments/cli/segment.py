"""The work of `experiments.predict`: images in, masks, overlays, probabilities and areas out."""

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.cli import command
from experiments.cli.image_files import Job, suffixed
from fcn_jax.data import images
from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.inference import predict
from fcn_jax.models import create_model
from fcn_jax.report import gallery, masks
from fcn_jax.runtime import distributed, files
from fcn_jax.types import InputError
from fcn_jax.weights import initialize, torch_weights

WORKERS = 4
"""Images in work at a time, at most: each holds its photograph and a band of logits."""


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


def published(name: str, weights: Path | None) -> predict.Checkpoint:
    """torchvision's network as a checkpoint; its images were some 520 pixels high."""
    distributed.require_backend()
    path = weights or initialize.published(name)
    variables = torch_weights.load_torch_weights(name, path)
    variables = {k: variables[k] for k in ("params", "batch_stats")}
    model = create_model(name, len(VOC_CLASSES), aux="aux_head" in variables["params"])
    initialize.check_fit(model, variables, str(path))
    palette = voc_palette(len(VOC_CLASSES))
    return predict.Checkpoint(model, variables, VOC_CLASSES, palette, (520, 520), {})


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
    with ThreadPoolExecutor(min(command.cores(), WORKERS)) as pool:
        yield from pool.map(work, jobs[1:])


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
        with files.replacing(suffixed(target, ".npy")) as part:
            mask = fill(bands, image.shape[:2], open_npy(part, shape))
    else:
        mask = fill(bands, image.shape[:2])
    files.write_bytes(suffixed(target, ".png"), masks.index_png(mask, restored.palette))
    tinted = blend(image, mask, restored.palette)
    with files.replacing(suffixed(target, "-overlay.jpg")) as part:
        legend = gallery.with_legend(tinted, [mask], restored.class_names, restored.palette)
        legend.save(part, "JPEG", quality=92)
    found = areas(str(job.path), mask, restored.class_names)
    overlay = suffixed(job.name, "-overlay.jpg").as_posix()
    fractions = [area.fraction for area in found]
    thumbnail = gallery.thumbnail(tinted)
    return Segmented(found, gallery.Prediction(str(job.path), overlay, thumbnail, fractions))


def fill(
    bands: Iterator[np.ndarray], size: tuple[int, int], table: np.ndarray | None = None
) -> np.ndarray:
    """The mask of the bands' logits, uint8 [H, W]; probabilities go to `table` [H, W, K]."""
    mask, row = np.empty(size, np.uint8), 0
    for band in bands:
        end = row + len(band)
        mask[row:end] = band.argmax(-1)
        if table is not None:
            table[row:end] = predict.softmax(band)
        row = end
    return mask


def open_npy(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new .npy file as an array, on the disk: probabilities may be larger than the memory."""
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


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
        writer.writerow(("file", "class_id", "class", "pixels", "share"))
        writer.writerows((*row[:-1], f"{row.fraction:.6f}") for row in rows)

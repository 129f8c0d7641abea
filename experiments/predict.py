"""Segment photographs: `python -m experiments.predict WORKDIR IMAGE|DIR|GLOB ... --out DIR`."""

import argparse
import csv
import glob
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.cli import command
from fcn_jax import report
from fcn_jax.data import source
from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.inference import predict
from fcn_jax.models import create_model
from fcn_jax.runtime import files as disk
from fcn_jax.types import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

EPILOG = """examples:
  python -m experiments.predict runs/mine photo.jpg --out masks
  python -m experiments.predict runs/mine holiday --recursive --out masks --areas masks/areas.csv
  python -m experiments.predict --pretrained fcn_resnet50 photo.jpg --out masks
  python -m experiments.predict runs/mine 'scans/*.tif' --scale native --probabilities --out masks

Exit code 0: every image is segmented; 2: some are not, for the reasons given."""


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.predict",
        description="Segment images of any size with a run's best checkpoint. For each image "
        "OUT/STEM.png is written (class numbers, in the palette, at the image's size) and "
        "OUT/STEM-overlay.jpg (the same over the photograph).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="WORKDIR IMAGE",
        help="folder of a run (not with --pretrained), then image files, folders of them, or globs",
    )
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="use torchvision's published weights instead of a run: fcn_resnet50 (VOC's classes)",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="with --pretrained: the weights, on this disk"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--recursive", action="store_true", help="search folders to the bottom")
    parser.add_argument(
        "--scale",
        choices=predict.SCALES,
        help="fit (default): squeeze the image to the size of the training, as validation does; "
        "native (default with --pretrained): see every pixel, in overlapping tiles where the "
        "image is large",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write OUT/STEM.npy: float16 [height, width, classes]",
    )
    parser.add_argument(
        "--areas", type=Path, metavar="CSV", help="write each class's pixels and share, per file"
    )
    return parser


class Job(NamedTuple):
    """One image, and what its results are called."""

    path: Path
    name: Path
    """Below OUT, without suffix."""


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write; one bad file does not stop the others."""
    args = parser().parse_args(argv)
    args.scale = args.scale or ("native" if args.pretrained else "fit")
    if args.weights and not args.pretrained:
        raise InputError("--weights: goes with --pretrained NAME: name the network too")
    images = args.inputs if args.pretrained else args.inputs[1:]
    if not images:
        raise InputError(f"{args.inputs[0]}: name the images after the folder of the run")
    jobs = name_jobs(find_images(images, args.recursive))
    check_targets(jobs, args.out)
    command.setup_jax()
    if args.pretrained:
        restored = published(args.pretrained, args.weights)
    else:
        restored = predict.load_checkpoint(args.inputs[0])
    rows: list[tuple] = []
    failed = 0
    with tqdm(total=len(jobs), unit="img", disable=not sys.stderr.isatty()) as bar:
        for done in segmented(restored, jobs, args, bar):
            if isinstance(done, InputError):
                failed += 1
                tqdm.write(f"error: {done}", file=sys.stderr)
            else:
                rows += done
            bar.update()
    if args.areas:
        write_areas(rows, args.areas)
    print(
        f"{len(jobs) - failed} of {len(jobs)} images segmented into {args.out} "
        f"({predict.programs(restored)} programs compiled)"
    )
    return 2 if failed else 0


def published(name: str, weights: Path | None) -> predict.Checkpoint:
    """torchvision's network as a checkpoint; its pictures were some 520 pixels high."""
    from fcn_jax.weights import initialize, torch_names

    try:
        path = weights or initialize.published(name)
    except InputError as error:
        raise InputError(str(error).replace("--pretrained PATH", "--weights FILE")) from None
    variables = torch_names.load_torch_weights(name, path)
    variables = {k: variables[k] for k in ("params", "batch_stats")}
    model = create_model(name, len(VOC_CLASSES), aux="aux_head" in variables["params"])
    palette = voc_palette(len(VOC_CLASSES))
    return predict.Checkpoint(model, variables, VOC_CLASSES, palette, (520, 520), {})


WORKERS = 4
"""Images in work at a time, at most: each holds its photograph and a band of logits."""


def segmented(
    restored: predict.Checkpoint, jobs: list[Job], args: argparse.Namespace, bar: tqdm
) -> Iterator[list[tuple] | InputError]:
    """The area rows of each image, in order, or what is wrong with it.

    While the network is busy with one image, others are read, resized and written. The first goes
    alone: it compiles what the others use.
    """

    def work(job: Job) -> list[tuple] | InputError:
        windows = itertools.count(1)
        try:
            mask = segment(restored, job, args, lambda: bar.set_postfix(tiles=next(windows)))
        except InputError as error:
            return error
        return area_rows(str(job.path), mask, restored.class_names)

    yield work(jobs[0])
    with ThreadPoolExecutor(min(command.cores(), WORKERS)) as pool:
        yield from pool.map(work, jobs[1:])


def segment(
    restored: predict.Checkpoint,
    job: Job,
    args: argparse.Namespace,
    tick: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Write the results of one image; return its mask. `tick` is called after each tile."""
    image = source.read_photo(job.path)
    target = args.out / job.name
    disk.make_folder(target.parent)
    bands = predict.logit_bands(restored, image, args.scale, tick)
    if args.probabilities:
        shape = (*image.shape[:2], len(restored.class_names))
        with disk.replacing(suffixed(target, ".npy")) as part:
            mask = fill(bands, image.shape[:2], open_npy(part, shape))
    else:
        mask = fill(bands, image.shape[:2])
    report.save_index_png(mask, restored.palette, suffixed(target, ".png"))
    with disk.replacing(suffixed(target, "-overlay.jpg")) as part:
        Image.fromarray(blend(image, mask, restored.palette)).save(part, "JPEG", quality=92)
    return mask


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
    parts = [report.overlay(image[s : s + rows], mask[s : s + rows], palette) for s in starts]
    return np.concatenate(parts)


def suffixed(target: Path, suffix: str) -> Path:
    """`with_suffix` would eat a part of a name with dots in it."""
    return target.with_name(target.name + suffix)


# ---- which images, and what they become ----------------------------------------------------------


def find_images(inputs: list[str], recursive: bool = False) -> list[tuple[Path, Path]]:
    """(file, the folder it is named from) for each image, none twice, in a steady order.

    Raises:
      InputError: for an input that does not exist, or if there is no image at all.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for text in inputs:
        for path in _expand(text):
            if path.is_dir():
                inside = sorted(path.rglob("*") if recursive else path.iterdir())
                pairs = [(p, path) for p in inside if p.suffix.lower() in SUFFIXES and p.is_file()]
            else:
                pairs = [(path, path.parent)]
            for file, root in pairs:
                found.setdefault(file.resolve(), (file, root))
    if not found:
        raise InputError(f"{inputs[0]}: no image there: {', '.join(SUFFIXES)} are read")
    return list(found.values())


def _expand(text: str) -> list[Path]:
    if os.path.exists(text):
        return [Path(text)]
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not matches:
        raise InputError(f"{text}: no such file or folder: check the name")
    return [Path(match) for match in matches]


def name_jobs(files: list[tuple[Path, Path]]) -> list[Job]:
    """Give each image a name of its own, the shortest that tells it from all others.

    The path below the input folder without suffix; where that is taken, with the suffix; then with
    the folder's name before it; then with a number.
    """
    choices = []
    for path, root in files:
        below = path.relative_to(root)
        full = Path(root.resolve().name) / below
        choices.append([below.with_suffix(""), below, full.with_suffix(""), full])
    chosen: list[Path | None] = [None] * len(files)
    for level in range(4):
        for stem, count in Counter(_key(c[level]) for c in choices).items():
            if count == 1:
                index = next(i for i, c in enumerate(choices) if _key(c[level]) == stem)
                taken = {_key(name) for name in chosen if name is not None}
                if chosen[index] is None and stem not in taken:
                    chosen[index] = choices[index][level]
    jobs = []
    for i, name in enumerate(chosen):
        numbered = choices[i][3].with_name(f"{choices[i][3].name}-{i + 1}")
        jobs.append(Job(files[i][0], name or numbered))
    return jobs


def _key(name: Path) -> str:
    return name.as_posix().lower()  # some file systems do not tell A from a


def check_targets(jobs: list[Job], out: Path) -> None:
    """Refuse to write over an image that is read."""
    inputs = {job.path.resolve() for job in jobs}
    for job in jobs:
        for suffix in (".png", "-overlay.jpg"):
            target = suffixed(out / job.name, suffix)
            if target.resolve() in inputs:
                raise InputError(f"{target} is an input, and would be overwritten: change --out")


# ---- areas ---------------------------------------------------------------------------------------


def area_rows(file: str, mask: np.ndarray, class_names: tuple[str, ...]) -> list[tuple]:
    """(file, class id, class, pixels, share of the image) for every class."""
    counts = np.bincount(mask.ravel(), minlength=len(class_names)).tolist()
    return [
        (file, i, name, counts[i], f"{counts[i] / mask.size:.6f}")
        for i, name in enumerate(class_names)
    ]


def write_areas(rows: list[tuple], path: Path) -> None:
    """Write the table, in one piece."""
    disk.make_folder(path.parent)
    with disk.replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class_id", "class", "pixels", "share"))
        writer.writerows(rows)


if __name__ == "__main__":
    command.run(main)

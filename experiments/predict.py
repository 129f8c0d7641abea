"""Segment photographs: `python -m experiments.predict WORKDIR IMAGE|DIR ... --out DIR`."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments import door
from fcn_jax import predict, report
from fcn_jax.data import source
from fcn_jax.types import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.predict",
        description="Segment images of any size with a run's best checkpoint. For each image "
        "OUT/STEM.png is written (class numbers, in the palette, at the image's size) and "
        "OUT/STEM-overlay.jpg (the same over the photograph).",
    )
    parser.add_argument("workdir", type=Path, help="folder of a run")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write; one bad file does not stop the others."""
    args = parser().parse_args(argv)
    files = find_images(args.images)
    door.setup_jax()
    restored = predict.load_checkpoint(args.workdir)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in tqdm(files, unit="img", disable=not sys.stderr.isatty()):
        try:
            segment(restored, path, args.out)
        except InputError as error:
            failed += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
    print(f"{len(files) - failed} of {len(files)} images segmented into {args.out}")
    return 2 if failed else 0


def segment(restored: predict.Checkpoint, path: Path, out: Path) -> None:
    """Write the mask and the overlay of one image."""
    image = source.read_photo(path)
    mask = predict.predict(restored, image)
    report.save_index_png(mask, restored.palette, out / f"{path.stem}.png")
    blended = report.overlay(image, mask, restored.palette)
    Image.fromarray(np.asarray(blended)).save(out / f"{path.stem}-overlay.jpg", quality=92)


def find_images(paths: list[Path]) -> list[Path]:
    """The image files among the paths, folders searched one level deep, in order of name.

    Raises:
      InputError: for a path that does not exist, or if there is no image at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder: check the name")
    if not found:
        raise InputError(f"{paths[0]}: no image there: {', '.join(SUFFIXES)} are read")
    return found


if __name__ == "__main__":
    door.run(main)

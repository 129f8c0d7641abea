"""Hand a network on: `python -m experiments.export WORKDIR --format onnx --out model.onnx`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments import evaluate
from experiments.cli import command, flags
from experiments.predict import find_images
from fcn_jax.data import source
from fcn_jax.inference import export, predict

EPILOG = """examples:
  python -m experiments.export runs/mine --format onnx --out mine.onnx
  python -m experiments.export runs/mine --format stablehlo --size any --out mine.stablehlo

The program takes raw RGB pictures [batch, height, width, 3] in 0..255 and returns logits. Beside it
FILE.json holds class names and palette, FILE.parity.json how it compares on real images.
Exit code 1: it does not agree with the network."""


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description="Write a run's best network as a program that runs without this package.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=Path, help="folder of a run")
    parser.add_argument("--format", choices=export.FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="program to write")
    parser.add_argument(
        "--size",
        metavar="HEIGHTxWIDTH",
        help="size of the pictures (default: the training's); any: every size, stablehlo only",
    )
    parser.add_argument(
        "--pixels", choices=export.PIXELS, default="uint8", help="type of the pictures"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="compare on these (default: the first 8 of the validation split)",
    )
    parser.add_argument("--dataset", help="another data set to compare on")
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, export, compare, write."""
    args = parser().parse_args(argv)
    command.setup_jax()
    restored = predict.load_checkpoint(args.workdir)
    size = restored.image_size
    if args.size:
        size = export.ANY if args.size == export.ANY else command.image_size(args.size)
    convert = export.to_onnx if args.format == "onnx" else export.to_stablehlo
    exported = convert(restored, size, args.pixels)
    report = export.parity(restored, exported, photos(restored, args), args.pixels)
    paths = export.save(exported, restored, report, args.out)
    agreed = export.agrees(report)
    print(
        f"{args.out}: {len(exported.data) / 1e6:.1f} MB, for pictures of "
        f"{'any size' if exported.size is None else '{}x{} (height x width)'.format(*size)}\n"
        f"compared on {report['images']} images: largest difference "
        f"{report['max_abs_difference']:.2e} of logits up to {report['max_abs_logit']:.1f}, "
        f"argmax agrees on {report['argmax_agreement']:.4%} of the pixels\n"
        f"also written: {paths[0]}, {paths[1]}"
    )
    if not agreed:
        print("the program does not agree with the network: do not use it")
    return 0 if agreed else 1


def photos(
    restored: predict.Checkpoint, args: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, pixels) of what is compared on."""
    if args.images:
        for path, _ in find_images(args.images):
            yield path.name, source.read_photo(path)
        return
    examples = evaluate.open_dataset(restored, args).splits["val"]
    for i in range(min(8, len(examples))):
        yield examples[i].id, examples[i].image


if __name__ == "__main__":
    command.run(main)

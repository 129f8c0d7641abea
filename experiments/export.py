"""Export a network: `python -m experiments.export WORKDIR --format onnx --out model.onnx`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import evaluate
from experiments.cli import arguments, command, flags, image_files
from fcn_jax.types import InputError

if TYPE_CHECKING:
    import numpy as np

    from fcn_jax.inference import predict

FORMATS = ("onnx", "stablehlo", "safetensors")
PIXELS = ("uint8", "float32")
ANY = "any"

EPILOG = """examples:
  python -m experiments.export runs/mine --format onnx --out mine.onnx
  python -m experiments.export runs/mine --format stablehlo --size any --out mine.stablehlo
  python -m experiments.export runs/mine --format safetensors --out mine

The program takes raw RGB images [batch, height, width, 3] in 0..255 and returns logits. Beside it
FILE.json holds class names and palette, FILE.parity.json how it compares on real images.
safetensors writes a folder that other commands read: model.safetensors, with PyTorch's names, and
config.json.
Exit code 1: it does not agree with the network."""


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "export", "Write a run's best network as a program that runs without this package.", EPILOG
    )
    parser.add_argument("workdir", type=arguments.path, metavar="WORKDIR", help="folder of a run")
    parser.add_argument(
        "--format",
        type=arguments.choice(FORMATS),
        metavar="{onnx,stablehlo,safetensors}",
        required=True,
        help="a program, or the weights as a folder",
    )
    parser.add_argument(
        "--out",
        type=arguments.path,
        required=True,
        metavar="FILE",
        help="program or folder to write",
    )
    parser.add_argument(
        "--size",
        type=lambda text: ANY if text == ANY else arguments.size.convert(text),
        metavar="HEIGHTxWIDTH",
        help="size of the images (default: the training's); any: every size, stablehlo only",
    )
    parser.add_argument(
        "--pixels",
        type=arguments.choice(PIXELS),
        metavar="{uint8,float32}",
        default="uint8",
        help="type of the images (default: uint8)",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="compare on these (default: the first 8 of the validation split)",
    )
    parser.add_argument(
        "--dataset",
        type=arguments.name,
        metavar="NAME|FOLDER",
        help="another data set to compare on",
    )
    flags.add_plugin_flag(parser)
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, export, compare, write."""
    args = parser().parse_args(argv)
    for name in ("size", "images", "dataset"):
        if args.format == "safetensors" and getattr(args, name):
            raise InputError(f"--{name}: goes with a program, not with safetensors: leave it out")
    command.setup_jax()
    flags.load_plugins(args)

    from fcn_jax.inference import export, predict
    from fcn_jax.runtime import files, text

    files.make_folder(args.out.parent)
    if args.format != "safetensors":
        export.check_target(args.out)  # before the work
    restored = predict.load_checkpoint(args.workdir)
    if args.format == "safetensors":
        return write_folder(restored, args.out)
    size = args.size or restored.image_size
    convert = export.to_onnx if args.format == "onnx" else export.to_stablehlo
    exported = convert(restored, size, args.pixels)
    report = export.parity(restored, exported, photos(restored, args), args.pixels)
    paths = export.save(exported, restored, report, args.out)
    agreed = export.agrees(report)
    print(
        f"{args.out}: {text.amount(len(exported.data))}, for images of "
        f"{'any size' if exported.size is None else '{}x{} (height x width)'.format(*size)}\n"
        f"compared on {report['images']} images: largest difference "
        f"{report['max_abs_difference']:.2e} of logits up to {report['max_abs_logit']:.1f}, "
        f"the predicted class agrees on {report['argmax_agreement']:.4%} of the pixels\n"
        f"also written: {paths[0]}, {paths[1]}"
    )
    if not agreed:
        print("the program does not agree with the network: do not use it")
    return 0 if agreed else 1


def write_folder(restored: predict.Checkpoint, folder: Path) -> int:
    """Write the weights, with PyTorch's names."""
    from fcn_jax.weights import model_folder

    model_folder.save(folder, restored.variables, restored.meta)
    print(f"{folder}: {model_folder.WEIGHTS} and {model_folder.CONFIG} written")
    return 0


def photos(
    restored: predict.Checkpoint, args: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, pixels) of what is compared on."""
    from fcn_jax.data import images

    if args.images:
        for path, _ in image_files.find_images(args.images):
            yield path.name, images.read_image(path)
        return
    examples = evaluate.open_dataset(restored.meta, args).splits["val"]
    for i in range(min(8, len(examples))):
        yield examples[i].id, examples[i].image


if __name__ == "__main__":
    command.start(main)

"""Segment photographs: `python -m experiments.predict WORKDIR IMAGE|DIR|GLOB ... --out DIR`."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from experiments.cli import arguments, command, flags, image_files, stopping, streams
from fcn_jax.runtime import text
from fcn_jax.types import SCALES, InputError

if TYPE_CHECKING:
    from experiments.cli import segment
    from fcn_jax.inference import predict


EPILOG = """examples:
  python -m experiments.predict runs/mine photo.jpg --out masks
  python -m experiments.predict runs/mine holiday --recursive --out masks --areas masks/areas.csv
  python -m experiments.predict --pretrained fcn_resnet50 photo.jpg --out masks
  python -m experiments.predict runs/mine 'scans/*.tif' --scale native --probabilities --out masks

Exit code 0: every image is segmented; 2: some are not, for the reasons given."""


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "predict",
        "Segment images of any size with a run's best checkpoint. For each image "
        "OUT/STEM.png is written (class numbers, in the palette, at the image's size) and "
        "OUT/STEM-overlay.jpg (the same over the photograph, with a legend); for several "
        "images also OUT/index.html, with the areas of the classes and a filter by class.",
        EPILOG,
    )
    parser.add_argument(
        "inputs",
        nargs="*",  # `find_jobs` refuses none: argparse cannot name two words that are missing
        metavar=("WORKDIR IMAGE", "IMAGE"),
        help="folder of a run (not with --pretrained), then image files, folders of them, or globs",
    )
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="use torchvision's published weights of this network instead of a run (VOC's classes)",
    )
    parser.add_argument(
        "--weights",
        type=arguments.path,
        metavar="FILE",
        help="with --pretrained: the weights as a file, instead of a download",
    )
    parser.add_argument("--recursive", action="store_true", help="also search subfolders")
    parser.add_argument(
        "--scale",
        type=arguments.choice(SCALES),
        metavar="{fit,native}",
        help="fit (default): resize the image to the size of the training, as validation does; "
        "native (default with --pretrained): see every pixel, in overlapping tiles where the "
        "image is large",
    )
    _add_output_flags(parser)
    flags.add_plugin_flag(parser)
    return parser


def _add_output_flags(parser: arguments.Parser) -> None:
    """Add the flags that say what is written, and where."""
    parser.add_argument(
        "--out", type=arguments.path, metavar="DIR", required=True, help="folder to write to"
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write OUT/STEM.npy: float16 [height, width, classes]",
    )
    parser.add_argument(
        "--areas",
        type=arguments.path,
        metavar="CSV",
        help="write each class's pixels and fraction of the image, per file",
    )


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write; one bad file does not stop the others."""
    args = parser().parse_args(argv)
    command.tune()  # which may start the process again, and its notes with it
    jobs = find_jobs(args)
    command.setup_jax()
    flags.load_plugins(args)

    from experiments.cli import segment
    from fcn_jax.inference import predict
    from fcn_jax.report import pages

    if args.pretrained:
        restored = predict.load_published(args.pretrained, args.weights)
    else:
        restored = predict.load_checkpoint(args.inputs[0])
    made, seconds = segment_images(restored, jobs, args)
    if args.areas:
        segment.write_areas([area for done in made for area in done.areas], args.areas)
    print(
        f"{len(made)} of {text.count(len(jobs), 'image')} segmented into {args.out} "
        f"({text.count(predict.programs(restored), 'program')} compiled, "
        f"{len(made) / seconds:.3g} img/s)"
    )
    if len(made) > 1:
        page = args.out / "index.html"
        pages.write_predictions(
            [done.prediction for done in made],
            page,
            class_names=restored.class_names,
            palette=restored.palette,
            command=stopping.command("predict", argv),
        )
        print(f"page: {page}")
    return 0 if len(made) == len(jobs) else 2


def find_jobs(args: argparse.Namespace) -> list[image_files.Job]:
    """The images that the command line names, each with a name for its results.

    Raises:
      InputError: for flags that do not fit, no image, or one that would be overwritten.
    """
    if args.weights and not args.pretrained:
        raise InputError("--weights: goes with --pretrained NAME: name the network too")
    images = args.inputs if args.pretrained else args.inputs[1:]
    if not args.inputs:
        first = "" if args.pretrained else "the folder of a run, then "
        raise InputError(f"nothing to predict: name {first}the images")
    if not images:
        raise InputError(f"{args.inputs[0]}: name the images after the folder of the run")
    jobs = image_files.name_jobs(image_files.find_images(images, args.recursive))
    image_files.check_targets(jobs, args.out, args.areas)
    return jobs


def segment_images(
    restored: predict.Checkpoint, jobs: list[image_files.Job], args: argparse.Namespace
) -> tuple[list[segment.Segmented], float]:
    """What was made of the images, and the seconds it took; an error line for each bad file."""
    from experiments.cli import segment
    from fcn_jax.runtime import terminal

    scale = args.scale or ("native" if args.pretrained else "fit")
    options = segment.Options(args.out, scale, args.probabilities)
    made, start = [], time.perf_counter()
    with terminal.bar(len(jobs)) as bar:
        for done in segment.segment_all(restored, jobs, options, bar):
            if isinstance(done, InputError):
                streams.say(command.message(done), "error")
            else:
                made.append(done)
            bar.update()
    return made, time.perf_counter() - start


if __name__ == "__main__":
    command.start(main)

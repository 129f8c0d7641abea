"""Evaluate a saved network: `python -m experiments.evaluate WORKDIR`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli import arguments, command, flags, stopping
from fcn_jax.types import SCALES, InputError

if TYPE_CHECKING:
    from fcn_jax.data import prepare
    from fcn_jax.inference import predict
    from fcn_jax.training import evaluate

SPLITS = ("val", "test", "train")
RESOLUTIONS = ("training", "native")


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "evaluate",
        "Evaluate the best checkpoint of a run; writes WORKDIR/eval-SPLIT.json. "
        "All settings come from the checkpoint: no training flag has to be repeated.",
    )
    parser.add_argument(
        "workdir",
        type=arguments.path,
        metavar="WORKDIR",
        help="folder of a run, or of an exported network",
    )
    parser.add_argument(
        "--split",
        type=arguments.choice(SPLITS),
        metavar="NAME",
        default="val",
        help="val (default), test or train",
    )
    parser.add_argument(
        "--dataset",
        type=arguments.name,
        metavar="NAME|FOLDER",
        help="another data set with the same classes",
    )
    _add_size_flags(parser)
    parser.add_argument(
        "--batch-size",
        type=arguments.whole(1, 4096),
        metavar="N",
        help="images at a time (default: the run's)",
    )
    flags.add_plugin_flag(parser)
    flags.add_data_flags(parser)
    return parser


def _add_size_flags(parser: arguments.Parser) -> None:
    """Add the flags that say at which sizes images are seen and scored."""
    parser.add_argument(
        "--resolution",
        type=arguments.choice(RESOLUTIONS),
        metavar="{training,native}",
        default="training",
        help="training (default): as validation does, labels resized to the network's size; "
        "native: predictions at each label's own size; writes eval-SPLIT-native.json, with "
        "--scale native and --tta named after them",
    )
    parser.add_argument(
        "--scale",
        type=arguments.choice(SCALES),
        metavar="{fit,native}",
        default="fit",
        help="what the network sees with --resolution native: the image resized to its size "
        "(fit, the default), or every pixel",
    )
    parser.add_argument(
        "--tta",
        metavar="LIST",
        help="average over views, with --resolution native: flip, and sizes, such as flip,0.75,1.25"
        " (1 is always among them; with --scale fit they are rounded to multiples of 32 pixels)",
    )


def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, print the table."""
    args = parser().parse_args(argv)
    views = parse_tta(args.tta)
    if args.resolution == "training" and (args.tta or args.scale != "fit"):
        raise InputError("--tta and --scale go with --resolution native: add it, or leave them out")
    if args.resolution == "native" and args.batch_size:
        raise InputError("--batch-size goes with --resolution training: leave it out")
    command.setup_jax()
    flags.load_plugins(args)

    from fcn_jax.analysis import run_report
    from fcn_jax.inference import predict
    from fcn_jax.report import tables
    from fcn_jax.runtime import files
    from fcn_jax.training import evaluate

    restored = predict.load_checkpoint(args.workdir)
    dataset = open_dataset(restored.meta, args)
    result = evaluate_split(restored, dataset, args, predict.TTA(*views))
    path = evaluate.save(result, args.workdir)
    data = files.read_json(path)
    overfit = 0 if result.other_data else evaluate.config_of(restored).data.overfit
    base = {"arch": restored.meta["model"]["name"], "dataset": dataset.name, "overfit": overfit}
    shown = {**base, **data, args.split: data["summary"]}
    print(tables.result_table(shown, restored.class_names, args.split))
    if result.other_data is not None:
        print(f"\nOther data than the run's: {dataset.root or dataset.name}")
    if result.other_split:
        print("\nThe data set's val split: the run was validated on a part of train")
    again = stopping.command("evaluate", argv)
    page = run_report.render_evaluation(restored, dataset, path, base, again)
    print(f"\n{result.summary['pixels']:,} labelled pixels counted")
    print(f"scores: {path}\npage: {page}")
    return 0


def evaluate_split(
    restored: predict.Checkpoint,
    dataset: prepare.Dataset,
    args: argparse.Namespace,
    tta: predict.TTA,
) -> evaluate.Evaluation:
    """Evaluate in the way the flags ask for."""
    from fcn_jax.runtime import terminal
    from fcn_jax.training import evaluate

    if args.resolution == "training":
        return evaluate.evaluate_checkpoint(restored, dataset, args.split, args.batch_size)
    examples = evaluate.split_examples(restored, dataset, args.split)
    images = (examples[i] for i in range(len(examples)))
    with terminal.bar(len(examples)) as bar:
        result = evaluate.evaluate_native(restored, images, args.split, args.scale, tta, bar.update)
    return evaluate.mark_data(result, restored, dataset)


def parse_tta(text: str | None) -> tuple[bool, tuple[float, ...]]:
    """`flip,0.75,1.25` -> whether to mirror, and the sizes."""
    flip, factors = False, {1.0}
    for word in text.split(",") if text else ():
        if word.strip() == "flip":
            flip = True
            continue
        try:
            factor = float(word)
        except ValueError:
            factor = 0.0
        if not 0.25 <= factor <= 4:
            raise InputError(
                f"--tta {text}: {word!r} is neither flip nor a size between 0.25 and 4: correct it"
            )
        factors.add(factor)
    return flip, tuple(sorted(factors))


def open_dataset(meta: Mapping[str, Any], args: argparse.Namespace) -> prepare.Dataset:
    """The data set of a checkpoint's `meta`, found where it was found in training."""
    from fcn_jax.data import prepare

    origin = {k: Path(v) for k, v in meta.get("origin", {}).items()}
    if args.dataset is None and "config" not in meta:
        raise InputError("an exported network does not say its data: name them with --dataset")
    name = args.dataset or meta["config"]["data"]["dataset"]
    if os.path.isabs(name) and not os.path.exists(name):
        raise InputError(f"{name}: no such folder: name the data set's with --dataset DIR")
    archives = args.archives or (origin.get("archives") if name == "voc2007" else None)
    return prepare.load(name, archives=archives, data_dir=args.data_dir or origin.get("data_dir"))


if __name__ == "__main__":
    command.start(main)

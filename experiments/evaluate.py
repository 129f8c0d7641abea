"""Judge a saved network: `python -m experiments.evaluate WORKDIR`."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from experiments.cli import command, flags
from fcn_jax import report
from fcn_jax.analysis import run_report
from fcn_jax.data import prepare
from fcn_jax.inference import predict
from fcn_jax.runtime import files
from fcn_jax.training import evaluate
from fcn_jax.types import InputError


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate",
        description="Evaluate the best checkpoint of a run; writes WORKDIR/eval-SPLIT.json. "
        "The checkpoint says everything: no training flag has to be repeated.",
    )
    parser.add_argument("workdir", type=Path, help="folder of a run")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    parser.add_argument("--dataset", help="another data set with the same classes")
    parser.add_argument(
        "--resolution",
        choices=("training", "native"),
        default="training",
        help="training (default): as validation does, labels squeezed to the network's size; "
        "native: predictions at each label's own size; writes eval-SPLIT-native.json",
    )
    parser.add_argument(
        "--scale",
        choices=predict.SCALES,
        default="fit",
        help="what the network sees with --resolution native: the image squeezed to its size, or "
        "every pixel",
    )
    parser.add_argument(
        "--tta",
        metavar="LIST",
        help="average over views, with --resolution native: flip, and sizes, such as flip,0.75,1.25"
        " (1 is always among them)",
    )
    parser.add_argument("--batch-size", type=int, help="images at a time (default: the run's)")
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, print the table."""
    args = parser().parse_args(argv)
    if args.split not in ("train", "val", "test"):
        raise InputError(f"--split {args.split}: choose val, test or train")
    tta = parse_tta(args.tta)
    if args.resolution == "training" and (args.tta or args.scale != "fit"):
        raise InputError("--tta and --scale go with --resolution native: add it, or leave them out")
    if args.batch_size is not None and not 1 <= args.batch_size <= 4096:
        raise InputError(f"--batch-size {args.batch_size}: must lie between 1 and 4096")
    command.setup_jax()
    restored = predict.load_checkpoint(args.workdir)
    dataset = open_dataset(restored, args)
    result = judge(restored, dataset, args, tta)
    path = evaluate.save(result, args.workdir)
    data = files.read_json(path)
    overfit = restored.meta["config"]["data"]["overfit"]
    base = {"arch": restored.meta["model"]["name"], "dataset": dataset.name, "overfit": overfit}
    shown = run_report.split_result(data, base)
    print(report.result_table(shown, restored.class_names, args.split))
    print(f"\n{result.summary['pixels']} labelled pixels counted; written to {path}")
    return 0


def judge(
    restored: predict.Checkpoint,
    dataset: prepare.Dataset,
    args: argparse.Namespace,
    tta: predict.TTA,
) -> evaluate.Evaluation:
    """Evaluate in the way the flags ask for."""
    if args.resolution == "training":
        return evaluate.evaluate_checkpoint(restored, dataset, args.split, args.batch_size)
    examples = evaluate.split_examples(restored, dataset, args.split)
    images = (examples[i] for i in range(len(examples)))
    with tqdm(total=len(examples), unit="img", disable=not sys.stderr.isatty()) as bar:
        return evaluate.evaluate_native(restored, images, args.split, args.scale, tta, bar.update)


def parse_tta(text: str | None) -> predict.TTA:
    """`flip,0.75,1.25` -> a mirror image and three sizes."""
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
    return predict.TTA(flip, tuple(sorted(factors)))


def open_dataset(restored: predict.Checkpoint, args: argparse.Namespace) -> prepare.Dataset:
    """The data set a checkpoint was trained on, found where it was found then."""
    origin = {k: Path(v) for k, v in restored.meta.get("origin", {}).items()}
    name = args.dataset or restored.meta["config"]["data"]["dataset"]
    archives = args.archives or (origin.get("archives") if name == "voc2007" else None)
    return prepare.load(name, archives=archives, data_dir=args.data_dir or origin.get("data_dir"))


if __name__ == "__main__":
    command.run(main)

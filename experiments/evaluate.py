"""Judge a saved network: `python -m experiments.evaluate WORKDIR`."""

import argparse
from pathlib import Path

from experiments import door, options
from fcn_jax import evaluation, inference, present, report, workdir
from fcn_jax.data import voc
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
    options.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, print the table."""
    args = parser().parse_args(argv)
    if args.split not in ("train", "val", "test"):
        raise InputError(f"--split {args.split}: choose val, test or train")
    door.setup_jax()
    restored = inference.load_checkpoint(args.workdir)
    dataset = open_dataset(restored, args)
    result = evaluation.evaluate_checkpoint(restored, dataset, args.split)
    path = evaluation.save(result, args.workdir)
    data = workdir.read_json(path)
    base = {"arch": restored.meta["model"]["name"], "dataset": dataset.name}
    shown = present.split_result(data, base)
    print(report.result_table(shown, restored.class_names, args.split))
    print(f"\n{result.summary['pixels']} labelled pixels counted; written to {path}")
    return 0


def open_dataset(restored: inference.Checkpoint, args: argparse.Namespace) -> voc.Dataset:
    """The data set a checkpoint was trained on, found where it was found then."""
    origin = {k: Path(v) for k, v in restored.meta.get("origin", {}).items()}
    name = args.dataset or restored.meta["config"]["data"]["dataset"]
    archives = args.archives or (origin.get("archives") if name == "voc2007" else None)
    return voc.load(name, archives=archives, data_dir=args.data_dir or origin.get("data_dir"))


if __name__ == "__main__":
    door.run(main)

"""Lay finished runs side by side: `python -m experiments.compare WORKDIR WORKDIR ... --out DIR`."""

import argparse
import shlex
import sys
from pathlib import Path

from experiments import evaluate
from experiments.cli import command as cli
from experiments.cli import flags
from fcn_jax.analysis import compare
from fcn_jax.inference import predict
from fcn_jax.runtime import files
from fcn_jax.training import run_dir


def parser() -> argparse.ArgumentParser:
    """The flags of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description="Write table.md, table.json and report.html that compare finished runs on the "
        "same data: scores beside the all-background row, curves, classes, images, and a paired "
        "bootstrap over the images that says whether a difference is more than chance. Runs that "
        "differ in nothing but the seed are one line, as mean and deviation.",
    )
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR", help="finished runs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--dataset", help="data set of the images (default: the first run's)")
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, group by seed, write."""
    args = parser().parse_args(argv)
    cli.setup_jax()
    dataset = evaluate.open_dataset(predict.load_checkpoint(args.workdirs[0]), args)
    entries = group(args.workdirs)
    command = shlex.join(
        ["python", "-m", "experiments.compare", *(argv if argv is not None else sys.argv[1:])]
    )
    compare.write(entries, dataset, args.out, "Comparison", command)
    print((args.out / "table.md").read_text())
    print(f"page: {args.out}/report.html")
    return 0


def group(folders: list[Path]) -> list[compare.Entry]:
    """One entry a configuration; runs that differ only in the seed belong together."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        config = files.read_json(folder / run_dir.CONFIG)
        config.pop("seed")
        groups.setdefault(str(sorted(config.items())), []).append(folder)
    return [compare.Entry(_name(found), found) for found in groups.values()]


def _name(folders: list[Path]) -> str:
    """The first folder's name, without the seed where there are several."""
    name = folders[0].resolve().name
    return name.rsplit("-seed", 1)[0] if len(folders) > 1 else name


if __name__ == "__main__":
    cli.run(main)

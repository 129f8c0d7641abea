"""Compare finished runs: `python -m experiments.compare WORKDIR WORKDIR ... --out DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments import evaluate
from experiments.cli import arguments, command, flags, run_folders, stopping
from fcn_jax.types import InputError


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "compare",
        "Write table.md, table.json and report.html that compare finished runs on the "
        "same data: scores beside the all-background row, curves, classes, images, and a paired "
        "bootstrap over the images that says whether a difference is more than chance. Runs that "
        "differ in nothing but the seed are one line, as mean and deviation.",
    )
    parser.add_argument(
        "workdirs", type=arguments.path, nargs="+", metavar="WORKDIR", help="finished runs"
    )
    parser.add_argument(
        "--out", type=arguments.path, metavar="DIR", required=True, help="folder to write to"
    )
    parser.add_argument(
        "--dataset",
        type=arguments.name,
        metavar="NAME|FOLDER",
        help="data set of the images (default: the first run's)",
    )
    flags.add_plugin_flag(parser)
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, group by seed, write."""
    args = parser().parse_args(argv)
    if run_folders.holds_run(args.out):
        raise InputError(f"--out {args.out} holds a run, whose page it would replace: change it")
    command.setup_jax()
    flags.load_plugins(args)

    from fcn_jax.analysis import compare
    from fcn_jax.report import tables

    dataset = evaluate.open_dataset(_meta(args.workdirs[0]), args)
    entries = compare.group(args.workdirs)
    again = stopping.command("compare", argv)
    runs = compare.write(entries, dataset, args.out, "Comparison", again)
    print(tables.comparison_table(runs))
    print(f"\nall scores: {args.out}/table.md\npage: {args.out}/report.html")
    return 0


def _meta(folder: Path) -> dict[str, Any]:
    """What a run's checkpoint says of it; its settings alone, if only its results were kept."""
    from fcn_jax.inference import predict
    from fcn_jax.runtime import files
    from fcn_jax.training import run_dir

    if (folder / run_dir.RESULT).exists() and not (folder / run_dir.CHECKPOINTS).exists():
        return {"config": files.read_json(folder / run_dir.CONFIG)}
    return predict.load_checkpoint(folder).meta


if __name__ == "__main__":
    command.start(main)

"""Repeat the paper's experiments: `python -m experiments.reproduce`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import paper
from experiments.cli import arguments, command, stopping, sweep
from fcn_jax import config as configs

if TYPE_CHECKING:
    from fcn_jax.analysis import compare

EPILOG = """examples:
  python -m experiments.reproduce                       all seven, as the paper's text says (hours)
  python -m experiments.reproduce --epochs 3 --archives DIR       a quick look at the whole page
  python -m experiments.reproduce --only baseline unet --seeds 0,1,2
  python -m experiments.reproduce --released --archives DIR      as the released scripts ran them

Finished experiments are reused and interrupted ones resumed, so the command can be repeated."""

BEST_OF_EPOCHS = ("paper_iou_batch16", "paper_iou", "paper_pixel_accuracy")


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "reproduce",
        "Run the paper's seven experiments and show its numbers beside ours: writes "
        "table.md, table.json and report.html. Flags that are left out keep the paper's values: "
        "up to 500 epochs of batches of 16 at 224x224 on voc2007.",
        EPILOG,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(paper.EXPERIMENTS)}; with --released also augmented_cast and "
        "weighted_cast, but not baseline",
    )
    parser.add_argument(
        "--released",
        action="store_true",
        help="follow the paper's released scripts where they differ from its text, in "
        "runs/released unless another --workdir is given",
    )
    sweep.add_flags(parser, "runs/paper")
    parser.set_defaults(workdir=None)
    return parser


@command.resumable("reproduce")
def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    args.workdir = args.workdir or Path("runs/released" if args.released else "runs/paper")
    specs = [run_spec(name, args) for name in paper.EXPERIMENTS]
    specs = sweep.chosen(released_specs(args) if args.released else specs, args.only)
    what = "as its released scripts ran them" if args.released else "as its text has them"
    opened = sweep.open_sweep(args, stopping.command("reproduce", argv))
    entries = sweep.make(specs, opened, f"The paper's experiments, {what}")
    add_best_of_epochs(args.workdir / "table.json", entries)
    return 0


def add_best_of_epochs(table: Path, entries: Sequence[compare.Entry]) -> None:
    """Add to a table.json what the released scripts print: the best over the epochs of each number.

    They keep the best IoU and the best pixel accuracy apart, which may be of two epochs. Adds
    {"best_of_epochs": {experiment: {number: [a value a seed]}}}.
    """
    from fcn_jax.runtime import files
    from fcn_jax.training import run_dir

    best = {}
    for entry in entries:
        runs = [[row["val"] for row in run_dir.read_metrics(f)] for f in entry.folders]
        best[entry.name] = {
            name: [max(row[name] for row in rows) for rows in runs] for name in BEST_OF_EPOCHS
        }
    files.write_json(table, {**files.read_json(table), "best_of_epochs": best})


def released_specs(args: argparse.Namespace) -> list[sweep.RunSpec]:
    """The released scripts, and a note of what they did."""
    from experiments import released  # its networks need flax

    specs = []
    for name, script in released.EXPERIMENTS.items():
        spec = run_spec(script.text, args)
        note = "; ".join(filter(None, (script.note, spec.note)))
        changes = {"experiment": f"released_{name}", **script.changes}
        config = configs.replace(spec.config, **changes)
        specs.append(spec._replace(name=name, config=config, note=note, adapt=script.adapt))
    return specs


def run_spec(name: str, args: argparse.Namespace) -> sweep.RunSpec:
    """The experiment with the flags put over it, and a note of what is then not the paper's."""
    base = paper.EXPERIMENTS[name]()
    config = sweep.adapted(base, args)
    changed = "; ".join(configs.differences(base, config))
    note = changed and f"differs from the paper: {changed}"
    return sweep.RunSpec(name, config, paper.PAPER[name]._asdict(), note)


if __name__ == "__main__":
    command.start(main)

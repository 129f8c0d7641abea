"""The paper's table beside ours: `python -m experiments.reproduce`."""

import argparse

from experiments import paper
from experiments.cli import command, sweep
from fcn_jax import config as configs
from fcn_jax.analysis import compare
from fcn_jax.types import InputError

EPILOG = """examples:
  python -m experiments.reproduce                       all seven, as the paper's text says (hours)
  python -m experiments.reproduce --epochs 3 --archives DIR       a quick look at the whole page
  python -m experiments.reproduce --only baseline unet --seeds 0,1,2

Finished experiments are reused and interrupted ones go on, so the command can be repeated."""


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description="Run the paper's seven experiments and lay its numbers beside ours: writes "
        "table.md, table.json and report.html. Flags that are left out keep the paper's values: "
        "up to 500 epochs of batches of 16 at 224x224 on voc2007.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"some of {', '.join(paper.PAPER)}"
    )
    sweep.add_flags(parser, "runs/paper")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    names = args.only or list(paper.EXPERIMENTS)
    for name in names:
        if name not in paper.EXPERIMENTS:
            known = ", ".join(paper.EXPERIMENTS)
            raise InputError(f"--only {name}: there is none of that name: choose of {known}")
    place = sweep.open_place(args, "experiments.reproduce", argv)
    entries = sweep.run([plan(name, args) for name in names], place)
    compare.write(
        entries, place.dataset, args.workdir, "The paper's seven experiments", place.command
    )
    print((args.workdir / "table.md").read_text())
    print(f"page: {args.workdir}/report.html")
    return 0


def plan(name: str, args: argparse.Namespace) -> sweep.Plan:
    """The experiment with the flags put over it, and a note of what is then not the paper's."""
    base = paper.EXPERIMENTS[name]()
    config = sweep.adapted(base, args)
    changed = "; ".join(configs.differences(base, config))
    note = changed and f"differs from the paper: {changed}"
    return sweep.Plan(name, config, paper.PAPER[name]._asdict(), note)


if __name__ == "__main__":
    command.run(main)

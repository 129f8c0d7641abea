"""The paper's table beside ours: `python -m experiments.reproduce`."""

import argparse

from experiments import paper
from experiments.cli import arguments, command, sweep
from fcn_jax import config as configs

EPILOG = """examples:
  python -m experiments.reproduce                       all seven, as the paper's text says (hours)
  python -m experiments.reproduce --epochs 3 --archives DIR       a quick look at the whole page
  python -m experiments.reproduce --only baseline unet --seeds 0,1,2

Finished experiments are reused and interrupted ones resumed, so the command can be repeated."""


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "reproduce",
        "Run the paper's seven experiments and lay its numbers beside ours: writes "
        "table.md, table.json and report.html. Flags that are left out keep the paper's values: "
        "up to 500 epochs of batches of 16 at 224x224 on voc2007.",
        EPILOG,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=arguments.choice(paper.EXPERIMENTS),
        metavar="NAME",
        help=f"some of {', '.join(paper.EXPERIMENTS)}",
    )
    sweep.add_flags(parser, "runs/paper")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    specs = [run_spec(name, args) for name in args.only or paper.EXPERIMENTS]
    opened = sweep.open_sweep(args, "reproduce", argv)

    from fcn_jax.analysis import compare

    entries = sweep.run(specs, opened)
    title = "The paper's seven experiments"
    compare.write(entries, opened.dataset, args.workdir, title, opened.command)
    print((args.workdir / "table.md").read_text(encoding="utf-8"))
    print(f"page: {args.workdir}/report.html")
    return 0


def run_spec(name: str, args: argparse.Namespace) -> sweep.RunSpec:
    """The experiment with the flags put over it, and a note of what is then not the paper's."""
    base = paper.EXPERIMENTS[name]()
    config = sweep.adapted(base, args)
    changed = "; ".join(configs.differences(base, config))
    note = changed and f"differs from the paper: {changed}"
    return sweep.RunSpec(name, config, paper.PAPER[name]._asdict(), note)


if __name__ == "__main__":
    command.start(main)

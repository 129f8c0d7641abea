"""The paper's table beside ours: `python -m experiments.reproduce`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments import door, options, paper
from fcn_jax import comparison, loop, present, workdir
from fcn_jax import config as configs
from fcn_jax.config import Config
from fcn_jax.data import voc
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
        "table.md, table.json and report.html.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"some of {', '.join(paper.PAPER)}"
    )
    parser.add_argument("--seeds", default="0", help="comma-separated (default: 0)")
    parser.add_argument("--epochs", type=int, help="at most this many (default: the paper's 500)")
    parser.add_argument("--image-size", type=door.image_size, help="default: the paper's 224")
    parser.add_argument("--batch-size", type=int, help="default: the paper's 16")
    parser.add_argument("--dataset", help="default: voc2007")
    parser.add_argument(
        "--pretrained",
        help="file of torchvision's ResNet-50 (default: download); `none`: untrained",
    )
    parser.add_argument("--precision", help="f32 (default), tf32 or bf16")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper"))
    options.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    names = args.only or list(paper.EXPERIMENTS)
    for name in names:
        if name not in paper.EXPERIMENTS:
            known = ", ".join(paper.EXPERIMENTS)
            raise InputError(f"--only {name}: there is none of that name: choose of {known}")
    seeds = parse_seeds(args.seeds)
    door.setup_jax()
    dataset = voc.load(args.dataset or "voc2007", archives=args.archives, data_dir=args.data_dir)
    origin = {k: str(v.resolve()) for k in ("archives", "data_dir") if (v := getattr(args, k))}
    command = shlex.join(
        ["python", "-m", "experiments.reproduce", *(argv if argv is not None else sys.argv[1:])]
    )
    entries = []
    for name in names:
        entry = run_experiment(name, seeds, args, dataset, origin, command)
        entries += [entry] if entry else []
    if not entries:
        raise InputError("no experiment could be run: see above")
    comparison.write(entries, dataset, args.workdir, "The paper's seven experiments", command)
    print((args.workdir / "table.md").read_text())
    print(f"page: {args.workdir}/report.html")
    return 0


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text}: give numbers with commas between, as 0,1,2") from None


def adapted(name: str, seed: int, args: argparse.Namespace) -> tuple[Config, str]:
    """The experiment with the flags put over it, and a note of what is not the paper's."""
    base = configs.replace(paper.EXPERIMENTS[name](), seed=seed)
    changes = {
        "epochs": args.epochs,
        "data.image_size": args.image_size,
        "data.batch_size": args.batch_size,
        "data.dataset": args.dataset,
        "precision": args.precision,
    }
    if base.model.pretrained and args.pretrained:
        changes["model.pretrained"] = args.pretrained
    config = configs.replace(base, **{k: v for k, v in changes.items() if v is not None})
    if args.pretrained == "none":
        # A frozen backbone of random weights would be of no use.
        untrained: dict[str, Any] = {"model.pretrained": None}
        if base.model.pretrained:
            untrained["optim.backbone_scale"] = 1.0
        config = configs.replace(config, **untrained)
    changed = configs.differences(configs.replace(base, seed=seed), config)
    return config, "; ".join(changed)


def run_experiment(
    name: str, seeds: list[int], args, dataset: voc.Dataset, origin: dict, command: str
) -> comparison.Entry | None:
    """Run, go on with, or reuse one experiment; None (with a line why) where it cannot be run."""
    folders, note = [], ""
    for seed in seeds:
        folder = args.workdir / f"{name}-seed{seed}"
        config, note = adapted(name, seed, args)
        if not (folder / workdir.RESULT).exists():
            print(f"\n== {name}, seed {seed} ==", file=sys.stderr, flush=True)
        try:
            loop.train(config, dataset, folder, loop.Runtime(origin=origin))
        except loop.Interrupted as stopped:
            print(f"{stopped}; to go on:\n  {command}")
            sys.exit(0)
        except InputError as error:
            print(f"{name} was not run: {error}", file=sys.stderr, flush=True)
            return None
        if not (folder / "report.html").exists():
            present.draw(folder, dataset, command)
        folders.append(folder)
    numbers = paper.PAPER[name]._asdict()
    return comparison.Entry(name, folders, numbers, note and f"differs from the paper: {note}")


if __name__ == "__main__":
    door.run(main)

"""Several experiments, one after another: finished ones reused, interrupted ones gone on with."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli import command as door
from experiments.cli import flags, stopping
from fcn_jax import config as configs
from fcn_jax.analysis import compare, run_report
from fcn_jax.config import Config
from fcn_jax.data import prepare
from fcn_jax.runtime import malloc
from fcn_jax.training import loop
from fcn_jax.training import run_dir as workdir
from fcn_jax.types import InputError


class Plan(NamedTuple):
    """One line of the table to be; its runs differ in the seed alone."""

    name: str
    config: Config
    paper: Mapping[str, float] | None = None
    note: str = ""


class Place(NamedTuple):
    """What the runs of a campaign have in common."""

    dataset: prepare.Dataset
    folder: Path
    seeds: Sequence[int]
    origin: dict[str, str]
    """How the data was found, see `loop.Runtime`."""
    command: str
    """That goes on with the campaign, for whoever interrupts it."""


def add_flags(parser: argparse.ArgumentParser, workdir: str) -> None:
    """Add the flags of every campaign; what is left out stays each experiment's own."""
    parser.add_argument("--seeds", default="0", help="comma-separated (default: 0)")
    parser.add_argument("--epochs", type=int, help="at most this many")
    parser.add_argument("--image-size", type=door.image_size, help="side, or HEIGHTxWIDTH")
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument("--dataset", help="voc2007, shapes, or a folder in VOC's layout")
    parser.add_argument(
        "--pretrained",
        help="file of torchvision's ResNet-50 (default: download); `none`: untrained",
    )
    parser.add_argument("--precision", help="f32 (default), tf32 or bf16")
    parser.add_argument(
        "--cpu-malloc", action="store_true", help="keep freed memory, see experiments.run"
    )
    parser.add_argument("--workdir", type=Path, default=Path(workdir))
    flags.add_data_flags(parser)


def open_place(args: argparse.Namespace, module: str, argv: list[str] | None) -> Place:
    """Set jax up and load the data that the flags name."""
    seeds = parse_seeds(args.seeds)
    if args.cpu_malloc:
        malloc.keep_freed_memory()
    door.setup_jax()
    dataset = prepare.load(
        args.dataset or "voc2007", archives=args.archives, data_dir=args.data_dir
    )
    origin = {k: str(v.resolve()) for k in ("archives", "data_dir") if (v := getattr(args, k))}
    command = stopping.command(module, argv if argv is not None else sys.argv[1:])
    return Place(dataset, args.workdir, seeds, origin, command)


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text}: give numbers with commas between, as 0,1,2") from None


def adapted(base: Config, args: argparse.Namespace) -> Config:
    """The experiment with the flags put over it."""
    changes: dict[str, Any] = {
        "epochs": args.epochs,
        "data.image_size": args.image_size,
        "data.batch_size": args.batch_size,
        "data.dataset": args.dataset,
        "precision": args.precision,
    }
    if base.model.pretrained and args.pretrained:
        changes["model.pretrained"] = args.pretrained
    config = configs.replace(base, **{k: v for k, v in changes.items() if v is not None})
    return flags.untrained(config)


def run(plans: Sequence[Plan], place: Place) -> list[compare.Entry]:
    """Make all runs; what cannot be made is left out, with a line that says why.

    Raises:
      InputError: if none could be made.
    """
    entries = []
    for plan in plans:
        try:
            entries.append(_entry(plan, place))
        except InputError as error:
            print(f"{plan.name} was not run: {error}", file=sys.stderr, flush=True)
    if not entries:
        raise InputError("no experiment could be run: see above")
    return entries


def _entry(plan: Plan, place: Place) -> compare.Entry:
    folders = []
    for seed in place.seeds:
        folder = place.folder / f"{folder_name(plan.name)}-seed{seed}"
        if not (folder / workdir.RESULT).exists():
            print(f"\n== {plan.name}, seed {seed} ==", file=sys.stderr, flush=True)
        config = configs.replace(plan.config, seed=seed)
        try:
            runtime = loop.Runtime(origin=place.origin)
            loop.train(config, place.dataset, folder, runtime)
        except loop.Interrupted as stopped:
            stopping.stopped(str(stopped), place.command)
            raise SystemExit(0) from None
        if not (folder / "report.html").exists():
            run_report.render(folder, place.dataset, place.command)
        folders.append(folder)
    return compare.Entry(plan.name, folders, plan.paper, plan.note)


def folder_name(name: str) -> str:
    """A name of words as one of a folder."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")

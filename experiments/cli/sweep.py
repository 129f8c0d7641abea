"""Several runs, one after another: finished ones are reused, interrupted ones resumed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.cli import arguments, command, flags, run_folders, stopping
from fcn_jax import config as configs
from fcn_jax.config import Config, Runtime
from fcn_jax.types import InputError

if TYPE_CHECKING:
    from fcn_jax.analysis import compare
    from fcn_jax.data import prepare

FIELDS = (
    "epochs",
    "data.image_size",
    "data.batch_size",
    "data.dataset",
    "data.split_train",
    "model.pretrained",
    "precision",
)
"""What the flags of a sweep may change in every run."""


class RunSpec(NamedTuple):
    """One line of the final table; its runs differ in the seed only."""

    name: str
    config: Config
    paper: Mapping[str, float] | None = None
    note: str = ""
    adapt: Callable[[prepare.Dataset], prepare.Dataset] | None = None
    """Makes what it is trained on from the sweep's data set; None: that itself."""


class Sweep(NamedTuple):
    """What all runs of a sweep have in common."""

    dataset: prepare.Dataset
    folder: Path
    seeds: Sequence[int]
    origin: dict[str, str]
    """How the data was found, see `Runtime`."""
    save_every: int
    train: bool
    """Whether to make the runs that are missing, or to leave them out."""
    command: str
    """Resumes the sweep after an interruption."""


def add_flags(parser: argparse.ArgumentParser, workdir: str) -> None:
    """Add the flags of every sweep; what is left out stays as each experiment has it."""
    parser.add_argument(
        "--seeds",
        type=parse_seeds,
        metavar="LIST",
        default=[0],
        help="of the runs, with commas between: 0,1,2 (default: 0)",
    )
    flags.add_config_flags(
        parser.add_argument_group("put over every experiment's own values"), FIELDS
    )
    parser.add_argument(
        "--save-every",
        type=arguments.whole(1),
        metavar="N",
        default=1,
        help="epochs between saves (default: 1)",
    )
    parser.add_argument(
        "--finished",
        action="store_true",
        help="train nothing: write the page from the runs that are finished",
    )
    parser.add_argument(
        "--workdir",
        type=arguments.path,
        metavar="DIR",
        default=Path(workdir),
        help=f"folder of all runs and of the page (default: {workdir})",
    )
    flags.add_data_flags(parser)


def open_sweep(args: argparse.Namespace, again: str) -> Sweep:
    """Set jax up and load the data that the flags name; `again` is the command to resume it."""
    command.setup_jax()

    from fcn_jax.data import prepare
    from fcn_jax.runtime import distributed

    distributed.require_backend()  # or every run would say so
    dataset = prepare.load(
        getattr(args, "data.dataset", "voc2007"), archives=args.archives, data_dir=args.data_dir
    )
    origin = flags.origin(args)
    train = not args.finished
    return Sweep(dataset, args.workdir, args.seeds, origin, args.save_every, train, again)


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers, each once."""
    read = arguments.whole(0, 2**32 - 1)
    return list(dict.fromkeys(read(part) for part in text.split(",")))


def adapted(base: Config, args: argparse.Namespace) -> Config:
    """The experiment with the flags put over it."""
    changes = flags.given(args)
    if base.model.pretrained is None:  # one file cannot be the start of every network
        changes.pop("model.pretrained", None)
    return flags.apply(base, changes)


def chosen(specs: list[RunSpec], names: list[str] | None) -> list[RunSpec]:
    """The runs of these names, in the order of `specs`; all for None."""
    known = [spec.name for spec in specs]
    for name in names or ():
        if name not in known:
            near = arguments.nearest(name, known)
            raise InputError(f"--only {name!r}: choose one of {', '.join(known)}{near}")
    return [spec for spec in specs if names is None or spec.name in names]


def make(
    specs: Sequence[RunSpec],
    sweep: Sweep,
    title: str,
    pairs: Callable[[list[str]], list[tuple[str, str]] | None] = lambda names: None,
) -> list[compare.Entry]:
    """Make all runs, write the page that compares them, and say where it is.

    Args:
        specs: the runs.
        sweep: what they have in common.
        title: of the page.
        pairs: names of the runs that were made -> those that the bootstrap compares; None: all.
    """
    entries = run(specs, sweep)

    from fcn_jax.analysis import compare

    compared = pairs([entry.name for entry in entries])
    compare.write(entries, sweep.dataset, sweep.folder, title, sweep.command, compared)
    print((sweep.folder / "table.md").read_text(encoding="utf-8"))
    print(f"page: {sweep.folder}/report.html")
    return entries


def run(specs: Sequence[RunSpec], sweep: Sweep) -> list[compare.Entry]:
    """Make all runs; those that cannot be made are left out, with a line that says why.

    Raises:
      InputError: if none could be made.
    """
    from fcn_jax.analysis import compare

    entries = []
    for spec in specs:
        folders = []
        for seed in sweep.seeds:
            try:
                folders += _run(spec, seed, sweep)
            except InputError as error:
                text = f"{spec.name}, seed {seed}, was not run: {command.message(error)}"
                print(text, file=sys.stderr, flush=True)
        if folders:
            entries.append(compare.Entry(spec.name, folders, spec.paper, spec.note))
        elif not sweep.train:
            print(f"{spec.name} was not run: no finished run", file=sys.stderr, flush=True)
    if not entries:
        raise InputError("no experiment could be run: see above")
    return entries


def _run(spec: RunSpec, seed: int, sweep: Sweep) -> list[Path]:
    """The folder of one run, made if it is missing; none if nothing is to be trained."""
    from fcn_jax.analysis import notebook
    from fcn_jax.training import loop, run_dir

    dataset = spec.adapt(sweep.dataset) if spec.adapt else sweep.dataset
    folder = sweep.folder / f"{run_folders.folder_name(spec.name)}-seed{seed}"
    if not (folder / run_dir.RESULT).exists():
        if not sweep.train:
            return []
        print(f"\n== {spec.name}, seed {seed} ==", file=sys.stderr, flush=True)
    config = configs.replace(spec.config, seed=seed)
    runtime = Runtime(save_every=sweep.save_every, origin=sweep.origin)
    try:
        if sweep.train:
            notebook.train(config, dataset, folder, runtime, command=sweep.command)
        else:  # checks that the folder holds this run
            loop.train(config, dataset, folder, runtime)
    except loop.Interrupted as stopped:
        stopping.stopped(str(stopped), sweep.command)
        raise SystemExit(0) from None
    return [folder]

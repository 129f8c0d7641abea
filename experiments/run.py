"""Train a network: `python -m experiments.run --arch fcn`."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from pathlib import Path

from experiments.cli import arguments, command, flags, run_folders, stopping
from fcn_jax import config as configs
from fcn_jax.config import Config, Runtime
from fcn_jax.types import InputError

EPILOG = """examples:
  python -m experiments.run --arch fcn --dataset shapes --image-size 96 --epochs 20
  python -m experiments.run --experiment baseline --archives DIR-WITH-THE-TARS
  python -m experiments.run --arch unet --dataset MY-FOLDER --image-size 360x480 --precision bf16

Repeating the command of an unfinished run resumes it. The run folder then holds config.json,
metrics.jsonl, result.json, curves.png, gallery.png, report.html and checkpoints/.
`--experiment NAME --help` shows the values of that experiment."""

RUNTIME = ("devices", "save_every", "save_steps", "cache")
"""The fields of `Runtime` that have a flag."""


def parser(base: Config | None = None) -> arguments.Parser:
    """The flags of this command; the help shows the values of `base` as the defaults."""
    parser = arguments.Parser(
        "run", "Train a segmentation network, evaluate it and write a report.", EPILOG
    )
    flags.add_run_flags(parser, base or flags.experiment("default"))
    flags.add_plugin_flag(parser)
    flags.add_data_flags(parser)
    where = parser.add_argument_group(
        "where and how it runs (the result does not depend on it, but for rounding)"
    )
    where.add_argument(
        "--workdir",
        type=arguments.path,
        metavar="DIR",
        help="run folder (default: runs/NAME-NUMBER)",
    )
    where.add_argument("--resume", action="store_true", help="fail if there is no run to resume")
    arguments.add_fields(where, "", Runtime(), RUNTIME)
    where.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, on hosts that share the run folder; the cluster (Slurm, "
        "MPI, Cloud TPU, ...) is found by jax.distributed",
    )
    where.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0, if no cluster is found"
    )
    where.add_argument(
        "--process-id", type=arguments.whole(0), metavar="I", help="number of this process, from 0"
    )
    where.add_argument(
        "--process-count", type=arguments.whole(1), metavar="N", help="number of processes"
    )
    where.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write the losses and scores for TensorBoard, to RUN/tensorboard; needs the "
        "extra tensorboard",
    )
    where.add_argument("--quiet", action="store_true", help="print nothing but the result")
    return parser


@command.resumable("run")
def main(argv: list[str] | None = None) -> int:
    """Parse, train, write the report."""
    words = sys.argv[1:] if argv is None else argv
    args = parser(flags.base_of(words)).parse_args(words)
    again = stopping.command("run", words)
    return _start(args, again)


def _start(args: argparse.Namespace, again: str) -> int:
    """Read the flags, configure jax, join the other processes, and train."""
    flags.load_plugins(args)
    config = flags.to_config(args)
    runtime = Runtime(
        **{name: getattr(args, name) for name in RUNTIME if hasattr(args, name)},
        show=not args.quiet,
        origin=flags.origin(args),
    )
    named = processes(args)
    if args.resume and args.workdir and not run_folders.holds_run(args.workdir):
        raise InputError(f"{args.workdir} holds no run to resume: check the folder's name")
    command.setup_jax(alone=not (args.distributed or args.coordinator))

    from fcn_jax.runtime import distributed

    joined = distributed.joined(*named) if named else contextlib.nullcontext()
    if args.distributed and not named:
        joined = distributed.joined()
    with joined:
        return _train(args, config, runtime, again)


def processes(args: argparse.Namespace) -> tuple[str, int, int] | None:
    """Coordinator, number of this process and of all, if the flags name them."""
    named = (args.coordinator, args.process_id, args.process_count)
    if named == (None, None, None):
        return None
    if None in named or not re.fullmatch(r".+:\d+", args.coordinator):
        raise InputError(
            "--coordinator HOST:PORT, --process-id I and --process-count N belong together: "
            "give all three, or --distributed alone where the cluster can be found"
        )
    if args.process_id >= args.process_count:
        raise InputError(f"--process-id {args.process_id}: must be below --process-count")
    return named


def _train(args: argparse.Namespace, config: Config, runtime: Runtime, again: str) -> int:
    """What `_start` does once the processes know each other."""
    import dataclasses

    from fcn_jax.analysis import notebook
    from fcn_jax.data import prepare
    from fcn_jax.report import tables
    from fcn_jax.runtime import distributed
    from fcn_jax.training import loop
    from fcn_jax.training.callbacks import TensorBoard

    distributed.require_backend()
    primary = distributed.is_primary()
    runtime = dataclasses.replace(runtime, show=runtime.show and primary)
    dataset = prepare.load(
        config.data.dataset,
        archives=args.archives,
        data_dir=args.data_dir,
        progress=runtime.show,
    )
    folder = args.workdir or distributed.from_primary(
        lambda: run_folders.choose(Path("runs"), config, args.resume)
    )
    try:
        base = flags.experiment(args.experiment)
        callbacks = [TensorBoard()] if args.tensorboard else []
        result = notebook.train(config, dataset, folder, runtime, callbacks, again, base)
    except loop.Interrupted as stopped:
        if primary:
            stopping.stopped(str(stopped), again)
        return 0
    if primary:
        print(tables.result_table(result, dataset.class_names))
        print(f"\nreport: {folder}/report.html", flush=True)
        if not args.quiet:
            plugins = configs.plugin_modules(config)
            words = [str(folder), "IMAGE", "--out", "DIR", *["--plugin"] * bool(plugins), *plugins]
            print(f"to segment images:\n  {stopping.command('predict', words)}", flush=True)
    return 0


if __name__ == "__main__":
    command.start(main)

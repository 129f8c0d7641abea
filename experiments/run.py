"""Train a network: `python -m experiments.run --arch fcn`."""

import argparse
import contextlib
import re
import sys
from pathlib import Path

from experiments.cli import command as door
from experiments.cli import flags, stopping
from fcn_jax import report
from fcn_jax.analysis import run_report
from fcn_jax.config import Config
from fcn_jax.data import loader, prepare
from fcn_jax.runtime import distributed, malloc
from fcn_jax.training import loop, run_dir
from fcn_jax.types import InputError

EPILOG = """examples:
  python -m experiments.run --arch fcn --dataset shapes --image-size 96 --epochs 20
  python -m experiments.run --experiment baseline --archives DIR-WITH-THE-TARS
  python -m experiments.run --arch unet --dataset MY-FOLDER --image-size 360x480 --precision bf16

Repeating the command of an unfinished run goes on with it. The run folder then holds config.json,
metrics.jsonl, result.json, curves.png, gallery.png, report.html and checkpoints/."""


def parser() -> argparse.ArgumentParser:
    """The flags of this door."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description="Train a segmentation network, judge it and show what it does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_run_flags(parser)
    flags.add_data_flags(parser)
    where = parser.add_argument_group("where and how it runs (nothing here changes the result)")
    where.add_argument("--workdir", type=Path, help="run folder (default: runs/NAME)")
    where.add_argument(
        "--resume", action="store_true", help="insist that there is a run to go on with"
    )
    where.add_argument(
        "--devices",
        type=int,
        help="devices of each process to use (default: all; a CPU is one for each core, up to 4)",
    )
    where.add_argument(
        "--save-every", type=int, default=1, metavar="N", help="epochs between saves"
    )
    where.add_argument(
        "--save-steps", type=int, default=0, metavar="N", help="also save every N steps in an epoch"
    )
    where.add_argument(
        "--cpu-malloc",
        action="store_true",
        help="on a CPU without huge pages, keep freed memory for the next step: a tenth faster "
        "once the programs are compiled, slower in the run that compiles them; up to twice the "
        "memory",
    )
    where.add_argument(
        "--cache",
        choices=loader.MODES,
        default="auto",
        help="where pictures are kept: device, host (gathered while the step before runs), none "
        "(decoded every time); auto takes the first that fits",
    )
    where.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, on hosts that share the run folder; the cluster (Slurm, "
        "MPI, Cloud TPU, ...) is found by jax.distributed",
    )
    where.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where not found")
    where.add_argument("--process-id", type=int, metavar="I", help="of this process, from 0")
    where.add_argument("--process-count", type=int, metavar="N", help="of all processes")
    where.add_argument("--quiet", action="store_true", help="print nothing but the result")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, train, draw."""
    args = parser().parse_args(argv)
    config = flags.to_config(args)
    if args.cpu_malloc and not malloc.keep_freed_memory():
        print("note: --cpu-malloc does nothing here: the C library is not glibc", file=sys.stderr)
    door.setup_jax(alone=not (args.distributed or args.coordinator))
    with _processes(args):
        words = argv if argv is not None else sys.argv[1:]
        return _train(args, config, stopping.command("experiments.run", words))


def _processes(args: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Join the other processes, if the flags say that there are some."""
    named = (args.coordinator, args.process_id, args.process_count)
    if named == (None, None, None):
        return distributed.joined() if args.distributed else contextlib.nullcontext()
    if None in named or not re.fullmatch(r".+:\d+", args.coordinator):
        raise InputError(
            "--coordinator HOST:PORT, --process-id I and --process-count N belong together: "
            "give all three, or --distributed alone where the cluster can be found"
        )
    return distributed.joined(*named)


def _train(args: argparse.Namespace, config: Config, command: str) -> int:
    """What `main` does once the processes know each other."""
    show = not args.quiet and distributed.is_primary()
    folder = args.workdir or Path("runs") / default_name(config)
    if args.resume and not (folder / run_dir.CONFIG).exists():
        raise InputError(
            f"--resume: {folder} holds no run: name its --workdir, or leave --resume out"
        )
    dataset = prepare.load(
        config.data.dataset, archives=args.archives, data_dir=args.data_dir, progress=show
    )
    origin = {k: str(v.resolve()) for k in ("archives", "data_dir") if (v := getattr(args, k))}
    runtime = loop.Runtime(args.devices, args.save_every, args.save_steps, args.cache, show, origin)
    try:
        result = loop.train(config, dataset, folder, runtime)
    except loop.Interrupted as stopped:
        if distributed.is_primary():
            stopping.stopped(str(stopped), command)
        return 0
    if not distributed.is_primary():
        return 0
    run_report.render(folder, dataset, command)
    print(report.result_table(result, dataset.class_names))
    print(f"\nresult, pictures and page: {folder}/report.html", flush=True)
    return 0


def default_name(config) -> str:
    """A folder name that says what the run is."""
    data = Path(config.data.dataset).name or "data"
    return f"{config.experiment}-{config.model.arch}-{data}-seed{config.seed}"


if __name__ == "__main__":
    door.run(main)

"""Train a network: `python -m experiments.run --arch fcn`."""

import argparse
import sys
from pathlib import Path

from experiments import door, options
from fcn_jax import allocator, loop, present, report, workdir
from fcn_jax.data import feed, voc
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
    options.add_run_flags(parser)
    options.add_data_flags(parser)
    where = parser.add_argument_group("where and how it runs (nothing here changes the result)")
    where.add_argument("--workdir", type=Path, help="run folder (default: runs/NAME)")
    where.add_argument(
        "--resume", action="store_true", help="insist that there is a run to go on with"
    )
    where.add_argument("--devices", type=int, help="local devices to use (default: all)")
    where.add_argument(
        "--save-every", type=int, default=1, metavar="N", help="epochs between saves"
    )
    where.add_argument(
        "--save-steps", type=int, default=0, metavar="N", help="also save every N steps in an epoch"
    )
    where.add_argument(
        "--cpu-malloc",
        action="store_true",
        help="on a CPU, keep freed memory for the next step: up to a quarter faster, "
        "up to twice the memory",
    )
    where.add_argument(
        "--cache",
        choices=feed.MODES,
        default="auto",
        help="where pictures are kept: device, host (gathered while the step before runs), none "
        "(decoded every time); auto takes the first that fits",
    )
    where.add_argument("--quiet", action="store_true", help="print nothing but the result")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, train, draw."""
    args = parser().parse_args(argv)
    config = options.to_config(args)
    if args.cpu_malloc and not allocator.keep_freed_memory():
        print("note: --cpu-malloc does nothing here: the C library is not glibc", file=sys.stderr)
    door.setup_jax()
    folder = args.workdir or Path("runs") / default_name(config)
    if args.resume and not (folder / workdir.CONFIG).exists():
        raise InputError(
            f"--resume: {folder} holds no run: name its --workdir, or leave --resume out"
        )
    dataset = voc.load(
        config.data.dataset, archives=args.archives, data_dir=args.data_dir, progress=not args.quiet
    )
    origin = {k: str(v.resolve()) for k in ("archives", "data_dir") if (v := getattr(args, k))}
    runtime = loop.Runtime(
        args.devices, args.save_every, args.save_steps, args.cache, not args.quiet, origin
    )
    command = "python -m experiments.run " + " ".join(argv if argv is not None else sys.argv[1:])
    try:
        result = loop.train(config, dataset, folder, runtime)
    except loop.Interrupted as stopped:
        print(f"{stopped}; to go on:\n  {command}", flush=True)
        return 0
    present.draw(folder, dataset, command)
    print(report.result_table(result, dataset.class_names))
    print(f"\nresult, pictures and page: {folder}/report.html", flush=True)
    return 0


def default_name(config) -> str:
    """A folder name that says what the run is."""
    data = Path(config.data.dataset).name or "data"
    return f"{config.experiment}-{config.model.arch}-{data}-seed{config.seed}"


if __name__ == "__main__":
    door.run(main)

"""Measure speed and memory against PyTorch and plain Flax: `python -m experiments.benchmark`.

    python -m experiments.benchmark                                   # ours alone, all networks
    python -m experiments.benchmark --against torch stock --out speed.json
    python -m experiments.benchmark --arch unet --batch-size 4 --mode train --against torch
    python -m experiments.benchmark --layers                          # single convolutions
    python -m experiments.benchmark --start MY-FOLDER                 # until the first step

Each contender is a process of its own that stays alive. They are timed one after another in several
rounds, so that a change of the machine's load affects all of them. A ratio is the median over the
rounds of (the baseline's seconds / ours): above 1 we are faster. Against PyTorch it is taken for
the mode with the best median. FLOPs are those of the convolutions (a training step: three times
forward, a frozen part once), whatever an algorithm saves or wastes; the device's peak is that of a
large matrix product in the same precision. Compilation is timed twice: from scratch, and in the
next process, which has the compilation cache. Memory is the peak of these two processes on a CPU
(the compiler's included), of the device's allocator on a GPU. The ResNet's backbone is frozen, as
in the paper, unless --train-backbone is given. On 2 cores expect 5 to 10 minutes for one network's
training step, and hours for everything.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import contenders, networks, tables
from experiments.cli import arguments, command
from fcn_jax import config as configs
from fcn_jax.models import MODELS
from fcn_jax.runtime import files
from fcn_jax.types import InputError

BATCH_SIZE = {
    **dict.fromkeys((*networks.NETWORKS, *networks.TORCHVISION), 4),
    **{name: 8 for name in networks.NETWORKS if name.startswith("unet_")},
    **dict.fromkeys(
        ("fcn", "resnet50_fcn", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"), 16
    ),
}
"""Of training; evaluation and `predict_batch` have `BATCH_SIZE_FORWARD`, `predict` one image."""
BATCH_SIZE_FORWARD = 16
ACCELERATORS = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*", "kfd")
"""Files in /dev of NVIDIA's GPUs, TPUs (two generations of drivers) and AMD's GPUs."""
TORCH_MODES = ("eager", "channels_last", "compile", "compile_graphs")
AGAINST = (
    "torch: PyTorch in each of its modes; onnx: onnxruntime, for predictions; stock: plain Flax "
    "and optax, for the networks that are written in it"
)


def parser() -> arguments.Parser:
    """The flags of this command."""
    p = arguments.Parser("benchmark", __doc__)
    p.add_argument("--arch", **_some_of(BATCH_SIZE), default=list(BATCH_SIZE))
    p.add_argument("--mode", **_some_of(tables.MODES), default=tables.MODES)
    p.add_argument(
        "--batch-size",
        type=arguments.whole(1, 65_536),
        metavar="N",
        help="of a step (default: to train 16, 8 or 4, by the network; 1 for predict, else "
        f"{BATCH_SIZE_FORWARD})",
    )
    data, config = configs.DataConfig(), configs.Config()
    size = {"dest": "image_size", "default": data.image_size}
    size["help"] = "height and width of the random images (default: 224x224)"
    arguments.add_fields(p, "data", data, ["image_size"], image_size=size)
    precision = {"default": config.precision}
    arguments.add_fields(p, "", config, ["precision"], precision=precision)
    p.add_argument("--against", **_some_of(("torch", "onnx", "stock"), AGAINST), default=[])
    modes = f"of {', '.join(TORCH_MODES)} (default: all; the last with an NVIDIA GPU only)"
    p.add_argument("--torch-mode", **_some_of(TORCH_MODES, modes), default=[])
    p.add_argument(
        "--rounds",
        type=arguments.whole(0, 10_000),
        metavar="N",
        default=5,
        help="how often each contender is timed, taking turns (default: 5); with 0 only "
        "compilation and memory are measured",
    )
    p.add_argument(
        "--train-backbone", action="store_true", help="train the ResNet's backbone as well"
    )
    p.add_argument("--cpu", action="store_true", help="leave the accelerator alone")
    _add_other_subjects(p)
    p.add_argument(
        "--out", type=arguments.path, metavar="FILE.json", help="write the results there too"
    )
    return p


def _some_of(words: Collection[str], text: str = "") -> dict[str, Any]:
    """Options of a flag that takes some of these words."""
    text = text or f"of {', '.join(words)} (default: all)"
    return {"nargs": "+", "metavar": "NAME", "type": arguments.choice(words), "help": text}


def _add_other_subjects(p: arguments.Parser) -> None:
    """Add the flags that measure something else than steps."""
    p.add_argument(
        "--layers", action="store_true", help="instead: single convolutions, against PyTorch's too"
    )
    p.add_argument(
        "--start",
        metavar="FOLDER",
        help="instead: the first and the second start of a run on a folder of images, with its "
        "memory, and the loader that decodes while it trains",
    )


def jobs(args: argparse.Namespace, arch: str, mode: str, cache: str) -> dict[str, dict[str, Any]]:
    """The contenders of one row: name -> what `benchmarks.worker` reads."""
    sizes = {"train": BATCH_SIZE[arch], "predict": 1}
    common = {
        "arch": arch,
        "mode": "predict" if mode == "predict_batch" else mode,
        "batch_size": args.batch_size or sizes.get(mode, BATCH_SIZE_FORWARD),
        "image_size": args.image_size,
        "precision": args.precision,
        "frozen": not args.train_backbone,
        "cpu": args.cpu,
        "cache": cache,
    }
    result = {"ours": {**common, "framework": "ours"}}
    if "stock" in args.against and arch in networks.NETWORKS:
        result["stock"] = {**common, "framework": "stock"}
    if "onnx" in args.against and mode.startswith("predict"):
        result["onnx"] = {**common, "framework": "onnx"}
    if "torch" in args.against:
        graphs = not args.cpu and found_accelerator(ACCELERATORS[:1])
        for kind in args.torch_mode or TORCH_MODES[: 4 if graphs else 3]:
            result[f"torch-{kind}"] = {**common, "framework": "torch", "torch_mode": kind}
    return result


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write the file."""
    args = parser().parse_args(argv)
    configs.DataConfig(image_size=args.image_size)  # checks it
    if args.out:
        files.make_folder(args.out.parent)
    if args.layers and not args.rounds:
        raise InputError("--rounds 0: single layers are only timed: use 1 or more")
    for name, package in (("torch", "torch"), ("onnx", "onnxruntime")):
        asked = name in args.against or (args.layers and name == "torch")
        if asked and importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed: pip install {package}")
    command.tune()  # for the workers as well, which inherit the environment
    args.cpu = args.cpu or on_cpu(os.environ.get("JAX_PLATFORMS", ""))
    contenders.require_backend(args.cpu)
    about = contenders.about()
    if args.layers or args.start:
        return _parts(args, about)
    results: list[dict[str, Any]] = []
    for arch in args.arch:
        for mode in args.mode:
            results.append(_measure(args, arch, mode))
            _written(args, about, {"results": results})  # an interrupted run keeps what it has
    for header, rows in (
        (tables.HEADER, tables.rows(results)),
        (tables.MEMORY_HEADER, tables.memory_rows(results)),
    ):
        body = list(rows)
        if body:
            print(tables.markdown(header, body), end="\n\n")
    for result in results:
        for name, contender in result["contenders"].items():
            if "error" in contender:
                print(f"{result['arch']} {result['mode']}: {name} failed: {contender['error']}")
    return 0


def _measure(args: argparse.Namespace, arch: str, mode: str) -> dict[str, Any]:
    """One row."""

    def report(text: str) -> None:
        print(f"{arch} {mode}: {text}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as cache:
        work = jobs(args, arch, mode, cache)
        timed = contenders.compare(work, args.rounds, report)
    result = {"arch": arch, "mode": mode, "batch_size": work["ours"]["batch_size"]}
    if MODELS[arch].freezes_pretrained and mode == "train":
        result["backbone"] = ", trained backbone" if args.train_backbone else ", frozen backbone"
    return {
        **result,
        "contenders": timed,
        "ratios": contenders.ratios(timed) if timed["ours"]["seconds"] else {},
    }


def on_cpu(platforms: str) -> bool:
    """Whether JAX_PLATFORMS chooses the CPU, or nothing where there is no other device."""
    return platforms == "cpu" if platforms else not found_accelerator()


def _parts(args: argparse.Namespace, about: dict[str, Any]) -> int:
    """Measure single layers or starts, print the table, write the file."""
    from experiments.benchmarks import layers, start

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    if args.layers:
        found = layers.measure(args.rounds, report)
    else:
        job = jobs(args, args.arch[0], "train", "")["ours"]
        found = start.measure({"dataset": args.start, **job}, report)
    print((layers if args.layers else start).table(_written(args, about, found)))
    return 0


def _written(
    args: argparse.Namespace, about: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """What was found, with the machine and the flags; goes into the file, too."""
    kept = {name: value for name, value in vars(args).items() if name not in ("out", "start")}
    data = {"machine": about, "settings": kept, **found}
    if args.out:
        files.write_json(args.out, data)
    return data


def found_accelerator(patterns: Sequence[str] = ACCELERATORS, devices: Path = Path("/dev")) -> bool:
    """Whether this machine has one; jax, which would hold it, is not asked."""
    return any(any(devices.glob(pattern)) for pattern in patterns)


if __name__ == "__main__":
    command.start(main)

"""Speed and memory of every network, beside PyTorch and plain Flax on the same machine.

    python -m experiments.benchmark                                   # ours alone, all networks
    python -m experiments.benchmark --against torch stock --cpu-malloc --out speed.json
    python -m experiments.benchmark --arch unet --batch-size 4 --mode train --against torch
    python -m experiments.benchmark --epoch --arch fcn                # does anything wait?

Each contender is a process of its own that stays alive; they take turns, so that a change of the
machine's mood meets all of them. A ratio is the median over the turns of (rival's seconds / ours):
above 1 we are faster; against PyTorch it is taken to whichever of its modes has the best median.
FLOPs are those of the convolutions (a training step: three times forward, a frozen part once),
whatever a formula saves or wastes; the device's peak is that of a large matrix product in the same
precision. Compiling is timed twice: afresh, and in the next process, as at a second start. Memory
is the peak of the process on a CPU (the compiler's included), of the device's allocator on a GPU.
The ResNet's backbone is frozen, as in the paper, unless --train-backbone is given. Expect an hour
on 2 cores for everything, 5 to 10 minutes for one network's training step.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.cli import arguments, command, flags, huge_pages
from fcn_jax import config as configs
from fcn_jax.models import MODELS
from fcn_jax.training.options import Runtime
from fcn_jax.types import InputError

BATCH_SIZE = {"fcn": 16, "simplified_unet": 4, "unet": 4, "resnet50_fcn": 16}
"""Of training and evaluation; a prediction is of one image, as `experiments.predict` makes it."""
MODES = ("train", "eval", "predict")
TORCH_MODES = ("eager", "channels_last", "compile", "compile_graphs")
PAUSE_SECONDS = 0.5
"""Between two turns: the threads of the one before go on looking for work for a while."""
TURN_SECONDS = 0.5
"""A turn has as many steps as take this long, so that starting and waiting do not count."""


class Worker:
    """The other side of `benchmark_worker`."""

    def __init__(self, name: str, job: dict[str, Any]):
        self.name, self.seconds = name, []
        environment = dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="false")  # a GPU is shared
        if job["cpu"]:
            environment["JAX_PLATFORMS"] = "cpu"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmarks.worker", json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, text=True,
        )  # fmt: skip
        self.facts = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with code {self.process.wait()}"}

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line; the answer to it."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def turn(self, steps: int) -> float:
        """Seconds a step, over that many."""
        answer = self.ask(str(steps))
        if "error" in answer:
            raise InputError(f"{self.name} failed: {answer['error']}: try a smaller --batch-size")
        return answer["seconds"] / steps

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        with self.process:  # closes its pipes, and waits
            pass


def seconds_again(job: dict[str, Any]) -> float:
    """What compiling takes in the next process, which finds the programs of the first."""
    worker = Worker("again", {**job, "again": True})
    worker.close()
    if "error" in worker.facts:
        raise InputError(f"compiling again failed: {worker.facts['error']}: try again")
    return worker.facts["compile_seconds"]


def compare(
    jobs: dict[str, dict[str, Any]], pairs: int, report=lambda text: None
) -> dict[str, dict[str, Any]]:
    """Run the jobs in turns: name -> facts, seconds a step of every turn, peak memory."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name, job in jobs.items():
            report(f"starting {name}")
            worker = Worker(name, job)
            stack.callback(worker.close)
            workers.append(worker)
            if job["framework"] != "torch" and "error" not in worker.facts:
                worker.facts["warm_seconds"] = seconds_again(job)
        sound = [w for w in workers if "error" not in w.facts]
        steps = {w: max(1, math.ceil(TURN_SECONDS / w.turn(1))) for w in sound}
        for turn in range(pairs):
            report(f"turn {turn + 1} of {pairs}")
            for worker in sound:
                time.sleep(PAUSE_SECONDS)
                worker.seconds.append(worker.turn(steps[worker]))
        peaks = {w: w.ask("") for w in sound}
    return {w.name: {**w.facts, "seconds": w.seconds, **peaks.get(w, {})} for w in workers}


def ratios(contenders: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How much faster we are: {"torch", "torch_best", "stock"}, those that ran."""
    times = {name: c["seconds"] for name, c in contenders.items() if c["seconds"]}
    mine, result = times["ours"], {}
    torch = [name for name in times if name.startswith("torch")]
    rivals = {"torch": min(torch, key=lambda n: statistics.median(times[n]))} if torch else {}
    if "stock" in times:
        rivals["stock"] = "stock"
    for kind, name in rivals.items():
        result[kind] = statistics.median(b / a for a, b in zip(mine, times[name], strict=True))
        result[f"{kind}_best"] = name
    return result


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": _cpu_name(),
        "cores": command.cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "load": os.getloadavg()[0],
        "huge_pages": huge_pages.requested(),
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


# ---- tables --------------------------------------------------------------------------------------

HEADER = (
    "network", "work", "batch", "step", "img/s", "compile, again", "memory", "FLOP/s",
    "PyTorch's best", "speed to it", "memory to it", "speed to plain Flax",
)  # fmt: skip


def rows(results: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """One row of the table for each result."""
    for result in results:
        ours = result["contenders"]["ours"]
        if "error" in ours:
            yield [result["arch"], result["mode"], str(result["batch_size"]), ours["error"]] + [
                ""
            ] * 8
            continue
        step = statistics.median(ours["seconds"])
        name = f"{result['arch']}{result.get('backbone', '')}"
        best = result["contenders"].get(result["ratios"].get("torch_best"))
        speed, plain = result["ratios"].get("torch"), result["ratios"].get("stock")
        flops = ours["flops"] / step
        yield [
            name,
            result["mode"],
            str(result["batch_size"]),
            _duration(step),
            f"{result['batch_size'] / step:.3g}",
            f"{ours['compile_seconds']:.1f} s, {ours['warm_seconds']:.1f} s",
            f"{ours['peak_bytes'] / 2**30:.2f} GiB",
            f"{flops / 1e9:.4g} G ({flops / ours['peak_flops']:.0%} of peak)",
            f"{result['ratios']['torch_best'][6:]}, {_duration(statistics.median(best['seconds']))}"
            if best
            else "",
            f"{speed:.2f}" if speed else "",
            f"{ours['peak_bytes'] / best['peak_bytes']:.2f}" if best else "",
            f"{plain:.1f}" if plain else "",
        ]


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; columns that are empty throughout are left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in body)]
    lines = [[header[i] for i in used], ["---"] * len(used)]
    lines += [[row[i] for i in used] for row in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed_table(files: Sequence[Path | str]) -> str:
    """Markdown of results written with `--out`: a table for each machine and setting."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        data = json.loads(Path(file).read_text())
        about, settings = data["machine"], data["settings"]
        device = next((r["contenders"]["ours"].get("device") for r in data["results"]), None)
        where = f"{about['cpu']}, {about['cores']} cores"
        if device and device != "cpu":
            where = f"{device} ({where})"
        versions = ", ".join(
            f"{name} {v}" for name, v in about["versions"].items() if name in ("jax", "torch")
        )
        size = "x".join(str(n) for n in settings["image_size"])
        memory = ", huge pages" * about.get("huge_pages", False)
        memory += ", freed memory kept (--cpu-malloc)" * settings["cpu_malloc"]
        title = f"{where}; {versions}; {settings['precision']}, {size}{memory}"
        parts.setdefault(title, []).extend(data["results"])
    tables = (
        f"{title}\n\n{markdown(HEADER, list(rows(results)))}\n" for title, results in parts.items()
    )
    return "\n".join(tables)


# ---- the command ---------------------------------------------------------------------------------


def parser() -> arguments.Parser:
    """The flags of this command."""
    p = arguments.Parser("benchmark", __doc__)

    def several(choices: Sequence[str], default: Sequence[str], text: str) -> dict[str, Any]:
        """Options of a flag that takes some of these words."""
        kind, text = arguments.choice(choices), text.replace("%", "%%")
        return {"nargs": "+", "metavar": "NAME", "type": kind, "default": default, "help": text}

    networks = list(BATCH_SIZE)
    p.add_argument("--arch", **several(networks, networks, f"of {', '.join(networks)} (all)"))
    p.add_argument("--mode", **several(MODES, MODES, f"of {', '.join(MODES)} (default: all)"))
    sizes = ", ".join(f"{size} for {name}" for name, size in BATCH_SIZE.items())
    p.add_argument(
        "--batch-size",
        type=arguments.whole(1, 65_536),
        metavar="N",
        help=f"of training and evaluation (default: {sizes}); 1 to predict",
    )
    flags.add_config_flags(p, ["data.image_size", "precision"])
    contenders = "torch: PyTorch in each of its modes; stock: plain Flax and optax"
    p.add_argument("--against", **several(("torch", "stock"), [], contenders))
    modes = f"of {', '.join(TORCH_MODES)} (default: all it has here)"
    p.add_argument("--torch-mode", **several(TORCH_MODES, [], modes))
    p.add_argument(
        "--pairs",
        type=arguments.whole(1, 10_000),
        metavar="N",
        default=5,
        help="rounds, in each of which every contender is timed (default: 5)",
    )
    p.add_argument(
        "--cpu-malloc",
        action="store_true",
        help="every contender keeps the memory it freed: faster, and larger",
    )
    p.add_argument(
        "--train-backbone", action="store_true", help="train the ResNet's backbone as well"
    )
    p.add_argument("--cpu", action="store_true", help="leave the accelerator alone")
    p.add_argument(
        "--epoch",
        action="store_true",
        help="instead: an epoch of a run, its steps alone and its input alone, on images of "
        "VOC-2007's number and sizes",
    )
    arguments.add_fields(p, "", Runtime(), ["cache"], cache={"default": "auto"})
    p.add_argument("--out", type=Path, metavar="FILE.json", help="write the results there too")
    return p


def image_size(args: argparse.Namespace) -> tuple[int, int]:
    """Height and width, as in training where they are not given."""
    return getattr(args, "data.image_size", configs.DataConfig.image_size)


def precision(args: argparse.Namespace) -> str:
    """As in training where it is not given."""
    return getattr(args, "precision", configs.Config.precision)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags, as the results keep them."""
    kept = {k: v for k, v in vars(args).items() if k not in ("out", "data.image_size")}
    return {**kept, "image_size": image_size(args), "precision": precision(args)}


def jobs(args: argparse.Namespace, arch: str, mode: str, cache: str) -> dict[str, dict[str, Any]]:
    """The contenders of one row: name -> what `benchmark_worker` is told."""
    common = {
        "arch": arch,
        "mode": mode,
        "batch_size": args.batch_size or (1 if mode == "predict" else BATCH_SIZE[arch]),
        "image_size": image_size(args),
        "precision": precision(args),
        "frozen": not args.train_backbone,
        "cpu_malloc": args.cpu_malloc,
        "cpu": args.cpu,
        "cache": cache,
    }
    result = {"ours": {**common, "framework": "ours"}}
    if "stock" in args.against:
        result["stock"] = {**common, "framework": "stock"}
    if "torch" in args.against:
        for kind in args.torch_mode or TORCH_MODES[: 3 if args.cpu else 4]:
            result[f"torch-{kind}"] = {**common, "framework": "torch", "torch_mode": kind}
    return result


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write the file."""
    args = parser().parse_args(argv)
    configs.DataConfig(image_size=image_size(args))  # checks it
    if "torch" in args.against and not _has_torch():
        raise InputError("--against torch: PyTorch is not installed: pip install torch")
    command.tune()  # for the workers as well, which inherit the environment
    args.cpu = args.cpu or not Path("/dev/nvidia0").exists()
    if args.epoch:
        return _epochs(args)
    settings = _settings(args)
    data: dict[str, Any] = {"machine": machine(), "settings": settings, "results": []}
    for arch in args.arch:
        for mode in args.mode:
            data["results"].append(_measure(args, arch, mode))
            if args.out:  # after every row: an interrupted run keeps what it has
                args.out.write_text(json.dumps(data, indent=1) + "\n")
    print(markdown(HEADER, list(rows(data["results"]))))
    for result in data["results"]:
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
        contenders = compare(work, args.pairs, report)
    result = {"arch": arch, "mode": mode, "batch_size": work["ours"]["batch_size"]}
    if MODELS[arch].freezes_pretrained and mode == "train":
        result["backbone"] = ", trained backbone" if args.train_backbone else ", frozen backbone"
    return {
        **result,
        "contenders": contenders,
        "ratios": ratios(contenders) if contenders["ours"]["seconds"] else {},
    }


def _epochs(args: argparse.Namespace) -> int:
    """Measure epochs, print the table, write the file."""
    if args.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    command.tune_malloc(args.cpu_malloc)
    command.setup_jax()

    from experiments.benchmarks import epoch

    dataset, found = epoch.stand_in(), {}
    for arch in args.arch:
        changes = {
            "model.arch": arch,
            "model.pretrained": None,
            "data.batch_size": args.batch_size or BATCH_SIZE[arch],
            "data.image_size": image_size(args),
            "precision": precision(args),
        }
        config = flags.apply(flags.experiment("default"), changes)
        found[arch] = epoch.measure(config, dataset, args.cache)
    if args.out:
        data = {"machine": machine(), "settings": _settings(args), "epochs": found}
        args.out.write_text(json.dumps(data, indent=1) + "\n")
    print(epoch_table(found))
    return 0


def epoch_table(found: dict[str, Any]) -> str:
    """Markdown: network -> split -> seconds, as `benchmark_epoch.measure` gives them."""
    header = ("network", "split", "whole", "steps alone", "input alone", "whole to steps")
    body = [
        [arch, split]
        + [_duration(part[name]) for name in ("whole", "compute", "input")]
        + [f"{part['whole'] / part['compute']:.3f}"]
        for arch, splits in found.items()
        for split, part in splits.items()
    ]
    return markdown(header, body)


def _has_torch() -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version("torch"))
    return False


if __name__ == "__main__":
    command.start(main)

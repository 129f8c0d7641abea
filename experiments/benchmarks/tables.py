"""The benchmark's results as Markdown."""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fcn_jax.report import tables as report_tables

MODES = ("train", "eval", "predict", "predict_batch")
HEADER = (
    "network", "work", "batch", "step", "img/s", "compile: first, cached", "FLOP/s",
    "PyTorch's best", "speed / PyTorch", "speed / onnxruntime", "speed / plain Flax",
)  # fmt: skip
MEMORY_HEADER = (
    "network", "work", "batch", "first start", "later ones", "PyTorch", "first / PyTorch",
    "later / PyTorch",
)  # fmt: skip


def rows(results: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """One row of the table for each result that was timed, or could not be."""
    for result in results:
        ours = result["contenders"]["ours"]
        start = [_name(result), result["mode"], str(result["batch_size"])]
        if "error" in ours:
            yield [*start, ours["error"]] + [""] * (len(HEADER) - 4)
            continue
        if not ours["seconds"]:
            continue
        step = statistics.median(ours["seconds"])
        best = result["contenders"].get(result["ratios"].get("torch_best"))
        speed, onnx, plain = (result["ratios"].get(kind) for kind in ("torch", "onnx", "stock"))
        flops = ours["flops"] / step
        yield [
            *start,
            _duration(step),
            f"{result['batch_size'] / step:.3g}",
            f"{ours['compile_seconds']:.1f} s, {ours['warm_seconds']:.1f} s",
            f"{flops / 1e9:.4g} G ({flops / ours['peak_flops']:.0%} of peak)",
            f"{result['ratios']['torch_best'][6:]}, {_duration(statistics.median(best['seconds']))}"
            if best
            else "",
            f"{speed:.2f}" if speed else "",
            f"{onnx:.2f}" if onnx else "",
            f"{plain:.1f}" if plain else "",
        ]


def memory_rows(results: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """The peak of our first process and of the next, beside the least of PyTorch's modes."""
    for result in results:
        ours = result["contenders"]["ours"]
        if "warm_peak_bytes" not in ours:  # an error, or an older file
            continue
        peaks = [ours["peak_bytes"], ours["warm_peak_bytes"]]
        torch = {
            contender["peak_bytes"]: name.removeprefix("torch-")
            for name, contender in result["contenders"].items()
            if name.startswith("torch") and "peak_bytes" in contender
        }
        least = min(torch, default=None)
        yield [
            *(_name(result), result["mode"], str(result["batch_size"])),
            *(f"{peak / 2**30:.2f} GiB" for peak in peaks),
            f"{torch[least]}, {least / 2**30:.2f} GiB" if least else "",
            *(f"{peak / least:.2f}" if least else "" for peak in peaks),
        ]


def _name(result: dict[str, Any]) -> str:
    return f"{result['arch']}{result.get('backbone', '')}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; columns that are empty throughout are left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in body)]
    rows = [[row[i] for i in used] for row in (header, *body)]
    return report_tables.markdown(rows, left=range(len(used)))


def speed_table(files: Sequence[Path | str]) -> str:
    """Markdown of results written with `--out`: a table for each machine and setting."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        data = json.loads(Path(file).read_text())
        about, settings = data["machine"], data["settings"]
        device = next((r["contenders"]["ours"].get("device") for r in data["results"]), None)
        where = machine(about, device)
        size = "x".join(str(n) for n in settings["image_size"])
        memory = ", huge pages" * about.get("huge_pages", False)
        title = f"{where}; {settings['precision']}, {size}{memory}"
        parts.setdefault(title, []).extend(data["results"])
    tables = (
        f"{title}{_allowed(found)}\n\n{markdown(HEADER, list(rows(_sorted(found))))}\n"
        for title, found in parts.items()
    )
    return "\n".join(tables)


def memory_table(data: dict[str, Any]) -> str:
    """Markdown of the memory of a file written with `--out`."""
    body = list(memory_rows(_sorted(data["results"])))
    return f"{machine(data['machine'])}\n\n{markdown(MEMORY_HEADER, body)}"


def _sorted(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(results, key=lambda result: (result["arch"], MODES.index(result["mode"])))


def machine(about: dict[str, Any], device: str | None = None) -> str:
    """A machine and the versions on it, in a line; `about` is from `contenders.about`."""
    where = f"{about['cpu']}, {about['cores']} cores"
    if device and device != "cpu":
        where = f"{device} ({where})"
    names = ("jax", "torch", "onnxruntime")
    return "; ".join(
        [where, ", ".join(f"{n} {v}" for n, v in about["versions"].items() if n in names)]
    )


def allowed(limits: dict[str, float]) -> str:
    """What a machine allows, in a few words; `limits` is from `worker.limits`."""
    flops, speed = limits["peak_flops"] / 1e9, limits["bytes_per_second"] / 1e9
    return f"a large matrix product {flops:.0f} GFLOP/s, memory {speed:.0f} GB/s"


def _allowed(results: Sequence[dict[str, Any]]) -> str:
    """The best of what the rows' processes found."""
    ours = [r["contenders"]["ours"] for r in results]
    known = [facts for facts in ours if "bytes_per_second" in facts]
    if not known:  # a file from before it was measured
        return ""
    names = ("peak_flops", "bytes_per_second")
    return f"; {allowed({name: max(facts[name] for facts in known) for name in names})}"

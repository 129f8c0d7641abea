"""The contenders of the benchmark, processes that are timed in rounds, and their machine."""

import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.cli import huge_pages
from fcn_jax.runtime import machine
from fcn_jax.types import InputError

PAUSE_SECONDS = 0.5
"""Between two contenders: the threads of the one before keep spinning for a while."""
ROUND_SECONDS = 0.5
"""A round has as many steps as take this long, so that starting and waiting do not count."""


class Worker:
    """A process that runs `benchmarks.worker`."""

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

    def request(self, line: str) -> dict[str, Any]:
        """Send a line; the answer to it."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def time_round(self, steps: int) -> float:
        """Seconds a step, over that many."""
        answer = self.request(str(steps))
        if "error" in answer:
            raise InputError(f"{self.name} failed: {answer['error']}: try a smaller --batch-size")
        return answer["seconds"] / steps

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        with self.process:  # closes its pipes, and waits
            pass


def require_backend(cpu: bool) -> None:
    """Start JAX's backend in a process of its own: in this one it would hold the accelerator.

    Raises:
      InputError: if JAX_PLATFORMS names a platform that is not there.
    """
    facts = _facts({"framework": "backend", "cpu": cpu})
    if "error" in facts:
        raise InputError(facts["error"].removeprefix("InputError: "))


def _facts(job: dict[str, Any]) -> dict[str, Any]:
    """What a worker says when it is ready, or why it is not; no more is asked of it."""
    worker = Worker(job["framework"], job)
    worker.close()
    return worker.facts


def measure_again(job: dict[str, Any]) -> dict[str, float]:
    """Compilation and memory of the next process, which finds the programs of the first."""
    facts = _facts({**job, "again": True})
    if "error" in facts:
        raise InputError(f"compiling again failed: {facts['error']}: try again")
    return {"warm_seconds": facts["compile_seconds"], "warm_peak_bytes": facts["peak_bytes"]}


def compare(
    jobs: dict[str, dict[str, Any]], rounds: int, report=lambda text: None
) -> dict[str, dict[str, Any]]:
    """Time the jobs in rounds: name -> facts, seconds a step in each round, peak memory."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name, job in jobs.items():
            report(f"starting {name}")
            worker = Worker(name, job)
            stack.callback(worker.close)
            workers.append(worker)
            if job["framework"] in ("ours", "stock") and "error" not in worker.facts:
                worker.facts.update(measure_again(job))
        working = [w for w in workers if "error" not in w.facts]
        steps = {w: max(1, math.ceil(ROUND_SECONDS / w.time_round(1))) for w in working}
        for number in range(rounds):
            report(f"round {number + 1} of {rounds}")
            for worker in working:
                time.sleep(PAUSE_SECONDS)
                worker.seconds.append(worker.time_round(steps[worker]))
        peaks = {w: w.request("") for w in working}
    return {w.name: {**w.facts, "seconds": w.seconds, **peaks.get(w, {})} for w in workers}


def ratios(contenders: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How much faster we are: {"torch", "torch_best", "onnx", "stock"}, those that ran."""
    times = {name: c["seconds"] for name, c in contenders.items() if c["seconds"]}
    mine, result = times["ours"], {}
    torch = [name for name in times if name.startswith("torch")]
    baselines = {"torch": min(torch, key=lambda n: statistics.median(times[n]))} if torch else {}
    baselines |= {name: name for name in ("onnx", "stock") if name in times}
    for kind, name in baselines.items():
        result[kind] = statistics.median(b / a for a, b in zip(mine, times[name], strict=True))
        result[f"{kind}_best"] = name
    return result


def about() -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "onnxruntime", "numpy")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": _cpu_name(),
        "cores": machine.cores(),
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

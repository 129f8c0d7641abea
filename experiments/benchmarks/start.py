"""What a run waits for before its first step, and its loader, on a real data set.

A start is a process of its own: it imports, prepares or finds the data, opens the splits, compiles
and makes one step. The first start prepares, decodes and compiles; the second finds all of it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from experiments.benchmarks import tables, worker
from experiments.cli import command
from fcn_jax.report.tables import markdown

PHASES = ("import", "prepare", "open", "compile", "first step")
BATCHES = 100
"""Batches that the loader is timed over, after the first ones."""


def measure(job: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """Time two starts and the loader.

    Args:
        job: dataset, arch, batch_size, image_size.
        report: called with what is being done.

    Returns:
        {"first", "second"}: phase -> {"seconds", "bytes"}, and "loader": images a second.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = {**job, "data_dir": f"{folder}/data", "cache": f"{folder}/xla"}
        result: dict[str, Any] = {}
        for work in ("first", "second", "loader"):
            report(f"{job['dataset']}: {work}")
            line = [sys.executable, "-m", "experiments.benchmarks.start"]
            text = json.dumps({**job, "work": work, "started": time.time()})
            done = subprocess.run([*line, text], stdout=subprocess.PIPE, check=False)
            if done.returncode:  # it has said why
                sys.exit(done.returncode)
            result[work] = json.loads(done.stdout)
    return result


def table(found: dict[str, Any]) -> str:
    """Markdown: seconds and memory after each phase, and what the loader does."""
    starts = found["first"], found["second"]
    rows = [["until", "first start", "second start", "memory of the first", "of the second"]]
    for phase in PHASES:
        seconds = [f"{start[phase]['seconds']:.1f} s" for start in starts]
        rows.append([phase, *seconds, *(_memory(start[phase]) for start in starts)])
    rows.append(["peak", "", "", *(f"{start['peak_bytes'] / 2**30:.2f} GiB" for start in starts)])
    rate, cpu = (found["loader"][n] for n in ("images_per_second", "cpu_seconds_per_image"))
    loader = f"{rate:.0f} images/s, {1e3 * cpu:.1f} ms of processor time an image"
    about = tables.machine(found["machine"])
    end = f"The loader that decodes while it trains, alone: {loader}."
    return f"{about}\n\n{markdown(rows)}\n\n{end}"


def _memory(phase: dict[str, Any]) -> str:
    own, mapped = (phase[name] / 2**30 for name in ("bytes", "mapped_bytes"))
    return f"{own:.2f} GiB + {mapped:.2f} mapped"


def memory() -> dict[str, int]:
    """Bytes of this process: its own, and those of files that the system may drop at any time."""
    found = worker.process_memory()
    return {"bytes": found["RssAnon"], "mapped_bytes": found["RssFile"]}


def start(job: dict[str, Any]) -> dict[str, Any]:
    """One start: for each phase the seconds since the process began, and its memory."""
    result: dict[str, Any] = {}

    def done(phase: str) -> None:
        result[phase] = {"seconds": time.time() - job["started"], **memory()}

    config, prepare, setup = _imported(job)
    import jax

    done("import")
    dataset = prepare.load(job["dataset"], data_dir=job["data_dir"])
    done("prepare")
    made = setup.build(config, dataset)
    state, key, chunk = made.initial_state(), made.train_key(), made.programs.chunk
    indices = made.epoch_indices(0)[:chunk]
    [(padded, taken)] = list(made.train.loader([indices]))
    done("open")
    state, values = made.programs.train(state, padded, taken, chunk, key)
    done("compile")  # calling it returns when it is compiled
    jax.block_until_ready(values)
    done("first step")
    result["peak_bytes"] = worker.peak_bytes()
    result["cache"] = made.train.mode
    return result


def load(job: dict[str, Any]) -> dict[str, float]:
    """Images a second that the streamed loader decodes where nobody computes."""
    _, prepare, _ = _imported(job)
    import jax

    from fcn_jax.data import batches, loader

    dataset = prepare.load(job["dataset"], data_dir=job["data_dir"])
    classes, size = len(dataset.class_names), job["batch_size"]
    split = loader.open_split(dataset.splits["train"], None, classes, lambda x: x, "none")
    indices = batches.epoch_indices(jax.random.key(0), 0, len(split.ids), size)
    loaded = split.loader(indices[: BATCHES + 4])
    for _ in islice(loaded, 4):
        pass
    begun, cpu = time.perf_counter(), time.process_time()
    count = sum(1 for _ in loaded)
    seconds = time.perf_counter() - begun
    return {
        "images_per_second": count * size / seconds,
        "cpu_seconds_per_image": (time.process_time() - cpu) / (count * size),
    }


def _imported(job: dict[str, Any]):
    """A run's configuration, and the modules that it needs."""
    command.setup_jax()
    import jax

    from experiments.cli import flags
    from fcn_jax.data import prepare
    from fcn_jax.training import setup

    jax.config.update("jax_compilation_cache_dir", job["cache"])
    changes = {
        "data.dataset": job["dataset"],
        "data.batch_size": job["batch_size"],
        "data.image_size": tuple(job["image_size"]),
        "model.arch": job["arch"],
        "model.pretrained": None,
    }
    return flags.apply(flags.experiment("default"), changes), prepare, setup


def main(job: dict[str, Any]) -> None:
    """Do one job; JSON on stdout."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print(json.dumps(load(job) if job["work"] == "loader" else start(job)))


if __name__ == "__main__":
    command.run(lambda _: main(json.loads(sys.argv[1])))

"""A fault drill: kill small trainings at random, resume them, compare with an uninterrupted one.

`python -m tests.drill --kills 60 --terms 20` runs as many trainings as said. A training is killed
with SIGKILL (every second one while a checkpoint is being written) or stopped with SIGTERM again
and again, each time at a random moment, until it gets to its end. Its parameters, metrics.jsonl and
result.json must then equal, bit for bit but for the clocks, those of a run left alone. Not part of
the test suite: it takes minutes.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from fcn_jax import checkpoint, workdir
from tests import fakes

CLOCKS = ("seconds", "images_per_second", "environment")
FLAGS = ["--arch", "simplified_unet", "--image-size", "32", "--batch-size", "3", "--epochs", "4",
         "--patience", "0", "--save-steps", "1", "--ema", "0.9", "--quiet"]  # fmt: skip


def make_data(folder: Path) -> Path:
    """A small data set in VOC's layout."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    splits = {"train": range(9), "val": range(9, 13)}
    for split, numbers in splits.items():
        made = [fakes.example(n) for n in numbers]
        for e in made:
            Image.fromarray(e.image).save(folder / f"JPEGImages/{e.id}.jpg", quality=95)
            Image.fromarray(e.mask).save(folder / f"SegmentationClass/{e.id}.png")
        lines = "".join(f"{e.id}\n" for e in made)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(lines)
    (folder / "classes.txt").write_text("\n".join(fakes.CLASSES) + "\n")
    return folder


def start(data: Path, run: Path) -> subprocess.Popen:
    """Start (or go on with) the training of `run`."""
    command = [sys.executable, "-m", "experiments.run", "--dataset", str(data), *FLAGS]
    where = ["--workdir", str(run), "--data-dir", str(data.parent / "prepared")]
    return subprocess.Popen(
        [*command, *where], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for_save(process: subprocess.Popen, run: Path, limit: float) -> None:
    """Return in the middle of a save: while orbax's temporary folder is there."""
    end = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < end:
        if any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*")):
            return
        time.sleep(0.0005)


def outcome(run: Path):
    """What must not depend on interruptions."""
    variables, _ = checkpoint.load(run / "checkpoints", "latest")
    rows = [{k: v for k, v in r.items() if k not in CLOCKS} for r in workdir.read_metrics(run)]
    result = {k: v for k, v in workdir.read_json(run / "result.json").items() if k not in CLOCKS}
    return variables, rows, result


def equal(a, b) -> bool:
    """Bit for bit."""
    same = jax.tree.map(np.array_equal, a[0], b[0])
    return all(jax.tree.leaves(same)) and a[1:] == b[1:]


def torture(data: Path, run: Path, kind: str, whole: float, rng: random.Random) -> tuple[int, list]:
    """Interrupt until the training ends; returns (interruptions, what went wrong)."""
    interruptions, wrong = 0, []
    while True:
        process = start(data, run)
        if kind == "save" and interruptions < 3:
            time.sleep(rng.uniform(0, 0.3) * whole)
            wait_for_save(process, run, whole)
            time.sleep(rng.uniform(0, 0.05))
        elif interruptions < 4:
            # Nothing happens before jax is up, about a third of the time: aim behind that.
            time.sleep(whole * rng.uniform(0.2, 1.0))
        else:
            process.wait()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if kind == "term" else signal.SIGKILL)
            interruptions += 1
        _, err = process.communicate(timeout=300)
        code = process.returncode
        # A SIGTERM before our handlers stand ends the process as it would any other.
        if code not in (0, -signal.SIGTERM if kind == "term" else -signal.SIGKILL):
            wrong.append(f"{run.name}: exit code {code}: {err.strip()[-300:]}")
            return interruptions, wrong
        if code == 0 and (run / "result.json").exists() and (run / "report.html").exists():
            return interruptions, wrong


def main() -> int:
    """Run the drill and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="trainings to kill with SIGKILL")
    parser.add_argument("--terms", type=int, default=20, help="trainings to stop with SIGTERM")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    root = Path(tempfile.mkdtemp(prefix="drill-"))
    data = make_data(root / "data")
    start(data, root / "warm").communicate()  # prepares the data and fills the compilation cache
    began = time.monotonic()
    start(data, root / "alone").communicate()
    whole = time.monotonic() - began
    expected = outcome(root / "alone")
    kinds = ["save" if i % 2 else "kill" for i in range(args.kills)] + ["term"] * args.terms
    total, failures = 0, []
    for i, kind in enumerate(kinds):
        run = root / f"{kind}-{i}"
        count, wrong = torture(data, run, kind, whole, rng)
        total += count
        if not wrong and not equal(outcome(run), expected):
            wrong = [f"{run.name}: another outcome after {count} interruptions"]
        failures += wrong
        print(
            f"{i + 1}/{len(kinds)} {run.name}: {count} interruptions, {wrong or 'same bits'}",
            flush=True,
        )
        shutil.rmtree(run)
    print(f"{len(kinds)} trainings, {total} interruptions, {len(failures)} failures")
    shutil.rmtree(root)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

"""A fault drill: kill small trainings at random, resume them, compare with an uninterrupted one.

`python -m tests.drills.kill --kills 60 --terms 20 --doubles 20` runs as many trainings as said. A
training is killed with SIGKILL (every second one while a checkpoint is being written), or stopped
with SIGTERM, or with SIGTERM and SIGINT within a second, as GNU `timeout` and `srun` send them,
again and again, each time at a random moment, until it gets to its end. Its parameters,
metrics.jsonl and result.json must then equal, bit for bit but for the clocks, those of a run left
alone. Not part of the test suite: it takes minutes.
"""

import argparse
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from PIL import Image

import experiments.run
from experiments.cli import command as cli_command
from experiments.cli import flags
from fcn_jax.data import prepare
from fcn_jax.runtime import files
from fcn_jax.training import loop, run_dir, trainer
from fcn_jax.weights import checkpoint
from tests import fakes

CLOCKS = ("seconds", "images_per_second", "environment")
FLAGS = shlex.split(
    "--arch simplified_unet --image-size 32 --batch-size 4 --epochs 3 --patience 0 "
    "--save-steps 1 --ema 0.9 --quiet"
)


def make_data(folder: Path) -> Path:
    """A small data set in VOC's layout."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    splits = {"train": range(12), "val": range(12, 16)}
    for split, numbers in splits.items():
        made = [fakes.example(n) for n in numbers]
        for e in made:
            Image.fromarray(e.image).save(folder / f"JPEGImages/{e.id}.jpg", quality=95)
            Image.fromarray(e.mask).save(folder / f"SegmentationClass/{e.id}.png")
        lines = "".join(f"{e.id}\n" for e in made)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(lines)
    (folder / "classes.txt").write_text("\n".join(fakes.CLASSES) + "\n")
    return folder


def start(data: Path, run: Path, prepared: Path | None = None) -> subprocess.Popen:
    """Start (or resume) the training of `run`."""
    command = [sys.executable, "-m", "experiments.run", "--dataset", str(data), *FLAGS]
    prepared = prepared or data.parent / "prepared"
    where = ["--workdir", str(run), "--data-dir", str(prepared)]
    return subprocess.Popen(
        [*command, *where], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def steps_with_saves(data: Path, run: Path) -> list[float]:
    """Seconds of each step and its save, the one after the other, without the step that compiles.

    The training itself writes while the next step runs, so its own rate leaves one of them out.
    """
    seconds: list[float] = []
    train_chunk = trainer.Trainer.train_chunk

    def timed(run: trainer.Trainer, *args) -> None:
        began = time.monotonic()
        train_chunk(run, *args)
        run.saver.wait()
        seconds.append(time.monotonic() - began)

    args = experiments.run.parser().parse_args(["--dataset", str(data), *FLAGS])
    config = flags.to_config(args)
    dataset = prepare.load(config.data.dataset, data_dir=data.parent / "prepared", progress=False)
    runtime = loop.Runtime(save_steps=args.save_steps, show=False)
    with mock.patch.object(trainer.Trainer, "train_chunk", timed):
        loop.train(config, dataset, run, runtime)
    shutil.rmtree(run)
    return seconds[1:]


def in_a_save(run: Path) -> bool:
    """Whether orbax's temporary folder is there."""
    return any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def wait_for_save(process: subprocess.Popen, run: Path, limit: float) -> None:
    """Return in the middle of a save."""
    end = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < end:
        if in_a_save(run):
            return
        time.sleep(0.0005)


def outcome(run: Path):
    """What must not depend on interruptions."""
    variables, _ = checkpoint.load(run / "checkpoints", "latest")
    rows = [{k: v for k, v in r.items() if k not in CLOCKS} for r in run_dir.read_metrics(run)]
    result = {k: v for k, v in files.read_json(run / "result.json").items() if k not in CLOCKS}
    return variables, rows, result


def equal(a, b) -> bool:
    """Bit for bit."""
    same = jax.tree.map(np.array_equal, a[0], b[0])
    return all(jax.tree.leaves(same)) and a[1:] == b[1:]


@dataclass
class Tally:
    """What was done to the trainings, and how they answered."""

    kills: int = 0
    kills_in_saves: int = 0
    late: int = 0
    """Requests to a process that had trained, and was drawing or ending."""
    early: int = 0
    """Signals to a process that was starting, and ended as any other program does."""
    answers: list[float] = field(default_factory=list)
    """Seconds from each other request to the end of the process."""
    wrong: list[str] = field(default_factory=list)

    def interruptions(self) -> int:
        """All of them."""
        return self.kills + self.early + len(self.answers)

    def met(self) -> bool:
        """Whether anything happened."""
        return bool(self.interruptions() or self.wrong)


GENTLE = ("term", "double")
"""Kinds that ask the training to stop."""

UNHANDLED = (-signal.SIGTERM,)
"""Exit code of a process that was asked to stop while Python was starting."""


def interrupt(
    process: subprocess.Popen, run: Path, kind: str, tally: Tally, rng: random.Random
) -> None:
    """Send the signal or signals, and note how they were answered."""
    began, done = time.monotonic(), (run / "result.json").exists()
    process.send_signal(signal.SIGTERM if kind in GENTLE else signal.SIGKILL)
    if kind == "double":
        time.sleep(rng.choice([0.0, rng.uniform(0, 0.6)]))
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    process.wait(300)
    took, code = time.monotonic() - began, process.returncode
    if kind in GENTLE and done:
        tally.late += 1
    elif kind in GENTLE and code == 0:
        tally.answers.append(took)
    elif kind in GENTLE and code in UNHANDLED:
        tally.early += 1
    elif kind not in GENTLE and code == -signal.SIGKILL:
        tally.kills += 1
        tally.kills_in_saves += in_a_save(run)


def torture(data: Path, run: Path, kind: str, whole: float, rng: random.Random) -> Tally:
    """Interrupt until the training ends."""
    tally = Tally()
    while True:
        process = start(data, run)
        done = tally.interruptions()
        if kind == "save" and done < 3:
            time.sleep(rng.uniform(0, 0.3) * whole)
            wait_for_save(process, run, whole)
            time.sleep(rng.uniform(0, 0.05))
        elif done < 3:
            # Half of it is imports: aim behind them more often than not.
            time.sleep(whole * rng.uniform(0.1, 1.0))
        else:
            process.wait()
        sent = process.poll() is None
        if sent:
            interrupt(process, run, kind, tally, rng)
        _, err = process.communicate(timeout=300)
        code = process.returncode
        expected = UNHANDLED if kind in GENTLE else (-signal.SIGKILL,)
        if code not in (0, *expected * sent):
            tally.wrong.append(f"{run.name}: exit code {code}: {err.strip()[-300:]}")
            return tally
        if code == 0 and (run / "result.json").exists() and (run / "report.html").exists():
            return tally


def main() -> int:
    """Run the drill and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="trainings to kill with SIGKILL")
    parser.add_argument("--terms", type=int, default=20, help="trainings to stop with SIGTERM")
    parser.add_argument(
        "--doubles", type=int, default=20, help="trainings to stop with two signals"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kinds = ["save" if i % 2 else "kill" for i in range(args.kills)]
    kinds += ["term"] * args.terms + ["double"] * args.doubles
    rng, tallies = random.Random(args.seed), []
    cli_command.setup_jax()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        root = Path(folder)
        data = make_data(root / "data")
        start(data, root / "warm").communicate()  # prepares, and fills the compilation cache
        began = time.monotonic()
        start(data, root / "alone").communicate()
        whole = time.monotonic() - began
        expected = outcome(root / "alone")
        print(f"undisturbed: {whole:.1f} s", flush=True)
        allowed = steps_with_saves(data, root / "timed")
        for i, kind in enumerate(kinds):
            run = root / f"{kind}-{i}"
            while not (tally := torture(data, run, kind, whole, rng)).met():
                # It was through before the first signal, which proves nothing: aim sooner.
                shutil.rmtree(run)
                whole *= 0.7
            if not tally.wrong and not equal(outcome(run), expected):
                tally.wrong.append(f"{run.name}: another outcome")
            tallies.append(tally)
            told = tally.wrong or f"{tally.interruptions()} interruptions, same bits"
            print(f"{i + 1}/{len(kinds)} {run.name}: {told}", flush=True)
            shutil.rmtree(run)
        allowed += steps_with_saves(data, root / "timed")  # the machine may be busier by now
    print(summary(tallies, allowed))
    return any(tally.wrong for tally in tallies)


def summary(tallies: list[Tally], allowed: list[float]) -> str:
    """All figures; those of several drills may be added up.

    Args:
      tallies: of the trainings.
      allowed: seconds of steps with their saves, as measured in between.
    """
    answers = sorted(seconds for tally in tallies for seconds in tally.answers)
    late = sum(t.late for t in tallies)
    lines = [
        f"{len(tallies)} trainings, {sum(t.interruptions() for t in tallies)} interruptions, "
        f"{sum(bool(t.wrong) for t in tallies)} failures, all others with the same bits",
        f"SIGKILL: {sum(t.kills for t in tallies)}, "
        f"{sum(t.kills_in_saves for t in tallies)} of them in the middle of a save",
        f"asked to stop: {late} when all was done, {sum(t.early for t in tallies)} before the "
        f"training; {len(answers)} answered with exit code 0",
    ]
    if answers:
        middle = answers[len(answers) // 2]
        lines[-1] += f", after {middle:.2f} s (median), {answers[-1]:.2f} s (the longest)"
        usual, longest = sorted(allowed)[len(allowed) // 2], max(allowed)
        within = [sum(seconds <= limit for seconds in answers) for limit in (usual, longest)]
        lines.append(
            f"within one step plus a save: {within[0]} of {len(answers)} for the median of those, "
            f"{usual:.2f} s; {within[1]} for the longest of {len(allowed)}, {longest:.2f} s"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

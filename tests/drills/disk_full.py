"""Small trainings on a disk that fills up at a bad moment.

Run `python -m tests.drills.disk_full --trials 3`.

On a small tmpfs (mounting one takes root; or name a folder on a small disk) a training is started,
and when it is at the moment in question all room is taken away. It must say so in one line and end
with exit code 2; with the room given back, the repeated command must end with the bits of a run
that was never short of room. Not part of the test suite: it takes minutes.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.drills import kill

SIZE = 400
"""MB of the tmpfs: room for the four checkpoints of 50 MB that there may be, and the data."""

Moment = Callable[[Path], bool]
"""Whether the trial in this folder has come to it."""


def _there(pattern: str) -> Moment:
    return lambda trial: any(trial.glob(pattern))


def _page_is_next(trial: Path) -> bool:
    """Whether the pictures of the finished run are there; earlier ones are of the live page."""
    result, pictures = trial / "run/result.json", trial / "run/gallery.png"
    with contextlib.suppress(FileNotFoundError):
        return pictures.stat().st_mtime_ns > result.stat().st_mtime_ns
    return False


MOMENTS: dict[str, tuple[int, Moment | None]] = {
    "no room at all": (0, None),
    "too little to prepare": (20, None),
    "while preparing": (36, _there("prepared/**/incomplete.*")),
    "before the first save": (SIZE, _there("run/data.json")),
    "in the first save": (SIZE, _there("run/checkpoints/*.orbax-checkpoint-tmp*")),
    "in a later save": (SIZE, _there("run/checkpoints/3")),
    "before the metrics": (SIZE, _there("run/checkpoints/2")),
    "before the result": (SIZE, _there("run/eval-val.json")),
    "before the pictures": (SIZE, _there("run/result.json")),
    "before the page": (SIZE, _page_is_next),
}
"""MB free from the start, and when the rest is taken too."""


@contextlib.contextmanager
def small_disk(folder: Path | None) -> Iterator[Path]:
    """A folder on a disk that may be filled."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="disk-full-") as place:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", place]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            sys.exit("no tmpfs can be mounted here: be root, or name a small disk with --folder")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def fill(ballast: Path, leave: int) -> None:
    """Take all room but `leave` bytes, though the training takes some at the same time."""
    with ballast.open("ab") as file, contextlib.suppress(OSError):
        for piece in (2**20, 4096):
            while shutil.disk_usage(ballast.parent).free - leave >= piece:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)


def try_one(disk: Path, data: Path, moment: str, expected, rng: random.Random) -> tuple[str, str]:
    """One trial; returns (what the full disk did, what was wrong with it)."""
    trial, ballast = disk / "trial", disk / "ballast"
    trial.mkdir()
    room, come = MOMENTS[moment]
    leave = rng.choice([0, 0, 4096, 40_000])
    fill(ballast, room * 2**20)
    process = kill.start(data, trial / "run", trial / "prepared")
    try:
        while come and process.poll() is None:
            if come(trial):
                fill(ballast, leave)
                break
            time.sleep(0.0002)
        _, err = process.communicate(timeout=300)
        wrong = verdict(process.returncode, err, trial)
        ballast.unlink()
        again = kill.start(data, trial / "run", trial / "prepared")
        _, more = again.communicate(timeout=300)
        if again.returncode:
            wrong = wrong or f"with room again: exit code {again.returncode}: {more.strip()[-300:]}"
        elif not kill.equal(kill.outcome(trial / "run"), expected):
            wrong = wrong or "another outcome"
    finally:
        process.kill()
        ballast.unlink(missing_ok=True)
        shutil.rmtree(trial)
    return err.strip() or "too late", wrong


def verdict(code: int, err: str, trial: Path) -> str:
    """What is wrong with how a training met a full disk."""
    lines = err.strip().splitlines()
    litter = [*trial.rglob("*.part"), *trial.rglob("*orbax-checkpoint-tmp*")]
    if code == 0:
        return "" if not lines else f"no failure, and yet: {err.strip()[-300:]}"
    if code != 2 or len(lines) != 1 or "the disk is too full (" not in lines[0]:
        return f"exit code {code}: {err.strip()[-600:]}"
    return f"left behind: {litter}" if litter else ""


def main() -> int:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.disk_full", description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="of each moment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=MOMENTS, help="one moment")
    parser.add_argument("--folder", type=Path, help="an empty folder on a small disk")
    args = parser.parse_args()
    rng, counts, failures = random.Random(args.seed), Counter(), 0
    moments = [args.only] if args.only else list(MOMENTS)
    with tempfile.TemporaryDirectory() as root, small_disk(args.folder) as disk:
        data = kill.make_data(Path(root) / "data")
        alone = Path(root) / "alone"
        kill.start(data, alone).communicate()
        expected = kill.outcome(alone)
        for moment in moments * args.trials:
            said, wrong = try_one(disk, data, moment, expected, rng)
            counts[moment, said == "too late"] += 1
            failures += bool(wrong)
            print(f"{moment}: {wrong or said.replace(str(disk), 'DISK')}", flush=True)
    for moment in moments:
        told, late = counts[moment, False], counts[moment, True]
        print(f"{moment}: {told} stopped with one line, {late} filled too late to matter")
    print(f"{sum(counts.values())} trials, {failures} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

"""Damaged checkpoints, and valid ones that cannot be read for a while.

`python -m tests.drills.checkpoints --trials 30` harms that many copies of a run's checkpoints (a
flipped bit, a file cut short, a file removed): each must be named and passed over, or prove valid.
Then the system refuses to read valid ones: too many open files (RLIMIT_NOFILE), and injected I/O
errors. Each time the reason must be raised, and no file be moved or changed. Not part of the test
suite, which has a few of each.
"""

import argparse
import errno
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import chex

from fcn_jax.weights import checkpoint
from tests.weights import test_checkpoint as samples


def content(folder: Path) -> dict[str, str]:
    """Every file with the hash of what it holds."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def restore(folder: Path):
    """The newest valid state, and its epoch."""
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        restored = checkpoints.restore(samples._state(0))
        assert restored is not None
        return restored[0], restored[1]["epoch"]
    finally:
        checkpoints.close()


def damage(whole: Path, root: Path, trials: int, rng: random.Random) -> Counter:
    """Harm one file of the newest checkpoint at a time."""
    counts: Counter = Counter()
    for trial in range(trials):
        folder = root / f"damaged-{trial}"
        shutil.copytree(whole, folder)
        samples._harm(rng.choice(samples._files(folder / "2")), rng)
        state, epoch = restore(folder)
        moved = (root / f"damaged-{trial}-damaged" / "2").exists()
        chex.assert_trees_all_equal(state, samples._state(epoch))
        assert moved == (epoch == 1), "moved what is valid, or used what is not"
        counts["passed over" if moved else "harmless"] += 1
    return counts


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """Within it a resource of this process is short."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def next_file() -> int:
    """The number that the next open file would have."""
    number = os.dup(0)
    os.close(number)
    return number


def refuse(folder: Path) -> Counter:
    """Read a valid checkpoint while the system refuses something."""
    counts: Counter = Counter()
    before = content(folder)

    def attempt(name: str, context) -> None:
        try:
            with context:
                checkpoint.load(folder, "latest")
            counts[name, "read all the same"] += 1
        except Exception as error:
            named = "damaged" in str(error)
            counts[name, "called damaged" if named else type(error).__name__] += 1
        assert content(folder) == before, "something was moved or changed"

    for spare in range(12):
        attempt("no file left", limited(resource.RLIMIT_NOFILE, next_file() + spare))
    attempt("no memory", mock.patch.object(checkpoint, "_load", side_effect=MemoryError("2 GB")))
    for number in (errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM):
        for text in (f"UNKNOWN: Error reading [os_error_code='{number}']", "cannot be parsed"):
            error = ValueError(text)
            error.__cause__ = OSError(number, "refused") if text.endswith("parsed") else None
            attempt(
                f"injected {errno.errorcode[number]}",
                mock.patch.object(checkpoint, "_load", side_effect=error),
            )
    checkpoint.load(folder, "latest")
    return counts


def main() -> int:
    """Run the drill and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.checkpoints", description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        root = Path(folder)
        samples._save(root / "whole", [0.1, 0.2])
        found = damage(root / "whole", root, args.trials, random.Random(args.seed))
        print(f"{args.trials} damaged: {dict(found)}; nothing wrong was used")
        answers = refuse(root / "whole")
        for (name, answer), count in sorted(answers.items()):
            print(f"{name}: {count} x {answer}")
        wrong = any(answer == "called damaged" for _, answer in answers)
        print("a valid one was called damaged" if wrong else "nothing was moved that is valid")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

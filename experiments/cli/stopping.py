"""What a command prints when a signal has stopped it: how to resume."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPT = "fcn-jax"


def prefix(name: str) -> str:
    """What a command line begins with: `fcn-jax run`, or `python -m experiments.run`, as called."""
    if Path(sys.argv[0]).stem == SCRIPT:
        return f"{SCRIPT} {name}"
    return f"python -m experiments.{name}"


def command(name: str, arguments: Sequence[str] | None = None) -> str:
    """The command line with these arguments (None: this process's), to be copied into a shell."""
    words = sys.argv[1:] if arguments is None else arguments
    return f"{prefix(name)} {shlex.join(words)}".rstrip()


def stopped(text: str, again: str) -> None:
    """Say with which command to resume what a signal has stopped."""
    print(f"{text}; to resume:\n  {again}", flush=True)

"""What a command prints when a signal has stopped it: how to resume."""

import contextlib
import os
import shlex
import sys
import threading
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


def resume(text: str, again: str) -> str:
    """With which command to resume what a signal has stopped."""
    return f"{text}; to resume:\n  {again}\n"


def stopped(text: str, again: str) -> None:
    """Print it."""
    print(resume(text, again), end="", flush=True)


def say(descriptor: int, text: str) -> None:
    """Print on standard output (1) or error (2) from any thread, whatever the main thread does.

    What was printed before comes first, unless its reader keeps us waiting.
    """
    with contextlib.suppress(RuntimeError):  # no thread starts while Python ends
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        flushing.join(0.5)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode(encoding, "backslashreplace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            stream.flush()

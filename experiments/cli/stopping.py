"""What a command says when a signal has stopped it, and how it is resumed."""

import shlex
from collections.abc import Sequence


def command(module: str, arguments: Sequence[str]) -> str:
    """The command line of a command, to be copied into a shell."""
    return shlex.join(["python", "-m", module, *arguments])


def stopped(text: str, again: str) -> None:
    """Say with which command to resume what a signal has stopped."""
    print(f"{text}; to resume:\n  {again}", flush=True)

"""The console script: `fcn-jax run ...` is `python -m experiments.run ...`."""

import importlib
import sys

import fcn_jax
from experiments.cli import arguments, command
from fcn_jax.types import InputError

COMMANDS = (
    "run",
    "evaluate",
    "predict",
    "check",
    "reproduce",
    "explain",
    "study",
    "compare",
    "export",
    "benchmark",
    "tables",
    "runs",
)


def main() -> None:
    """Start the command that the first word names."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv = [sys.argv[0], *words]  # what follows is the command's
        command.start(importlib.import_module(f"experiments.{name}").main)
    command.start(lambda _: overview(name))


def overview(name: str) -> int:
    """Print what the commands do, or the version.

    Raises:
      InputError: if the word is no command.
    """
    if name == "--version":
        print(f"fcn_jax {fcn_jax.__version__}")
        return 0
    if name not in ("-h", "--help", "help"):
        near = arguments.nearest(name, COMMANDS)
        raise InputError(f"{name}: choose one of {', '.join(COMMANDS)}{near}")
    print("usage: fcn-jax COMMAND [flags]; fcn-jax COMMAND --help shows the flags\n")
    for known in COMMANDS:
        doc = importlib.import_module(f"experiments.{known}").__doc__ or ""
        print(f"  {known:<10} {doc.splitlines()[0].partition(':')[0]}")
    return 0


if __name__ == "__main__":
    main()

"""How a door answers the signal to stop.

While it imports, prepares or draws there is nothing to finish; while it trains, `loop` finishes the
step and saves, and what is said afterwards is here. This module is read before anything heavy,
since the imports alone take seconds.
"""

import atexit
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from fcn_jax.runtime import signals

GO_ON = ("experiments.run", "experiments.reproduce", "experiments.study")
"""Doors that go on where they were stopped, once their command is repeated."""


def listen() -> None:
    """From now on a signal ends this process without a traceback.

    A door that goes on says with which command, and ends with exit code 0, whatever it is busy
    with; any other ends as by Ctrl-C, with what it began taken back.
    """
    called = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    if called and called[0] in GO_ON:
        again = command(called[0], called[1:])
        listening = contextlib.ExitStack()
        listening.enter_context(
            signals.noticed(lambda: stopped("stopped, with nothing lost", again))
        )
        atexit.register(_end, listening)
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def command(module: str, arguments: Sequence[str]) -> str:
    """The command line of a door, to be copied into a shell."""
    return shlex.join(["python", "-m", module, *arguments])


def stopped(text: str, again: str) -> NoReturn:
    """Say with which command to go on with what a signal has stopped, and leave."""
    print(f"{text}; to go on:\n  {again}")
    leave()


def leave() -> NoReturn:
    """End the process with exit code 0, and do without the interpreter's own end.

    There Python takes apart all that was imported, jax above all: half a second, which is long for
    whoever waits for the answer to a signal. To be called when everything is written and closed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end(listening: contextlib.ExitStack) -> None:
    """All is done: what comes while the interpreter takes itself apart changes nothing."""
    listening.close()
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(*_) -> NoReturn:
    """In place of KeyboardInterrupt, which in the middle of an import ends in a traceback."""
    print("stopped", file=sys.stderr)
    sys.exit(130)

"""What every command does: set its process and JAX up, and print errors in one line.

Importing a command changes nothing. `start`, called where a command is the program, sets the
process up; `main` of a command may be called from anywhere.
"""

import contextlib
import errno
import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial

from experiments.cli import arguments, compilation_cache, huge_pages, stopping, streams
from fcn_jax import config as configs
from fcn_jax.runtime import machine, signals
from fcn_jax.types import InputError

Main = Callable[[list[str] | None], int | None]

CPU_DEVICES = 4
"""Devices that a CPU is counted as, at most: each holds the parameters, so more cost memory."""

PATIENCE = 300
"""Seconds that one of them waits for another."""


REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EMFILE, errno.ENFILE),
)
"""What the system refuses: the cause is outside, so a traceback would tell nothing."""

_program = False
"""Whether this process was started for a command, so that the command may set it up."""
_resumable: dict[Main, str] = {}
"""The commands that resume what a signal has stopped, and their names."""


def start(main: Main) -> None:
    """Run a command as this process's whole work: its streams and signals are the command's."""
    global _program
    _program = True
    run(main)


def resumable(name: str) -> Callable[[Main], Main]:
    """Mark the main of a command that resumes, when repeated, what a signal has stopped.

    The signal ends it with exit code 0 and the command line to repeat. A training saves its state
    first; all else, as preparing data and rendering, ends at once: nothing is lost.
    """

    def mark(main: Main) -> Main:
        _resumable[main] = name
        return main

    return mark


def tune() -> None:
    """Set the process up for numerical work, before numpy and jax are imported.

    Where the process was not started for a command, as in a test, nothing happens. It may start
    the process again, to be given huge pages; so a mistake in the flags should be found before.
    """
    if _program:
        # numpy's products here are small, and made by several threads: more would only spin.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        huge_pages.request()


def run(main: Main) -> None:
    """Call a command's main and exit; bad input is one line on stderr and exit code 2.

    A signal to a program leads to one exit code at any moment from here to the end of the process:
    0 for what can be resumed, and 128 + its number otherwise.
    """
    sys.unraisablehook = _report_unraisable
    # It says that it builds its cache of fonts, once.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with notes():
        try:
            if _program:
                streams.repair()  # before anything is opened
                signals.install(partial(_end, main))
            code = main(None) or 0
            sys.stdout.flush()
        except InputError as error:
            streams.say(message(error), "error")
            code = 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            code = 130
        except OSError as error:
            from fcn_jax.runtime import files

            if not files.is_full(error):
                if error.filename is None or error.errno not in REFUSALS:
                    raise
                streams.say(f"{error.filename}: {error.strerror}: check it", "error")
                sys.exit(2)
            # Errors of a run's files name the file: this is our own output, sent to a file.
            where = error.filename or "the output"
            streams.say(f"{where}: the disk is full: make room, then repeat", "error")
            os._exit(2)  # at an orderly exit Python would try to print again
        finally:
            if _program:
                signals.ignore()
        sys.exit(code)


def _end(main: Main, number: int) -> int:
    """Say that a signal ends the command, remove what it was writing, and give the exit code."""
    if files := sys.modules.get("fcn_jax.runtime.files"):  # an import may be going on: begin none
        files.remove_parts()
    if main in _resumable:
        stopping.say(1, stopping.resume("stopped", stopping.command(_resumable[main])))
        return 0
    stopping.say(2, "stopped\n")
    return 128 + number


# ---- what is said --------------------------------------------------------------------------------


def _report_unraisable(error) -> None:
    """Report what Python cannot raise, but for the tasks of a checkpoint that could not be written.

    They find their event loop closed, by the hundred, after the one line that says why.
    """
    if "loop is closed" not in str(error.exc_value):
        sys.__unraisablehook__(error)


class _Notes(logging.Handler):
    """Prints what the library logs: `note: ...`, `warning: ...`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line, without tearing a progress bar."""
        label = "note" if record.levelno <= logging.INFO else record.levelname.lower()
        if record.name == PROGRESS and record.levelno <= logging.INFO:
            label = ""
        kind = "best" if getattr(record, "best", False) else ""
        streams.say(record.getMessage(), label, kind)


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Within it, what the library logs appears on stderr."""
    logger, handler = logging.getLogger("fcn_jax"), _Notes(logging.INFO)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # libraries put a handler of their own on the root logger
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(handler)


PROGRESS = "fcn_jax.training.progress"
"""The logger of a training's own lines, which need no label."""

_DOTTED = re.compile(r"\b(data|model|augment|loss|optim)\.([a-z_]+)\b")


def message(error: InputError) -> str:
    """The error's line, with flags in place of the fields that it names."""

    def flag(match: re.Match[str]) -> str:
        part = getattr(configs.Config(), match[1])
        return arguments.flag(match[0]) if hasattr(part, match[2]) else match[0]

    text = _DOTTED.sub(flag, error.message)
    if error.field is None:
        return text
    return f"{arguments.flag(error.field)} {arguments.shown(error.value)}: {text}"


# ---- jax -----------------------------------------------------------------------------------------


def setup_jax(alone: bool = True) -> None:
    """Configure jax, which must not have been imported yet; calls `tune` first.

    Compiled programs are kept in the user's cache, so that the second start compiles nothing. A CPU
    counts as several devices, one for each core at first, which share a batch: a program of its own
    keeps a core busier than its part in every operation of a common one. What a compilation leaves
    behind is given back to the system.

    Args:
      alone: False where several processes make one run; a CPU is one device of each then.
    """
    tune()
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds"
    if patience not in os.environ.get("XLA_FLAGS", ""):
        # XLA ends the process if a device of a CPU waits longer for another, which does not get a
        # core where much else runs; by itself after 40 seconds.
        flags = os.environ.get("XLA_FLAGS", ""), f"{patience}={PATIENCE}"
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()

    import jax

    from fcn_jax.runtime import malloc

    # Tracing makes objects that stay: to look through them less often is a tenth of a start.
    gc.set_threshold(10_000, 20, 50)
    malloc.give_back_after_compiling()
    chosen = "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"]
    if alone and not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(machine.cores(), CPU_DEVICES))
    compilation_cache.set_up()

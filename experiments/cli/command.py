"""What every door does alike: one clear line for bad input, and jax set up before it starts."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs

from fcn_jax.runtime import files
from fcn_jax.types import InputError


def run(main: Callable[[list[str] | None], int | None]) -> None:
    """Call a door's main; bad input is one line on stderr and exit code 2."""
    try:
        code = main(None) or 0
        sys.stdout.flush()
        sys.exit(code)
    except InputError as error:
        print(f"error: {message(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os._exit(1)
    except OSError as error:
        if not files.is_full(error):
            raise
        # Files are spoken for: what is left is our output, sent to a file.
        where = error.filename or "the output"
        print(f"error: {where}: the disk is full: make room, then repeat", file=sys.stderr)
        os._exit(2)  # at an orderly exit Python would try to print again


def message(error: InputError) -> str:
    """The error's line, with the flag in place of the field that it names."""
    from experiments.cli import flags

    names = {flag.field: flag.name for group in flags.GROUPS.values() for flag in group}
    if error.field not in names:
        return str(error)
    return f"{names[error.field]} {error.value}: {error.message}"


CPU_DEVICES = 4
"""Devices that a CPU is counted as, at most: each holds the parameters, so more cost memory."""


def setup_jax(alone: bool = True) -> None:
    """Set jax up, before it starts.

    Compiled programs are kept in the user's cache, so that the second start compiles nothing. A CPU
    counts as several devices, one for each core at first, which share a batch: a program of its own
    keeps a core busier than its part in every operation of a common one. What a compilation leaves
    behind is given back to the system.

    Args:
      alone: False where several processes make one run; a CPU is one device of each then.
    """
    import jax

    from fcn_jax.runtime import malloc

    # Tracing makes objects that stay: to look through them less often is a tenth of a start.
    gc.set_threshold(10_000, 20, 50)
    malloc.give_back_after_compiling()
    if alone and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(cores(), CPU_DEVICES))
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(platformdirs.user_cache_dir("fcn_jax")) / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def image_size(text: str) -> tuple[int, int]:
    """Parse `224` or `360x480` (height x width)."""
    parts = text.lower().split("x")
    try:
        numbers = [int(p) for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(n < 32 or n > 4096 for n in numbers):
        raise InputError(
            f"--image-size {text}: give one side (224) or HEIGHTxWIDTH (360x480), each 32 to 4096"
        )
    return (numbers[0], numbers[-1])

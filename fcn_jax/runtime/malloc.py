"""The C library's allocator, set for programs that compile, and then ask for the same buffers."""

import ctypes
import sys

import jax

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let this process keep the memory it has freed, for the next step to use.

    XLA's CPU backend allocates a program's temporary buffer again at each call. glibc gives a
    buffer of that size back to the system when it is freed, so the next call pays a page fault for
    every 4 KiB it touches: a quarter of the step for the small networks. With one arena, no `mmap`
    and no trimming the pages stay.

    What it costs: the process never shrinks. It keeps its largest size, up to twice what it would
    have had, and all threads share one lock and one heap. A process that compiles leaves that heap
    in pieces, and its steps are slower than without. Seconds of a step, FCN at batch 16 (U-Net
    at 4), on 2 cores:

    - without huge pages: 1.07; kept 1.02 in the process that compiled, 0.88 in the next ones
    - with huge pages: 0.90 (3.5); kept 1.0 (5.5) and 0.86 (3.5)

    Buffers on a GPU are not concerned. Call it before JAX starts; never on import.

    Returns:
        Whether it took effect: only with glibc, so on most Linux systems and not elsewhere.
    """
    mallopt = _from_glibc("mallopt")
    wanted = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))  # -1: never
    return mallopt is not None and all(mallopt(*option) == 1 for option in wanted)


COMPILED = "/jax/core/compile/backend_compile_duration"
"""What JAX reports after each compilation, with the seconds it took ..."""
LONG = 0.1
"""... and how many leave enough behind to be worth the milliseconds it takes to give it back."""


def give_back_after_compiling() -> None:
    """From now on let this process give the memory that a compilation has freed to the system.

    The compiler frees what it needed, but in small pieces, and those glibc keeps: 300 to 600 MiB
    for a training step, beside the buffers of the first step. To be called once.
    """
    trim = _from_glibc("malloc_trim")
    if trim is None:
        return

    def after(event: str, duration_secs: float, **_) -> None:
        if event == COMPILED and duration_secs > LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)


def _from_glibc(function: str):
    """A function of the C library, where that is glibc; else None."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), function)
    except (OSError, AttributeError):  # another C library
        return None

"""The C library's allocator, in a process that compiles."""

import ctypes

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
"""What JAX reports after each compilation, with the seconds it took ..."""
LONG = 0.1
"""... and how many leave enough behind to be worth the milliseconds it takes to give it back."""


def give_back_after_compiling() -> None:
    """From now on let this process give the memory that a compilation has freed to the system.

    The compiler frees what it needed, but in small pieces, and those glibc keeps: 300 to 600 MiB
    for a training step, beside the buffers of the first step. To be called once.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return

    def after(event: str, duration_secs: float, **_) -> None:
        if event == COMPILED and duration_secs > LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)

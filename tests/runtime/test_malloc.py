"""The allocator gives memory back: seen from outside, in a process of its own."""

import subprocess
import sys
from typing import Any

import jax
import pytest

from fcn_jax.runtime import malloc

PREAMBLE = """
import ctypes, sys, jax
from fcn_jax.runtime import malloc
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
"""


def printed(program: str, mode: str) -> list[int]:
    """The numbers that a program prints in a process of its own."""
    out = subprocess.check_output([sys.executable, "-c", PREAMBLE + program, mode])
    return [int(line) for line in out.split()]


GIVE_BACK = """
if sys.argv[1] == "give":
    malloc.give_back_after_compiling()
size = 64 * 2**10
blocks = [libc.malloc(ctypes.c_size_t(size)) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, size)
for block in blocks[:-1]:  # the last holds the rest in its place
    libc.free(block)
before = resident()
for seconds in (0.01, 5.0):
    jax.monitoring.record_event_duration_secs(malloc.COMPILED, seconds)
    print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_what_a_long_compilation_leaves_is_given_back():
    brief, long = printed(GIVE_BACK, "give")
    assert brief < 2**20
    assert long > 55 * 2**20
    assert max(printed(GIVE_BACK, "default")) < 2**20


def test_jax_reports_compilations_by_that_name():
    seen = []
    listener: Any = lambda event, seconds, **_: seen.append(event)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        jax.jit(lambda x: x * 3 + 1)(2.0)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert malloc.COMPILED in seen


def test_other_systems_are_left_alone(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(malloc.ctypes, "CDLL", missing)
    listeners = []
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", listeners.append)
    malloc.give_back_after_compiling()
    assert not listeners

"""The allocator keeps freed memory: seen from outside, in a process of its own."""

import subprocess
import sys

import pytest

from fcn_jax import allocator

PROGRAM = """
import ctypes, sys
from fcn_jax import allocator
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
if sys.argv[1] == "keep":
    assert allocator.keep_freed_memory()
size = 64 * 2**20
block = libc.malloc(ctypes.c_size_t(size))
ctypes.memset(block, 1, size)
libc.free(block)
print(resident())
"""


def resident(mode: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", PROGRAM, mode]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_stays():
    assert resident("keep") - resident("default") > 60 * 2**20


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False

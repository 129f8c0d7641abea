"""Huge pages for a CPU's arrays, which have to be requested before the interpreter starts.

XLA's CPU backend allocates a program's temporary memory again at every step, and glibc takes it
from the system: a page fault for each 4 KiB that is touched, up to 40 % of a training step. Pages
of 2 MiB need 500 times fewer. Most Linux systems give them to programs that request them
(`madvise`), which glibc does if an environment variable says so when the process starts; `mallopt`
has no such option. This module imports nothing heavy.
"""

import os
import platform
import sys
from pathlib import Path

from fcn_jax.runtime import signals

VARIABLE = "GLIBC_TUNABLES"
REQUEST = "glibc.malloc.hugetlb=1"
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def request() -> None:
    """Start this process again with the request in its environment, if that would change anything.

    Nothing happens elsewhere than on Linux with glibc, where the system gives huge pages to all or
    to none, and where the variable is set already: `GLIBC_TUNABLES= python -m ...` declines.
    """
    if available():
        with signals.held() as ending:  # until that process has installed its handlers
            if not ending:
                os.environ[VARIABLE] = REQUEST
                os.execv(sys.executable, sys.orig_argv)


def available() -> bool:
    """Whether a request would change anything."""
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc" or not sys.executable:
        return False
    try:
        return "[madvise]" in POLICY.read_text()
    except OSError:
        return False


def requested() -> bool:
    """Whether this process has requested them."""
    return REQUEST in os.environ.get(VARIABLE, "")

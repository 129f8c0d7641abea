"""Huge pages for a CPU's arrays: to be asked for before the interpreter starts.

XLA's CPU backend allocates a program's temporary memory afresh at every step, and glibc takes it
from the system anew: a fault for each 4 KiB page that is touched, up to 40 % of a training step.
Pages of 2 MiB need 500 times fewer. Most Linux systems give them to those who ask (`madvise`),
which glibc does if an environment variable says so when the process starts. This module is read
before any other and imports nothing heavy.
"""

import os
import platform
import sys
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
WISH = "glibc.malloc.hugetlb=1"
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask() -> None:
    """Start this process anew with the wish in its environment, if it is one to be fulfilled.

    Nothing happens elsewhere than on Linux with glibc, where the system gives huge pages to all or
    to none, and where the variable is set already: `GLIBC_TUNABLES= python -m ...` declines.
    """
    if wanted():
        os.environ[VARIABLE] = WISH
        os.execv(sys.executable, sys.orig_argv)


def wanted() -> bool:
    """Whether the wish would change anything."""
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc" or not sys.executable:
        return False
    try:
        return "[madvise]" in POLICY.read_text()
    except OSError:
        return False


def asked() -> bool:
    """Whether this process asks for them."""
    return WISH in os.environ.get(VARIABLE, "")

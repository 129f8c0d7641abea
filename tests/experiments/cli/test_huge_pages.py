"""Huge pages are requested where that helps, once, and before anything heavy is imported."""

import os
import subprocess
import sys

import pytest

from experiments.cli import huge_pages


@pytest.fixture
def madvise(monkeypatch, tmp_path):
    """A system that gives huge pages to programs that request them."""
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "POLICY", policy)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    return policy


def test_the_process_starts_again_with_the_same_command_line(madvise, monkeypatch):
    started = []
    monkeypatch.setattr(huge_pages.os, "execv", lambda *call: started.append(call))
    huge_pages.request()
    assert started == [(sys.executable, sys.orig_argv)]
    assert huge_pages.requested()
    huge_pages.request()  # as the new process does
    assert len(started) == 1


@pytest.mark.parametrize("policy", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_is_done_where_they_are_always_or_never_given(madvise, policy):
    assert huge_pages.available()
    if policy is None:
        madvise.unlink()
    else:
        madvise.write_text(policy)
    assert not huge_pages.available()


def test_other_c_libraries_and_a_variable_that_is_set_are_left_alone(madvise, monkeypatch):
    monkeypatch.setenv(huge_pages.VARIABLE, "")
    assert not huge_pages.available()
    monkeypatch.delenv(huge_pages.VARIABLE)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("", ""))
    assert not huge_pages.available()


def test_a_command_requests_them_before_it_runs():
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    code = (
        "import os; from experiments.cli import command; "
        "command.start(lambda _: (command.tune(), print(os.environ.get('GLIBC_TUNABLES')))[:0])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed.strip() == expected_environment()


def expected_environment() -> str:
    """What the variable holds where it was not set before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(huge_pages.VARIABLE, raising=False)
        return huge_pages.REQUEST if huge_pages.available() else "None"


@pytest.mark.skipif(expected_environment() == "None", reason="not given on request here")
def test_large_arrays_are_in_huge_pages():
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    code = """
from experiments.cli import command

def main(argv):
    command.tune()
    import numpy as np
    array = np.ones(2**26, np.uint8)
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("AnonHugePages"):
            print(line.split()[1])

command.start(main)
"""
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert int(printed) > 50_000  # kB, of 65 536

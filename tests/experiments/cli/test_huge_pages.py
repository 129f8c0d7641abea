"""Huge pages are asked for where that helps, once, and before anything heavy is imported."""

import os
import subprocess
import sys

import pytest

from experiments.cli import huge_pages


@pytest.fixture
def madvise(monkeypatch, tmp_path):
    """A system that gives huge pages to those who ask."""
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "POLICY", policy)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    return policy


def test_the_process_starts_anew_with_the_same_command_line(madvise, monkeypatch):
    started = []
    monkeypatch.setattr(huge_pages.os, "execv", lambda *call: started.append(call))
    huge_pages.ask()
    assert started == [(sys.executable, sys.orig_argv)]
    assert huge_pages.asked()
    huge_pages.ask()  # as the new process does
    assert len(started) == 1


@pytest.mark.parametrize("policy", ["[always] madvise never", "always madvise [never]", None])
def test_where_they_come_by_themselves_or_never_nothing_is_done(madvise, policy):
    assert huge_pages.wanted()
    if policy is None:
        madvise.unlink()
    else:
        madvise.write_text(policy)
    assert not huge_pages.wanted()


def test_other_c_libraries_and_a_variable_that_is_set_are_left_alone(madvise, monkeypatch):
    monkeypatch.setenv(huge_pages.VARIABLE, "")
    assert not huge_pages.wanted()
    monkeypatch.delenv(huge_pages.VARIABLE)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("", ""))
    assert not huge_pages.wanted()


def environment_of(program: str) -> str:
    """What the C library is told in a new process that imports the doors."""
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    program += "; import os, experiments; print(os.environ.get('GLIBC_TUNABLES'))"
    return subprocess.check_output(
        [sys.executable, "-c", program], env=environment, text=True
    ).strip()


def test_opening_a_door_asks_and_importing_one_does_not(monkeypatch):
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    expected = huge_pages.WISH if huge_pages.wanted() else "None"
    assert environment_of("import sys; sys.argv[0] = '-m'") == expected
    assert environment_of("pass") == "None"

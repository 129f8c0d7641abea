"""A signal while a door imports, prepares or draws: a line, the right exit code, no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import huge_pages, stopping

ROOT = Path(__file__).parents[3]


def opened(module: str, *arguments: str, busy: str, before: str = "pass") -> subprocess.Popen:
    """A door that does `busy` where it would import what is heavy."""
    called = ["python", "-m", module, *arguments]
    code = (
        "import signal, sys; "  # heard as at a terminal, also where these tests run unheard
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.argv[0] = '-m'; sys.orig_argv = {called}; {before}; "
        f"import experiments; print('listening', flush=True); {busy}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, huge_pages.VARIABLE: ""},  # it does not start anew
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


IMPORTING = "import time; time.sleep(60)"
COMPILING = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"  # minutes, in C


def answer(process: subprocess.Popen, number: int) -> tuple[int, str, str]:
    """Exit code, output and errors after the signal."""
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            time.sleep(0.1)  # so that it is busy
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [IMPORTING, COMPILING])
def test_a_door_that_goes_on_says_with_which_command(number, busy):
    process = opened("experiments.run", "--workdir", "my runs/a", busy=busy)
    expected = (
        "stopped, with nothing lost; to go on:\n  python -m experiments.run --workdir 'my runs/a'\n"
    )
    assert answer(process, number) == (0, expected, "")


def test_another_door_stops_as_by_an_interrupt_without_a_traceback():
    process = opened("experiments.predict", busy=IMPORTING)
    assert answer(process, signal.SIGINT) == (130, "", "stopped\n")


def test_another_door_leaves_sigterm_alone():
    process = opened("experiments.predict", busy=IMPORTING)
    assert answer(process, signal.SIGTERM) == (-signal.SIGTERM, "", "")


def test_once_all_is_done_a_signal_changes_nothing():
    # What is registered first is called last.
    late = "import atexit, os; atexit.register(os.kill, os.getpid(), 15)"
    with opened("experiments.run", busy="print('done')", before=late) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "listening\ndone\n", "")


def test_the_doors_that_go_on_are_there():
    for name in stopping.GO_ON:
        assert (ROOT / f"{name.replace('.', '/')}.py").exists()

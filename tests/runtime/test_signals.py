"""Signals: the first is a wish, the second an order, also while the interpreter is not asked."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fcn_jax.runtime import signals

# Minutes in C, without the interpreter: as a step, or the compilation of one.
BUSY = """
import hashlib, sys
from fcn_jax.runtime import signals

with signals.noticed():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_is_noticed_and_answered(capsys, number):
    before = signal.getsignal(number)
    with signals.noticed() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
    assert "finishing the step" in capsys.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_second_ends_the_process_whatever_it_is_busy_with(number):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "busy\n"
            process.send_signal(number)
            assert process.stderr.readline() == "\n"
            assert process.stderr.readline().startswith("finishing the step")
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(5) == 128 + number
        finally:
            process.kill()


def test_the_first_may_end_it_at_once_whatever_it_is_busy_with():
    code = BUSY.replace("noticed()", "noticed(lambda: os._exit(0))")
    with subprocess.Popen(
        [sys.executable, "-c", f"import os\n{code}"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "busy\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        finally:
            process.kill()


def test_other_signals_are_left_alone():
    seen, before = [], signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        with signals.noticed() as asked:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
            assert seen
            assert not asked()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_in_another_thread_nothing_is_changed():
    before, said = signal.getsignal(signal.SIGTERM), []

    def inside():
        with signals.noticed() as asked:
            said.append((asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert said == [(False, before)]

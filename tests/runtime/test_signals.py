"""Signals: the first asks to stop, one that comes a second later ends the process at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fcn_jax.runtime import signals

# Minutes in C, without the interpreter: as a step, or the compilation of one.
BUSY = """
import hashlib, sys
from fcn_jax.runtime import signals

with signals.handling():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
# Ends by itself after a moment, as a step that is finished.
STEP = """
import time
from fcn_jax.runtime import signals

with signals.handling():
    print("busy", flush=True)
    time.sleep(1.3)
"""


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_is_noticed_and_logged(caplog, number):
    before = signal.getsignal(number)
    with signals.handling("finishing the step") as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()
    assert caplog.messages == ["finishing the step (again to stop at once)"]
    assert caplog.records[0].name == "fcn_jax.runtime.signals"
    assert signal.getsignal(number) is before


def _started(code: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "busy\n"
    return process


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_one_a_second_later_ends_the_process_whatever_it_is_busy_with(number):
    with _started(BUSY) as process:
        try:
            process.send_signal(number)
            assert process.stderr
            assert process.stderr.readline().startswith("stop requested: finishing the step")
            time.sleep(1.1)
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(5) == 128 + number
        finally:
            process.kill()


@pytest.mark.parametrize("pair", [(2, 15), (15, 15)])
@pytest.mark.parametrize("pause", [0, 0.5])
def test_two_within_a_second_are_one(pair, pause):
    """As GNU `timeout`, `srun` and a terminal's process group send them."""
    with _started(STEP) as process:
        try:
            for number in pair:
                process.send_signal(number)
                time.sleep(pause)
            assert process.wait(10) == 0
            assert process.stderr
            assert process.stderr.read().count("stop requested") == 1
        finally:
            process.kill()


def test_other_signals_are_left_alone():
    seen, before = [], signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        with signals.handling() as stop_requested:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
            assert seen
            assert not stop_requested()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_nested_call_shares_the_outer_one():
    before = signal.getsignal(signal.SIGTERM)
    with signals.handling() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        with signals.handling() as inner:
            assert inner()
        assert outer()
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with signals.handling() as again:
        assert not again()


def test_in_another_thread_nothing_is_changed():
    before, found = signal.getsignal(signal.SIGTERM), []

    def inside():
        with signals.handling() as stop_requested:
            found.append((stop_requested(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [(False, before)]

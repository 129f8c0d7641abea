"""Commands that can be resumed end well at every signal: exit code 0, and how to resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import command
from fcn_jax.runtime import signals

# Prepares, makes a step, renders; each as long as its argument says.
PROGRAM = """
import sys, time
from experiments.cli import command
from fcn_jax.runtime import signals

def main(argv):
    prepare, step, render = map(float, sys.argv[1:])
    with command.resumable("the same command"):
        print("begun", flush=True)
        time.sleep(prepare)
        with signals.handling() as stop_requested:
            end = time.monotonic() + step
            while time.monotonic() < end and not stop_requested():
                time.sleep(0.01)
        if stop_requested():
            print("stopped after a step", flush=True)
            time.sleep(render)
            return 0
        time.sleep(render)
        print("finished")

command.start(main)
"""


def _run(seconds: str, *pauses: float, number: int = signal.SIGTERM) -> tuple[int, str]:
    """Exit code and output of the program when a signal comes after each pause."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *seconds.split()],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "begun\n"
            for pause in pauses:
                time.sleep(pause)
                process.send_signal(number)
            output, _ = process.communicate(timeout=20)
            return process.returncode, output
        finally:
            process.kill()


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_while_it_prepares(number):
    assert _run("9 0 0", 0.1, number=number) == (0, "stopped; to resume:\n  the same command\n")


def test_while_it_renders():
    assert _run("0 0 9", 0.3) == (0, "stopped; to resume:\n  the same command\n")


@pytest.mark.parametrize("pause", [0, 0.05, 0.6])
def test_a_second_signal_finds_the_work_of_the_first_done(pause):
    """As GNU timeout and process groups send it: the step may have ended long before."""
    code, output = _run("0 9 1.5", 0.3, pause)
    assert code == 0
    assert "stopped after a step" in output
    assert "Traceback" not in output


def test_in_another_program_the_handlers_are_given_back(monkeypatch):
    monkeypatch.setattr(signals, "_last", [])  # as if no test had sent one just now
    before = [signal.getsignal(s) for s in signals.SIGNALS]

    def stopped():
        with command.resumable("it"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(SystemExit) as ended:
        stopped()
    assert ended.value.code == 0
    assert [signal.getsignal(s) for s in signals.SIGNALS] == before

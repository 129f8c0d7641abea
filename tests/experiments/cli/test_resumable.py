"""Every command ends well at every signal, at any moment: one exit code, and nothing lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import command
from fcn_jax.runtime import signals

ROOT = Path(__file__).parents[3]
INT, TERM = signals.SIGNALS
RESUMED = "stopped; to resume:\n  python -m experiments.example"

# Prepares, makes a step, renders; each as long as its argument says.
PROGRAM = """
import sys, time
from experiments.cli import command
from fcn_jax.runtime import signals

@command.resumable("example")
def main(argv):
    prepare, step, render = map(float, sys.argv[1:])
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
# What modules do as they are imported; the signal comes while the string is executed.
EXECUTES = """
import os, time
from experiments.cli import command

SOURCE = "os.kill(os.getpid(), {number})\\ntime.sleep(20)\\nprint('never')"

{mark}
def main(argv):
    exec(SOURCE)

command.start(main)
"""
# Busy for minutes, without the interpreter, while a file is being written.
BUSY = """
import hashlib, pathlib
from experiments.cli import command
from fcn_jax.runtime import files

def main(argv):
    with files.replacing(pathlib.Path("result.json")) as part:
        part.write_text("half of i")
        print("begun", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

command.start(main)
"""
# Starts again, as for huge pages; the signal comes when the new process has no handlers yet, or
# just before, when the thread that listens has no time to act.
STARTS_AGAIN = """
import os, sys, time
from experiments.cli import command, huge_pages

execv = os.execv
BEFORE = "import os, sys; os.kill(os.getpid(), {number}); os.execv(sys.executable, sys.argv[1:])"

def interrupted(program, words):
    execv(program, [program, "-c", BEFORE, *words] if sys.argv[1] == "after" else words)

@command.resumable("example")
def main(argv):
    if "again" not in os.environ:
        os.environ["again"] = "yes"
        huge_pages.available, huge_pages.os.execv = lambda: True, interrupted
        if sys.argv[1] == "before":
            sys.setswitchinterval(20)
            os.kill(os.getpid(), {number})
        huge_pages.request()
    time.sleep(20)
    print("never")

command.start(main)
"""
# Runs a command in a child, again and again; the signals come at a later instruction each time.
# Tells, a line a child, the exit code and the last line that was printed.
EVERYWHERE = """
import contextlib, os, sys, tempfile, time
from experiments.cli import command, stopping
from fcn_jax.runtime import signals

FILES = {m.__file__ for m in (command, stopping, signals, contextlib)} | {__file__, "<string>"}
mark, first, stride, *later = sys.argv[1:]

def main(argv):
    exec("a = 1")
    with signals.handling() as stop_requested:
        exec("a = 1")
    return 0 if stop_requested() else exec("a = 1")

if mark == "resumable":
    main = command.resumable("example")(main)

def child(at, reached, printed, pause):
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    def trace(frame, event, _):
        nonlocal at
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        at -= event == "opcode"
        if not at:
            os.write(reached, b"yes")
            for number in (first, *later):
                os.kill(os.getpid(), int(number))
            time.sleep(pause)
        return trace
    sys.settrace(trace)
    command.start(main)

at, reached = 0, b"yes"
while reached:
    at += int(stride)
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as printed:
        if not (pid := os.fork()):
            # Every other one waits a little, so that the thread acts before the command is over.
            child(at, writing, printed.fileno(), at % 2 * 0.03)
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        reached = os.read(reading, 9)
        os.close(reading)
        printed.seek(0)
        lines = [line for line in printed.read().decode().splitlines() if "warning" not in line]
        print(code, (lines or [""])[-1].strip(), flush=True)  # or children write it again
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program as users do, with `python -m`, and ends it after the test."""
    started = []

    def start(code: str, *words: str) -> subprocess.Popen:
        (tmp_path / "example.py").write_text(code)
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "example", *words],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def _ended(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.strip()


@pytest.fixture
def run(start):
    """Exit code and output of the program when a signal comes after each pause."""

    def run(seconds: str, *pauses: float, number: int = TERM) -> tuple[int, str]:
        process = start(PROGRAM, *seconds.split())
        assert process.stdout.readline() == "begun\n"
        for pause in pauses:
            time.sleep(pause)
            process.send_signal(number)
        return _ended(process)

    return run


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_while_it_prepares(run, number):
    assert run("9 0 0", 0.1, number=number) == (0, f"{RESUMED} 9 0 0")


def test_while_it_renders(run):
    assert run("0 0 9", 0.3) == (0, f"{RESUMED} 0 0 9")


@pytest.mark.parametrize("pause", [0, 0.05, 0.6])
def test_a_second_signal_finds_the_work_of_the_first_done(run, pause):
    """As GNU timeout and process groups send it: the step may have ended long before."""
    code, output = run("0 9 1.5", 0.3, pause)
    assert code == 0
    assert "stopped after a step" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_while_a_string_is_executed(start, number):
    """Python would end by SIGINT here, if the signal raised a KeyboardInterrupt."""
    marked = EXECUTES.format(number=int(number), mark="@command.resumable('example')")
    assert _ended(start(marked)) == (0, RESUMED)
    assert _ended(start(EXECUTES.format(number=int(number), mark=""))) == (128 + number, "stopped")


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_while_the_process_starts_again(start, moment, number):
    """Neither lost, nor the end of a process that has no handlers yet."""
    process = start(STARTS_AGAIN.format(number=int(number)), moment)
    assert _ended(process) == (0, f"{RESUMED} {moment}")


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_while_the_interpreter_is_busy_elsewhere(start, tmp_path, number):
    process = start(BUSY)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert _ended(process) == (128 + number, "stopped")
    assert not list(tmp_path.glob("*result.json*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
@pytest.mark.parametrize("pair", [(TERM, INT), (TERM, TERM), (TERM,)])
@pytest.mark.parametrize("mark", ["resumable", "plain"])
def test_at_every_instruction(start, mark, pair):
    """Before the handlers stand, SIGTERM ends the process as any other; after that one code."""
    words = [mark, str(int(pair[0])), "7", *(str(int(n)) for n in pair[1:])]
    lines = _ended(start(EVERYWHERE, *words))[1].splitlines()
    codes = [int(line.split()[0]) for line in lines]
    early = codes.count(-TERM)
    assert codes[:early] == [-TERM] * early
    ends = {line.partition(" ")[2] for line in lines[early:]}
    if mark == "resumable":
        assert set(codes[early:]) == {0}
        assert ends == {"", f"{RESUMED.splitlines()[1].strip()} {' '.join(words)}"}
    else:  # the kernel delivers what was held back in the order of the numbers
        assert {0, 128 + pair[0]} <= set(codes[early:]) <= {0, *(128 + n for n in pair)}
        assert ends == {"", "stopped"}
    assert len(codes) - early > 50


def test_in_another_program_nothing_is_installed():
    before = [signal.getsignal(s) for s in signals.SIGNALS]
    with pytest.raises(SystemExit) as ended:
        command.run(command.resumable("example")(lambda _: 0))
    assert ended.value.code == 0
    assert [signal.getsignal(s) for s in signals.SIGNALS] == before

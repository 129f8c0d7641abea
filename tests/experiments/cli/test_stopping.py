"""What a command says when a signal has stopped it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.cli import stopping


def test_the_command_to_resume_can_be_pasted(capsys):
    stopping.stopped("stopped", stopping.command("run", ["--workdir", "my runs/a"]))
    expected = "stopped; to resume:\n  python -m experiments.run --workdir 'my runs/a'\n"
    assert capsys.readouterr().out == expected


def test_an_interrupted_command_ends_without_a_traceback():
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from experiments.cli import command; "
        "command.run(lambda _: (print('busy', flush=True), time.sleep(60)))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "busy\n"
            time.sleep(0.1)
            os.kill(process.pid, signal.SIGINT)
            assert process.communicate(timeout=20)[1] == "stopped\n"
        finally:
            process.kill()
    assert process.returncode == 130

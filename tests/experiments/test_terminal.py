"""A run as it is seen: on terminals of two widths, on a dumb one, and in a file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

CODE = """
import sys
from experiments import run
from experiments.cli import command
from fcn_jax import models
from fcn_jax.data import prepare
from tests import fakes

models.MODELS["tiny"] = fakes.TINY
prepare.load = lambda *_, **__: fakes.dataset(24, 8)
arguments = "--arch tiny --dataset fake --image-size 32 --batch-size 3 --epochs 3 --lr 0.03"
command.run(lambda _: run.main([*arguments.split(), "--workdir", sys.argv[1]]))
"""

pytestmark = pytest.mark.slow

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
EPOCH = re.compile(r" +[123]/3( +\d+\.\d{4}){4} \([123]\) +\d+\.\d +\d+ s", re.MULTILINE)


def environment(term: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    return {**kept, "TERM": term, "JAX_PLATFORMS": "cpu"}


def recorded(folder: Path, columns: int, term: str) -> str:
    """All that a terminal of this width gets to show."""
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(term),
    )  # fmt: skip
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode()
    assert process.wait() == 0, text
    return text.replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal(tmp_path, columns):
    """Bars come and go; what stays is whole, and a line for each epoch is part of it."""
    text = recorded(tmp_path / "run", columns, "xterm-256color")
    drawn = without_colours(text)
    assert len(drawn) < len(text)  # the best epochs are coloured
    assert CONTROL.findall(drawn.replace("\r", "")) == []
    # What a path alone makes wider is not broken, so that it can be copied.
    wide = [line for line in re.split("[\r\n]", drawn) if len(line) > columns]
    assert [line for line in wide if str(tmp_path) not in line] == []
    bars = [line for line in re.split("[\r\n]", drawn) if re.match(r"epoch \d/3 +\d+% \|", line)]
    assert re.search(r"img/s, \d\d:\d\d left, loss \d\.\d{3}, mIoU 0\.\d{4}", bars[-1])
    assert len(bars[-1].split("|")[1]) >= 8
    # The last thing drawn on a bar's line wipes it out.
    stays = [line.rpartition("\r")[2] for line in drawn.split("\n")]
    assert not any("%|" in line or "% |" in line for line in stays)
    assert len(EPOCH.findall("\n".join(stays))) == 3


@pytest.mark.parametrize("where", ["dumb", "file"])
def test_a_dumb_terminal_and_a_file(tmp_path, where):
    """No bar, no colour, no control character."""
    if where == "dumb":
        text = recorded(tmp_path / "run", 80, "dumb")
    else:
        command = [sys.executable, "-c", CODE, str(tmp_path / "run")]
        text = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment("xterm"),
            check=True, text=True,
        ).stdout  # fmt: skip
    assert CONTROL.findall(text) == []
    assert "|" not in text
    assert len(EPOCH.findall(text)) == 3
    for line in ("device: ", "data: fake, ", "network: tiny, ", "run: 3 epochs of 8 steps"):
        assert f"\n{line}" in f"\n{text}"

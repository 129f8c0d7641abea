"""Standard output and error in every state: the work is done, and exits as if all were well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

WORK = """
import os, sys
from experiments.cli import command

def main(argv):
    print("Gebäude, 道路, \\udcff")
    print("bad name: \\udcff", file=sys.stderr)
    for _ in range(20_000):
        print("many lines of output")
        print("many lines of progress", file=sys.stderr)
    sys.stdout.isatty(), sys.stderr.isatty()
    with open(os.environ["DONE"], "w") as file:
        file.write("done")

command.start(main)
"""


def work(tmp_path, redirections: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the program in a shell with these redirections."""
    (tmp_path / "work.py").write_text(WORK, encoding="utf-8")
    done = tmp_path / "done"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} {tmp_path}/work.py {redirections}"],
        cwd=ROOT,
        env={**os.environ, "DONE": str(done), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=False,
    )
    assert done.read_text() == "done"
    return result


@pytest.mark.parametrize(
    "redirections",
    [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-", "| head -n 1", "2>&1 | head -n 1"],
)
def test_closed_streams_and_readers_that_leave(tmp_path, redirections):
    assert work(tmp_path, redirections).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_the_encoding_lacks_is_escaped(tmp_path, encoding):
    result = work(tmp_path, "", PYTHONIOENCODING=encoding)
    first = result.stdout.splitlines()[0].decode(encoding)
    assert r"\u9053\u8def, \udcff" in first
    assert result.returncode == 0


def test_utf8_stays_as_it_is(tmp_path):
    result = work(tmp_path, "", PYTHONIOENCODING="utf-8")
    assert result.stdout.splitlines()[0].decode() == r"Gebäude, 道路, \udcff"
    assert result.stderr.splitlines()[0] == rb"bad name: \udcff"

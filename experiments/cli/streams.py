"""Standard output and error that never end a run: any text, any terminal, any reader.

A class name that the terminal's encoding lacks, a file name that is no UTF-8, a pipe whose reader
has gone, a stream that was closed before the start: what is printed may be lost, the work is not.
"""

import errno
import io
import os
import sys
import textwrap
from typing import TextIO

from fcn_jax.runtime import terminal
from fcn_jax.runtime.text import plain

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Nobody reads any more: a closed pipe, a terminal that hung up, a closed descriptor."""


COLOURS = {"error": "1;31", "warning": "33", "best": "32"}
"""Of a line's label, or of a whole line, on a terminal; `NO_COLOR` in the environment: none."""


class _Output(io.FileIO):
    """A descriptor that is written to until nobody reads it, and then discards."""

    def write(self, data) -> int:
        """Write, or discard what nobody will read; a full disk is still an error."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in GONE:
                raise
            discard = os.open(os.devnull, os.O_WRONLY)
            os.dup2(discard, self.fileno())
            os.close(discard)
            return len(data)


def repair() -> None:
    """Replace this process's standard streams by ones that no text and no reader can break."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would become standard output
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - as long as we live
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def say(text: str, label: str = "", kind: str = "") -> None:
    """Print `label: text` on standard error, without tearing a progress bar.

    A terminal gets it wrapped at words and coloured; a file or a pipe gets one line as it is.

    Args:
      text: control characters, as a file's name may hold, are replaced.
      label: `error`, `warning` or `note`; none if empty.
      kind: `best`: the whole line is coloured.
    """
    line = f"{label}: {plain(text)}" if label else plain(text)
    if sys.stderr.isatty():
        line = fitted(line, sys.stderr)
        if terminal.redraws() and not os.environ.get("NO_COLOR"):
            part = line if kind else label
            if code := COLOURS.get(kind or label):
                line = f"\x1b[{code}m{part}\x1b[0m{line[len(part) :]}"
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def fitted(line: str, stream: TextIO) -> str:
    """The line broken between words where a stream is a terminal: paths and flags stay whole."""
    columns = (os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else 0
    if not columns or len(line) <= columns:
        return line
    return textwrap.fill(
        line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _stream(descriptor: int, former) -> io.TextIOWrapper:
    if former is not None:
        former.flush()
    output = _Output(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=getattr(former, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or output.isatty(),
    )

"""Standard output and error that never end a run: any text, any terminal, any reader.

A class name that the terminal's encoding lacks, a file name that is no UTF-8, a pipe whose reader
has gone, a stream that was closed before the start: what is printed may be lost, the work is not.
"""

import errno
import io
import os
import sys

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Nobody reads any more: a closed pipe, a terminal that hung up, a closed descriptor."""


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

"""SIGINT and SIGTERM as a request to stop; a second one, a second later, ends the process.

Nothing here is installed on import. `handling` is for code that looks whether a signal has come;
`install` is for a program, and ends it wherever no such code runs.

No handler raises an exception. Where a C++ library is being imported, or calls Python, one becomes
an ImportError or a crash; and `python -m` ends by SIGINT, whatever the exit code, if a
KeyboardInterrupt has left a string that was passed to `exec`, though it was caught later.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 1.0
"""Signals that follow the first one within this time belong to it: a terminal, GNU `timeout`,
`srun` and process groups send several for one wish to stop."""

StopRequested = Callable[[], bool]
"""Whether a signal has come."""

_logger = logging.getLogger(__name__)
_active: list[StopRequested] = []
_received: list[int] = []
"""The signals that have come, since the outermost `handling` began or to a program."""

End = Callable[[int], int]
"""Says that a signal ends the program, and gives the exit code."""


def install(end: End) -> None:
    """Let the first signal end the process at once, unless `handling` waits for it.

    For a program's main thread, from its start until `ignore` at its end. What it does must bear to
    be ended anywhere, as by SIGKILL: files are written whole or not at all.

    Args:
      end: called in a thread before the end, however busy the main thread is.
    """
    with held():  # the thread must not take a signal from the main thread
        _program.append(_Listener(end=end))
        for number in SIGNALS:
            signal.signal(number, _receive)


def ignore() -> None:
    """Ignore what comes from now on: while Python ends, it would change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[bool]:
    """Hold back what comes inside; a program that is executed inside gets it when it installs.

    Yields whether one has come before, which the program would not get.
    """
    set_mask = getattr(signal, "pthread_sigmask", lambda *_: None)  # which Windows lacks
    try:
        set_mask(getattr(signal, "SIG_BLOCK", 0), SIGNALS)
        yield bool(_received)
    finally:
        set_mask(getattr(signal, "SIG_UNBLOCK", 0), SIGNALS)


def _receive(number: int, _: object) -> None:
    _received.append(number)


@contextlib.contextmanager
def handling(
    message: str = "stop requested: finishing the step, then saving",
) -> Iterator[StopRequested]:
    """Handle SIGINT and SIGTERM inside; yield a function that says whether one has come.

    Python runs signal handlers between two of its own instructions, and a training step, or its
    compilation, is a single one. So a thread listens too: it logs `message` when the first signal
    comes, and ends the process with 128 + its number at a second one that comes `GRACE_SECONDS` or
    more after the first.

    Nested calls share the outermost one. Only the main thread can handle signals; in any other
    thread nothing changes and the function always returns False.

    >>> with handling() as stop_requested:
    ...     while not stop_requested():
    ...         break

    Args:
      message: what is logged at the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    if _active:
        yield _active[0]
        return
    with _listening(message):
        previous = {s: signal.signal(s, _receive) for s in SIGNALS}
        _active.append(lambda: bool(_received))
        try:
            yield _active[0]
        finally:
            _active.clear()
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def _listening(message: str) -> Iterator[None]:
    """Log `message` at the first signal, by the program's listener or by one of its own."""
    if _program:
        _program[0].message = message
        try:
            yield
        finally:
            _program[0].message = None
        return
    listener = _Listener(message)
    try:
        yield
    finally:
        listener.close()
        _received.clear()


class _Listener:
    """A thread that reads the numbers of the signals as they come, while Python may be busy.

    Attributes:
      message: what it logs at the first one; None: the program ends.
    """

    def __init__(self, message: str | None = None, end: End | None = None) -> None:
        """Listen from now on."""
        self.message, self._end = message, end
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._previous = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Listen no more."""
        signal.set_wakeup_fd(self._previous)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _listen(self) -> None:
        """End the process at the second wish to stop, or at the first where none waits for it."""
        number = self._next()
        if number is None:
            return
        end, message = time.monotonic() + GRACE_SECONDS, self.message
        if message is None:
            self._exit(number, self._end)
        _logger.warning("%s (again to stop at once)", message)
        # What has come until here came with the first, however long the line took to be written.
        with contextlib.suppress(TimeoutError):
            while True:
                if self._next(max(end - time.monotonic(), 1e-6)) is None:
                    return
        number = self._next()
        if number is not None:
            self._exit(number, self._end if self.message is None else None)

    def _exit(self, number: int, end: End | None) -> NoReturn:
        """End the process, whatever it is doing."""
        code = 128 + number
        try:
            if end is not None:
                code = end(number)
        finally:
            os._exit(code)

    def _next(self, timeout: float | None = None) -> int | None:
        """The next of `SIGNALS`; None once it is closed, TimeoutError if none comes."""
        self._reader.settimeout(timeout)
        while byte := self._reader.recv(1):
            if byte[0] in SIGNALS:
                return byte[0]
        return None


_program: list[_Listener] = []
"""The listener of `install`."""

"""SIGINT and SIGTERM as a request to stop; a second one, a second later, ends the process.

Nothing here is installed on import. `handling` is for code that looks whether a signal has come;
`install` is for a program, and raises `Stopped` wherever no such code runs.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 1.0
"""Signals that follow the first one within this time belong to it: a terminal, GNU `timeout`,
`srun` and process groups send several for one wish to stop."""

StopRequested = Callable[[], bool]
"""Whether a signal has come."""

_logger = logging.getLogger(__name__)
_active: list[StopRequested] = []
_received: list[int] = []
"""The signals that have come since `install`, or in the outermost `handling`."""


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by the first signal to a program.

    It is no plain KeyboardInterrupt, because of what `python -m` does: once one has left a string
    that was passed to `exec`, which dataclasses do at each definition, the process ends itself by
    SIGINT at its very end, although the exception was caught and whatever the exit code.
    """

    def __init__(self, number: int) -> None:
        """Remember the signal."""
        super().__init__(number)
        self.number = number


def install() -> None:
    """Let the first signal raise `Stopped`, and a second one, a second later, end the process.

    For the main thread of a program, from its start until `ignore` at its end.
    """
    with held():  # its listener must not take a signal from the main thread
        _program.append(_Listener())
        for number in SIGNALS:
            signal.signal(number, _raise)


def ignore() -> None:
    """Ignore what comes from now on: while Python ends, it would change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold back what comes inside; a program that is executed inside gets it when it installs."""
    set_mask = getattr(signal, "pthread_sigmask", lambda *_: None)  # which Windows lacks
    try:
        set_mask(getattr(signal, "SIG_BLOCK", 0), SIGNALS)
        yield
    finally:
        set_mask(getattr(signal, "SIG_UNBLOCK", 0), SIGNALS)


def _raise(number: int, _: object) -> None:
    first = not _received  # another handler may run from the next call on
    _received.append(number)
    if first:
        raise Stopped(number)


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
      message: what it logs at the first one; None for nothing.
    """

    def __init__(self, message: str | None = None) -> None:
        """Listen from now on."""
        self.message = message
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
        """End the process at the second wish to stop, whatever the main thread does."""
        if self._next() is None:
            return
        end = time.monotonic() + GRACE_SECONDS
        if self.message is not None:
            _logger.warning("%s (again to stop at once)", self.message)
        # What has come until here came with the first, however long the line took to be written.
        with contextlib.suppress(TimeoutError):
            while True:
                if self._next(max(end - time.monotonic(), 1e-6)) is None:
                    return
        number = self._next()
        if number is not None:
            os._exit(128 + number)

    def _next(self, timeout: float | None = None) -> int | None:
        """The next of `SIGNALS`; None once it is closed, TimeoutError if none comes."""
        self._reader.settimeout(timeout)
        while byte := self._reader.recv(1):
            if byte[0] in SIGNALS:
                return byte[0]
        return None


_program: list[_Listener] = []
"""The listener of `install`."""

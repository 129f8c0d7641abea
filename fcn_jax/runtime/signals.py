"""SIGINT and SIGTERM as a request to stop; a second one, a second later, ends the process.

Nothing here is installed on import: `handling` installs the handlers and takes them back.
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
_last: list[float] = []
"""When a signal last asked to stop."""


def is_first() -> bool:
    """Whether a signal that comes now is a wish of its own; remembers it.

    One that follows another within `GRACE_SECONDS` belongs to it.
    """
    now = time.monotonic()
    first = not _last or now - _last[-1] >= GRACE_SECONDS
    if first:
        _last[:] = [now]
    return first


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
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        received.append(number)
        is_first()

    listener, sender = socket.socketpair()
    sender.setblocking(False)
    thread = threading.Thread(target=_listen, args=(listener, message), name="signals", daemon=True)
    thread.start()
    previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    previous = {s: signal.signal(s, receive) for s in SIGNALS}
    _active.append(lambda: bool(received))
    try:
        yield _active[0]
    finally:
        _active.clear()
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(previous_fd)
        sender.close()
        thread.join()
        listener.close()


def _listen(listener: socket.socket, message: str) -> None:
    """Read the numbers of the signals as they come, until the other end is closed."""
    if _next_signal(listener) is None:
        return
    end = time.monotonic() + GRACE_SECONDS
    _logger.warning("%s (again to stop at once)", message)
    # What has come until here came with the first one, however long the line took to be written.
    with contextlib.suppress(TimeoutError):
        while True:
            if _next_signal(listener, max(end - time.monotonic(), 1e-6)) is None:
                return
    number = _next_signal(listener)
    if number is not None:
        os._exit(128 + number)


def _next_signal(listener: socket.socket, timeout: float | None = None) -> int | None:
    """The number of the next one of `SIGNALS`; None at the end, TimeoutError if none comes."""
    listener.settimeout(timeout)
    while byte := listener.recv(1):
        if byte[0] in SIGNALS:
            return byte[0]
    return None
